//! Where the calling thread's stack ends, so that a walk over it cannot leave it.
//!
//! Not by `pthread_getattr_np`, which allocates. The kernel says which mapping holds the stack
//! pointer; an *anchor* proves that this is the thread's own stack, not a signal stack or a
//! coroutine's: the kernel's random bytes stand at the top of the first thread's stack, the
//! thread's control block at the top of a stack that libc made.
//!
//! 1. All of `low..top` MUST be readable wherever the stack pointer stands in it. Otherwise a walk
//!    that follows a bad frame pointer faults.

use crate::sys::Errno;
use crate::sys::arch;
use crate::sys::errno;
use crate::sys::file::File;
use crate::sys::process;

/// The part of the first thread's stack that holds nothing else even before it has grown there:
/// the kernel keeps the stack limit's size free below it.
const MAIN_STACK_BYTES: usize = 8 << 20;

/// The calling thread's own stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackBounds {
    /// A stack pointer below it stands on another stack (or on one that has grown: ask again).
    pub low: usize,
    /// The first address above the frames.
    pub top: usize,
}

impl StackBounds {
    /// Whether `sp` stands on this stack. Where it does not, a walk would not be safe.
    #[inline(always)]
    pub fn holds(&self, sp: usize) -> bool {
        self.low <= sp && sp < self.top
    }
}

/// The bounds of the calling thread's stack; `None` where it does not stand on its own (a signal
/// stack, a coroutine) or the kernel does not tell. Async-signal-safe; keeps `errno`. 5 us, before
/// kernel 6.11 up to 70.
pub fn stack_bounds() -> Option<StackBounds> {
    let _keep = Errno::save();
    let sp = arch::sp();
    let vma = vma_of(sp)?;
    // SAFETY: a number for a number.
    let random = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    // SAFETY: no arguments, cannot fail.
    let control = unsafe { libc::pthread_self() } as usize;
    let above = |anchor: usize| sp < anchor && anchor <= vma.end;
    let mut bounds = if above(random) {
        let limit = process::rlimit(libc::RLIMIT_STACK).map_or(MAIN_STACK_BYTES, |l| l as usize);
        let grows_to = vma.end - limit.min(MAIN_STACK_BYTES).min(vma.end);
        StackBounds { low: vma.start.min(grows_to), top: vma.end }
    } else if above(control) {
        StackBounds { low: vma.start, top: control }
    } else {
        return None;
    };
    match signal_stack() {
        SignalStack::Here => return None,
        SignalStack::At { end, .. } if bounds.low < end && end <= sp => bounds.low = end,
        _ => {}
    }
    Some(bounds)
}

/// The upper end of the calling thread's stack, as in `stack_bounds`.
pub fn stack_top() -> Option<usize> {
    stack_bounds().map(|b| b.top)
}

/// The calling thread's alternate signal stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalStack {
    /// The thread stands on it.
    Here,
    /// The thread has one, and stands elsewhere.
    At {
        /// Its lowest address.
        low: usize,
        /// The first address above it.
        end: usize,
    },
    /// It has none.
    None,
}

/// The calling thread's signal stack. Where guards do not split mappings, it may share one with the
/// stack. Async-signal-safe; keeps `errno`, since the call cannot fail.
pub fn signal_stack() -> SignalStack {
    let mut now =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: asks, changes nothing; the struct is writable.
    unsafe { libc::sigaltstack(std::ptr::null(), &mut now) };
    if now.ss_flags & libc::SS_ONSTACK != 0 {
        SignalStack::Here
    } else if now.ss_flags & libc::SS_DISABLE != 0 {
        SignalStack::None
    } else {
        let low = now.ss_sp.addr();
        SignalStack::At { low, end: low.saturating_add(now.ss_size) }
    }
}

/// A mapping of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vma {
    start: usize,
    end: usize,
}

/// The mapping that holds `addr`.
fn vma_of(addr: usize) -> Option<Vma> {
    // The thread's own folder: the process's is empty once the first thread has ended.
    let maps = File::open(c"/proc/thread-self/maps").or_else(|| File::open(c"/proc/self/maps"))?;
    match query(&maps, addr) {
        Query::Found(vma) => Some(vma),
        Query::Absent => None,
        Query::Unsupported => search(&maps, addr),
    }
}

