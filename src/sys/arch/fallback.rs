//! Other machines: the address of a local stands for the stack pointer, no frame pointers, the CRC
//! by table.

/// The bits of a return address on a stack that name code: here all of them.
pub const CODE_BITS: u64 = u64::MAX;

/// An address near the stack pointer.
#[inline(always)]
pub fn sp() -> usize {
    let mark = 0u8;
    std::hint::black_box(std::ptr::from_ref(&mark)).addr()
}

/// 0: no frame pointer is known, so that a walk ends at once.
#[inline(always)]
pub fn fp() -> usize {
    0
}

/// Continues a CRC-32C.
pub use crate::encode::crc::update as crc32c_update;
