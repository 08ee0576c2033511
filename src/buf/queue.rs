//! The full buffers: many push, one takes all; first in, first out.
//!
//! Producers link in front, the consumer takes the whole list by one swap and turns it round. As
//! no single buffer is ever unlinked by a compare-and-swap, there is no ABA.
//!
//! 1. There is one consumer at a time. Otherwise batches of a thread are written out of order.
//! 2. A producer links, fences, looks whether the consumer sleeps; the consumer says that it will
//!    sleep, fences, looks whether something is linked. Otherwise both may see the state of
//!    before, and the consumer sleeps beside a full queue.
//! 3. The bell's value is read before the consumer says that it will sleep. Otherwise a ring in
//!    between is taken for an old one.

use crate::buf::Arena;
use crate::buf::target;
use crate::sync::AtomicU32;
use crate::sync::Mutant;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::Ordering::SeqCst;
use crate::sync::fence;
use crate::sync::order;
use crate::sync::planted;

/// The full buffers of an arena. All zero is the empty queue.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C))]
pub struct Queue {
    /// The newest buffer: index + 1.
    head: AtomicU32,
    /// Futex word; anybody may change it to wake the consumer.
    bell: AtomicU32,
    /// Not 0: the consumer sleeps or is about to. Only the consumer stores it.
    sleeping: AtomicU32,
}

impl Queue {
    /// Appends a buffer. `true`: the consumer sleeps; [`ring`](Queue::ring) and wake it.
    /// Lock-free, signal-safe.
    pub fn push(&self, arena: &impl Arena, index: u32) -> bool {
        if index >= arena.len() {
            return false;
        }
        if planted(Mutant::QueueLookFirst) {
            let asleep = self.asleep();
            self.link(arena, index);
            return asleep;
        }
        self.link(arena, index);
        self.asleep()
    }

    fn link(&self, arena: &impl Arena, index: u32) {
        let mut head = self.head.load(Relaxed);
        loop {
            arena.head(index).next.store(head, Relaxed);
            // Release: pairs with Acquire in `take_all`, which reads link and contents.
            match self.head.compare_exchange_weak(head, index + 1, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn asleep(&self) -> bool {
        if !planted(Mutant::QueueProducerFence) {
            // Pairs with the fence in `prepare_sleep` (queue#2).
            fence(SeqCst);
        }
        self.sleeping.load(Relaxed) != 0
    }

    /// Whether nothing was queued at some recent moment.
    pub fn is_empty(&self) -> bool {
        self.head.load(Relaxed) == 0
    }

    /// Takes everything that is queued, oldest first. For the one consumer, which iterates to the
    /// end: what it leaves in the iterator is in no list any more.
    pub fn take_all<'a, A: Arena>(&self, arena: &'a A) -> Taken<'a, A> {
        // Acquire: pairs with Release in `link`.
        let newest = self.head.swap(0, order(Acquire, Mutant::QueueTakeOrder));
        if planted(Mutant::QueueOrder) {
            return Taken { arena, next: newest, left: arena.len() };
        }
        // A list cannot be longer than the arena, unless a broken mapping has made a ring of it.
        let (mut link, mut older, mut count) = (newest, 0, 0);
        while count < arena.len() {
            let Some(index) = target(arena, link) else { break };
            let next = &arena.head(index).next;
            let following = next.load(Relaxed);
            next.store(older, Relaxed);
            (older, link) = (link, following);
            count += 1;
        }
        Taken { arena, next: older, left: count }
    }

    /// The futex word on which the consumer sleeps.
    pub fn bell(&self) -> &AtomicU32 {
        &self.bell
    }

    /// Changes the bell, so that a sleep that was prepared does not begin. The caller wakes the
    /// futex afterwards. Signal-safe.
    pub fn ring(&self) {
        // Release: pairs with Acquire in `prepare_sleep`: what was stored before is seen then.
        self.bell.fetch_add(1, Release);
    }

    /// Says that the consumer will sleep. `Some(ticket)`: wait on [`bell`](Queue::bell) while it
    /// holds `ticket`, then call [`awake`](Queue::awake); other reasons to stay awake are looked
    /// at in between. `None`: something is queued, and the consumer counts as awake.
    pub fn prepare_sleep(&self) -> Option<u32> {
        // Acquire: pairs with Release in `ring`.
        let ticket = self.bell.load(Acquire);
        self.sleeping.store(1, Relaxed);
        if !planted(Mutant::QueueConsumerFence) {
            // Pairs with the fence in `asleep` (queue#2).
            fence(SeqCst);
        }
        if self.is_empty() {
            return Some(ticket);
        }
        self.awake();
        None
    }

    /// The consumer does not sleep any more.
    pub fn awake(&self) {
        self.sleeping.store(0, Relaxed);
    }
}

/// What one [`take_all`](Queue::take_all) took, oldest first.
#[must_use = "buffers that are not taken out are lost"]
#[derive(Debug)]
pub struct Taken<'a, A: Arena> {
    arena: &'a A,
    next: u32,
    left: u32,
}