enum Query {
    Found(Vma),
    Absent,
    Unsupported,
}

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const _: () = assert!(size_of::<ProcmapQuery>() == 104);

/// `_IOWR('f', 17, struct procmap_query)`, of which the machines we know make the same number.
const PROCMAP_QUERY: u32 = 3 << 30 | (size_of::<ProcmapQuery>() as u32) << 16 | 0x66 << 8 | 17;

fn query(maps: &File, addr: usize) -> Query {
    let mut q = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_addr: addr as u64,
        ..ProcmapQuery::default()
    };
    // SAFETY: the kernel reads and writes the struct for the size it states.
    let r = unsafe { libc::syscall(libc::SYS_ioctl, maps.fd(), PROCMAP_QUERY, &mut q) };
    if r == 0 {
        Query::Found(Vma { start: q.vma_start as usize, end: q.vma_end as usize })
    } else if errno() == libc::ENOENT {
        Query::Absent
    } else {
        Query::Unsupported
    }
}

/// Reads the text of the maps file piece by piece.
fn search(maps: &File, addr: usize) -> Option<Vma> {
    let mut lines = Lines::default();
    let mut bytes = [0; 2048];
    loop {
        let n = maps.read(&mut bytes)?;
        if n == 0 {
            return None;
        }
        if let Some(vma) = bytes[..n].iter().find_map(|b| lines.holds(*b, addr)) {
            return Some(vma);
        }
    }
}

/// Reads lines of `start-end ...` byte by byte, so that a line may be cut anywhere.
#[derive(Default)]
struct Lines {
    start: usize,
    end: usize,
    at: At,
}

#[derive(Clone, Copy, Default)]
enum At {
    #[default]
    Start,
    End,
    Rest,
}

impl Lines {
    /// Takes the next byte; the mapping, where it ends the range of one that holds `addr`.
    fn holds(&mut self, byte: u8, addr: usize) -> Option<Vma> {
        match (self.at, byte) {
            (_, b'\n') => *self = Lines::default(),
            (At::Start, b'-') => self.at = At::End,
            (At::Start, _) => self.start = push_hex(self.start, byte)?,
            (At::End, b' ') => {
                self.at = At::Rest;
                if self.start <= addr && addr < self.end {
                    return Some(Vma { start: self.start, end: self.end });
                }
            }
            (At::End, _) => self.end = push_hex(self.end, byte)?,
            (At::Rest, _) => {}
        }
        None
    }
}

