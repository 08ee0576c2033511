//! The owner's side of the asymmetric barrier; its loom twin is `barrier_loom.rs`.
//!
//! The heavy side is a system call (membarrier) and stands with the others in `sys`. It makes
//! every running thread of the process execute a full fence between its call and its return, so
//! that this side has to hold back the compiler only.

use crate::sync::Ordering;
use crate::sync::compiler_fence;
use crate::sync::fence;

/// Holds the compiler back; costs no instruction.
#[inline(always)]
pub fn light() {
    // SeqCst: pairs with the fence that the heavy side makes this thread execute.
    compiler_fence(Ordering::SeqCst);
}

/// A full fence: both sides use it where there is no membarrier.
#[inline]
pub fn full() {
    // SeqCst: pairs with itself on the other side.
    fence(Ordering::SeqCst);
}
