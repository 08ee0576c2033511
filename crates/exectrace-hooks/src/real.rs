//! The functions of libc behind the hooks, found by the dynamic loader.
//!
//! 1. All are looked for before the program runs; one that is called earlier, by the start of
//!    another library, is looked for then. A lookup that succeeds does not allocate.
//! 2. A function that this libc does not have fails with ENOSYS: who asks for it by name finds the
//!    hook, and must not find a null pointer behind it.

use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

/// A function of libc, by name and, where libc has several, by version.
pub struct Real {
    name: &'static CStr,
    version: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Real {
    /// A function that is not looked for yet.
    pub const fn new(name: &'static CStr, version: &'static CStr) -> Real {
        Real { name, version, at: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Its address, never null.
    #[inline(always)]
    pub fn get(&self) -> *mut c_void {
        let at = self.at.load(Relaxed);
        if at.is_null() { self.find() } else { at }
    }

    #[cold]
    #[inline(never)]
    fn find(&self) -> *mut c_void {
        let mut at = std::ptr::null_mut();
        if !self.version.is_empty() && cfg!(target_arch = "x86_64") {
            // SAFETY: two strings that end in a zero.
            at =
                unsafe { libc::dlvsym(libc::RTLD_NEXT, self.name.as_ptr(), self.version.as_ptr()) };
        }
        if at.is_null() {
            // SAFETY: a string that ends in a zero.
            at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        }
        if at.is_null() {
            at = missing as *const () as *mut c_void;
        }
        self.at.store(at, Relaxed);
        at
    }
}

/// Stands for what this libc does not have.
extern "C" fn missing() -> c_int {
    // SAFETY: libc gives the address of this thread's errno, valid while the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place = libc::ENOSYS };
    -1
}

macro_rules! define_reals {
    ($( $name:ident: $class:ident $op:ident $how:ident($object:expr)
        fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty;
    )*) => {
        define_reals! { $( $name "": fn($($arg: $type),*) -> $result; )* }
    };
    ($( $name:ident $version:literal: fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty; )*) => {
        /// Where they are.
        #[allow(non_upper_case_globals)]
        mod at {
            use super::super::Real;
            use super::super::zero_ended;

            $(
                /// Where this one is.
                pub static $name: Real = Real::new(
                    zero_ended(concat!(stringify!($name), "\0")),
                    zero_ended(concat!($version, "\0")),
                );
            )*
        }

        /// Looks for all of them.
        pub fn resolve_all() {
            $( at::$name.get(); )*
        }

        $(
            /// The function of libc.
            ///
            /// # Safety
            /// - libc's contract for it.
            #[allow(clippy::too_many_arguments, non_snake_case)]
            #[inline(always)]
            pub unsafe fn $name($($arg: $type),*) -> $result {
                let at = at::$name.get();
                // SAFETY: what libc has under this name has this signature.
                let call = unsafe {
                    std::mem::transmute::<
                        *mut std::ffi::c_void,
                        unsafe extern "C-unwind" fn($($type),*) -> $result,
                    >(at)
                };
                // SAFETY: the caller's promise.
                unsafe { call($($arg),*) }
            }
        )*
    };
}

const fn zero_ended(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a zero inside"),
    }
}

/// Those with bodies of their own.
pub mod own {
    #[allow(clippy::wildcard_imports)] // The signatures' types.
    use crate::c::*;
    each_hook!(define_reals);
}

/// Those that are recorded alike.
pub mod alike {
    #[allow(clippy::wildcard_imports)] // The signatures' types.
    use crate::c::*;
    each_call!(define_reals);
}

/// Those on streams.
pub mod streams {
    #[allow(clippy::wildcard_imports)] // The signatures' types.
    use crate::c::*;
    each_stream!(define_reals);
}

pub use alike::*;
pub use own::*;
pub use streams::*;

static RESOLVED: AtomicBool = AtomicBool::new(false);

/// Whether all were looked for.
#[inline(always)]
pub fn is_resolved() -> bool {
    RESOLVED.load(Relaxed)
}

/// libc's byte that says whether the process has one thread only; null: not known.
static SINGLE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Whether no other thread of the process can run now.
#[inline(always)]
pub fn is_single_threaded() -> bool {
    let at = SINGLE.load(Relaxed);
    // SAFETY: null, or a byte of libc, which only ever goes to 0 while other threads run.
    !at.is_null() && unsafe { at.read_volatile() } != 0
}

/// Looks for all of them.
pub fn resolve_all() {
    // SAFETY: a string that ends in a zero.
    let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    SINGLE.store(at.cast(), Relaxed);
    own::resolve_all();
    alike::resolve_all();
    streams::resolve_all();
    RESOLVED.store(true, Relaxed);
}
