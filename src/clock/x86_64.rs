//! x86-64: the time stamp counter.

use crate::clock::Kind;
use crate::clock::plausible;
use crate::sys;
use std::arch::x86_64::__cpuid;
use std::arch::x86_64::_mm_lfence;
use std::arch::x86_64::_rdtsc;
use std::arch::x86_64::CpuidResult;

/// The counter, one instruction. Not ordered against loads before it.
#[inline(always)]
pub fn raw() -> u64 {
    // SAFETY: reads a register; clock#2 is the caller's.
    unsafe { _rdtsc() }
}

/// The counter, after all loads before it have their values.
#[inline(always)]
pub fn raw_ordered() -> u64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_lfence() };
    raw()
}

/// The counter's kind, where its rate never changes and the kernel itself keeps time by it.
pub(super) fn trusted() -> Option<Kind> {
    (is_invariant() && sys::clocksource_is_tsc()).then_some(Kind::Tsc)
}

fn is_invariant() -> bool {
    const POWER: u32 = 0x8000_0007;
    cpuid(0x8000_0000).eax >= POWER && cpuid(POWER).edx & 1 << 8 != 0
}

/// Newer compilers know that it is safe, the oldest that we support does not.
#[allow(unused_unsafe)]
fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 has the instruction.
    unsafe { __cpuid(leaf) }
}

/// The counter's rate as the processor states it; `None` where it does not.
pub(super) fn stated_hz() -> Option<u64> {
    let last = cpuid(0).eax;
    let ratio = (last >= 0x15).then(|| cpuid(0x15))?;
    let (denominator, numerator, crystal) = (ratio.eax, ratio.ebx, ratio.ecx);
    let base_mhz = if last >= 0x16 { cpuid(0x16).eax & 0xffff } else { 0 };
    from_leaves(denominator, numerator, crystal, base_mhz)
}

/// Leaf 0x15 gives the ratio of counter to crystal, and the crystal's rate where the processor
/// knows it; else the counter runs at the base rate of leaf 0x16.
fn from_leaves(denominator: u32, numerator: u32, crystal_hz: u32, base_mhz: u32) -> Option<u64> {
    if denominator == 0 || numerator == 0 {
        return None;
    }
    let by_crystal = u64::from(crystal_hz) * u64::from(numerator) / u64::from(denominator);
    let by_base = u64::from(base_mhz) * 1_000_000;
    [by_crystal, by_base].into_iter().find(|hz| plausible(*hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_hand() {
        // Ice Lake states a crystal of 38.4 MHz, Skylake none but 2.4 GHz base; AMD neither.
        assert_eq!(from_leaves(2, 104, 38_400_000, 2000), Some(1_996_800_000));
        assert_eq!(from_leaves(2, 200, 0, 2400), Some(2_400_000_000));
        assert_eq!(from_leaves(0, 0, 0, 2600), None);
        assert_eq!(from_leaves(2, 200, 0, 0), None);
        assert_eq!(from_leaves(u32::MAX, 1, 1, 3000), Some(3_000_000_000));
    }

    #[test]
    fn counter_rises() {
        if trusted().is_some() {
            let a = raw_ordered();
            let b = raw_ordered();
            assert!(a < b);
        }
    }
}
