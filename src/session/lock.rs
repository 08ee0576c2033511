//! The lock of the session's controller: a futex word on the page that a forked child finds
//! zeroed, so that a child can start a session of its own whoever held the lock at the fork.
//!
//! Held for moments only: nothing of the user's runs under it, and nobody sleeps with it.

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::ops::DerefMut;
use std::time::Duration;

use crate::registry;
use crate::registry::local;
use crate::registry::local::Flagged;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;

/// A value under the session's lock.
#[derive(Debug)]
pub struct Locked<T>(UnsafeCell<T>);

// SAFETY: the value is reached through `Guard` only, of which there is one at a time.
unsafe impl<T: Send> Sync for Locked<T> {}

/// Holds the lock.
#[derive(Debug)]
#[must_use]
pub struct Guard<'a, T> {
    locked: &'a Locked<T>,
    _controls: Flagged,
}

const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

impl<T> Locked<T> {
    /// A value that nobody holds.
    pub const fn new(value: T) -> Self {
        Locked(UnsafeCell::new(value))
    }

    /// Takes the lock. The calling thread is marked before it waits, so that a handler on it sees
    /// that it must not wait too.
    pub fn lock(&self) -> Guard<'_, T> {
        let _controls = local::flagged(local::CONTROLS);
        let word = &registry::switch().lock;
        // Acquire: pairs with the Release of the guard's end.
        if word.compare_exchange(0, HELD, Acquire, Relaxed).is_err() {
            while word.swap(WAITED_FOR, Acquire) != 0 {
                sys::futex::wait(word, WAITED_FOR, Some(Duration::from_millis(100)));
            }
        }
        Guard { locked: self, _controls }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one.
        unsafe { &*self.locked.0.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one.
        unsafe { &mut *self.locked.0.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let word = &registry::switch().lock;
        // Release: pairs with the Acquire of the next holder.
        if word.swap(0, Release) == WAITED_FOR {
            sys::futex::wake(word, 1);
        }
    }
}
