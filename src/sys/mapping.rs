//! The one shared address range of the process, and private memory for tables.
//!
//! 1. A `Region` MUST NOT be unmapped once others know of it. Otherwise a thread that stood inside
//!    an event when the session ended writes into whatever is mapped there next.
//! 2. A file MUST stand on tmpfs. Otherwise a store waits for write-back (40 ms were seen), or gets
//!    SIGBUS on a file system that copies on write.

use crate::sys::Errno;
use crate::sys::errno;
use crate::sys::process;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// A shared range of memory, reserved and not yet committed. Never unmapped.
#[derive(Debug)]
pub struct Region {
    base: *mut u8,
    bytes: usize,
    path: Option<PathBuf>,
}

// SAFETY: a Region is an address range; what stands in it is shared by atomics, by its users.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The first byte, on a page boundary.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// The length, whole pages; may be less than was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The file behind it; who reserved the range removes the file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Gives the range back, of which nobody knows yet (mapping#1), and removes its file.
    pub fn discard(self) {
        // SAFETY: a whole mapping of ours, to which nobody has a reference.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }

    /// Commits a part, so that no event pays for a page's first touch, or says why not (an errno).
    /// Async-signal-safe; keeps `errno`.
    pub fn populate(&self, offset: usize, bytes: usize) -> Result<(), c_int> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(libc::EINVAL);
        }
        // SAFETY: the part lies inside the range, which is never unmapped (mapping#1).
        unsafe { populate(self.base.wrapping_add(offset), bytes, self.path.is_some()) }
    }
}

