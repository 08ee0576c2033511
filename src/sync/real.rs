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

/// Whether this fault is planted: never, on the machine.
#[inline(always)]
pub const fn planted(_: Mutant) -> bool {
    false
}
