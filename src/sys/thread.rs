//! Threads as the kernel knows them: numbers, names, whether they live, their signals, their end.

use crate::sys::Errno;
use crate::sys::errno;
use crate::sys::file::File;
use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

pub use crate::sys::stack::SignalStack;
pub use crate::sys::stack::StackBounds;
pub use crate::sys::stack::signal_stack;
pub use crate::sys::stack::stack_bounds;
pub use crate::sys::stack::stack_top;

/// The calling thread's number, from the kernel. Async-signal-safe.
pub fn tid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// The process's number, from the kernel: other than the one before in a forked or vfork child,
/// where a cached one may not be. Async-signal-safe.
pub fn pid_raw() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as u32 }
}

/// Whether the calling thread is the process's first. Async-signal-safe.
pub fn is_main() -> bool {
    tid() == pid_raw()
}

/// The calling thread's name as the kernel has it, at most 15 bytes. Async-signal-safe.
pub fn name(buf: &mut [u8; 16]) -> &[u8] {
    let _keep = Errno::save();
    *buf = [0; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of them zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, buf.as_mut_ptr()) };
    CStr::from_bytes_until_nul(buf).map_or(&[], CStr::to_bytes)
}

/// Whether a thread of this process has the number `tid`. Async-signal-safe; keeps `errno`.
pub fn alive(tid: u32) -> bool {
    alive_in(pid_raw(), tid)
}

/// Whether a thread of the process `pid` has the number `tid`. Async-signal-safe; keeps `errno`.
pub fn alive_in(pid: u32, tid: u32) -> bool {
    let _keep = Errno::save();
    // SAFETY: signal 0 asks and sends nothing.
    let r = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) };
    // Another error (a security module that refuses) is no proof of an end.
    r == 0 || !matches!(errno(), libc::ESRCH | libc::EINVAL)
}

/// The name of a thread of another process, as the kernel has it.
pub fn name_in(pid: u32, tid: u32) -> Option<Vec<u8>> {
    let mut name = fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
    name.truncate(name.trim_ascii_end().len());
    Some(name)
}

/// What the kernel has counted for a thread.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Switches that the thread asked for: it waited for something.
    pub voluntary: u64,
    /// Switches that it did not ask for.
    pub involuntary: u64,
    /// Time on a CPU in the program.
    pub user_ns: u64,
    /// Time on a CPU in the kernel.
    pub system_ns: u64,
    /// Pages that had to be read before the thread could go on.
    pub faults: u64,
}

/// What the kernel has counted for the calling thread. Async-signal-safe; keeps `errno`.
pub fn usage() -> Option<Usage> {
    let _keep = Errno::save();
    // SAFETY: plain numbers, for which zero is a value.
    let mut u: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is writable.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut u) } != 0 {
        return None;
    }
    let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
    Some(Usage {
        voluntary: u.ru_nvcsw as u64,
        involuntary: u.ru_nivcsw as u64,
        user_ns: ns(u.ru_utime),
        system_ns: ns(u.ru_stime),
        faults: u.ru_majflt as u64,
    })
}

/// Beyond it glibc allocates a block the first time that a thread sets its value.
const KEYS_INLINE: u32 = 32;

/// The key's number + 1; 0 = no key; `MAKING` while one thread makes it.
static KEY: AtomicU32 = AtomicU32::new(0);
const MAKING: u32 = u32::MAX;

/// Makes the process's one key whose destructor `f` is called at the end of each thread that has
/// set a value. False: none was to be had whose use never allocates; then only a look at `alive`
/// tells the end of a thread. Control side; keeps `errno`.
pub fn exit_key(f: extern "C" fn(*mut c_void)) -> bool {
    if let Err(now) = KEY.compare_exchange(0, MAKING, Ordering::Relaxed, Ordering::Relaxed) {
        return now != MAKING;
    }
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: the place is writable; the destructor is a function for the life of the process.
    let made = unsafe { libc::pthread_key_create(&mut key, Some(f)) } == 0;
    if made && key < KEYS_INLINE {
        KEY.store(key + 1, Ordering::Relaxed);
        return true;
    }
    if made {
        // SAFETY: our own key, which nobody else knows.
        unsafe { libc::pthread_key_delete(key) };
    }
    KEY.store(0, Ordering::Relaxed);
    false
}

/// Sets the calling thread's value of the exit key, which the destructor gets; null = do not call
/// it. False without a key. Neither allocates nor locks; async-signal-safe in glibc and musl.
#[allow(clippy::not_unsafe_ptr_arg_deref)] // libc keeps the address and does not look there.
pub fn set_exit_value(value: *mut c_void) -> bool {
    let key = KEY.load(Ordering::Relaxed);
    if key == 0 || key == MAKING {
        return false;
    }
    // SAFETY: the key was made and is never deleted; libc only keeps the value.
    unsafe { libc::pthread_setspecific(key - 1, value) == 0 }
}

