//! The mappings of a process tree, each drained into a trace of its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use trace::Summary;
use trace::encode::schema;
use trace::kernel::Seen;
use trace::outside::Drain;
use trace::outside::DrainOptions;
use trace::outside::Drained;
use trace_kernel::Record;
use trace_kernel::What;

use crate::memory;
use crate::memory::BEGAN;
use crate::scheduling;
use crate::scheduling::Scheduling;

/// What was recorded of one process, or of one program that it was.
#[derive(Debug)]
pub struct Traced {
    /// The process.
    pub pid: u32,
    /// The program's name: bytes that may be anything.
    pub program: Vec<u8>,
    /// Its trace.
    pub path: PathBuf,
    /// What the trace holds.
    pub summary: Summary,
    /// Why the trace is not complete.
    pub error: Option<io::Error>,
    /// Bytes of it that could not be written.
    pub unwritten: u64,
}

/// One mapping that is being drained.
#[derive(Debug)]
struct One {
    drain: Drain,
    /// Its process and when that began, as the file's name has it, and the number behind them.
    pid: u32,
    began: u64,
    number: u64,
    path: PathBuf,
    file: Option<File>,
    error: Option<io::Error>,
    unwritten: u64,
    looked_ns: u64,
    /// What the kernel sees of it goes into its trace.
    is_watched: bool,
    /// Its memory was not looked at yet.
    is_new: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Drains {
    folder: PathBuf,
    output: PathBuf,
    options: DrainOptions,
    notes: Vec<(String, String)>,
    seen: BTreeSet<PathBuf>,
    /// Processes of which there was a mapping.
    pids: BTreeSet<u32>,
    /// Announcements of children, and mappings that have not begun, and when each was found.
    young: BTreeMap<PathBuf, u64>,
    running: Vec<One>,
    done: Vec<Traced>,
    /// Processes that could not be recorded, and why.
    refused: Vec<(u32, String)>,
    /// Names of traces so far; the first process has the output's.
    names: BTreeSet<PathBuf>,
    scheduling: Scheduling,
    /// Steps since anything was taken.
    quiet: u32,
}

/// How often it is asked whether a process still lives.
const LOOK_NS: u64 = 20_000_000;
/// How long a drain sleeps at most: new processes are found that late.
const SLEEP_NS: u64 = 5_000_000;
/// The same of one process alone, whose bell ends the sleep, as it does for a child that it makes:
/// after so many steps in which it had nothing to give. A step is some 50 microseconds of a CPU.
const LONG_SLEEP_NS: u64 = 20_000_000;
const QUIET: u32 = 4;

/// How long a process that is about to begin is waited for: it may have failed to.
const BIRTH_NS: u64 = 5_000_000_000;

/// Most processes of which it is kept why they could not be recorded, and most bytes of that.
const REFUSED_MAX: usize = 16;
const WHY_MAX: u64 = 512;

impl Drains {
    /// Of the mappings that appear in `folder`; the first one goes to `output`, that of another
    /// process to a file beside it with the process's number in its name.
    /// What the kernel says of their threads comes from `scheduling`.
    pub fn new(
        folder: &Path,
        output: &Path,
        notes: Vec<(String, String)>,
        scheduling: Scheduling,
    ) -> Drains {
        Drains {
            folder: folder.into(),
            output: output.into(),
            options: DrainOptions::default(),
            notes,
            seen: BTreeSet::new(),
            pids: BTreeSet::new(),
            young: BTreeMap::new(),
            running: Vec::new(),
            done: Vec::new(),
            refused: Vec::new(),
            names: BTreeSet::new(),
            scheduling,
            quiet: 0,
        }
    }

