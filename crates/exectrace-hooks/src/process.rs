//! Processes: forks, new programs, ends. A program that can be recorded gets the library and our
//! variables again; another one runs as if nobody recorded, and the trace says so.
//!
//! 1. What stands in a new program's environment beside our variables is what the caller gave.
//! 2. In a child of vfork nothing is allocated, and no state of the parent's is changed.

use std::cell::Cell;
use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_long;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use trace::block;
use trace::encode::op::Step;

use crate::c::Words;
use crate::c::pid_t;
use crate::c::posix_spawn_file_actions_t;
use crate::c::posix_spawnattr_t;
use crate::raw;
use crate::real;
use crate::target;
use crate::target::Verdict;
use crate::thread;

/// What a program needs to be recorded, said by the preloaded library.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// The library's file.
    pub library: &'static CStr,
    /// `NAME=value` of the folder.
    pub folder: &'static CStr,
    /// `NAME=value` of the options.
    pub options: &'static CStr,
}

static FOLLOW: AtomicPtr<Follow> = AtomicPtr::new(std::ptr::null_mut());

/// Has programs that are started from here on recorded.
pub fn follow(what: &'static Follow) {
    // Release: pairs with the Acquire in `followed`.
    FOLLOW.store(std::ptr::from_ref(what).cast_mut(), Release);
}

/// Whether programs that are started now are recorded, as far as they can be.
pub fn follows() -> bool {
    trace::registry::has_session() && followed().is_some()
}

fn followed() -> Option<&'static Follow> {
    // Acquire: pairs with the Release in `follow`.
    // SAFETY: null, or from a reference for the life of the process.
    unsafe { FOLLOW.load(Acquire).as_ref() }
}

unsafe extern "C" {
    static mut environ: Words;
}

/// The program's own environment.
pub fn own_environment() -> Words {
    // SAFETY: as libc itself reads it for `execv`.
    unsafe { environ }
}

/// Puts another list in the place of the program's environment.
pub fn set_environment(list: Words) {
    // SAFETY: as libc itself stores it in `setenv`.
    unsafe { environ = list };
}

const PRELOAD: &[u8] = b"LD_PRELOAD=";
const FORMER: &[u8] = b"EXECTRACE_PRELOAD_FORMER=";
/// Entries that stand on the stack; a longer list goes into memory from the kernel.
const ON_STACK: usize = 512;
/// Longest `LD_PRELOAD` of the program's own that is kept beside ours.
pub const PRELOAD_MAX: usize = 4096;
/// Entries that we add.
const ADDED: usize = 4;

/// A list of words that ends in a null, in memory that is no allocator's.
struct List {
    on_stack: [*const c_char; ON_STACK],
    mapped: *mut *const c_char,
    room: usize,
    len: usize,
}

impl List {
    fn new(room: usize) -> Option<List> {
        let room = room + 1;
        let mut list = List {
            on_stack: [std::ptr::null(); ON_STACK],
            mapped: std::ptr::null_mut(),
            room,
            len: 0,
        };
        if room > ON_STACK {
            let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
            let arguments = [0, list.bytes(), access, flags, usize::MAX, 0];
            // SAFETY: a new mapping where the kernel likes.
            let at = unsafe { raw::system_call(libc::SYS_mmap as usize, arguments) };
            if (-4095..0).contains(&at) {
                return None;
            }
            list.mapped = std::ptr::with_exposed_provenance_mut(at as usize);
        }
        Some(list)
    }

    fn bytes(&self) -> usize {
        self.room * size_of::<*const c_char>()
    }

    fn push(&mut self, word: *const c_char) {
        if self.len + 1 >= self.room {
            return;
        }
        if self.mapped.is_null() {
            self.on_stack[self.len] = word;
        } else {
            // SAFETY: below `room`; the kernel's pages are zero, so that the list ends in a null.
            unsafe { *self.mapped.wrapping_add(self.len) = word };
        }
        self.len += 1;
    }

