//! aarch64: sp, x29, and the CRC32C instructions.

use crate::encode::crc;
use std::arch::aarch64::__crc32cb;
use std::arch::aarch64::__crc32cd;
use std::arch::asm;

/// The bits of a return address on a stack that name code: above them may stand its signature
/// (pointer authentication).
pub const CODE_BITS: u64 = (1 << 48) - 1;

/// The stack pointer.
#[inline(always)]
pub fn sp() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, sp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The frame pointer of the function this is inlined into; any number where that has none.
#[inline(always)]
pub fn fp() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, x29", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// A system call without libc: what the kernel returned, a negative `errno` where it failed.
///
/// # Safety
/// - The arguments are what the call wants.
#[cfg(exectrace_preload)]
pub unsafe fn system_call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result, in("x1") a[1],
            in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack))
    };
    result
}

/// Continues a CRC-32C, by the instruction where the machine has it.
pub fn crc32c_update(state: u32, bytes: &[u8]) -> u32 {
    if std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the machine has the instructions.
        unsafe { by_instruction(state, bytes) }
    } else {
        crc::update(state, bytes)
    }
}

#[target_feature(enable = "crc")]
fn by_instruction(state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(state, |s, w| __crc32cd(s, u64::from_le_bytes(*w)));
    rest.iter().fold(state, |s, b| __crc32cb(s, *b))
}
