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
mod calls;
mod confined;
mod descriptors;
mod files;
mod futex;
mod locks;
mod modules;
mod pauses;
mod process;
mod raw;
#[doc(hidden)]
pub mod real;
mod settings;
mod shells;
mod streams;
mod target;
mod thread;
mod waiters;
mod waiting;

pub use confined::is_confined;
pub use modules::look as look_at_modules;
pub use modules::modules_are_known;
pub use modules::when_modules_change;
pub use process::Follow;
pub use process::follow;
pub use real::resolve_all;
pub use settings::Classes;
pub use settings::Options;
pub use settings::ParseOptionsError;
pub use settings::set;
pub use thread::thread_ends;

/// In a forked child: forgets what was the parent's, the waits of its threads and what its trace
/// says of descriptors.
pub fn forget_parent() {
    waiters::forget();
    shells::forget();
    descriptors::forget_range(0, u32::MAX);
}

/// The types of C that the hooks' signatures name.
#[doc(hidden)]
pub mod c {
    pub use libc::FILE;
    pub use libc::addrinfo;
    pub use libc::c_char;
    pub use libc::c_int;
    pub use libc::c_long;
    pub use libc::c_uint;
    pub use libc::c_void;
    pub use libc::clockid_t;
    pub use libc::epoll_event;
    pub use libc::fd_set;
    pub use libc::fpos_t;
    pub use libc::id_t;
    pub use libc::idtype_t;
    pub use libc::iovec;
    pub use libc::mmsghdr;
    pub use libc::mode_t;
    pub use libc::msghdr;
    pub use libc::nfds_t;
    pub use libc::off_t;
    pub use libc::pid_t;
    pub use libc::pollfd;
    pub use libc::posix_spawn_file_actions_t;
    pub use libc::posix_spawnattr_t;
    pub use libc::pthread_attr_t;
    pub use libc::pthread_barrier_t;
    pub use libc::pthread_cond_t;
    pub use libc::pthread_mutex_t;
    pub use libc::pthread_rwlock_t;
    pub use libc::pthread_spinlock_t;
    pub use libc::pthread_t;
    pub use libc::rusage;
    pub use libc::sem_t;
    pub use libc::siginfo_t;
    pub use libc::sigset_t;
    pub use libc::size_t;
    pub use libc::sockaddr;
    pub use libc::socklen_t;
    pub use libc::ssize_t;
    pub use libc::timespec;
    pub use libc::timeval;

    /// A `va_list`, as functions get it on x86_64 and aarch64.
    pub type Arguments = *mut c_void;
    /// Words, and a null behind them.
    pub type Words = *const *const c_char;
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
        $crate::each_call!($crate::define_symbols);
        $crate::each_stream!($crate::define_symbols);
        $crate::define_formatted! {
            printf vprintf 1; fprintf vfprintf 2; dprintf vdprintf 2;
            __printf_chk __vprintf_chk 2; __fprintf_chk __vfprintf_chk 3;
            __dprintf_chk __vdprintf_chk 3;
            scanf vscanf 1; fscanf vfscanf 2;
            __isoc99_scanf __isoc99_vscanf 1; __isoc99_fscanf __isoc99_vfscanf 2;
            __isoc23_scanf __isoc23_vscanf 1; __isoc23_fscanf __isoc23_vfscanf 2;
        }
        $crate::define_variadics! { execl "0"; execlp "1"; execle "2"; }
        $crate::define_jumps! { dlopen "0"; dlmopen "1"; dlsym "2"; }
    };
}