    fn words(&self) -> Words {
        if self.mapped.is_null() { self.on_stack.as_ptr() } else { self.mapped }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.mapped.is_null() {
            let arguments = [self.mapped.expose_provenance(), self.bytes(), 0, 0, 0, 0];
            // SAFETY: mapped by `new`, and nobody has it any more.
            unsafe { raw::system_call(libc::SYS_munmap as usize, arguments) };
        }
    }
}

/// The words of a list before its null.
///
/// # Safety
/// - `words` is null, or ends in a null.
pub unsafe fn each(words: Words) -> impl Iterator<Item = *const c_char> {
    let mut at = words;
    std::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: the caller's promise.
        let word = unsafe { *at };
        at = at.wrapping_add(1);
        (!word.is_null()).then_some(word)
    })
}

/// The bytes of a word.
pub fn bytes<'w>(word: *const c_char) -> &'w [u8] {
    // SAFETY: words of an environment or of arguments end in a zero.
    unsafe { CStr::from_ptr(word) }.to_bytes()
}

/// Whether `with_ours` made this entry: it is gone when that returns.
pub fn is_made(entry: &[u8]) -> bool {
    entry.starts_with(PRELOAD) || entry.starts_with(FORMER)
}

/// The program's own part of an `LD_PRELOAD`, which may have ours already: where this thread found
/// the environment that another one lends to libc.
fn without_library<'v>(value: &'v [u8], library: &[u8]) -> &'v [u8] {
    match value.strip_prefix(library) {
        Some([]) => b"",
        Some([b':', own @ ..]) => own,
        _ => value,
    }
}

/// Whether this is one of the variables by which a program is recorded.
pub fn is_ours(entry: &[u8]) -> bool {
    [&b"EXECTRACE_PRELOAD_DIR="[..], b"EXECTRACE_PRELOAD_OPTIONS=", FORMER]
        .iter()
        .any(|name| entry.starts_with(name))
}

/// Whether this is an `LD_PRELOAD`; whether it has our library in it.
pub fn is_preload(entry: &[u8]) -> Option<bool> {
    let value = entry.strip_prefix(PRELOAD)?;
    Some(followed().is_some_and(|f| value.starts_with(f.library.to_bytes())))
}

