//! Stands in for the calls of libc through which a program blocks, wakes others, makes threads and
//! processes, and says in the trace what they did.
//!
//! A binary turns this on for itself with one line in its `main.rs`:
//!
//! ```ignore
//! trace_hooks::hooks!();
//! ```
//!
//! The preloaded library of `exectrace record` has the same line. A library never has it: two
//! libraries of one program cannot both stand in for `read`.
//!
//! 1. A hook does what the call would have done, with the same result and the same `errno`; its own
//!    work stands before and after, and changes neither.
//! 2. Nothing here allocates, locks, or has thread-locals with destructors: a hook runs in signal
//!    handlers, inside allocators, and in children of vfork.
//! 3. `pthread_cancel` and C++ exceptions unwind through a hook: its functions are `C-unwind`, and
//!    what must be said at the end of a wait is said by a guard.

#[macro_use]
mod table;

#[doc(hidden)]
pub mod bodies;
mod c11;
mod futex;
mod locks;
mod raw;
#[doc(hidden)]
pub mod real;
mod settings;
mod thread;
mod waiters;
mod waiting;

pub use real::resolve_all;
pub use settings::Classes;
pub use settings::Options;
pub use settings::ParseOptionsError;
pub use settings::set;
pub use thread::thread_ends;
pub use waiters::forget as forget_waiters;

/// The types of C that the hooks' signatures name.
#[doc(hidden)]
pub mod c {
    pub use libc::c_int;
    pub use libc::c_long;
    pub use libc::c_void;
    pub use libc::clockid_t;
    pub use libc::pthread_attr_t;
    pub use libc::pthread_barrier_t;
    pub use libc::pthread_cond_t;
    pub use libc::pthread_mutex_t;
    pub use libc::pthread_rwlock_t;
    pub use libc::pthread_spinlock_t;
    pub use libc::pthread_t;
    pub use libc::sem_t;
    pub use libc::timespec;

    /// What a thread runs.
    pub type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
    /// What a thread of C11 runs.
    pub type Start11 = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
}

/// Makes the program call the hooks in place of libc. Once, in the `main.rs` of a binary.
#[macro_export]
macro_rules! hooks {
    () => {
        $crate::each_hook!($crate::define_symbols);
    };
}
