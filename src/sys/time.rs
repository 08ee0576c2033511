//! The kernel's clocks, and whether the program may read the time stamp counter.

use crate::sys::Errno;
use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

const PR_TSC_SIGSEGV: c_int = 2;

/// The counter is forbidden: the vDSO would read it, so ask the kernel itself. Set before the first
/// clock is read, by `tsc_allowed`.
static BY_CALL: AtomicBool = AtomicBool::new(false);

/// CLOCK_MONOTONIC in nanoseconds. Async-signal-safe.
pub fn mono_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME in nanoseconds since 1970. Async-signal-safe.
pub fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// CLOCK_BOOTTIME in nanoseconds: monotonic, and running while suspended. Async-signal-safe.
pub fn boot_ns() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

fn read(clock: libc::clockid_t) -> u64 {
    let _keep = Errno::save();
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    if BY_CALL.load(Ordering::Relaxed) {
        // SAFETY: the struct is writable.
        unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &mut t) };
    } else {
        // SAFETY: the struct is writable.
        unsafe { libc::clock_gettime(clock, &mut t) };
    }
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// Whether this thread may read the counter (prctl PR_GET_TSC). Where it may not, the clocks of
/// this file use system calls from here on, since the vDSO's would fault too.
pub fn tsc_allowed() -> bool {
    let _keep = Errno::save();
    let mut mode: c_int = 0;
    // SAFETY: the kernel writes one int; an error (no such call on this machine) writes nothing.
    unsafe { libc::prctl(libc::PR_GET_TSC, &mut mode) };
    let allowed = mode != PR_TSC_SIGSEGV;
    if !allowed {
        BY_CALL.store(true, Ordering::Relaxed);
    }
    allowed
}

/// Whether the kernel itself trusts the time stamp counter on all CPUs together.
pub fn clocksource_is_tsc() -> bool {
    let _keep = Errno::save();
    let mut text = [0; 32];
    let path = c"/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let file = crate::sys::file::File::open(path);
    file.and_then(|f| f.read_all(&mut text).map(|t| t.trim_ascii() == b"tsc")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_with_std() {
        let at = std::time::SystemTime::now();
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(wall_ns().abs_diff(since) < 60_000_000_000);
        let (a, b) = (mono_ns(), mono_ns());
        assert!(0 < a && a <= b);
        assert!(boot_ns() >= a);
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the struct is writable.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut t) };
        assert!((t.tv_sec as u64).abs_diff(b / 1_000_000_000) < 60);
    }

    #[test]
    fn clock_source_as_the_kernel_says() {
        let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let says = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(clocksource_is_tsc(), says == "tsc\n");
    }
}