/// Runs `call` with an environment in which the new program is recorded, where it can be.
///
/// # Safety
/// - `environment` is null or a list of words.
pub unsafe fn with_ours(environment: Words, call: impl FnOnce(Words) -> c_int) -> Option<c_int> {
    let follow = followed()?;
    // SAFETY: the caller's promise.
    let n = unsafe { each(environment) }.count();
    let mut list = List::new(n + ADDED)?;
    let mut former = [0u8; FORMER.len() + PRELOAD_MAX + 1];
    let mut preload = [0u8; 2 * PRELOAD_MAX];
    let library = follow.library.to_bytes();
    let mut at = 0;
    let mut put = |part: &[u8], to: &mut [u8]| {
        to[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    if library.len() > PRELOAD_MAX / 2 {
        return None;
    }
    put(PRELOAD, &mut preload);
    put(library, &mut preload);
    // SAFETY: the caller's promise.
    for word in unsafe { each(environment) } {
        let text = bytes(word);
        let Some(own) = text.strip_prefix(PRELOAD) else {
            if !is_ours(text) {
                list.push(word);
            }
            continue;
        };
        let own = without_library(own, library);
        if own.len() > PRELOAD_MAX {
            return None;
        }
        if former[0] == 0 && !own.is_empty() {
            put(b":", &mut preload);
            put(own, &mut preload);
            former[..FORMER.len()].copy_from_slice(FORMER);
            former[FORMER.len()..][..own.len()].copy_from_slice(own);
        }
    }
    list.push(preload.as_ptr().cast());
    list.push(follow.folder.as_ptr());
    list.push(follow.options.as_ptr());
    if former[0] != 0 {
        list.push(former.as_ptr().cast());
    }
    Some(call(list.words()))
}

/// Whether the library's file is there, seen from this root.
fn library_is_there(follow: &Follow) -> bool {
    let path = follow.library.as_ptr().expose_provenance();
    let arguments = [libc::AT_FDCWD as usize, path, libc::R_OK as usize, 0, 0, 0];
    // SAFETY: a string that ends in a zero.
    unsafe { raw::system_call(libc::SYS_faccessat as usize, arguments) == 0 }
}

/// What is to be done with a program: `path` where it was found.
struct Chosen {
    verdict: Verdict,
    path: [u8; 4096],
}

/// # Safety
/// - `name` is null or ends in a zero.
unsafe fn choose(name: *const c_char) -> Chosen {
    let mut path = [0u8; 4096];
    let mut folders: *const c_char = std::ptr::null();
    // SAFETY: the program's environment.
    for word in unsafe { each(own_environment()) } {
        if bytes(word).starts_with(b"PATH=") {
            folders = word.wrapping_add(5);
            break;
        }
    }
    // SAFETY: the caller's promise.
    let mut verdict = unsafe { target::find(name, folders, &mut path) };
    match followed() {
        None if verdict == Verdict::Follow => verdict = Verdict::Leave("children are not recorded"),
        Some(f) if verdict == Verdict::Follow && !library_is_there(f) => {
            verdict = Verdict::Leave("the library cannot be reached under its root");
        }
        _ => {}
    }
    Chosen { verdict, path }
}

/// The path and a reason, as one text.
fn say(step: Step, pid: u32, chosen: &Chosen, reason: &str) {
    let path = CStr::from_bytes_until_nul(&chosen.path).unwrap_or_default().to_bytes();
    let mut text = [0u8; 512];
    let parts: [&[u8]; 3] = [path, if reason.is_empty() { b"" } else { b": " }, reason.as_bytes()];
    let mut at = 0;
    for part in parts {
        let n = part.len().min(text.len() - at);
        text[at..at + n].copy_from_slice(&part[..n]);
        at += n;
    }
    block::process(step, pid, &text[..at]);
}

pub(crate) fn pid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { raw::system_call(libc::SYS_getpid as usize, [0; 6]) as u32 }
}

/// Says in the folder that a process is about to begin: the one that made it may end before that,
/// and whoever drains has nothing of the new one yet.
fn announce(pid: u32) {
    let folder = followed().and_then(|f| f.folder.to_bytes().splitn(2, |b| *b == b'=').nth(1));
    let Some(folder) = folder else { return };
    let mut name = [0u8; 512];
    let mut at = &mut name[..];
    let whole = std::io::Write::write_all(&mut at, folder).is_ok()
        && std::io::Write::write_fmt(&mut at, format_args!("/young-{pid}\0")).is_ok();
    if !whole {
        return;
    }
    let path = name.as_ptr().expose_provenance();
    let mode = (libc::S_IFREG | 0o600) as usize;
    // SAFETY: a string that ends in a zero.
    unsafe { raw::system_call(libc::SYS_mknodat as usize, [CWD, path, mode, 0, 0, 0]) };
    block::wake_drain();
}

/// Paths are seen from the working folder.
const CWD: usize = libc::AT_FDCWD as usize;

/// The calling process becomes another program by `call`, which gets the environment.
///
/// # Safety
/// - `name` is null or ends in a zero; `environment` is null or a list of words.
unsafe fn becomes(name: *const c_char, environment: Words, call: impl Fn(Words) -> c_int) -> c_int {
    if !trace::registry::has_session() {
        return call(environment);
    }
    // SAFETY: the caller's promise.
    let chosen = unsafe { choose(name) };
    match chosen.verdict {
        Verdict::Nothing => return call(environment),
        Verdict::Leave(reason) => {
            say(Step::NotFollowed, pid(), &chosen, reason);
            thread::thread_ends();
            return call(environment);
        }
        Verdict::Follow => {
            say(Step::Exec, pid(), &chosen, "");
            announce(pid());
            thread::thread_ends();
        }
    }
    // SAFETY: the caller's promise.
    let r = unsafe { with_ours(environment, &call) };
    r.unwrap_or_else(|| {
        say(Step::NotFollowed, pid(), &chosen, "its environment has no room");
        call(environment)
    })
}

/// # Safety
/// - As `execve`.
pub unsafe fn execve(path: *const c_char, argv: Words, envp: Words) -> c_int {
    // SAFETY: the caller's promise.
    let call = |e| unsafe { real::execve(path, argv, e) };
    // SAFETY: the caller's promise.
    unsafe { becomes_by_path(path, envp, call) }
}

/// As `becomes`, of a program that is not looked for in `PATH`.
///
/// # Safety
/// - As `becomes`.
unsafe fn becomes_by_path(
    path: *const c_char,
    environment: Words,
    call: impl Fn(Words) -> c_int,
) -> c_int {
    let is_bare = !path.is_null() && !bytes(path).contains(&b'/');
    if !is_bare {
        // SAFETY: the caller's promise.
        return unsafe { becomes(path, environment, call) };
    }
    // A name without a slash is in the working folder here.
    let mut here = [0u8; 4096];
    let name = bytes(path);
    if name.len() + 3 > here.len() {
        return call(environment);
    }
    here[..2].copy_from_slice(b"./");
    here[2..2 + name.len()].copy_from_slice(name);
    // SAFETY: ends in a zero; the rest is the caller's promise.
    unsafe { becomes(here.as_ptr().cast(), environment, call) }
}

/// # Safety
/// - As `execv`.
pub unsafe fn execv(path: *const c_char, argv: Words) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { execve(path, argv, own_environment()) }
}

