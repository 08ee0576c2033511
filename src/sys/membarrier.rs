//! The barrier that every running thread of this process executes: the heavy half of an asymmetric
//! handshake, so that the light half costs an event nothing.

use crate::sys::Errno;

// linux/membarrier.h
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Announces that `barrier` will be called. 3 us while the process has one thread, about 10 ms once
/// it has more, so early. Stays over a fork. False: refused (old kernel, seccomp).
pub fn register() -> bool {
    call(REGISTER_PRIVATE_EXPEDITED)
}

/// Every other running thread of the process passes a full memory barrier before this returns.
/// False: refused now, as after a seccomp filter; the caller falls back to fences.
pub fn barrier() -> bool {
    call(PRIVATE_EXPEDITED)
}

/// Announces that another process will call `barrier_everywhere`. Stays over a fork. False:
/// refused.
pub fn register_everywhere() -> bool {
    call(REGISTER_GLOBAL_EXPEDITED)
}

/// The barrier for the running threads of all processes that have announced it. False: refused.
pub fn barrier_everywhere() -> bool {
    call(GLOBAL_EXPEDITED)
}

fn call(command: libc::c_int) -> bool {
    let _keep = Errno::save();
    // SAFETY: membarrier takes numbers only.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_then_allowed() {
        if !register() {
            eprintln!("skipped: membarrier is refused here");
            return;
        }
        assert!(barrier());
    }
}
