//! How many threads wait at an address, as far as the hooks have seen them begin: so that the
//! release of a lock that nobody waits for costs one load, and is no event.
//!
//! Addresses share places by chance: then an unlock is an event that woke nobody, and no more.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

const PLACES: usize = 4096;
static WAITERS: [AtomicU32; PLACES] = [const { AtomicU32::new(0) }; PLACES];

#[inline(always)]
fn place(address: u64) -> &'static AtomicU32 {
    &WAITERS[((address >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize]
}

/// Whether a thread may be waiting at this address.
#[inline(always)]
pub fn any(address: u64) -> bool {
    place(address).load(Relaxed) != 0
}

/// A thread that waits at an address until this goes.
#[must_use]
pub struct Waiter(&'static AtomicU32);

impl Waiter {
    /// The calling thread is about to wait there.
    pub fn at(address: u64) -> Waiter {
        let place = place(address);
        place.fetch_add(1, Relaxed);
        Waiter(place)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Never below zero: a forked child has forgotten the waits of its parent.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }
}

/// In a forked child: the waits of the parent's threads are not there.
pub fn forget() {
    for place in WAITERS.iter().filter(|p| p.load(Relaxed) != 0) {
        place.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_counted_and_forgotten() {
        let address = 0x7f00_dead_b000;
        assert!(!any(address));
        let (one, two) = (Waiter::at(address), Waiter::at(address));
        drop(one);
        assert!(any(address));
        drop(two);
        assert!(!any(address));
        let one = Waiter::at(address);
        forget();
        assert!(!any(address));
        drop(one);
        assert!(!any(address));
        // Neighbours stand apart: 64 locks in one array have 64 places.
        let all: Vec<_> = (0..64).map(|i| Waiter::at(address + i * 40)).collect();
        assert_eq!(WAITERS.iter().filter(|p| p.load(Relaxed) != 0).count(), 64);
        drop(all);
    }
}