    /// Takes what there is, and finds new mappings and processes that have ended.
    pub fn step(&mut self) {
        self.see();
        let now = trace::sys::mono_ns();
        self.quiet = self.quiet.saturating_add(1);
        for one in &mut self.running {
            if one.take() {
                self.quiet = 0;
            }
        }
        let mut at = 0;
        while at < self.running.len() {
            let one = &mut self.running[at];
            if now.saturating_sub(one.looked_ns) < LOOK_NS {
                at += 1;
                continue;
            }
            one.looked_ns = now;
            // Of a process that has become another program the newer mapping is the one.
            let (pid, began, number) = (one.pid, one.began, one.number);
            let newer = |o: &One| (o.pid, o.began) == (pid, began) && o.number > number;
            let ended = !is_alive(pid, began);
            if ended {
                // What the kernel saw until its end.
                self.see();
                self.running[at].drain.missed(self.scheduling.full());
            }
            if ended || self.running.iter().any(newer) {
                let one = self.running.swap_remove(at);
                self.done.push(one.finish(schema::END_EXIT));
            } else {
                at += 1;
            }
        }
    }

    /// Has the next step ask of every process whether it still lives.
    pub fn look_now(&mut self) {
        self.running.iter_mut().for_each(|one| one.looked_ns = 0);
    }

    /// Sleeps until there may be something to do.
    pub fn sleep(&self) {
        let now = trace::sys::mono_ns();
        match self.running.as_slice() {
            [one] if self.is_quiet() => one.drain.sleep(now + LONG_SLEEP_NS),
            [one, ..] => one.drain.sleep(now + SLEEP_NS),
            [] => std::thread::sleep(std::time::Duration::from_nanos(SLEEP_NS / 5)),
        }
    }

    /// Whether nothing is expected that the bell of the first process would not tell: a ring of the
    /// kernel's records has none, and that of a child is not heard.
    fn is_quiet(&self) -> bool {
        self.quiet >= QUIET && self.young.is_empty() && !self.scheduling.has_records()
    }

    /// How many processes are being recorded.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The processes that are being recorded, and their traces.
    pub fn traces(&self) -> Vec<(u32, PathBuf)> {
        self.running.iter().map(|one| (one.pid, one.path.clone())).collect()
    }

    /// The traces that have ended, and beside them processes that could not be recorded, and why.
    pub fn take_ended(&mut self) -> (Vec<Traced>, Vec<(u32, String)>) {
        let mut done = std::mem::take(&mut self.done);
        done.sort_by_key(|t| (t.path != self.output, t.pid));
        (done, std::mem::take(&mut self.refused))
    }

    /// How many processes are about to begin, as far as there is hope.
    pub fn expected(&self) -> usize {
        let now = trace::sys::mono_ns();
        self.young.values().filter(|found| now.saturating_sub(**found) < BIRTH_NS).count()
    }

    /// Ends every recording, also of processes that run on.
    pub fn finish(mut self) -> (Vec<Traced>, Vec<(u32, String)>) {
        self.see();
        let mut last: Vec<&mut One> = self.running.iter_mut().filter(|o| o.is_watched).collect();
        last.sort_by_key(|o| std::cmp::Reverse(o.drain.first_ticks()));
        look_at_memory(&mut last, true, self.scheduling.now());
        let unknown = self.scheduling.full();
        self.running.iter_mut().for_each(|one| one.drain.missed(unknown));
        for one in std::mem::take(&mut self.running) {
            self.done.push(one.finish(schema::END_EXIT));
        }
        self.take_ended()
    }

    /// Takes what the kernel has seen, finds new mappings, and gives each its part: a session that
    /// began before the kernel's records were taken has its mapping by now.
    fn see(&mut self) {
        self.scheduling.take();
        self.find();
        let Drains { scheduling, running, .. } = self;
        let mut targets: Vec<&mut One> = running.iter_mut().filter(|o| o.is_watched).collect();
        // The newest program of a process first.
        targets.sort_by_key(|o| std::cmp::Reverse(o.drain.first_ticks()));
        scheduling.each(|ticks, record| {
            let of = |o: &&mut &mut One| o.pid == record.pid && o.drain.first_ticks() <= ticks;
            if let Some(one) = targets.iter_mut().find(of) {
                one.saw(ticks, record);
            }
        });
        let (is_due, now) = (scheduling.is_count_due(), scheduling.now());
        look_at_memory(&mut targets, is_due, now);
        if is_due && !scheduling.has_records() {
            targets.iter_mut().for_each(|one| one.count(now));
        }
        let (until, lost) = (scheduling.until(), scheduling.take_lost());
        for one in targets {
            one.drain.saw_until(until);
            if lost > 0 {
                one.drain.missed(lost);
            }
        }
    }

