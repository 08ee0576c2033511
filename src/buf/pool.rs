//! The free buffers: a stack of indexes, without lock, in any context.
//!
//! ```text
//! head: tag << 32 | index + 1        buffer.next -> buffer.next -> 0
//! ```
//!
//! 1. The tag changes with every pop. Otherwise a pop that was interrupted between its look at
//!    `next` and its exchange could install the `next` of long ago (ABA).
//! 2. `free` never says more than the list holds: a push links first and counts then, a pop counts
//!    first and unlinks then. So a pop that has counted finds a buffer, and `reserve` is exact.

use crate::buf::Arena;
use crate::buf::target;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Mutant;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::order;
use crate::sync::planted;

/// The free buffers of an arena. All zero is the empty pool.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C))]
pub struct Pool {
    head: AtomicU64,
    free: AtomicU32,
}

impl Pool {
    /// How many buffers are free, or a few less while somebody pushes.
    pub fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// Gives a buffer to the pool; its contents may be anything. Lock-free, signal-safe.
    pub fn push(&self, arena: &impl Arena, index: u32) {
        if index >= arena.len() {
            return;
        }
        let mut head = self.head.load(Relaxed);
        loop {
            arena.head(index).next.store(head as u32, Relaxed);
            let new = head & !u64::from(u32::MAX) | u64::from(index + 1);
            // Release: pairs with Acquire in `pop`, which reads `next` and reuses the buffer.
            let release = order(Release, Mutant::PoolPushOrder);
            match self.head.compare_exchange_weak(head, new, release, Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // Release: pairs with Acquire in `reserve`: whoever counts on this buffer sees it linked.
        self.free.fetch_add(1, Release);
    }

    /// Takes a buffer; `None` when at most `reserve` are free. Lock-free, signal-safe.
    pub fn pop(&self, arena: &impl Arena, reserve: u32) -> Option<u32> {
        self.reserve(reserve)?;
        // Acquire: pairs with Release in `push`. Pops continue its release sequence.
        let mut head = self.head.load(Acquire);
        loop {
            let Some(index) = target(arena, head as u32) else {
                // Only a broken mapping comes here (pool#2).
                self.free.fetch_add(1, Release);
                return None;
            };
            let next = arena.head(index).next.load(Relaxed);
            let tag = if planted(Mutant::PoolTag) { 0 } else { (head >> 32) as u32 };
            let new = u64::from(tag.wrapping_add(1)) << 32 | u64::from(next);
            match self.head.compare_exchange_weak(head, new, Acquire, Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }

    /// Counts one buffer as taken, which is then in the list.
    fn reserve(&self, reserve: u32) -> Option<()> {
        let mut free = self.free.load(Relaxed);
        loop {
            if free <= reserve {
                return None;
            }
            // Acquire: pairs with Release in `push`.
            match self.free.compare_exchange_weak(free, free - 1, Acquire, Relaxed) {
                Ok(_) => return Some(()),
                Err(now) => free = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::buf::test_arena::TestArena;
    use crate::sync::AtomicBool;
    use crate::sync::thread;

    #[test]
    fn last_in_first_out_and_the_reserve_is_exact() {
        let a = TestArena::new(6, 0xaa);
        assert_eq!(a.pool.free(), 6);
        assert_eq!(a.pool.pop(&a, 4), Some(0));
        assert_eq!(a.pool.pop(&a, 4), Some(1));
        assert_eq!(a.pool.pop(&a, 4), None, "four are kept back");
        assert_eq!(a.pool.pop(&a, 0), Some(2));
        a.pool.push(&a, 0);
        assert_eq!(a.pool.pop(&a, 0), Some(0));
        assert_eq!((0..4).filter_map(|_| a.pool.pop(&a, 0)).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(a.pool.free(), 0);
    }

    #[test]
    fn links_out_of_range_are_not_followed() {
        let a = TestArena::new(2, 0);
        a.head(0).next.store(77, Relaxed);
        assert_eq!(a.pool.pop(&a, 0), Some(0));
        assert_eq!(a.pool.pop(&a, 0), None);
        assert_eq!(a.pool.free(), 1, "what was counted and not found is counted back");
        a.pool.push(&a, 99);
        assert_eq!(a.pool.free(), 1, "no buffer of this arena");
    }

    #[test]
    fn no_buffer_has_two_owners() {
        const ROUNDS: u32 = if cfg!(miri) { 200 } else { 50_000 };
        let a = TestArena::new(3, 0);
        let owned: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let popped = AtomicU32::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..ROUNDS {
                        let Some(i) = a.pool.pop(&a, 0) else { continue };
                        assert!(!owned[i as usize].swap(true, Relaxed), "two owners");
                        popped.fetch_add(1, Relaxed);
                        owned[i as usize].store(false, Relaxed);
                        a.pool.push(&a, i);
                    }
                });
            }
        });
        assert!(popped.load(Relaxed) > ROUNDS / 10);
        assert_eq!(a.pool.free(), 3);
        let mut all: Vec<u32> = (0..3).map(|_| a.pool.pop(&a, 0).unwrap()).collect();
        all.sort();
        assert_eq!(all, [0, 1, 2]);
    }
}
