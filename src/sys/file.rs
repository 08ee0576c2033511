//! Reading small files of the kernel: by system call, without allocation, never cancelled.

use crate::sys::errno;
use std::ffi::CStr;
use std::ffi::c_int;

/// An open descriptor; closed when dropped.
pub struct File(c_int);

impl File {
    /// Opens `path` for reading with O_CLOEXEC. Async-signal-safe; changes `errno`.
    pub fn open(path: &CStr) -> Option<File> {
        open_at(libc::AT_FDCWD, path, 0)
    }

    /// Opens the folder `path`.
    pub fn open_folder(path: &CStr) -> Option<File> {
        open_at(libc::AT_FDCWD, path, libc::O_DIRECTORY)
    }

    /// Opens `path`, seen from this folder.
    pub fn open_below(&self, path: &CStr) -> Option<File> {
        open_at(self.0, path, 0)
    }

    /// The number of the descriptor.
    pub fn fd(&self) -> c_int {
        self.0
    }

    /// One `read`, repeated while a signal interrupts it. 0 = the end; `None` = failed.
    pub fn read(&self, into: &mut [u8]) -> Option<usize> {
        loop {
            // SAFETY: the buffer is writable for its length, the descriptor is ours.
            let n = unsafe { libc::syscall(libc::SYS_read, self.0, into.as_mut_ptr(), into.len()) };
            if n >= 0 {
                return Some(n as usize);
            }
            if errno() != libc::EINTR {
                return None;
            }
        }
    }

    /// Reads until `into` is full or the file ends; gives what was read.
    pub fn read_all<'a>(&self, into: &'a mut [u8]) -> Option<&'a [u8]> {
        let mut n = 0;
        while n < into.len() {
            match self.read(&mut into[n..])? {
                0 => break,
                more => n += more,
            }
        }
        Some(&into[..n])
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

fn open_at(folder: c_int, path: &CStr, flags: c_int) -> Option<File> {
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
    loop {
        // SAFETY: the path ends in a zero byte; openat only reads it.
        let fd = unsafe { libc::syscall(libc::SYS_openat, folder, path.as_ptr(), flags, 0) };
        if fd >= 0 {
            return Some(File(fd as c_int));
        }
        if errno() != libc::EINTR {
            return None;
        }
    }
}
