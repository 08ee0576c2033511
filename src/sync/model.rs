//! loom's half of `sync`: the same names.
//!
//! loom looks for the schedules that matter by remembering the last access to each atomic. It
//! forgets another thread's load when the thread itself loads before it stores, so that of
//! `load, compare_exchange` against `load` it explores a single order. The atomics here therefore
//! stand beside a word that every access changes: any two accesses to one atomic are seen to
//! depend on each other, while what a load may read stays loom's matter.

pub use core::sync::atomic::compiler_fence;
pub use loom::cell::UnsafeCell;
pub use loom::hint::spin_loop;
pub use loom::sync::Arc;
pub use loom::sync::Condvar;
pub use loom::sync::Mutex;
pub use loom::sync::MutexGuard;
pub use loom::sync::atomic::AtomicPtr;
pub use loom::sync::atomic::fence;
pub use loom::thread;

use super::Mutant;
use super::Ordering;
use std::cell::Cell;

macro_rules! atomics { ($( $name:ident $value:ty, $($arithmetic:ident)*; )*) => { $(
    /// The loom atomic of this name, with every two accesses in dependence.
    #[derive(Debug, Default)]
    pub struct $name {
        inner: loom::sync::atomic::$name,
        touched: loom::sync::atomic::AtomicUsize,
    }

    #[allow(missing_docs)] // As in `core::sync::atomic`.
    impl $name {
        pub fn new(value: $value) -> Self {
            let touched = loom::sync::atomic::AtomicUsize::new(0);
            $name { inner: loom::sync::atomic::$name::new(value), touched }
        }

        fn touch(&self) -> &loom::sync::atomic::$name {
            // Relaxed: tells loom that an access comes, and orders nothing.
            self.touched.fetch_add(1, Ordering::Relaxed);
            &self.inner
        }

        pub fn load(&self, order: Ordering) -> $value {
            self.touch().load(order)
        }

        pub fn store(&self, value: $value, order: Ordering) {
            self.touch().store(value, order);
        }

        pub fn swap(&self, value: $value, order: Ordering) -> $value {
            self.touch().swap(value, order)
        }

        pub fn compare_exchange(
            &self,
            old: $value,
            new: $value,
            success: Ordering,
            failure: Ordering,
        ) -> Result<$value, $value> {
            self.touch().compare_exchange(old, new, success, failure)
        }

        pub fn compare_exchange_weak(
            &self,
            old: $value,
            new: $value,
            success: Ordering,
            failure: Ordering,
        ) -> Result<$value, $value> {
            self.compare_exchange(old, new, success, failure)
        }

        $( pub fn $arithmetic(&self, value: $value, order: Ordering) -> $value {
            self.touch().$arithmetic(value, order)
        } )*
    }
)* } }

atomics! {
    AtomicBool bool, fetch_or fetch_and;
    AtomicU8 u8, fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicU16 u16, fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicU32 u32, fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicU64 u64, fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicUsize usize, fetch_add fetch_sub fetch_or fetch_and fetch_max;
}

thread_local! {
    // One operating-system thread runs all threads of a model.
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether these words are those; one after the other, so that loom sees the loads.
///
/// # Safety
/// * As of its twin; here it is loom that checks it.
pub unsafe fn equal(words: &[AtomicU64], those: &[u64]) -> bool {
    words.len() == those.len()
        && words.iter().zip(those).all(|(a, b)| a.load(Ordering::Relaxed) == *b)
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