/// # Safety
/// - As `execvpe`.
pub unsafe fn execvpe(name: *const c_char, argv: Words, envp: Words) -> c_int {
    // SAFETY: the caller's promise.
    let call = |e| unsafe { real::execvpe(name, argv, e) };
    // SAFETY: the caller's promise.
    unsafe { becomes(name, envp, call) }
}

/// # Safety
/// - As `execvp`.
pub unsafe fn execvp(name: *const c_char, argv: Words) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { execvpe(name, argv, own_environment()) }
}

/// # Safety
/// - As `fexecve`.
pub unsafe fn fexecve(fd: c_int, argv: Words, envp: Words) -> c_int {
    let mut path = [0u8; 32];
    let mut at = &mut path[..];
    let _ = std::io::Write::write_fmt(&mut at, format_args!("/proc/self/fd/{fd}"));
    // SAFETY: the caller's promise.
    let call = |e| unsafe { real::fexecve(fd, argv, e) };
    // SAFETY: the path ends in a zero; the rest is the caller's promise.
    unsafe { becomes(path.as_ptr().cast(), envp, call) }
}

/// Arguments that a variadic caller has left: some in registers, in order, the rest on the stack.
struct Left {
    in_registers: Words,
    on_stack: Words,
}

impl Left {
    /// # Safety
    /// - The caller has left as many.
    unsafe fn get(&self, i: usize) -> *const c_char {
        let at = match i.checked_sub(REGISTERS) {
            None => self.in_registers.wrapping_add(i),
            Some(i) => self.on_stack.wrapping_add(i),
        };
        // SAFETY: the caller's promise.
        unsafe { *at }
    }
}

/// Arguments in registers beside the first one.
const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 7 } else { 5 };

