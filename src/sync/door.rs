//! Keeps one kind of work, and forks of the process, out of each other's way, without a lock.
//!
//! Some comes in and goes out again, in no time; who forks shuts the door first and waits until
//! nobody is inside. Neither holds anything that the other needs, so that both may give up waiting
//! and go on as if there were no door.
//!
//! 1. Both sides store first and look then, with a fence in between. Otherwise each of them may see
//!    the other's state of before, and a child is forked while somebody is inside.

use super::AtomicU32;
use super::Mutant;
use super::Ordering::Acquire;
use super::Ordering::Relaxed;
use super::Ordering::Release;
use super::Ordering::SeqCst;
use super::fence;
use super::planted;

/// A door: who is inside, and how many forks are under way.
#[derive(Debug, Default)]
pub struct Door {
    inside: AtomicU32,
    forks: AtomicU32,
}

#[cfg(not(loom))]
impl Door {
    /// A door that nobody has gone through.
    pub const fn new() -> Door {
        Door { inside: AtomicU32::new(0), forks: AtomicU32::new(0) }
    }
}

impl Door {
    /// Goes inside; false where a fork is under way, and nothing has happened.
    pub fn enter(&self) -> bool {
        self.push_in();
        if !planted(Mutant::DoorInnerFence) {
            // Pairs with the fence in `shut`: of the two at least one sees the other.
            fence(SeqCst);
        }
        if self.forks.load(Relaxed) == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// Goes inside whatever is under way.
    pub fn push_in(&self) {
        self.inside.fetch_add(1, Relaxed);
    }

    /// Goes out again.
    pub fn leave(&self) {
        // Release: pairs with the Acquire in `is_empty`: what was done inside is over.
        self.inside.fetch_sub(1, Release);
    }

    /// A fork is about to be.
    pub fn shut(&self) {
        self.forks.fetch_add(1, Relaxed);
        if !planted(Mutant::DoorOuterFence) {
            // Pairs with the fence in `enter`.
            fence(SeqCst);
        }
    }

    /// Whether nobody is inside; after `shut` nobody comes in.
    pub fn is_empty(&self) -> bool {
        // Acquire: pairs with the Release in `leave`.
        self.inside.load(Acquire) == 0
    }

    /// The fork is over.
    pub fn open(&self) {
        self.forks.fetch_sub(1, Relaxed);
    }

    /// In the child, where nobody of those that were inside is left.
    pub fn renew(&self) {
        self.inside.store(0, Relaxed);
        self.forks.store(0, Relaxed);
    }
}
