//! loom's half of `sync`: the same names.

pub use core::sync::atomic::compiler_fence;
pub use loom::cell::UnsafeCell;
pub use loom::hint::spin_loop;
pub use loom::sync::Arc;
pub use loom::sync::Condvar;
pub use loom::sync::Mutex;
pub use loom::sync::MutexGuard;
pub use loom::sync::atomic::AtomicBool;
pub use loom::sync::atomic::AtomicPtr;
pub use loom::sync::atomic::AtomicU8;
pub use loom::sync::atomic::AtomicU16;
pub use loom::sync::atomic::AtomicU32;
pub use loom::sync::atomic::AtomicU64;
pub use loom::sync::atomic::AtomicUsize;
pub use loom::sync::atomic::fence;
pub use loom::thread;

use super::Mutant;
use std::cell::Cell;

thread_local! {
    // One operating-system thread runs all threads of a model.
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether this fault is planted in the model that runs.
pub fn planted(fault: Mutant) -> bool {
    PLANTED.with(|p| p.get() == Some(fault))
}

/// Runs `f` with this fault planted, or with none.
pub fn plant<R>(fault: Option<Mutant>, f: impl FnOnce() -> R) -> R {
    struct Undo;
    impl Drop for Undo {
        fn drop(&mut self) {
            PLANTED.with(|p| p.set(None));
        }
    }
    let _undo = Undo;
    PLANTED.with(|p| p.set(fault));
    f()
}