    fn find(&mut self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut new: Vec<PathBuf> = paths.filter(|path| !self.seen.contains(path)).collect();
        // Who began first is found first, however many there are by now.
        new.sort_by_key(|path| parts(path).map(|(pid, began, number)| (began, pid, number)));
        let now = trace::sys::mono_ns();
        let before = std::mem::take(&mut self.young);
        let found = |path: &PathBuf| before.get(path).copied().unwrap_or(now);
        for path in new {
            if let Some(pid) = announced(&path) {
                // Its mapping says more; without one it has failed to become the program.
                if pid.is_some_and(|pid| self.pids.contains(&pid) || began_at(pid).is_none()) {
                    let _ = fs::remove_file(&path);
                } else {
                    self.young.insert(path.clone(), found(&path));
                }
                continue;
            }
            let Some((pid, began, number)) = parts(&path) else {
                self.refused.extend(refusal(&path).filter(|_| self.refused.len() < REFUSED_MAX));
                self.seen.insert(path);
                continue;
            };
            match Drain::adopt(&path, &self.options) {
                Ok(None) if is_alive(pid, began) => {
                    self.young.insert(path.clone(), found(&path));
                    continue;
                }
                Ok(Some(drain)) => self.begin(drain, pid, began, number),
                // It died before it had begun, or the file is none of ours.
                Ok(None) | Err(_) => {}
            }
            let _ = fs::remove_file(&path);
            self.pids.insert(pid);
            self.seen.insert(path);
        }
    }

    fn begin(&mut self, mut drain: Drain, pid: u32, began: u64, number: u64) {
        let path = self.name(pid);
        let file = File::options().write(true).create(true).truncate(true).open(&path);
        let (file, error) = match file {
            Ok(file) => (Some(file), None),
            Err(e) => (None, Some(e)),
        };
        let notes: Vec<(&str, &str)> = self.notes.iter().map(|(a, b)| (&**a, &**b)).collect();
        let cpus = memory::cpus(pid).map(|text| ("cpus", text));
        let cpus = cpus.iter().map(|(name, text)| (*name, &**text));
        drain.open(&notes.into_iter().chain(cpus).collect::<Vec<_>>());
        let is_watched = drain.expect_kernel();
        let looked_ns = trace::sys::mono_ns();
        self.running.push(One {
            drain,
            pid,
            began,
            number,
            path,
            file,
            error,
            unwritten: 0,
            looked_ns,
            is_watched,
            is_new: true,
        });
    }

    /// `app.trace` for the first process, `app.PID.trace` for others, and a number before the
    /// ending where a process became several programs.
    fn name(&mut self, pid: u32) -> PathBuf {
        let first = self.names.is_empty().then(|| self.output.clone());
        let stem = self.output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ending = self.output.extension().map(|e| format!(".{}", e.to_string_lossy()));
        let ending = ending.unwrap_or_default();
        let plain = self.output.with_file_name(format!("{stem}.{pid}{ending}"));
        let numbered =
            (2..).map(|n| self.output.with_file_name(format!("{stem}.{pid}.{n}{ending}")));
        let mut all = first.into_iter().chain([plain]).chain(numbered);
        let name = all.find(|path| !self.names.contains(path)).unwrap_or_default();
        self.names.insert(name.clone());
        name
    }
}

impl One {
    /// Writes what there is; whether that was anything.
    fn take(&mut self) -> bool {
        let mut took = false;
        while let Drained::Batch(batch) = self.drain.take() {
            took = true;
            let written = self.file.as_mut().map(|file| file.write_all(&batch));
            if let Some(Err(e)) = written {
                // The program runs on; what follows is not kept.
                self.error = Some(e);
                self.file = None;
            }
            if self.file.is_none() {
                self.unwritten += batch.len() as u64;
            }
        }
        took
    }

