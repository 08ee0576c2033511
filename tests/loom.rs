//! Models of the stores under loom, each with faults that it must find.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test loom` (`ci/loom` runs it). A fault is
//! planted in the code that is checked (`trace::sync::Mutant`) or in the model (`Misuse`); a model
//! that holds with a fault in it would hold without its subject, and fails.
#![cfg(loom)]

#[path = "loom/arena.rs"]
mod arena;
#[path = "loom/door.rs"]
mod door;
#[path = "loom/log.rs"]
mod log;
#[path = "loom/pool.rs"]
mod pool;
#[path = "loom/queue.rs"]
mod queue;
#[path = "loom/rule_d.rs"]
mod rule_d;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use trace::sync::Mutant;
use trace::sync::plant;

/// A wrong use of the stores, for a model to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misuse {
    None,
    /// A buffer is published before it is written.
    PublishFirst,
    /// The drainer scans the log before it takes the batches.
    ScanFirst,
}

/// Explores `f`, and tells in how many executions it held.
fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) -> u64 {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let executions = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        f();
    });
    executions.load(Relaxed)
}

/// `f` holds as it is, and fails with each of these faults.
fn check(name: &str, preemptions: usize, mutants: &[Mutant], misuses: &[Misuse], f: fn(Misuse)) {
    let n = explore(preemptions, move || f(Misuse::None));
    println!("{name}: holds in {n} executions");
    assert!(n > 100, "{name}: too few to have looked");
    for &fault in mutants {
        let run = || plant(Some(fault), || explore(preemptions, move || f(Misuse::None)));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{name}: {fault:?} was not found");
        println!("{name}: {fault:?} is found");
    }
    for &fault in misuses {
        let run = || explore(preemptions, move || f(fault));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{name}: {fault:?} was not found");
        println!("{name}: {fault:?} is found");
    }
}
