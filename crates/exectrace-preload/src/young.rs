//! A child is announced in the folder before it is forked, and the announcement goes when the child
//! has begun or has been refused: whoever drains knows of a child of which nothing is there yet,
//! and whose parent may have ended by then.
//!
//! 1. Nothing is allocated, and no descriptor is opened. `errno` is kept.
//! 2. An announcement that nobody takes away, since the fork or the child failed, is a name of an
//!    empty file; whoever drains does not wait for it for ever.

use std::cell::Cell;
use std::ffi::CStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

thread_local! {
    /// The process and the number of the child that this thread is about to make; a zero: none.
    static ANNOUNCED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Announces a child of this thread's.
pub fn announce(dir: &Path) {
    let child = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    let made = with_name(dir, child, |name| {
        // SAFETY: a name that ends in a zero.
        unsafe { libc::mknod(name.as_ptr(), libc::S_IFREG | 0o600, 0) == 0 }
    });
    ANNOUNCED.set(if made { child } else { (0, 0) });
    trace::block::wake_drain();
}

/// In the child: it need not be waited for any more.
pub fn is_there(dir: &Path) {
    let child = ANNOUNCED.replace((0, 0));
    if child != (0, 0) {
        with_name(dir, child, |name| {
            // SAFETY: a name that ends in a zero.
            unsafe { libc::unlink(name.as_ptr()) == 0 }
        });
    }
}

fn with_name(dir: &Path, (pid, number): (u32, u32), act: impl FnOnce(&CStr) -> bool) -> bool {
    let _errno = trace::sys::Errno::save();
    let mut name = [0u8; 512];
    let mut at = &mut name[..];
    let whole = at.write_all(dir.as_os_str().as_bytes()).is_ok()
        && write!(at, "/young-{pid}-{number}\0").is_ok();
    whole && CStr::from_bytes_until_nul(&name).is_ok_and(act)
}
