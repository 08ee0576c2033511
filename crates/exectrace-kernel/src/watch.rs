//! All CPUs' rings, and one order of what they say.

use std::fs;
use std::fs::File;
use std::io;

use crate::attr::Attr;
use crate::record::Read;
use crate::record::Record;
use crate::ring::Ring;
use crate::sys;
use crate::sys::Mapped;

/// What is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Stacks of running threads, so often a second of each thread's time on a CPU; 0 none.
    pub samples_hz: u32,
    /// Most frames of such a stack.
    pub depth: u16,
}

/// Bytes of a ring at most: as much as an unprivileged user may lock for each CPU by default, and
/// room for 20,000 switches.
const RING_BYTES_MAX: usize = 512 << 10;
/// And at least.
const RING_BYTES_MIN: usize = 32 << 10;
/// All rings together at most.
const RINGS_BYTES_MAX: usize = 32 << 20;

/// What the kernel says of the programs that the calling thread starts.
#[derive(Debug)]
pub struct Watch {
    rings: Vec<Ring>,
    /// The events: they last as long as their descriptors.
    _events: Vec<File>,
    /// Records that are too young to be given out.
    young: Vec<Record>,
    lost: u64,
}

impl Watch {
    /// Watches whatever the calling thread starts from here on, from its `exec` on.
    ///
    /// # Errors
    ///
    /// The kernel refuses; [`refusal`] says why in words.
    pub fn open(options: &Options) -> io::Result<Watch> {
        let cpus = cpus();
        let page = sys::page_bytes();
        let mut size = (RINGS_BYTES_MAX / cpus.len().max(1)).clamp(RING_BYTES_MIN, RING_BYTES_MAX);
        size = (size / page).max(1).next_power_of_two() * page;
        loop {
            match Watch::open_with(options, &cpus, size) {
                // More memory than this user may lock: with less.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied && size > RING_BYTES_MIN => {
                    size /= 2;
                }
                other => return other,
            }
        }
    }

    fn open_with(options: &Options, cpus: &[u32], size: usize) -> io::Result<Watch> {
        let mut watch =
            Watch { rings: Vec::new(), _events: Vec::new(), young: Vec::new(), lost: 0 };
        for cpu in cpus {
            let event = match sys::open(&Attr::switches(), *cpu) {
                Ok(event) => event,
                // It was switched off meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(e) => return Err(e),
            };
            let mapped = Mapped::new(&event, size)?;
            if options.samples_hz > 0 {
                let samples = sys::open(&Attr::samples(options.samples_hz, options.depth), *cpu)?;
                sys::share_ring(&samples, &event)?;
                watch._events.push(samples);
            }
            watch.rings.push(Ring::new(mapped, *cpu));
            watch._events.push(event);
        }
        match watch.rings.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "no CPU can be watched")),
            false => Ok(watch),
        }
    }

    /// Gives out what was seen before `until_ns` of the monotonic clock, oldest first. The time
    /// MUST have been read before this call: what comes meanwhile is kept for the next one.
    pub fn read(&mut self, until_ns: u64, mut each: impl FnMut(Record)) {
        let (young, lost) = (&mut self.young, &mut self.lost);
        for ring in &mut self.rings {
            ring.read(|read| match read {
                Read::Seen(record) => young.push(record),
                Read::Lost(count) => *lost = lost.saturating_add(count),
                Read::Other => {}
            });
        }
        // Of one CPU they are in order already, and equal ones of a thread are too.
        young.sort_by_key(|record| record.mono_ns);
        let old = young.partition_point(|record| record.mono_ns < until_ns);
        young.drain(..old).for_each(&mut each);
    }

    /// How many records the kernel says it has dropped so far, since a ring was full.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many rings were full at the last look. Behind each at least one record may be lost that
    /// the kernel has not told of: it tells in front of the next one.
    pub fn full(&self) -> u64 {
        self.rings.iter().filter(|ring| ring.is_full()).count() as u64
    }
}

/// The CPUs that are on: `0-3,8` in the file that says so.
fn cpus() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let listed = numbers(text.trim());
    if !listed.is_empty() {
        return listed;
    }
    let count = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    (0..count).collect()
}

/// CPUs that a list may name at most.
const CPUS_MAX: u32 = 1 << 14;

fn numbers(list: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            all.extend(from..=to.min(CPUS_MAX));
        }
    }
    all
}

/// Whether the kernel would let [`Watch::open`] open its events, without opening one, which makes
/// each switch of every thread of the machine dearer, until a second after it was closed. That
/// there is memory enough for rings is not known from this.
///
/// # Errors
///
/// The kernel refuses; [`refusal`] says why in words.
pub fn is_allowed() -> io::Result<()> {
    sys::try_open(&Attr::switches())
}

