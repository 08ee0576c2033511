//! The only door to the operating system: all of libc stands behind this module.
//!
//! Linux only. What differs between machines is a file with a twin under `arch`. Two halves stand
//! side by side, and each function's documentation says to which it belongs: what an event can
//! reach, and what only the control side calls.
//!
//! 1. What an event can reach MUST be async-signal-safe, MUST NOT allocate and MUST leave `errno`
//!    as it was. Otherwise a program that is traced inside a signal handler, or between a call and
//!    its test of `errno`, behaves differently.
//! 2. It MUST NOT call functions of libc that are cancellation points (`open`, `read`, `close`);
//!    it uses the system calls. Otherwise `pthread_cancel` ends a thread inside the recorder.
//! 3. Descriptors are opened with O_CLOEXEC and closed before the function returns. Otherwise a
//!    child sees descriptors that its parent's program never opened.

pub mod arch;
pub mod crc;
pub mod errno;
pub mod file;
pub mod futex;
pub mod loader;
pub mod mapping;
pub mod membarrier;
pub mod process;
pub mod stack;
pub mod thread;
pub mod time;
#[cfg(exectrace_preload)]
pub mod tls;
pub mod wipe;

pub use arch::fp;
pub use arch::sp;
pub use crc::crc32c;
pub use crc::crc32c_update;
pub use errno::EAGAIN;
pub use errno::Errno;
pub use errno::errno;
pub use process::at_exit;
pub use process::at_fork;
pub use process::cgroup_memory_limit;
pub use process::memory_total;
pub use process::page_bytes;
pub use process::program_name;
pub use process::random_u64;
pub use process::rlimit_as;
pub use process::start_time;
pub use time::boot_ns;
pub use time::clocksource_is_tsc;
pub use time::mono_ns;
pub use time::tsc_allowed;
pub use time::wall_ns;
