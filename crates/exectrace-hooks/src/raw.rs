//! System calls without libc, and `errno`.

use std::ffi::c_int;

/// A system call: what the kernel returned, a negative `errno` where it failed.
///
/// # Safety
/// - The arguments are what the call wants.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn system_call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes rcx and r11 besides the result.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a[0],
            in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack))
    };
    result
}

/// A system call: what the kernel returned, a negative `errno` where it failed.
///
/// # Safety
/// - The arguments are what the call wants.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn system_call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes no register but the result's.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack))
    };
    result
}

/// A system call on a machine that has none here: it is refused.
///
/// # Safety
/// - None.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn system_call(_number: usize, _a: [usize; 6]) -> isize {
    -(libc::ENOSYS as isize)
}

/// The calling thread's `errno`.
#[inline]
pub fn errno() -> c_int {
    // SAFETY: libc gives the address of this thread's errno, valid while the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place }
}

/// Sets the calling thread's `errno`.
#[inline]
pub fn set_errno(value: c_int) {
    // SAFETY: libc gives the address of this thread's errno, valid while the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place = value };
}

/// What libc returns for what the kernel returned: -1 and `errno` for an error.
#[inline]
pub fn returned(r: isize) -> isize {
    if (-4095..0).contains(&r) {
        set_errno(-r as c_int);
        return -1;
    }
    r
}
