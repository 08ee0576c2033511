//! What differs between machines: registers and the CRC instruction. One file a machine.

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[path = "aarch64.rs"]
mod machine;
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[path = "fallback.rs"]
mod machine;
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[path = "x86_64.rs"]
mod machine;

pub use machine::CODE_BITS;
pub use machine::crc32c_update;
pub use machine::fp;
pub use machine::sp;
#[cfg(exectrace_preload)]
pub use machine::system_call;