/// Why this error was given, in words for people.
pub fn refusal(e: &io::Error) -> String {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    let level = level.ok().and_then(|t| t.trim().parse::<i32>().ok());
    match (e.raw_os_error(), level) {
        (Some(libc::ENOSYS), _) => "this kernel has no perf_event_open".into(),
        (Some(libc::EACCES | libc::EPERM), Some(level @ 3..)) => {
            format!("perf_event_open is refused: /proc/sys/kernel/perf_event_paranoid is {level}")
        }
        (Some(libc::EACCES | libc::EPERM), _) => {
            "perf_event_open is refused, by a sandbox or for want of lockable memory".into()
        }
        _ => format!("perf_event_open: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::What;
    use std::io::Read as _;
    use std::io::Write as _;
    use std::process::Command;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(numbers("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("0"), [0]);
        assert_eq!(numbers(""), []);
        assert_eq!(numbers("3-1,x,1-y"), []);
        assert!(!cpus().is_empty());
    }

    /// Waits for a child; gives the kernel's own count of what it and its children did: switches
    /// that they asked for, and others.
    fn counted_at_end(child: &std::process::Child) -> (u64, u64) {
        // SAFETY: all numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let (pid, mut status) = (child.id() as libc::pid_t, -1);
        // SAFETY: places for the answers.
        let done = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        assert_eq!((done, status), (pid, 0));
        (usage.ru_nvcsw as u64, usage.ru_nivcsw as u64)
    }

    #[test]
    #[allow(clippy::zombie_processes)] // `counted_at_end` waits for it.
    fn switches_of_a_child_are_seen_and_counted_as_the_kernel_counts_them() {
        let options = Options { samples_hz: 0, depth: 0 };
        let mut watch = match Watch::open(&options) {
            Ok(watch) => watch,
            Err(e) => return println!("skipped: {}", refusal(&e)),
        };
        // What could be opened is known to be allowed, also by who opens nothing.
        is_allowed().unwrap();
        let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.001; done";
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let (asked, not_asked) = counted_at_end(&child);
        let mut all = Vec::new();
        watch.read(u64::MAX, |record| all.push(record));
        assert_eq!(watch.lost(), 0);
        assert!(all.is_sorted_by_key(|r| r.mono_ns));
        assert!(all.iter().any(|r| r.pid == child.id()));
        let count =
            |preempted| all.iter().filter(|r| r.what == What::Out { preempted }).count() as u64;
        // The count begins at the fork and ends with the last switch; the records begin at `exec`
        // and end a little before: a few switches of each of the eleven processes are counted only.
        assert!(count(false) >= 10, "each of the sleeps has a switch");
        assert!(count(false) <= asked && asked - count(false) <= 44, "{} {asked}", count(false));
        assert!(count(true) <= not_asked + 11, "{} {not_asked}", count(true));
        let ends = all.iter().filter(|r| r.what == What::Exit).count();
        assert_eq!(ends, 11);
    }

    /// The child of the test below: two threads hand a byte back and forth.
    #[test]
    fn hands_a_byte_back_and_forth() {
        if std::env::var_os("EXECTRACE_TEST_SWITCHES").is_none() {
            return;
        }
        let (mut from, mut to) = std::io::pipe().unwrap();
        let (mut back_from, mut back_to) = std::io::pipe().unwrap();
        const ROUNDS: usize = 3000;
        let other = std::thread::spawn(move || {
            let mut byte = [0u8; 1];
            for _ in 0..ROUNDS {
                from.read_exact(&mut byte).unwrap();
                back_to.write_all(&byte).unwrap();
            }
        });
        let mut byte = [7u8; 1];
        for _ in 0..ROUNDS {
            to.write_all(&byte).unwrap();
            back_from.read_exact(&mut byte).unwrap();
        }
        other.join().unwrap();
    }

    #[test]
    fn a_ring_that_was_full_is_noticed() {
        let options = Options { samples_hz: 0, depth: 0 };
        let mut watch = match Watch::open_with(&options, &cpus(), RING_BYTES_MIN) {
            Ok(watch) => watch,
            Err(e) => return println!("skipped: {}", refusal(&e)),
        };
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "watch::tests::hands_a_byte_back_and_forth"]);
        assert!(child.env("EXECTRACE_TEST_SWITCHES", "1").output().unwrap().status.success());
        let mut read = 0;
        watch.read(u64::MAX, |_| read += 1);
        // 6,000 times a thread had to wait for the other one, which makes two records each time,
        // and a ring has room for some 1,300. On which CPUs that was is not known.
        let room = RING_BYTES_MIN / 24 * cpus().len();
        if room < 12_000 {
            assert!(watch.full() > 0 || watch.lost() > 0, "{read} records fit {room}");
        }
        assert!(read <= room, "{read} {room}");
        assert!(read > 0);
    }
}