/// Whether every other thread of the process has ended, the main thread too, which leaves a zombie.
/// Then nobody comes any more. Some microseconds; no allocation.
pub fn is_last() -> bool {
    let _keep = Errno::save();
    let mut text = [0; 512];
    let stat = File::open(c"/proc/self/stat").and_then(|f| f.read_all(&mut text).map(state_in));
    let mut threads = 0;
    stat == Some(Some(b'Z')) && list(|_, _| threads += 1) && threads == 2
}

/// The state in `/proc/PID/stat`, behind a name that may hold brackets.
fn state_in(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    stat.get(end + 2).copied()
}

/// Calls `f` with number and name of each thread of the process, as `/proc` lists them. False: the
/// list could not be read (to its end). Async-signal-safe as far as `f` is; no allocation.
pub fn list(mut f: impl FnMut(u32, &[u8])) -> bool {
    let _keep = Errno::save();
    let Some(folder) = File::open_folder(c"/proc/self/task") else { return false };
    let mut entries = [0u64; 256];
    loop {
        let room = size_of_val(&entries);
        // SAFETY: the buffer is writable for `room` bytes and aligned for the kernel's entries.
        let n =
            unsafe { libc::syscall(libc::SYS_getdents64, folder.fd(), entries.as_mut_ptr(), room) };
        if n <= 0 {
            return n == 0;
        }
        // SAFETY: the same buffer as bytes, of which the kernel wrote n.
        let mut rest = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast(), n as usize) };
        while let Some((name, after)) = next_entry(rest) {
            rest = after;
            if let Some(tid) = tid_in(name) {
                let mut comm = [0; 17];
                f(tid, comm_of(&folder, name, &mut comm));
            }
        }
    }
}

/// Splits one `linux_dirent64` off: inode and offset of 8 bytes, length of 2, type of 1, name.
fn next_entry(entries: &[u8]) -> Option<(&CStr, &[u8])> {
    let len = usize::from(u16::from_ne_bytes([*entries.get(16)?, *entries.get(17)?]));
    let name = CStr::from_bytes_until_nul(entries.get(19..len)?).ok()?;
    Some((name, &entries[len..]))
}

fn tid_in(name: &CStr) -> Option<u32> {
    std::str::from_utf8(name.to_bytes()).ok()?.parse().ok()
}

fn comm_of<'a>(folder: &File, tid: &CStr, into: &'a mut [u8; 17]) -> &'a [u8] {
    let mut path = [0; 32];
    let tid = tid.to_bytes();
    let tail = b"/comm\0";
    path[..tid.len()].copy_from_slice(tid);
    path[tid.len()..tid.len() + tail.len()].copy_from_slice(tail);
    let path = CStr::from_bytes_until_nul(&path).unwrap_or_default();
    let text = folder.open_below(path).and_then(|file| file.read_all(into)).unwrap_or(&[]);
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// The signals that were blocked before; blocked again when dropped, on the same thread.
#[must_use = "the signals are unblocked when the guard is dropped"]
pub struct SavedSignals {
    before: libc::sigset_t,
    /// The mask belongs to a thread.
    _here: PhantomData<*const ()>,
}

/// Blocks all signals of the calling thread (glibc leaves its own two). Async-signal-safe.
pub fn block_all_signals() -> SavedSignals {
    // SAFETY: a signal set is plain numbers, for which zero is a value.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: the set is writable.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: both sets are valid.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
    SavedSignals { before, _here: PhantomData }
}

impl SavedSignals {
    /// Leaves the signals blocked for the rest of the thread's life.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for SavedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was written by pthread_sigmask; no place for the old one is given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Stack of a thread that is started here.
const STACK_BYTES: usize = 2 << 20;

/// Starts a thread of this name that runs `f` and is waited for by nobody. A panic ends it alone.
///
/// Not by `std::thread`: a thread of that begins with a lock of the standard library, which stays
/// shut for ever in a child that was forked while another thread began or ended.
pub fn start(name: &'static CStr, f: fn()) -> io::Result<()> {
    let what = Box::into_raw(Box::new((name, f)));
    let started = start_with(what.cast());
    if started.is_err() {
        // SAFETY: made above, and given to nobody.
        drop(unsafe { Box::from_raw(what) });
    }
    started
}

fn start_with(what: *mut c_void) -> io::Result<()> {
    let done = |code: c_int| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    };
    let mut attr = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let attr = attr.as_mut_ptr();
    // SAFETY: the place is writable.
    done(unsafe { libc::pthread_attr_init(attr) })?;
    // SAFETY: initialised above.
    let sized = unsafe { libc::pthread_attr_setstacksize(attr, STACK_BYTES) };
    // SAFETY: as above.
    let detached =
        unsafe { libc::pthread_attr_setdetachstate(attr, libc::PTHREAD_CREATE_DETACHED) };
    let mut id = 0;
    let made = done(sized).and(done(detached)).and_then(|()| {
        // SAFETY: `begin` gets what it expects, from `start`.
        done(unsafe { libc::pthread_create(&mut id, attr, begin, what) })
    });
    // SAFETY: initialised above, used for the last time.
    unsafe { libc::pthread_attr_destroy(attr) };
    made
}

