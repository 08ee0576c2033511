//! Other machines: the monotonic clock.

use crate::clock::Kind;
use crate::clock::slow_raw;

/// The monotonic clock in nanoseconds.
#[inline(always)]
pub fn raw() -> u64 {
    slow_raw()
}

/// The monotonic clock in nanoseconds.
#[inline(always)]
pub fn raw_ordered() -> u64 {
    slow_raw()
}

/// No counter is known.
pub(super) fn trusted() -> Option<Kind> {
    None
}

/// No counter is known.
pub(super) fn stated_hz() -> Option<u64> {
    None
}
