//! Facts about the process and its limits, and the hooks at its fork and exit.

use crate::sys::Errno;
use crate::sys::file::File;
use crate::sys::time;
use std::ffi::CStr;
use std::ffi::OsStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

/// Runs `before` ahead of every later `fork` (not `vfork`, `_Fork` or raw `clone`), and then
/// `parent` or `child`. No lock may be held over it.
pub fn at_fork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> bool {
    // SAFETY: functions for the life of the process; what they do is the caller's duty.
    unsafe { pthread_atfork(Some(before), Some(parent), Some(child)) == 0 }
}

/// Runs `f` when the process exits.
pub fn at_exit(f: extern "C" fn()) -> bool {
    // SAFETY: a function for the life of the process.
    unsafe { libc::atexit(f) == 0 }
}

/// The page size. Async-signal-safe.
pub fn page_bytes() -> usize {
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    let known = BYTES.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: a number for a number.
    let bytes = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
    let bytes = if bytes.is_power_of_two() { bytes } else { 4096 };
    BYTES.store(bytes, Ordering::Relaxed);
    bytes
}

/// A random number, never 0. Async-signal-safe; keeps `errno`.
pub fn random_u64() -> u64 {
    let _keep = Errno::save();
    let mut bytes = [0u8; 8];
    let flags = libc::GRND_NONBLOCK;
    // SAFETY: 8 writable bytes.
    let n = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), 8usize, flags) };
    let value = u64::from_ne_bytes(bytes);
    if n == 8 && value != 0 { value } else { from_clocks() }
}

/// Where the kernel has no randomness to give: different with each process and each call.
fn from_clocks() -> u64 {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) as u64;
    let pid = u64::from(crate::sys::thread::pid_raw());
    let mut x = time::wall_ns() ^ time::boot_ns().rotate_left(32) ^ pid << 40 ^ calls << 20;
    x ^= std::ptr::from_ref(&x).addr() as u64;
    // The finishing mix of splitmix64.
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) | 1
}

/// The name of the program that runs, as bytes, since it need not be text; "" where it cannot be
/// known. It is the file name by which it was started, which may be a link's that tells more than
/// the file's own, or a script's. Allocates.
pub fn program_name() -> Vec<u8> {
    // SAFETY: a number for a number.
    let started = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if !started.is_null() {
        // SAFETY: not null: the kernel has put a string there that ends in a zero, above the stack,
        // where it stays.
        let started = unsafe { CStr::from_ptr(started) }.to_bytes();
        if let Some(name) = name_started(started) {
            return name.to_vec();
        }
    }
    let exe = fs::read_link("/proc/self/exe").unwrap_or_default();
    exe.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default()
}

/// The file name in the path by which a program was started; `None` for one that names no program,
/// as `/proc/self/exe` and what the kernel writes for a descriptor.
fn name_started(path: &[u8]) -> Option<&[u8]> {
    if path.starts_with(b"/proc/") || path.starts_with(b"/dev/fd/") {
        return None;
    }
    Path::new(OsStr::from_bytes(path)).file_name().map(OsStr::as_bytes)
}

/// When the process began, in clock ticks since boot: with the pid, its name. 0 = unknown.
pub fn start_time() -> u64 {
    let _keep = Errno::save();
    let mut text = [0; 1024];
    let file = File::open(c"/proc/self/stat");
    let text = file.and_then(|f| f.read_all(&mut text));
    text.and_then(start_time_in).unwrap_or(0)
}

