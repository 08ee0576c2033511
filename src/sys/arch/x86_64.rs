//! x86-64: rsp, rbp, and the CRC32 instruction of SSE4.2.

use crate::encode::crc;
use std::arch::asm;
use std::arch::x86_64::_mm_crc32_u8;
use std::arch::x86_64::_mm_crc32_u64;

/// The bits of a return address on a stack that name code: here all of them.
pub const CODE_BITS: u64 = u64::MAX;

/// The stack pointer.
#[inline(always)]
pub fn sp() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The frame pointer of the function this is inlined into; any number where that has none.
#[inline(always)]
pub fn fp() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// A system call without libc: what the kernel returned, a negative `errno` where it failed.
///
/// # Safety
/// - The arguments are what the call wants.
#[cfg(exectrace_preload)]
pub unsafe fn system_call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes rcx and r11 besides the result.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a[0], in("rsi") a[1],
            in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack))
    };
    result
}

/// Continues a CRC-32C, by the instruction where the machine has it.
pub fn crc32c_update(state: u32, bytes: &[u8]) -> u32 {
    if std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the machine has SSE4.2.
        unsafe { by_instruction(state, bytes) }
    } else {
        crc::update(state, bytes)
    }
}

#[target_feature(enable = "sse4.2")]
fn by_instruction(state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state =
        words.iter().fold(u64::from(state), |s, w| _mm_crc32_u64(s, u64::from_le_bytes(*w)));
    rest.iter().fold(state as u32, |s, b| _mm_crc32_u8(s, *b))
}