impl<A: Arena> Iterator for Taken<'_, A> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let index = target(self.arena, self.next)?;
        // Read before it is handed out: the caller puts the buffer into another list.
        self.next = self.arena.head(index).next.load(Relaxed);
        Some(index)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::buf::test_arena::TestArena;
    use crate::sync::thread;

    #[test]
    fn first_in_first_out() {
        let a = TestArena::new(5, 0);
        let q = Queue::default();
        assert!(q.is_empty());
        for i in [3, 1, 4] {
            assert!(!q.push(&a, i), "nobody sleeps");
        }
        assert_eq!(q.take_all(&a).collect::<Vec<_>>(), [3, 1, 4]);
        assert_eq!(q.take_all(&a).count(), 0);
    }

    #[test]
    fn a_sleeper_is_seen_and_a_full_queue_is_not_slept_beside() {
        let a = TestArena::new(2, 0);
        let q = Queue::default();
        let ticket = q.prepare_sleep().expect("the queue is empty");
        assert!(q.push(&a, 0), "it sleeps");
        q.ring();
        assert_ne!(q.bell().load(Relaxed), ticket);
        assert_eq!(q.prepare_sleep(), None);
        assert!(!q.push(&a, 1), "prepare_sleep left it awake");
        q.take_all(&a).for_each(drop);
        assert!(q.prepare_sleep().is_some());
        q.awake();
        assert!(!q.push(&a, 0));
    }

    #[test]
    fn rings_and_wild_links_end() {
        let a = TestArena::new(3, 0);
        let q = Queue::default();
        for i in 0..3 {
            q.push(&a, i);
        }
        a.head(0).next.store(3, Relaxed); // 0 -> 2 -> 1 -> 0: a ring
        assert_eq!(q.take_all(&a).count(), 3);
        q.push(&a, 0);
        a.head(0).next.store(u32::MAX, Relaxed);
        assert_eq!(q.take_all(&a).collect::<Vec<_>>(), [0]);
        assert!(!q.push(&a, 3), "no buffer of this arena");
        assert!(q.is_empty());
    }

    #[test]
    fn each_producer_stays_in_order_and_nothing_is_lost() {
        const EACH: u32 = if cfg!(miri) { 30 } else { 20_000 };
        let a = TestArena::new(8, 0);
        let q = Queue::default();
        let mut seen = [0u32; 2];
        thread::scope(|s| {
            for producer in 0..2 {
                let (a, q) = (&a, &q);
                s.spawn(move || {
                    let mut n = 0;
                    while n < EACH {
                        let Some(i) = a.pool.pop(a, 0) else {
                            thread::yield_now();
                            continue;
                        };
                        a.head(i).thread.store(producer, Relaxed);
                        a.head(i).sequence.store(n, Relaxed);
                        q.push(a, i);
                        n += 1;
                    }
                });
            }
            while seen.iter().sum::<u32>() < 2 * EACH {
                for i in q.take_all(&a) {
                    let p = a.head(i).thread.load(Relaxed) as usize;
                    assert_eq!(a.head(i).sequence.load(Relaxed), seen[p]);
                    seen[p] += 1;
                    a.pool.push(&a, i);
                }
            }
        });
        assert_eq!(seen, [EACH, EACH]);
        assert_eq!(a.pool.free(), 8);
    }
}