fn push_hex(value: usize, byte: u8) -> Option<usize> {
    let digit = char::from(byte).to_digit(16)?;
    Some(value << 4 | digit as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cut_anywhere() {
        let text = b"1000-2000 r--p 00000000 08:01 5 /a-b c\n2000-7fff0000 rw-p 0 0:0 0\n\
            7fffffffe000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n";
        let find = |addr| {
            let mut lines = Lines::default();
            text.iter().find_map(|b| lines.holds(*b, addr))
        };
        assert_eq!(find(0x1000), Some(Vma { start: 0x1000, end: 0x2000 }));
        assert_eq!(find(0x2000), Some(Vma { start: 0x2000, end: 0x7fff_0000 }));
        assert_eq!(find(0x7fff_ffff_efff).map(|v| v.end), Some(0x7fff_ffff_f000));
        assert_eq!(find(0xfff), None);
        assert_eq!(find(0x7fff_0000), None);
    }

    #[test]
    fn both_ways_agree() {
        let here = 0u8;
        let on_heap = Box::new(0u8);
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(text.contains("[stack]"));
        let addrs = [
            std::ptr::from_ref(&here).addr(),
            std::ptr::from_ref(&*on_heap).addr(),
            both_ways_agree as fn() as usize,
            1,
        ];
        let mut asked = 0;
        for addr in addrs {
            let maps = File::open(c"/proc/self/maps").unwrap();
            let read = search(&maps, addr);
            assert_eq!(read.is_some(), addr != 1);
            match query(&maps, addr) {
                Query::Found(vma) => assert_eq!(Some(vma), read),
                Query::Absent => assert_eq!(read, None),
                Query::Unsupported => continue,
            }
            asked += 1;
        }
        assert!(asked == 0 || asked == addrs.len());
        drop(on_heap);
    }

    #[test]
    fn a_thread_knows_its_stack() {
        let check = || {
            let local = 0u8;
            let here = std::ptr::from_ref(&local).addr();
            let bounds = stack_bounds().unwrap();
            assert!(bounds.holds(here) && bounds.holds(arch::sp()));
            // SAFETY: no arguments.
            let control = unsafe { libc::pthread_self() } as usize;
            assert!(!(bounds.low..bounds.top).contains(&control));
            // Rust gives its threads 2 MiB; the harness may be told otherwise, never 64.
            assert!(bounds.top - bounds.low < 64 << 20);
            // The whole stack up to its top is readable.
            // SAFETY: the last byte of the stack, as stack#1 has it.
            let last = unsafe { std::ptr::read_volatile((bounds.top - 1) as *const u8) };
            std::hint::black_box(last);
            bounds
        };
        let mine = check();
        let other = std::thread::spawn(check).join().unwrap();
        assert!(other.top <= mine.low || mine.top <= other.low);
    }

    /// Calls itself until the stack pointer is below `until`; gives the number of calls.
    #[inline(never)]
    fn deep(until: usize, bounds: StackBounds) -> usize {
        let room = std::hint::black_box([1u8; 4096]);
        assert!(bounds.holds(arch::sp()));
        let below = if arch::sp() > until { deep(until, bounds) } else { 0 };
        below + usize::from(room[4095])
    }

    const ALONE: &str = "EXECTRACE_TEST_FIRST_THREAD";

    /// The harness runs tests on other threads; this runs on the first one, before `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BEFORE_MAIN: extern "C" fn() = {
        extern "C" fn before_main() {
            if std::env::var_os(ALONE).is_some() {
                first_thread();
                println!("checked the first thread");
                std::process::exit(0);
            }
        }
        before_main
    };

    #[test]
    fn first_thread_and_its_growth() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let out = alone.env(ALONE, "1").output().unwrap();
        assert!(out.stdout.starts_with(b"checked the first thread"), "{out:?}");
    }

    fn first_thread() {
        assert!(crate::sys::thread::is_main());
        let before = stack_bounds().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|l| l.ends_with("[stack]")).unwrap();
        let end = line.split([' ', '-']).nth(1).unwrap();
        assert_eq!(usize::from_str_radix(end, 16).unwrap(), before.top);
        if process::rlimit(libc::RLIMIT_STACK).is_none_or(|l| l >= 8 << 20) {
            // 7 MiB: what the stack may grow to, and more than it had at first.
            assert!(deep(before.top - (7 << 20), before) > 100);
            assert_eq!(stack_bounds().unwrap().top, before.top);
        }
    }

    #[test]
    fn a_forked_thread_keeps_its_stack() {
        let bounds = stack_bounds();
        assert!(bounds.is_some());
        // SAFETY: the child uses system calls only and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let same = crate::sys::thread::is_main() && stack_bounds() == bounds;
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(same)) };
        }
        let mut status = 0;
        // SAFETY: our own child, a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 1);
    }

    #[test]
    fn foreign_stacks_have_no_bounds() {
        static SEEN: std::sync::Mutex<Option<Option<StackBounds>>> = std::sync::Mutex::new(None);
        extern "C" fn handler(_: libc::c_int) {
            *SEEN.lock().unwrap() = Some(stack_bounds());
        }
        std::thread::spawn(|| {
            let own = stack_bounds().unwrap();
            let mut memory = vec![0u8; 1 << 16];
            let stack = libc::stack_t {
                ss_sp: memory.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: memory.len(),
            };
            let mut before = stack;
            // SAFETY: the memory lives until the old stack is back.
            unsafe { libc::sigaltstack(&stack, &mut before) };
            // SAFETY: plain numbers and no handler.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            // SAFETY: a valid action for a signal that nobody else uses here.
            unsafe { libc::sigaction(libc::SIGRTMAX() - 3, &action, std::ptr::null_mut()) };
            // SAFETY: the handler runs here and now; its lock is held by nobody.
            unsafe { libc::raise(libc::SIGRTMAX() - 3) };
            // SAFETY: puts the old stack back.
            unsafe { libc::sigaltstack(&before, std::ptr::null_mut()) };
            assert_eq!(stack_bounds(), Some(own));
        })
        .join()
        .unwrap();
        assert_eq!(*SEEN.lock().unwrap(), Some(None));
    }
}