extern "C" fn begin(what: *mut c_void) -> *mut c_void {
    // SAFETY: made by `start`, for this thread alone.
    let what = unsafe { Box::from_raw(what.cast::<(&'static CStr, fn())>()) };
    let (name, f) = *what;
    // SAFETY: the name ends in a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // The hook has told of a panic.
    let _ = catch_unwind(f);
    std::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn numbers_names_and_ends() {
        assert_eq!(pid_raw(), std::process::id());
        let (send, receive) = mpsc::channel();
        let (end, wait) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("a long (odd) name".into());
        let thread = thread
            .spawn(move || {
                let mut buf = [0xff; 16];
                send.send((tid(), is_main(), name(&mut buf).to_vec())).unwrap();
                wait.recv().unwrap();
            })
            .unwrap();
        let (other, main, named) = receive.recv().unwrap();
        assert_ne!(other, tid());
        assert!(!main);
        assert_eq!(named, b"a long (odd) na");
        assert!(alive(other) && alive(tid()));
        let mut seen = Vec::new();
        assert!(list(|tid, name| seen.push((tid, name.to_vec()))));
        assert!(seen.contains(&(other, b"a long (odd) na".to_vec())));
        assert!(seen.iter().any(|(t, _)| *t == pid_raw()));
        end.send(()).unwrap();
        thread.join().unwrap();
        while alive(other) {
            std::thread::yield_now();
        }
        assert!(!alive(0));
    }

    #[test]
    fn many_threads_are_listed() {
        let (end, wait) = (std::sync::Arc::new(()), std::sync::Barrier::new(201));
        let wait = std::sync::Arc::new(wait);
        let threads: Vec<_> = (0..200)
            .map(|_| {
                let (wait, _end) = (wait.clone(), end.clone());
                std::thread::spawn(move || {
                    let _end = _end;
                    let me = tid();
                    wait.wait();
                    wait.wait();
                    me
                })
            })
            .collect();
        wait.wait();
        let mut seen = std::collections::HashSet::new();
        assert!(list(|tid, _| assert!(seen.insert(tid))));
        wait.wait();
        let all: Vec<u32> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(all.len(), 200);
        assert!(all.iter().all(|t| seen.contains(t)));
    }

    #[test]
    fn entries_that_are_cut() {
        let mut entry = [0u8; 24];
        entry[16] = 24;
        entry[19..21].copy_from_slice(b"42");
        let (name, rest) = next_entry(&entry).unwrap();
        assert_eq!((tid_in(name), rest.len()), (Some(42), 0));
        for cut in 0..24 {
            assert!(next_entry(&entry[..cut]).is_none());
        }
        entry[16] = 0;
        assert!(next_entry(&entry).is_none());
    }

    #[test]
    fn exit_value_reaches_the_destructor() {
        static ENDED: AtomicU32 = AtomicU32::new(0);
        extern "C" fn ended(value: *mut c_void) {
            ENDED.fetch_add(value.addr() as u32, Ordering::Relaxed);
        }
        // The key is one for the process, and other tests of this binary may want it.
        const ALONE: &str = "EXECTRACE_TEST_EXIT_KEY";
        if std::env::var_os(ALONE).is_none() {
            let mut test = std::process::Command::new(std::env::current_exe().unwrap());
            let out = test.args(["exit_value_reaches_the_destructor"]).env(ALONE, "1").output();
            let text = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
            assert!(text.contains("1 passed"), "{text}");
            return;
        }
        assert!(!set_exit_value(std::ptr::dangling_mut()), "no key yet");
        assert!(exit_key(ended));
        assert!(exit_key(ended), "a second call finds the first key");
        for value in [3, 4] {
            let at_end = move || set_exit_value(std::ptr::without_provenance_mut(value));
            assert!(std::thread::spawn(at_end).join().unwrap());
        }
        assert_eq!(ENDED.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_thread_is_started_with_its_name() {
        static RAN: AtomicU32 = AtomicU32::new(0);
        fn run() {
            let mut buf = [0; 16];
            RAN.store(1 + u32::from(name(&mut buf) == b"started here"), Ordering::Release);
            std::panic::resume_unwind(Box::new("ends this thread alone"));
        }
        assert!(start(c"started here", run).is_ok());
        while RAN.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(RAN.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn signals_are_blocked_and_restored() {
        let blocked = || {
            // SAFETY: plain numbers.
            let mut now: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: asks for the mask, changes nothing.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut now) };
            // SAFETY: the set was written by the line above.
            unsafe { libc::sigismember(&now, libc::SIGUSR2) == 1 }
        };
        assert!(!blocked());
        let saved = block_all_signals();
        assert!(blocked());
        drop(saved);
        assert!(!blocked());
    }
}
