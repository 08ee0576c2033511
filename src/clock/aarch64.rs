//! aarch64: the virtual counter, whose rate stands in a register. By the architecture it is one
//! time on all CPUs and its rate never changes, and Linux keeps its own time by it.

use crate::clock::Kind;
use crate::clock::plausible;
use std::arch::asm;

/// The counter, one instruction. Not ordered against loads before it.
#[inline(always)]
pub fn raw() -> u64 {
    let value;
    // SAFETY: reads a register that Linux opens to programs. Not `pure`: it changes.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// The counter, after all loads before it have their values.
#[inline(always)]
pub fn raw_ordered() -> u64 {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    raw()
}

/// The counter's kind, where it can be trusted.
pub(super) fn trusted() -> Option<Kind> {
    stated_hz().map(|_| Kind::Cntvct)
}

/// The counter's rate, which firmware wrote into a register.
pub(super) fn stated_hz() -> Option<u64> {
    let hz: u64;
    // SAFETY: reads a register that Linux opens to programs.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack, preserves_flags)) };
    Some(hz).filter(|hz| plausible(*hz))
}
