//! The table of all functions of libc that are stood in for: one line each, with the signature.
//!
//! From it come the symbols that [`hooks`](crate::hooks) defines, and the functions of libc behind
//! them in [`real`](crate::real). The bodies have the same names in [`bodies`](crate::bodies).

/// Hands the table to the macro that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! each_hook { ($($then:tt)*) => { $($then)*! {
    syscall "": fn(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize)
        -> c_long;
    pthread_create "": fn(thread: *mut pthread_t, attr: *const pthread_attr_t, start: Start,
        argument: *mut c_void) -> c_int;
    pthread_join "": fn(thread: pthread_t, value: *mut *mut c_void) -> c_int;
    pthread_timedjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, limit: *const timespec)
        -> c_int;
    pthread_clockjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, clock: c_int,
        limit: *const timespec) -> c_int;
} } }

/// The symbols: each calls its body.
#[doc(hidden)]
#[macro_export]
macro_rules! define_symbols { ($(
    $name:ident $version:literal: fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty;
)*) => {
    const _: () = {
        #[allow(unused_imports)]
        use $crate::c::*;
        $(
            #[allow(missing_docs, clippy::missing_safety_doc, clippy::too_many_arguments)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> $result {
                // SAFETY: the caller keeps to libc's contract for this function.
                unsafe { $crate::bodies::$name($($arg),*) }
            }
        )*
    };
} }
