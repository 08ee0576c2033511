//! The door: nobody is inside while a process is forked, and what was done inside is seen.

use loom::sync::Arc;
use loom::thread;

use super::Misuse;
use super::check;
use trace::sync::AtomicU32;
use trace::sync::Mutant;
use trace::sync::Ordering::Relaxed;
use trace::sync::door::Door;

#[derive(Default)]
struct World {
    door: Door,
    /// Odd while somebody is inside.
    steps: AtomicU32,
}

fn stay(w: &World) {
    for _ in 0..2 {
        if w.door.enter() {
            w.steps.store(w.steps.load(Relaxed) + 1, Relaxed);
            w.steps.store(w.steps.load(Relaxed) + 1, Relaxed);
            w.door.leave();
        }
    }
}

fn fork(w: &World) {
    w.door.shut();
    if w.door.is_empty() {
        let seen = w.steps.load(Relaxed);
        assert_eq!(seen % 2, 0, "forked while somebody was inside");
        thread::yield_now();
        assert_eq!(w.steps.load(Relaxed), seen, "somebody came in during the fork");
    }
    w.door.open();
}

#[test]
fn nobody_is_inside_during_a_fork() {
    let mutants = [Mutant::DoorInnerFence, Mutant::DoorOuterFence];
    check("door", 3, &mutants, &[], |_: Misuse| {
        let w = Arc::new(World::default());
        let other = Arc::clone(&w);
        let t = thread::spawn(move || stay(&other));
        fork(&w);
        t.join().unwrap();
    });
}
