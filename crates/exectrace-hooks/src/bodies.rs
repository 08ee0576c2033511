//! The bodies of all hooks, under the names of the functions that they stand in for.

pub use crate::futex::syscall;
pub use crate::thread::pthread_clockjoin_np;
pub use crate::thread::pthread_create;
pub use crate::thread::pthread_join;
pub use crate::thread::pthread_timedjoin_np;