    /// The kernel saw this of one of its threads.
    fn saw(&mut self, ticks: u64, record: Record) {
        let seen = match record.what {
            What::In => Seen::In(record.cpu),
            What::Out { preempted } => Seen::Out(preempted),
            What::Sample { frames } => Seen::Sample(record.cpu, self.drain.stack(&frames)),
            What::Exit => Seen::Exit,
        };
        self.drain.saw(record.tid, ticks, seen);
    }

    /// Writes what the kernel has counted for each of its threads.
    fn count(&mut self, now: u64) {
        let counts = scheduling::counts(self.pid);
        if counts.is_empty() {
            return;
        }
        let tids = counts.iter().map(|c| c.0).collect();
        let counted: Vec<_> =
            counts.iter().filter_map(|c| scheduling::counted(self.pid, c.0)).collect();
        for (tid, count) in counts {
            self.drain.saw(tid, now, Seen::Delay(count));
        }
        self.drain.counted(&counted);
        self.drain.alive(now, &tids);
    }

    /// Writes how much memory it has.
    fn remember(&mut self, now: u64) {
        self.is_new = false;
        if let Some((tid, memory)) = memory::look(self.pid, self.began) {
            let ticks = now.max(self.drain.first_ticks());
            self.drain.saw(tid, ticks, Seen::Memory(memory));
        }
    }

    fn finish(mut self, reason: u64) -> Traced {
        self.take();
        let summary = self.drain.finish(reason);
        self.take();
        let program = self.drain.program();
        let One { pid, path, error, unwritten, .. } = self;
        Traced { pid, program, path, summary, error, unwritten }
    }
}

/// Writes the memory of those that are new, or of all: of a process that was several programs, into
/// the newest one's trace. They come with the newest program of a process first.
fn look_at_memory(targets: &mut [&mut One], all: bool, now: u64) {
    let mut seen = BTreeSet::new();
    for one in targets {
        if seen.insert(one.pid) && (all || one.is_new) {
            one.remember(now);
        }
    }
}

/// Process, its start and the number of the program in the name of a mapping's file.
fn parts(path: &Path) -> Option<(u32, u64, u64)> {
    let mut parts = path.file_name()?.to_str()?.split('-');
    let all =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(all)
}

/// Whether this file stands for a process that has not begun, and for which one, where that is
/// known.
fn announced(path: &Path) -> Option<Option<u32>> {
    let who = path.file_name()?.to_str()?.strip_prefix("young-")?;
    Some(who.parse().ok())
}

/// A process that could not be recorded says why in a file with its number in the name.
fn refusal(path: &Path) -> Option<(u32, String)> {
    let pid = path.file_name()?.to_str()?.strip_prefix("refused.")?.parse().ok()?;
    let mut why = Vec::new();
    File::open(path).ok()?.take(WHY_MAX).read_to_end(&mut why).ok()?;
    Some((pid, String::from_utf8_lossy(&why).into_owned()))
}

/// Whether the process with this number that began then still runs.
fn is_alive(pid: u32, began: u64) -> bool {
    began_at(pid) == Some(began)
}

/// When the process with this number began, where it still runs.
fn began_at(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (state, fields) = memory::stat(&stat)?;
    (!matches!(state, b'Z' | b'X')).then_some(fields[BEGAN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let (pid, began) = (std::process::id(), trace::sys::start_time());
        assert!(is_alive(pid, began));
        assert!(!is_alive(pid, began + 1), "another one of the same number");
        assert!(!is_alive(u32::MAX, 1));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let began = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            text.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
        };
        let began: u64 = began(child.id());
        while is_alive(child.id(), began) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn names_of_files() {
        assert_eq!(parts(Path::new("/x/12-345-6")), Some((12, 345, 6)));
        for other in ["12-345", "a-1-2", "1-2-3-4", ""] {
            assert_eq!(parts(Path::new(other)), None, "{other}");
        }
        let mut d =
            Drains::new(Path::new("/x"), Path::new("/o/app.trace"), Vec::new(), Scheduling::none());
        assert_eq!(d.name(7), Path::new("/o/app.trace"));
        assert_eq!(d.name(8), Path::new("/o/app.8.trace"));
    }
}
