//! The system calls, and the memory that is shared with the kernel.
//!
//! 1. A mapping stands as long as its [`Mapped`], and covers the control page and the ring.
//! 2. Bytes between tail and head are not written to by the kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::attr::Attr;

/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 1 << 3;
/// `PERF_EVENT_IOC_SET_OUTPUT`.
const SET_OUTPUT: libc::Ioctl = 0x2405;
/// `data_head` and `data_tail` in `struct perf_event_mmap_page`.
const HEAD_AT: usize = 1024;
const TAIL_AT: usize = 1032;

/// No group of events.
const NO_GROUP: libc::c_int = -1;
/// A descriptor that nobody has: the kernel looks for it behind all that it may refuse.
const NO_SUCH_GROUP: libc::c_int = libc::c_int::MAX;

/// Opens an event of the calling thread on one CPU.
pub fn open(attr: &Attr, cpu: u32) -> io::Result<File> {
    open_in(attr, cpu, NO_GROUP)
}

/// Whether an event of the calling thread could be opened, without opening one: the kernel's
/// scheduler works more for all threads of the machine while there is one, and for a second after.
pub fn try_open(attr: &Attr) -> io::Result<()> {
    match open_in(attr, 0, NO_SUCH_GROUP) {
        Err(e) if e.raw_os_error() != Some(libc::EBADF) => Err(e),
        _ => Ok(()),
    }
}

fn open_in(attr: &Attr, cpu: u32, group: libc::c_int) -> io::Result<File> {
    let this_thread = 0;
    let cpu = cpu as libc::c_int;
    let attr = std::ptr::from_ref(attr);
    // SAFETY: a structure of the size that it states, which the kernel only reads.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attr, this_thread, cpu, group, CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was opened just now, and is nobody else's.
    Ok(unsafe { File::from_raw_fd(fd as libc::c_int) })
}

/// Lets an event write into the ring of another one of the same CPU.
pub fn share_ring(event: &File, ring_of: &File) -> io::Result<()> {
    // SAFETY: two descriptors of events; no memory is passed.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), SET_OUTPUT, ring_of.as_raw_fd()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The page size.
pub fn page_bytes() -> usize {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// The control page of an event, and its ring behind it.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    page: usize,
    size: usize,
}

// SAFETY: the mapping is this value's alone, and no thread is bound to it.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps the ring of an event: `size` bytes, a power of two of pages.
    pub fn new(event: &File, size: usize) -> io::Result<Mapped> {
        let (page, fd) = (page_bytes(), event.as_raw_fd());
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), page + size, access, kind, fd, 0) };
        match NonNull::new(at.cast::<u8>()) {
            Some(base) if at != libc::MAP_FAILED => Ok(Mapped { base, page, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Bytes of the ring.
    pub fn size(&self) -> usize {
        self.size
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: in the control page (sys#1).
        let at = unsafe { self.base.add(at) };
        // SAFETY: aligned, and written to by the kernel and here only as a whole.
        unsafe { at.cast::<AtomicU64>().as_ref() }
    }

    /// How far the kernel has written.
    pub fn head(&self) -> u64 {
        // Acquire: pairs with the barrier behind which the kernel stores it.
        self.word(HEAD_AT).load(Acquire)
    }

    /// How far was read.
    pub fn tail(&self) -> u64 {
        self.word(TAIL_AT).load(Relaxed)
    }

    /// Gives the bytes before this position back to the kernel.
    pub fn free_up_to(&mut self, position: u64) {
        // Release: pairs with the kernel's look at it, before it writes there again.
        self.word(TAIL_AT).store(position, Release);
    }

    /// Copies from a position on: bytes below the head.
    pub fn copy(&self, position: u64, to: &mut [u8]) {
        let wanted = to.len().min(self.size);
        let from = (position % self.size as u64) as usize;
        let first = wanted.min(self.size - from);
        self.copy_at(from, &mut to[..first]);
        self.copy_at(0, &mut to[first..wanted]);
    }

    /// Copies a stretch of the ring that does not go around its end.
    fn copy_at(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.size);
        // SAFETY: in the ring (sys#1), as was looked at just now.
        let from = unsafe { self.base.add(self.page + at) };
        // SAFETY: as above; the kernel does not write there (sys#2).
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: sys#1; nothing refers to it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page + self.size) };
    }
}