/// Field 22 of `/proc/PID/stat`. Field 2 is the name in brackets and may itself hold brackets and
/// spaces, so count from the last bracket.
fn start_time_in(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let mut fields = stat[end + 1..].split(|b| *b == b' ').filter(|f| !f.is_empty());
    number(fields.nth(22 - 3)?)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// The soft limit on address space; `None` = no limit. Async-signal-safe.
pub fn rlimit_as() -> Option<u64> {
    rlimit(libc::RLIMIT_AS)
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = c_int;

/// A soft limit; `None` = no limit.
pub(crate) fn rlimit(resource: Resource) -> Option<u64> {
    let _keep = Errno::save();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is writable.
    let r = unsafe { libc::getrlimit(resource, &mut limit) };
    (r == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The machine's memory in bytes.
pub fn memory_total() -> Option<u64> {
    // SAFETY: a number for a number.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    u64::try_from(pages).ok().map(|n| n.saturating_mul(page_bytes() as u64))
}

/// The least memory limit of the control groups this process stands in; `None` = none is set or
/// known. Reads a few small files; allocates.
pub fn cgroup_memory_limit() -> Option<u64> {
    let groups = fs::read("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"))
}

fn limit_of(groups: &[u8], root: &Path) -> Option<u64> {
    let mut least = None;
    for line in String::from_utf8_lossy(groups).lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        let found = if id == "0" && kinds.is_empty() {
            least_upwards(root, path, "memory.max")
        } else if kinds.split(',').any(|k| k == "memory") {
            least_upwards(&root.join("memory"), path, "memory.limit_in_bytes")
        } else {
            None
        };
        least = least.into_iter().chain(found).min();
    }
    least
}

/// The least number in the files `name` of a group and those above it. Inside a container the path
/// may begin outside of what is mounted; then only the root is there.
fn least_upwards(root: &Path, path: &str, name: &str) -> Option<u64> {
    // Version 1 writes "no limit" as the greatest number of whole pages.
    let limit = |dir: &Path| {
        let text = fs::read(dir.join(name)).ok()?;
        number(&text).filter(|n| *n < 1 << 62)
    };
    let parts = Path::new(path);
    let dirs = parts.ancestors().filter(|p| !p.starts_with(".."));
    let mut least = None;
    for dir in dirs {
        least = least.into_iter().chain(limit(&root.join(dir))).min();
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn start_time_of_odd_names() {
        let rest = (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["sh", "a b", "x) R 9 9", "((", ""] {
            let stat = format!("17 ({name}) S {rest}\n");
            assert_eq!(start_time_in(stat.as_bytes()), Some(22), "{name}");
        }
        assert_eq!(start_time_in(b"17 (sh"), None);
        assert_eq!(start_time_in(b"17 (sh) S 1 2"), None);
        assert_ne!(start_time(), 0);
        assert_eq!(start_time(), start_time());
    }

    #[test]
    fn names_by_which_programs_are_started() {
        assert_eq!(name_started(b"/usr/bin/redis-server"), Some(&b"redis-server"[..]));
        assert_eq!(name_started(b"./a\xff.sh"), Some(&b"a\xff.sh"[..]));
        assert_eq!(name_started(b"plain"), Some(&b"plain"[..]));
        for none in ["/proc/self/exe", "/dev/fd/3", "", "/", ".."] {
            assert_eq!(name_started(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn random_numbers_differ() {
        let all: std::collections::HashSet<u64> =
            (0..100).flat_map(|_| [random_u64(), from_clocks()]).collect();
        assert_eq!(all.len(), 200);
        assert!(!all.contains(&0));
    }

    #[test]
    fn group_limits() {
        let root = std::env::temp_dir().join(format!("exectrace-cgroup-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("memory/c")).unwrap();
        fs::write(root.join("a/memory.max"), "5000000\n").unwrap();
        fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        fs::write(root.join("memory/c/memory.limit_in_bytes"), "7000000\n").unwrap();
        fs::write(root.join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        let check = |groups: &str, expect| {
            assert_eq!(limit_of(groups.as_bytes(), &root), expect, "{groups}");
        };
        check("0::/a/b\n", Some(5_000_000));
        check("0::/\n", None);
        check("0::/../../x\n", None);
        check("4:cpu:/a\n3:memory:/c\n", Some(7_000_000));
        check("3:memory:/elsewhere\n0::/a\n", Some(5_000_000));
        check("garbage\n\n", None);
        fs::remove_dir_all(&root).unwrap();
        cgroup_memory_limit();
    }

    #[test]
    fn fork_handlers_run_where_they_should() {
        static RAN: AtomicU32 = AtomicU32::new(0);
        extern "C" fn before() {
            RAN.store(1, Ordering::Relaxed);
        }
        extern "C" fn parent() {
            RAN.fetch_add(2, Ordering::Relaxed);
        }
        extern "C" fn child() {
            RAN.fetch_add(4, Ordering::Relaxed);
        }
        assert!(at_fork(before, parent, child));
        // SAFETY: the child reads a static and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(RAN.load(Ordering::Relaxed) as i32) };
        }
        let mut status = 0;
        // SAFETY: our own child, a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 1 + 4);
        assert_eq!(RAN.load(Ordering::Relaxed), 1 + 2);
    }

    #[test]
    fn facts() {
        assert!(page_bytes().is_power_of_two() && page_bytes() >= 4096);
        assert!(memory_total().unwrap() > 1 << 20);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(program_name(), exe.file_name().unwrap().as_bytes());
    }
}