/// The `execl` family, behind a trampoline: `which` of it, and what the caller has left.
///
/// # Safety
/// - As `execl`, `execlp` (1) or `execle` (2).
pub unsafe extern "C-unwind" fn execl_family(
    name: *const c_char,
    in_registers: Words,
    on_stack: Words,
    which: c_long,
) -> c_int {
    let left = Left { in_registers, on_stack };
    let mut n = 0;
    // SAFETY: the list ends in a null.
    while !unsafe { left.get(n) }.is_null() {
        n += 1;
    }
    let Some(mut argv) = List::new(n) else {
        raw::set_errno(libc::ENOMEM);
        return -1;
    };
    for i in 0..n {
        // SAFETY: there are n.
        argv.push(unsafe { left.get(i) });
    }
    match which {
        // SAFETY: the caller's promise.
        1 => unsafe { execvp(name, argv.words()) },
        2 => {
            // SAFETY: behind the null stands the environment.
            let environment = unsafe { left.get(n + 1) }.cast::<*const c_char>();
            // SAFETY: the caller's promise.
            unsafe { execve(name, argv.words(), environment) }
        }
        // SAFETY: the caller's promise.
        _ => unsafe { execv(name, argv.words()) },
    }
}

/// Another process is made, which runs another program.
///
/// # Safety
/// - As `posix_spawn`.
unsafe fn spawns(
    name: *const c_char,
    child: *mut pid_t,
    environment: Words,
    call: impl Fn(*mut pid_t, Words) -> c_int,
) -> c_int {
    if !trace::registry::has_session() {
        return call(child, environment);
    }
    // SAFETY: the caller's promise.
    let mut chosen = unsafe { choose(name) };
    let made = Cell::new(0);
    let mut r = None;
    if chosen.verdict == Verdict::Follow {
        // SAFETY: the caller's promise.
        r = unsafe { with_ours(environment, |e| call(made.as_ptr(), e)) };
        if r.is_none() {
            chosen.verdict = Verdict::Leave("its environment has no room");
        }
    }
    let r = r.unwrap_or_else(|| call(made.as_ptr(), environment));
    if r == 0 {
        let pid = made.get();
        if !child.is_null() {
            // SAFETY: the caller's place for it.
            unsafe { *child = pid };
        }
        match chosen.verdict {
            Verdict::Leave(reason) => say(Step::NotFollowed, pid as u32, &chosen, reason),
            verdict => {
                if verdict == Verdict::Follow {
                    announce(pid as u32);
                }
                say(Step::Child, pid as u32, &chosen, "");
            }
        }
    }
    r
}

/// # Safety
/// - As `posix_spawn`.
pub unsafe fn posix_spawn(
    child: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: Words,
    envp: Words,
) -> c_int {
    // SAFETY: the caller's promise.
    let call = |pid, e| unsafe { real::posix_spawn(pid, path, actions, attributes, argv, e) };
    // SAFETY: the caller's promise.
    unsafe { spawns(path, child, envp, call) }
}

/// # Safety
/// - As `posix_spawnp`.
pub unsafe fn posix_spawnp(
    child: *mut pid_t,
    name: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: Words,
    envp: Words,
) -> c_int {
    // SAFETY: the caller's promise.
    let call = |pid, e| unsafe { real::posix_spawnp(pid, name, actions, attributes, argv, e) };
    // SAFETY: the caller's promise.
    unsafe { spawns(name, child, envp, call) }
}

/// # Safety
/// - As `fork`.
pub unsafe fn fork() -> pid_t {
    // SAFETY: the caller's promise.
    let child = unsafe { real::fork() };
    if child > 0 {
        block::process(Step::Child, child as u32, b"fork");
    }
    child
}

/// # Safety
/// - As `_exit`.
pub unsafe fn _exit(status: c_int) -> ! {
    thread::thread_ends();
    // SAFETY: the caller's promise.
    unsafe { real::_exit(status) }
}

/// # Safety
/// - As `_Exit`.
#[allow(non_snake_case)] // libc's name.
pub unsafe fn _Exit(status: c_int) -> ! {
    thread::thread_ends();
    // SAFETY: the caller's promise.
    unsafe { real::_Exit(status) }
}
