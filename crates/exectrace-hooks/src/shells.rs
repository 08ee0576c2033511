//! `system` and `popen`: libc starts the shell by itself, past the hooks, with the environment that
//! it finds.
//!
//! 1. `system` is done here as libc does it, by calls that libc has for everybody, so that the
//!    shell's environment is ours to choose.
//! 2. `popen` gives a stream that only libc can close, so it is libc's own: while it starts the
//!    shell, `environ` is a list that has our variables too. Another thread that reads it meanwhile
//!    sees them. What one changes is kept; no program may do that, since `popen` reads the list.
//! 3. That list stays for ever: a thread may still be reading it.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_short;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use trace::block;
use trace::encode::op::Step;

use crate::c::Words;
use crate::calls;
use crate::process;
use crate::raw;
use crate::real;
use crate::streams;

const SHELL: &CStr = c"/bin/sh";

/// What threads change one after the other, for some microseconds each.
struct Locked<T> {
    lock: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through the lock only.
unsafe impl<T> Sync for Locked<T> {}

impl<T> Locked<T> {
    const fn new(value: T) -> Locked<T> {
        Locked { lock: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // Acquire: pairs with the Release below, of the thread before.
        while self.lock.compare_exchange_weak(0, 1, Acquire, Relaxed).is_err() {
            // SAFETY: gives the CPU away; no arguments.
            unsafe { raw::system_call(libc::SYS_sched_yield as usize, [0; 6]) };
        }
        // SAFETY: the lock is held, and `f` gives nothing of the value away.
        let r = f(unsafe { &mut *self.value.get() });
        self.lock.store(0, Release);
        r
    }
}

/// In a forked child: the threads that held a lock are not there.
pub fn forget() {
    IGNORED.lock.store(0, Relaxed);
    LENT.lock.store(0, Relaxed);
}

/// What the signals of the terminal did before the first of those who ignore them now.
struct Ignored {
    users: u32,
    before: [MaybeUninit<libc::sigaction>; 2],
}

const TERMINAL: [c_int; 2] = [libc::SIGINT, libc::SIGQUIT];

static IGNORED: Locked<Ignored> =
    Locked::new(Ignored { users: 0, before: [const { MaybeUninit::zeroed() }; 2] });

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: a place for a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: an empty set, of plain numbers.
    unsafe { set.assume_init() }
}

/// The process ignores the signals of the terminal, and this thread leaves SIGCHLD alone, until
/// this goes.
struct Ignoring {
    /// The thread's mask before.
    mask: libc::sigset_t,
    /// Signals that the shell is to have as they were by default.
    reset: libc::sigset_t,
}

impl Ignoring {
    fn begin() -> Ignoring {
        let (mut mask, mut reset, mut child) = (empty_set(), empty_set(), empty_set());
        IGNORED.with(|ignored| {
            for (signal, before) in TERMINAL.into_iter().zip(&mut ignored.before) {
                if ignored.users == 0 {
                    // SAFETY: plain numbers, for which zero is a value: no flags, an empty mask.
                    let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
                    ignore.sa_sigaction = libc::SIG_IGN;
                    // SAFETY: a signal that may be ignored, a place for what was before.
                    unsafe { libc::sigaction(signal, &raw const ignore, before.as_mut_ptr()) };
                }
                // SAFETY: written by the first user.
                let was = unsafe { before.assume_init_ref() };
                if was.sa_sigaction != libc::SIG_IGN {
                    // SAFETY: a set, a signal.
                    unsafe { libc::sigaddset(&raw mut reset, signal) };
                }
            }
            ignored.users += 1;
        });
        // SAFETY: a set, a signal.
        unsafe { libc::sigaddset(&raw mut child, libc::SIGCHLD) };
        // SAFETY: two sets.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const child, &raw mut mask) };
        Ignoring { mask, reset }
    }
}

impl Drop for Ignoring {
    fn drop(&mut self) {
        IGNORED.with(|ignored| {
            ignored.users -= 1;
            for (signal, before) in TERMINAL.into_iter().zip(&ignored.before) {
                if ignored.users == 0 {
                    // SAFETY: what the first user found.
                    unsafe { libc::sigaction(signal, before.as_ptr(), std::ptr::null_mut()) };
                }
            }
            // SAFETY: the mask of before.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut())
            };
        });
    }
}