/// Reserves one shared range of `bytes`, or of half, a quarter and so on, not less than `floor`,
/// where address space is short. `dir` is where a file behind it is made: `<pid>-<start time>-<n>`,
/// mode 0600, closed again at once. Without `dir` the memory is anonymous.
pub fn reserve(bytes: usize, floor: usize, dir: Option<&Path>) -> io::Result<Region> {
    let page = process::page_bytes();
    let whole = |n: usize| (n / page * page).max(page);
    let floor = whole(floor);
    let mut want = whole(bytes).max(floor);
    // A quarter, so that the program keeps most of the address space that it was allowed.
    if let Some(limit) = process::rlimit_as() {
        want = want.min(whole((limit / 4) as usize)).max(floor);
    }
    let Some(dir) = dir else {
        let (base, bytes) = map_shared(want, floor, -1)?;
        return Ok(Region { base, bytes, path: None });
    };
    // Beyond RLIMIT_FSIZE ftruncate would not fail but kill the process by SIGXFSZ.
    if let Some(limit) = process::rlimit(libc::RLIMIT_FSIZE) {
        if limit < floor as u64 {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        want = want.min(whole(limit as usize));
    }
    let (file, path) = create_in(dir)?;
    match reserve_file(&file, want, floor) {
        Ok((base, bytes)) => Ok(Region { base, bytes, path: Some(path) }),
        Err(e) => {
            let _ = fs::remove_file(&path);
            Err(e)
        }
    }
}

/// Names that are tried.
const NAMES_MAX: u64 = 64;

/// Makes a file for this process in `dir`, for this user alone: `<pid>-<start time>-<n>`. By `n`
/// the programs differ that the process becomes by exec, one after the other: it is the time, so
/// that it rises also where somebody has taken the name of the one before away.
fn create_in(dir: &Path) -> io::Result<(fs::File, PathBuf)> {
    let (pid, start) = (crate::sys::thread::pid_raw(), process::start_time());
    let now = crate::sys::mono_ns();
    for n in now..now.saturating_add(NAMES_MAX) {
        let path = dir.join(format!("{pid}-{start}-{n}"));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path);
        match file {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => return file.map(|f| (f, path)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn reserve_file(file: &fs::File, want: usize, floor: usize) -> io::Result<(*mut u8, usize)> {
    if !on_tmpfs(file) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the folder is not on tmpfs"));
    }
    file.set_len(want as u64)?;
    let (base, bytes) = map_shared(want, floor, file.as_raw_fd())?;
    if bytes < want
        && let Err(e) = file.set_len(bytes as u64)
    {
        // SAFETY: the range was mapped by the line above and nobody knows of it yet.
        unsafe { libc::munmap(base.cast(), bytes) };
        return Err(e);
    }
    Ok((base, bytes))
}

/// Maps the file of another process's range, for reading only unless it is to be `writable`.
pub fn map_file(path: &Path, writable: bool) -> io::Result<(*mut u8, usize)> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    let access = if writable { READ_WRITE } else { libc::PROT_READ };
    // SAFETY: a new mapping where the kernel likes; touches nothing that exists.
    let base = unsafe { libc::mmap(null, bytes, access, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((base.cast(), bytes))
}

fn on_tmpfs(file: &fs::File) -> bool {
    // SAFETY: statfs is plain numbers, for which zero is a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the struct is writable.
    let r = unsafe { libc::fstatfs(file.as_raw_fd(), &mut about) };
    r == 0 && about.f_type as u64 == TMPFS_MAGIC
}

fn map_shared(want: usize, floor: usize, fd: c_int) -> io::Result<(*mut u8, usize)> {
    let page = process::page_bytes();
    let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | anonymous;
    let mut bytes = want;
    loop {
        // SAFETY: a new mapping where the kernel likes; touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, READ_WRITE, flags, fd, 0) };
        if base != libc::MAP_FAILED {
            // SAFETY: the range just mapped. Without effect the core file is larger, no more.
            unsafe { libc::madvise(base, bytes, libc::MADV_DONTDUMP) };
            return Ok((base.cast(), bytes));
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::ENOMEM) || bytes <= floor {
            return Err(e);
        }
        bytes = (bytes / 2 / page * page).max(floor);
    }
}

/// Commits the pages of a shared range, or says why not (an errno; EFAULT where a tmpfs is full).
/// Kernels before 5.14 cannot: there pages of anonymous ranges are touched, and a `file` is
/// refused, since a touch on a full tmpfs is SIGBUS. Async-signal-safe; keeps `errno`.
///
/// # Safety
/// - `addr` is on a page boundary, and `bytes` from it are mapped shared and stay so.
pub unsafe fn populate(addr: *mut u8, bytes: usize, file: bool) -> Result<(), c_int> {
    let _keep = Errno::save();
    // A populate that is interrupted goes on where it stood; the bound is against a storm of them.
    for _ in 0..100 {
        // SAFETY: the caller's range; pages get committed and keep what they hold.
        if unsafe { libc::madvise(addr.cast(), bytes, libc::MADV_POPULATE_WRITE) } == 0 {
            return Ok(());
        }
        match errno() {
            libc::EINTR | libc::EAGAIN => {}
            libc::EINVAL if !file => {
                // SAFETY: the caller's range.
                unsafe { touch(addr, bytes) };
                return Ok(());
            }
            e => return Err(e),
        }
    }
    Err(libc::EAGAIN)
}

/// Writes to each page without changing it.
///
/// # Safety
/// - `bytes` from `addr` are mapped writable, and committing them cannot fail by SIGBUS.
unsafe fn touch(addr: *mut u8, bytes: usize) {
    for offset in (0..bytes).step_by(process::page_bytes()) {
        // SAFETY: inside the caller's range; others use it by atomics too.
        let byte = unsafe { AtomicU8::from_ptr(addr.wrapping_add(offset)) };
        // An exchange of equal values, since adding 0 is compiled to a load.
        let _ = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Puts fresh zero pages, shared with nobody yet, over the range: what a forked child does before
/// it records, so that it cannot write into its parent. Async-signal-safe; keeps `errno`.
///
/// # Safety
/// - The range is a whole `Region` of this process's parent, and no thread of this process holds a
///   reference into it that expects other than zero.
pub unsafe fn replace_with_fresh(addr: *mut u8, bytes: usize) -> bool {
    let _keep = Errno::save();
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller gives the range up.
    let base = unsafe { libc::mmap(addr.cast(), bytes, READ_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the range just mapped.
    unsafe { libc::madvise(base, bytes, libc::MADV_DONTDUMP) };
    true
}

/// Puts a fresh file in `dir`, named as `reserve` names it, over the range: what a forked child
/// does whose trace another process drains.
///
/// # Safety
/// - As [`replace_with_fresh`].
pub unsafe fn replace_with_file(addr: *mut u8, bytes: usize, dir: &Path) -> io::Result<()> {
    let (file, path) = create_in(dir)?;
    let mapped = file.set_len(bytes as u64).and_then(|()| {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let fd = file.as_raw_fd();
        // SAFETY: the caller gives the range up.
        let base = unsafe { libc::mmap(addr.cast(), bytes, READ_WRITE, flags, fd, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    });
    match mapped {
        // SAFETY: the range just mapped. Without effect the core file is larger, no more.
        Ok(()) => drop(unsafe { libc::madvise(addr.cast(), bytes, libc::MADV_DONTDUMP) }),
        Err(_) => drop(fs::remove_file(&path)),
    }
    mapped
}

/// Private zero memory for tables, committed page by page as it is touched. Async-signal-safe.
pub fn private_zeroed(bytes: usize) -> Option<*mut u8> {
    let _keep = Errno::save();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel likes; touches nothing that exists.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, READ_WRITE, flags, -1, 0) };
    (base != libc::MAP_FAILED).then_some(base.cast())
}

/// Makes memory of `private_zeroed` zero again and gives its pages back. False: it still has what
/// it had. Async-signal-safe.
///
/// # Safety
/// - `bytes` from `addr` are whole pages of one `private_zeroed`, and nobody expects them to stay.
pub unsafe fn zero_private(addr: *mut u8, bytes: usize) -> bool {
    let _keep = Errno::save();
    // SAFETY: the caller's range; private anonymous pages read as zero after it.
    unsafe { libc::madvise(addr.cast(), bytes, libc::MADV_DONTNEED) == 0 }
}

/// Gives memory of `private_zeroed` back. Async-signal-safe.
///
/// # Safety
/// - `addr` and `bytes` are those of one `private_zeroed`, and nobody refers to it any more.
pub unsafe fn release_private(addr: *mut u8, bytes: usize) {
    let _keep = Errno::save();
    // SAFETY: the caller's own mapping, given up.
    unsafe { libc::munmap(addr.cast::<c_void>(), bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn byte(region: &Region, at: usize) -> &AtomicU8 {
        assert!(at < region.bytes());
        // SAFETY: inside the region, which is never unmapped.
        unsafe { AtomicU8::from_ptr(region.base().wrapping_add(at)) }
    }

    #[test]
    fn anonymous_is_shared_and_replaced_in_a_child() {
        let region = reserve(1 << 20, 1 << 16, None).unwrap();
        assert_eq!(region.bytes(), 1 << 20);
        region.populate(0, 1 << 16).unwrap();
        assert_eq!(region.populate(1 << 19, 1 << 20), Err(libc::EINVAL));
        byte(&region, 1).store(5, Ordering::Relaxed);
        // SAFETY: the child uses system calls only and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            byte(&region, 2).store(6, Ordering::Relaxed);
            // SAFETY: nothing in the child refers into the range.
            let done = unsafe { replace_with_fresh(region.base(), region.bytes()) };
            let zero = byte(&region, 1).load(Ordering::Relaxed) == 0;
            byte(&region, 3).store(7, Ordering::Relaxed);
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(done && zero)) };
        }
        let mut status = 0;
        // SAFETY: our own child, a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 1);
        let seen: Vec<u8> = (1..4).map(|i| byte(&region, i).load(Ordering::Relaxed)).collect();
        assert_eq!(seen, [5, 6, 0]);
    }

    #[test]
    fn file_on_tmpfs_is_private_and_closed() {
        let dir = PathBuf::from(format!("/dev/shm/exectrace-test-{}", std::process::id()));
        if fs::create_dir(&dir).is_err() {
            eprintln!("skipped: /dev/shm is not writable");
            return;
        }
        let region = reserve(1 << 20, 1 << 16, Some(&dir)).unwrap();
        let path = region.path().unwrap().to_path_buf();
        let about = fs::metadata(&path).unwrap();
        assert_eq!((about.mode() & 0o777, about.len()), (0o600, 1 << 20));
        region.populate(0, 8192).unwrap();
        byte(&region, 4097).store(9, Ordering::Relaxed);
        assert_eq!(fs::read(&path).unwrap()[4097], 9);
        let again = reserve(1 << 20, 1 << 16, Some(&dir)).unwrap();
        let next = again.path().unwrap();
        assert!(next != path && path.exists(), "as the program has that the process becomes");
        assert_eq!(fs::read(&path).unwrap()[4097], 9);
        fs::remove_file(next).unwrap();
        for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
            assert_ne!(fs::read_link(entry.path()).ok().as_ref(), Some(&path));
        }
        fs::remove_file(&path).unwrap();
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_disk_is_refused() {
        let region = reserve(1 << 20, 1 << 16, Some(Path::new("/proc/self")));
        assert!(region.is_err());
        let exe = std::env::current_exe().unwrap();
        let dir = exe.with_extension("no-tmpfs");
        fs::create_dir_all(&dir).unwrap();
        match reserve(1 << 20, 1 << 16, Some(&dir)) {
            Ok(region) => fs::remove_file(region.path().unwrap()).unwrap(), // a checkout on tmpfs
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::Unsupported),
        }
        fs::remove_dir(&dir).expect("nothing was left behind");
    }

    #[test]
    fn touch_keeps_what_is_there() {
        let region = reserve(1 << 16, 1 << 16, None).unwrap();
        byte(&region, 0).store(3, Ordering::Relaxed);
        // SAFETY: the whole region.
        unsafe { touch(region.base(), region.bytes()) };
        assert_eq!(byte(&region, 0).load(Ordering::Relaxed), 3);
    }

    #[test]
    fn limits_make_it_smaller() {
        let limit = libc::rlimit { rlim_cur: 8 << 30, rlim_max: 8 << 30 };
        // SAFETY: the child uses system calls only and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: a valid limit, for the child alone.
            unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
            let bytes = reserve(16 << 30, 1 << 20, None).map_or(0, |r| r.bytes());
            // SAFETY: ends the child.
            unsafe { libc::_exit((bytes >> 30) as i32) };
        }
        let mut status = 0;
        // SAFETY: our own child, a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 2);
    }

    #[test]
    fn private_memory_is_zero() {
        let addr = private_zeroed(8192).unwrap();
        // SAFETY: 8192 bytes were mapped.
        assert_eq!(unsafe { *addr.wrapping_add(8191) }, 0);
        // SAFETY: as above.
        unsafe { *addr.wrapping_add(8191) = 4 };
        // SAFETY: the whole mapping.
        assert!(unsafe { zero_private(addr, 8192) });
        // SAFETY: as above.
        assert_eq!(unsafe { *addr.wrapping_add(8191) }, 0);
        // SAFETY: mapped by the line above, not used again.
        unsafe { release_private(addr, 8192) };
        assert!(private_zeroed(usize::MAX / 2).is_none());
    }
}
