//! The machine's half of `sync`: `core` and `std`, nothing added.

pub use core::hint::spin_loop;
pub use core::sync::atomic::AtomicBool;
pub use core::sync::atomic::AtomicPtr;
pub use core::sync::atomic::AtomicU8;
pub use core::sync::atomic::AtomicU16;
pub use core::sync::atomic::AtomicU32;
pub use core::sync::atomic::AtomicU64;
pub use core::sync::atomic::AtomicUsize;
pub use core::sync::atomic::compiler_fence;
pub use core::sync::atomic::fence;
pub use std::sync::Arc;
pub use std::sync::Condvar;
pub use std::sync::Mutex;
pub use std::sync::MutexGuard;
pub use std::thread;

use super::Mutant;

/// `core::cell::UnsafeCell` in the form that loom can watch.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    /// A cell with this value.
    #[inline(always)]
    pub const fn new(value: T) -> Self {
        UnsafeCell(core::cell::UnsafeCell::new(value))
    }

    /// Hands out the address for reading.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Hands out the address for writing.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Whether these words are those. As plain memory, several at a time: twice as fast as by atomic
/// loads, which the compiler keeps apart.
///
/// # Safety
/// * Everything that was ever stored into `words` happens before this call, and nothing is stored
///   while it runs.
#[inline(always)]
pub unsafe fn equal(words: &[AtomicU64], those: &[u64]) -> bool {
    // SAFETY: an atomic has the size and alignment of its value, and the caller says that nobody
    // stores.
    let words = unsafe { core::slice::from_raw_parts(words.as_ptr().cast::<u64>(), words.len()) };
    let differ = |d, (a, b): (&u64, &u64)| d | (a ^ b);
    // No early end: nearly always they are equal.
    words.len() == those.len() && words.iter().zip(those).fold(0, differ) == 0
}

/// Whether this fault is planted: on the machine never, but in the builds in which `ci/tsan` sees
/// whether it would be reported.
#[inline(always)]
pub const fn planted(fault: Mutant) -> bool {
    match fault {
        Mutant::LogScanOrder => cfg!(mutant = "log_scan_order"),
        Mutant::TableFindOrder => cfg!(mutant = "table_find_order"),
        _ => false,
    }
}