/// A shell that is waited for. Where the thread is cancelled meanwhile, it is killed, as libc does.
struct Shell(c_int);

impl Drop for Shell {
    fn drop(&mut self) {
        let errno = raw::errno();
        let pid = self.0 as usize;
        // SAFETY: a signal to our child, which nobody has waited for.
        unsafe {
            raw::system_call(libc::SYS_kill as usize, [pid, libc::SIGKILL as usize, 0, 0, 0, 0])
        };
        // SAFETY: waits for our child; its status is of no interest.
        while unsafe { raw::system_call(libc::SYS_wait4 as usize, [pid, 0, 0, 0, 0, 0]) }
            == -(libc::EINTR as isize)
        {}
        raw::set_errno(errno);
    }
}

/// Whether this libc puts `--` before a shell's command: from 2.38 on.
fn has_dashes() -> bool {
    // SAFETY: no arguments.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: a string for the life of the process.
    let version = unsafe { CStr::from_ptr(version) };
    let minor = version.to_str().ok().and_then(|v| v.strip_prefix("2."));
    let digits = minor.map(|m| m.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
    digits.and_then(|d| d.parse::<u32>().ok()).is_some_and(|minor| minor >= 38)
}

/// # Safety
/// - As `system`.
pub unsafe fn system(command: *const c_char) -> c_int {
    if command.is_null() || !process::follows() {
        by_libc(command);
        // SAFETY: the caller's promise.
        return unsafe { real::system(command) };
    }
    let ignoring = Ignoring::begin();
    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::zeroed();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: a place for them.
    unsafe { libc::posix_spawnattr_init(attributes) };
    // SAFETY: made above.
    unsafe { libc::posix_spawnattr_setsigmask(attributes, &raw const ignoring.mask) };
    // SAFETY: made above.
    unsafe { libc::posix_spawnattr_setsigdefault(attributes, &raw const ignoring.reset) };
    let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
    // SAFETY: made above.
    unsafe { libc::posix_spawnattr_setflags(attributes, flags as c_short) };
    let (end, sh, c) = (std::ptr::null(), c"sh".as_ptr(), c"-c".as_ptr());
    let argv = match has_dashes() {
        true => [sh, c, c"--".as_ptr(), command, end],
        false => [sh, c, command, end, end],
    };
    let mut child = 0;
    let actions = std::ptr::null();
    // SAFETY: lists that end in a null, attributes that were made above, a place for the number.
    let failed = unsafe {
        process::posix_spawn(
            &raw mut child,
            SHELL.as_ptr(),
            actions,
            attributes,
            argv.as_ptr(),
            process::own_environment(),
        )
    };
    // SAFETY: made above, used for the last time.
    unsafe { libc::posix_spawnattr_destroy(attributes) };
    if failed != 0 {
        drop(ignoring);
        raw::set_errno(failed);
        // As of a shell that could not start.
        return 127 << 8;
    }
    let shell = Shell(child);
    let mut status = -1;
    let ended = loop {
        // The hook itself: it is a wait of the trace, and unwinds where the thread is cancelled.
        // SAFETY: our child, a place for its status.
        let ended = unsafe { calls::waitpid(child, &raw mut status, 0) };
        if ended != -1 || raw::errno() != libc::EINTR {
            break ended;
        }
    };
    std::mem::forget(shell);
    if ended == child { status } else { -1 }
}

/// libc starts the shell by itself, past the hooks.
fn by_libc(command: *const c_char) {
    if !command.is_null() {
        block::process(Step::NotFollowed, 0, b"/bin/sh: libc starts it by itself");
    }
}

/// Entries of the list that stands in for `environ`.
const ENTRIES_MAX: usize = 4096;
/// Bytes of the entries that were made for it.
const TEXT_MAX: usize = 3 * process::PRELOAD_MAX;

/// What stands in for `environ` while libc starts a shell.
struct Lent {
    users: u32,
    before: Words,
    /// The program's own `LD_PRELOAD`, an entry of `before`; null without one.
    preload: *const c_char,
    /// Of the list as it was lent.
    sum: usize,
    list: [*const c_char; ENTRIES_MAX],
    text: [u8; TEXT_MAX],
}

static LENT: Locked<Lent> = Locked::new(Lent {
    users: 0,
    before: std::ptr::null(),
    preload: std::ptr::null(),
    sum: 0,
    list: [std::ptr::null(); ENTRIES_MAX],
    text: [0; TEXT_MAX],
});

/// A number by which two lists are told apart.
fn sum_of(list: Words) -> usize {
    // SAFETY: a list that ends in a null.
    unsafe { process::each(list) }.fold(0, |sum: usize, word| {
        sum.rotate_left(5).wrapping_add(word.addr()).wrapping_mul(0x9e37_79b9)
    })
}

impl Lent {
    /// Copies a list, and those of its entries that do not outlive this call. False: it is too
    /// long.
    fn fill(&mut self, from: Words) -> bool {
        let (mut entries, mut at) = (0, 0);
        // SAFETY: a list that ends in a null.
        for word in unsafe { process::each(from) } {
            let bytes = process::bytes(word);
            if entries + 1 >= ENTRIES_MAX {
                return false;
            }
            self.list[entries] = word;
            if process::is_made(bytes) {
                let end = at + bytes.len();
                let Some(to) = self.text.get_mut(at..=end) else { return false };
                to[..bytes.len()].copy_from_slice(bytes);
                to[bytes.len()] = 0;
                self.list[entries] = to.as_ptr().cast();
                at = end + 1;
            }
            entries += 1;
        }
        self.list[entries] = std::ptr::null();
        true
    }

    fn begin(&mut self) -> bool {
        let before = process::own_environment();
        if self.users == 0 {
            // SAFETY: the program's environment.
            let filled = unsafe { process::with_ours(before, |words| self.fill(words).into()) };
            if filled != Some(1) {
                return false;
            }
            // SAFETY: as above.
            let mut own = unsafe { process::each(before) };
            let own = own.find(|word| process::is_preload(process::bytes(*word)).is_some());
            self.preload = own.unwrap_or(std::ptr::null());
            self.before = before;
            self.sum = sum_of(self.list.as_ptr());
            process::set_environment(self.list.as_ptr());
        }
        self.users += 1;
        true
    }

    fn end(&mut self) {
        self.users -= 1;
        if self.users > 0 {
            return;
        }
        let now = process::own_environment();
        if now != self.list.as_ptr() {
            // A thread has put a variable in, by which the program has a list of its own again.
            self.give_back(now, now);
        } else {
            if sum_of(now) != self.sum {
                // One was changed or taken out in place: no more entries than before.
                self.give_back(now, self.before);
            }
            process::set_environment(self.before);
        }
    }

    /// Copies a list without what is ours; `to` has room for the rest.
    fn give_back(&self, from: Words, to: Words) {
        let mut to = to.cast_mut();
        let mut put = |word| {
            // SAFETY: the caller's promise.
            unsafe { *to = word };
            to = to.wrapping_add(1);
        };
        // SAFETY: a list that ends in a null.
        for word in unsafe { process::each(from) } {
            let text = process::bytes(word);
            match process::is_preload(text) {
                Some(true) if self.preload.is_null() => {}
                Some(true) => put(self.preload),
                _ if process::is_ours(text) => {}
                _ => put(word),
            }
        }
        put(std::ptr::null());
    }
}

/// # Safety
/// - As `popen`.
pub unsafe fn popen(command: *const c_char, mode: *const c_char) -> *mut c_void {
    if command.is_null() || !process::follows() || !LENT.with(Lent::begin) {
        by_libc(command);
        // SAFETY: the caller's promise.
        let stream = unsafe { real::popen(command, mode) };
        if !stream.is_null() {
            streams::is_new(stream.cast());
        }
        return stream;
    }
    // SAFETY: the caller's promise.
    let stream = unsafe { real::popen(command, mode) };
    let errno = raw::errno();
    LENT.with(Lent::end);
    if !stream.is_null() {
        streams::is_new(stream.cast());
        block::process(Step::Child, 0, b"/bin/sh: popen");
    }
    raw::set_errno(errno);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_signals_are_ignored_by_several_and_come_back() {
        let handler = |signal| {
            let mut now = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: asks only.
            unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) };
            // SAFETY: written by the call above.
            unsafe { now.assume_init() }.sa_sigaction
        };
        // SAFETY: a signal that the test does not use otherwise.
        unsafe { libc::signal(libc::SIGQUIT, libc::SIG_IGN) };
        // Whoever runs the test in the background may have it ignored.
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        let before = TERMINAL.map(handler);
        let one = Ignoring::begin();
        let two = Ignoring::begin();
        assert_eq!(TERMINAL.map(handler), [libc::SIG_IGN; 2]);
        // SAFETY: sets that were made above.
        let reset = TERMINAL.map(|s| unsafe { libc::sigismember(&raw const two.reset, s) });
        assert_eq!(reset, [1, 0], "one that was ignored stays so");
        drop(one);
        assert_eq!(TERMINAL.map(handler), [libc::SIG_IGN; 2]);
        drop(two);
        assert_eq!(TERMINAL.map(handler), before);
    }

    const VARIABLES: [&CStr; 3] =
        [c"EXECTRACE_TEST_KEPT", c"EXECTRACE_TEST_CHANGED", c"EXECTRACE_TEST_TAKEN"];

    fn set(name: &CStr, value: &CStr) {
        // SAFETY: strings; no other test changes the environment.
        assert_eq!(unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) }, 0);
    }

    /// Values of the variables, and of those that are lent.
    fn values() -> Vec<Option<String>> {
        let lent = [c"LD_PRELOAD", c"EXECTRACE_PRELOAD_DIR", c"EXECTRACE_PRELOAD_OPTIONS"];
        let value = |name: &CStr| {
            // SAFETY: a string; no other test changes the environment.
            let value = unsafe { libc::getenv(name.as_ptr()) };
            let text = (!value.is_null()).then(|| process::bytes(value).to_vec());
            text.map(|t| String::from_utf8(t).unwrap())
        };
        VARIABLES.into_iter().chain(lent).map(value).collect()
    }

    #[test]
    fn a_lent_environment_comes_back_with_what_was_changed_in_it() {
        process::follow(Box::leak(Box::new(process::Follow {
            library: c"/no/such/library.so",
            folder: c"EXECTRACE_PRELOAD_DIR=/no/such/folder",
            options: c"EXECTRACE_PRELOAD_OPTIONS=none",
        })));
        VARIABLES.into_iter().for_each(|name| set(name, c"1"));
        let some = |values: [Option<&str>; 6]| values.map(|v| v.map(str::to_owned)).to_vec();
        let one = Some("1");
        let before = (process::own_environment(), values());
        assert_eq!(before.1, some([one, one, one, None, None, None]));
        // Two threads start a shell at a time: the first lends, the last gives back.
        assert!(LENT.with(Lent::begin) && LENT.with(Lent::begin));
        let lent = [Some("/no/such/library.so"), Some("/no/such/folder"), Some("none")];
        assert_eq!(values(), some([one, one, one, lent[0], lent[1], lent[2]]));
        LENT.with(Lent::end);
        assert_ne!(process::own_environment(), before.0);
        LENT.with(Lent::end);
        assert_eq!((process::own_environment(), values()), before);
        // One is changed in place, and one is taken out.
        assert!(LENT.with(Lent::begin));
        set(VARIABLES[1], c"2");
        // SAFETY: a string; no other test changes the environment.
        unsafe { libc::unsetenv(VARIABLES[2].as_ptr()) };
        LENT.with(Lent::end);
        let changed = some([one, Some("2"), None, None, None, None]);
        assert_eq!((process::own_environment(), values()), (before.0, changed));
        // One is put in, with an LD_PRELOAD of the program's own.
        set(c"LD_PRELOAD", c"own.so");
        assert!(LENT.with(Lent::begin));
        let both = "/no/such/library.so:own.so";
        assert_eq!(values()[3..], some([None, None, None, Some(both), lent[1], lent[2]])[3..]);
        set(VARIABLES[2], c"3");
        LENT.with(Lent::end);
        let put = some([one, Some("2"), Some("3"), Some("own.so"), None, None]);
        assert_eq!(values(), put);
        // SAFETY: a string; no other test changes the environment.
        unsafe { libc::unsetenv(c"LD_PRELOAD".as_ptr()) };
    }
}
