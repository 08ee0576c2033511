//! Waits that began and never ended: who has what each thread was waiting for when the recording
//! ended, and which threads wait for each other.
//!
//! 1. A holder is named only where the lock itself named it and nobody released the lock since, or
//!    where what is waited for is a thread.
//! 2. A thread waits for one thing at a time: who waits for whom is a line that ends, or a cycle.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use trace::encode::op::Op;

use crate::waits::Wait;
use crate::waits::Waker;

/// The thread that has what this wait, which never ended, is for: the thread that is joined, or
/// the one that held the mutex when the wait began and has not released it since. `last_wake` is
/// the last wake on the object, `thread_of` finds a thread by the kernel's number and a time at
/// which it ran.
pub fn holder(
    wait: &Wait,
    last_wake: Option<&Waker>,
    thread_of: impl FnOnce(u64, u64) -> Option<u32>,
) -> Option<u32> {
    match (wait.op, wait.result) {
        (_, 0) => None,
        (Op::Join, number) => u32::try_from(number).ok(),
        (Op::MutexLock, tid) => {
            let released = last_wake.is_some_and(|wake| wake.ended_ns >= wait.began_ns);
            if released { None } else { thread_of(tid, wait.began_ns) }
        }
        _ => None,
    }
}

/// The cycles of threads that wait for each other, from who waits for whom. Each begins with its
/// lowest number and goes on with whom that one waits for.
pub fn cycles(waits_for: &BTreeMap<u32, u32>) -> Vec<Vec<u32>> {
    let mut cycles = Vec::new();
    let mut seen = BTreeSet::new();
    // From its lowest number each cycle is met first in the order of numbers, unless a line of
    // threads that leads to it was.
    for &from in waits_for.keys() {
        let mut line = Vec::new();
        let mut at = from;
        while seen.insert(at) {
            line.push(at);
            match waits_for.get(&at) {
                Some(&next) => at = next,
                None => break,
            }
        }
        let Some(begin) = line.iter().position(|thread| *thread == at) else { continue };
        if waits_for.contains_key(&at) {
            let mut cycle = line.split_off(begin);
            let lowest = cycle.iter().enumerate().min_by_key(|(_, thread)| **thread);
            let lowest = lowest.map_or(0, |(i, _)| i);
            cycle.rotate_left(lowest);
            cycles.push(cycle);
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waits::Ending;
    use crate::waits::StackKey;

    fn found(edges: &[(u32, u32)]) -> Vec<Vec<u32>> {
        cycles(&edges.iter().copied().collect())
    }

    #[test]
    fn every_cycle_once() {
        assert_eq!(found(&[]), Vec::<Vec<u32>>::new());
        assert_eq!(found(&[(1, 2), (2, 3)]), Vec::<Vec<u32>>::new());
        assert_eq!(found(&[(7, 7)]), [[7]], "a thread that waits for itself");
        assert_eq!(found(&[(2, 3), (3, 2)]), [[2, 3]]);
        // Threads 1 and 9 wait for members of it, from both sides in the order of numbers.
        assert_eq!(found(&[(1, 5), (5, 3), (3, 4), (4, 5), (9, 4)]), [[3, 4, 5]]);
        let two = found(&[(1, 4), (4, 2), (2, 4), (3, 6), (6, 3), (8, 1)]);
        assert_eq!(two, [[2, 4], [3, 6]]);
        // A line that ends at a thread which runs, met again from another one.
        assert_eq!(found(&[(1, 3), (2, 3), (3, 9)]), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn a_holder_is_named_where_nobody_released_since() {
        let wait = |op, result| Wait {
            thread: 1,
            task: 0,
            op,
            object: 64,
            began_ns: 100,
            ended_ns: 900,
            result,
            ending: Ending::Never,
            stack: StackKey::default(),
            pieces: Vec::new(),
            released_by: None,
        };
        let wake = |at| Waker {
            thread: 2,
            began_ns: at,
            ended_ns: at + 5,
            stack: StackKey::default(),
            op: Op::MutexUnlock,
        };
        let thread_of = |tid, at| (tid == 77 && at == 100).then_some(5);
        let of = |w: Wait, last: Option<Waker>| holder(&w, last.as_ref(), thread_of);
        assert_eq!(of(wait(Op::MutexLock, 77), None), Some(5));
        assert_eq!(of(wait(Op::MutexLock, 77), Some(wake(50))), Some(5));
        assert_eq!(of(wait(Op::MutexLock, 77), Some(wake(99))), None, "as the wait began");
        assert_eq!(of(wait(Op::MutexLock, 77), Some(wake(300))), None);
        assert_eq!(of(wait(Op::MutexLock, 78), None), None);
        assert_eq!(of(wait(Op::MutexLock, 0), None), None);
        assert_eq!(of(wait(Op::Join, 3), None), Some(3));
        assert_eq!(of(wait(Op::FutexWait, 77), None), None, "such a result names nobody");
    }
}
