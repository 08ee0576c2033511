//! The queue: contents arrive, in order, and nobody sleeps beside a full queue.

use loom::sync::Arc;
use loom::sync::Condvar;
use loom::sync::Mutex;
use loom::thread;

use super::Misuse;
use super::arena::Model;
use super::check;
use trace::sync::Mutant;
use trace::sync::Ordering::Relaxed;

/// A futex on the queue's bell: the kernel compares and goes to sleep under a lock.
struct Futex {
    lock: Mutex<()>,
    wakes: Condvar,
}

impl Futex {
    fn wait(&self, m: &Model, ticket: u32) {
        let guard = self.lock.lock().unwrap();
        if m.queue.bell().load(Relaxed) == ticket {
            drop(self.wakes.wait(guard).unwrap());
        }
    }

    fn wake(&self) {
        let _guard = self.lock.lock().unwrap();
        self.wakes.notify_all();
    }
}

/// Pushes buffers `first..first + count`, each with its own number in it.
fn produce(m: &Model, f: &Futex, first: u32, count: u32, misuse: Misuse) {
    for index in first..first + count {
        if misuse != Misuse::PublishFirst {
            m.write(index, 0, u64::from(index) + 100);
        }
        if m.queue.push(m, index) {
            m.queue.ring();
            f.wake();
        }
        if misuse == Misuse::PublishFirst {
            m.write(index, 0, u64::from(index) + 100);
        }
    }
}

/// Producers of these numbers of buffers, and a consumer that sleeps when it finds nothing.
fn run(producers: &[u32], misuse: Misuse) {
    let all: u32 = producers.iter().sum();
    let m = Arc::new(Model::new(all, 1));
    let f = Arc::new(Futex { lock: Mutex::new(()), wakes: Condvar::new() });
    let mut first = 0;
    let mut starts = Vec::new();
    for &count in producers {
        let (m, f) = (Arc::clone(&m), Arc::clone(&f));
        starts.push(first);
        thread::spawn(move || produce(&m, &f, first, count, misuse));
        first += count;
    }
    let mut seen = 0;
    while seen < all {
        for index in m.queue.take_all(&*m) {
            assert_eq!(m.read(index, 0), u64::from(index) + 100);
            let producer = starts.iter().rposition(|s| *s <= index).unwrap();
            assert_eq!(index, starts[producer], "in order");
            starts[producer] += 1;
            seen += 1;
        }
        if seen < all
            && let Some(ticket) = m.queue.prepare_sleep()
        {
            f.wait(&m, ticket);
            m.queue.awake();
        }
    }
}

#[test]
fn one_producer_in_order() {
    let mutants = [
        Mutant::QueueTakeOrder,
        Mutant::QueueOrder,
        Mutant::QueueLookFirst,
        Mutant::QueueProducerFence,
        Mutant::QueueConsumerFence,
    ];
    check("queue 2", 3, &mutants, &[Misuse::PublishFirst], |misuse| run(&[2], misuse));
}

#[test]
fn two_producers() {
    check("queue 1+1", 2, &[Mutant::QueueTakeOrder], &[Misuse::PublishFirst], |misuse| {
        run(&[1, 1], misuse)
    });
}
