//! A zeroed block of thread-local memory at a fixed distance from the thread pointer, for the
//! preloaded library.
//!
//! What Rust and C make of a thread-local in a shared library is a call of `__tls_get_addr`, which
//! may allocate: in a hook of the allocator that would not end. A library that is loaded with the
//! program may take the model of executables instead, which is one load and one addition; only
//! assembly can ask for that.

#[cfg(target_arch = "aarch64")]
use std::arch::asm;
use std::arch::global_asm;

/// Bytes of the block.
pub const BLOCK_BYTES: usize = 1024;

global_asm!(
    ".pushsection .tbss.exectrace_thread,\"awT\",@nobits",
    ".balign 64",
    ".globl exectrace_thread",
    ".hidden exectrace_thread",
    ".type exectrace_thread, @object",
    ".size exectrace_thread, {bytes}",
    "exectrace_thread:",
    ".zero {bytes}",
    ".popsection",
    bytes = const BLOCK_BYTES,
);

/// The calling thread's block. It is there from the thread's first instruction to its last.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn block() -> *mut u8 {
    let address: *mut u8;
    // SAFETY: loads the block's distance, and the thread pointer, which the first word at it holds.
    unsafe {
        std::arch::asm!(
            "mov {0}, qword ptr [rip + exectrace_thread@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) address,
            options(nostack, readonly),
        );
    }
    address
}

/// The calling thread's block. It is there from the thread's first instruction to its last.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub fn block() -> *mut u8 {
    let address: *mut u8;
    // SAFETY: loads the block's distance and adds the thread pointer.
    unsafe {
        asm!(
            "adrp {0}, :gottprel:exectrace_thread",
            "ldr {0}, [{0}, :gottprel_lo12:exectrace_thread]",
            "mrs {1}, tpidr_el0",
            "add {0}, {0}, {1}",
            out(reg) address,
            out(reg) _,
            options(nostack, readonly),
        );
    }
    address
}
