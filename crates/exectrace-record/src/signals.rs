//! Signals that this process is sent and the program should have.
//!
//! 1. What was ignored when this process began stays ignored, here and in the program: `nohup`, or
//!    a shell that runs it in the background. A signal with a handler goes to the program as the
//!    system has it by default, since handlers end where a program begins. This process cannot
//!    leave SIGCHLD and SIGPIPE ignored; the preloaded library is told of them.
//! 2. The limit of a file's size is an error of a write, and ends nothing.
//! 3. Where the command is a front and a back, a signal to the front reaches the program once. What
//!    a terminal or somebody else sends to the whole group reaches the program by itself, and from
//!    here as often as from a command that is one process.

use std::fs;
use std::io;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use signal_hook::consts::SIGCHLD;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGPIPE;
use signal_hook::consts::SIGQUIT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR1;
use signal_hook::consts::SIGUSR2;
use signal_hook::consts::SIGXFSZ;
use signal_hook::iterator::Signals;

use crate::front;
use crate::front::Front;

/// Those that are given to the program.
const PASSED: [i32; 6] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];

/// What is sent to the whole group reaches this process and its front: within this time one tells
/// of the other's.
const SAME: Duration = Duration::from_millis(200);

/// The signals that are waited for.
#[derive(Debug)]
pub struct Passing {
    signals: Option<Signals>,
    front: Option<Front>,
    /// Signals of this process's own, of which the front may say the same in a moment.
    held: Vec<(i32, Instant)>,
    /// Signals that the front has said, which may come here too.
    said: Vec<(i32, Instant)>,
}

impl Passing {
    /// Takes signals from here on; before the program starts, so that it finds none of them ignored
    /// that was not.
    pub fn begin(front: Option<Front>) -> Passing {
        let taken = |signal: &i32| !was_ignored(*signal);
        // The end of a child ends a sleep; ignored, it would take the child's status with it.
        let own = [SIGXFSZ].into_iter().filter(taken).chain([SIGCHLD]);
        for signal in own {
            let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
        }
        let passed: Vec<i32> = PASSED.into_iter().filter(taken).collect();
        Passing { signals: Signals::new(passed).ok(), front, held: Vec::new(), said: Vec::new() }
    }

    /// Gives those that came to the program.
    pub fn pass_on(&mut self, to: &Child) {
        self.next(Instant::now()).into_iter().for_each(|signal| pass_on(to, signal));
    }

    /// Those that came, each once: what the front says is said of this process's own too.
    fn next(&mut self, now: Instant) -> Vec<i32> {
        let own: Vec<i32> = self.signals.iter_mut().flat_map(|s| s.pending()).collect();
        let mut passed = self.front.as_mut().map(Front::signals).unwrap_or_default();
        let has_front = self.front.as_ref().is_some_and(Front::is_there);
        self.once(&mut passed, own, has_front, now);
        passed
    }

    /// Adds to what the front has `said` those of this process's `own` that are none of them.
    fn once(&mut self, said: &mut Vec<i32>, own: Vec<i32>, has_front: bool, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= SAME;
        let take = |of: &mut Vec<(i32, Instant)>, signal: i32| {
            let at = of.iter().position(|(s, _)| *s == signal);
            at.map(|at| of.swap_remove(at)).is_some()
        };
        self.said.retain(|(_, at)| !is_old(*at));
        for signal in &*said {
            if !take(&mut self.held, *signal) {
                self.said.push((*signal, now));
            }
        }
        for signal in own {
            if !take(&mut self.said, signal) {
                self.held.push((signal, now));
            }
        }
        // Its front said nothing of it, or there is none.
        said.extend(self.held.extract_if(.., |(_, at)| !has_front || is_old(*at)).map(|(s, _)| s));
    }

    /// Whether the command can end before this process does.
    pub fn is_back(&self) -> bool {
        self.front.is_some()
    }

    /// Has the front end with this status.
    pub fn end_front(&mut self, status: u8) {
        if let Some(front) = self.front.take() {
            front.end(status);
        }
    }

    /// Whether this process has been asked to end.
    pub fn ask_to_end(&mut self) -> bool {
        let mut came = self.signals.iter_mut().flat_map(|s| s.pending());
        came.any(|signal| matches!(signal, SIGINT | SIGQUIT | SIGTERM))
    }
}

/// What a front is sent: those that its back is to have, and the end of the back.
#[derive(Debug)]
pub struct Heard {
    flags: Vec<(i32, Arc<AtomicBool>)>,
    /// Can be read when there is one.
    woken: UnixStream,
}

impl Heard {
    /// Takes signals from here on, but those that are ignored.
    pub fn begin() -> io::Result<Heard> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let mut flags = Vec::new();
        for signal in PASSED.into_iter().filter(|signal| !was_ignored(*signal)) {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, flag.clone())?;
            flags.push((signal, flag));
        }
        for signal in flags.iter().map(|(signal, _)| *signal).chain([SIGCHLD]) {
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Heard { flags, woken })
    }

    /// Sleeps until there is a signal, or something to be read from `channel`.
    pub fn sleep(&self, channel: Option<BorrowedFd<'_>>) {
        let own = PollFd::new(&self.woken, PollFlags::IN);
        let channel = channel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let mut both: Vec<PollFd<'_>> = std::iter::once(own).chain(channel).collect();
        let _ = rustix::event::poll(&mut both, None);
    }

    /// Those that came, by their numbers.
    pub fn take(&self) -> Vec<u8> {
        let mut bytes = [0u8; 64];
        while (&self.woken).read(&mut bytes).is_ok_and(|n| n > 0) {}
        let came = self.flags.iter().filter(|(_, flag)| flag.swap(false, SeqCst));
        came.map(|(signal, _)| *signal as u8).collect()
    }
}

/// Whether this signal was ignored when the command began. To be asked before any is taken.
pub fn was_ignored(signal: i32) -> bool {
    ignored_before() >> (signal - 1) & 1 != 0
}

/// The signals that were ignored when the command began, a bit each.
pub fn ignored_before() -> u64 {
    static BEFORE: OnceLock<u64> = OnceLock::new();
    *BEFORE.get_or_init(|| {
        let own = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        // By now the standard library ignores it.
        let pipe = 1 << (SIGPIPE - 1);
        let own = if trace_kernel::pipe_was_ignored() { own | pipe } else { own & !pipe };
        // A front starts its back with some of them at their default.
        own | front::told().map_or(0, |(_, ignored)| ignored)
    })
}

/// The signals that are ignored, a bit each, from the text of `/proc/self/status`.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Gives a signal to the program. Those of the terminal reach it from there.
fn pass_on(child: &Child, signal: i32) {
    let from_terminal = matches!(signal, SIGINT | SIGQUIT) && is_foreground();
    let (pid, signal) = (Pid::from_child(child), Signal::from_named_raw(signal));
    if let Some(signal) = signal.filter(|_| !from_terminal) {
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether this process and the program stand in the foreground of a terminal.
fn is_foreground() -> bool {
    let own = rustix::process::getpgrp();
    let foreground = |group: rustix::io::Result<Pid>| group.is_ok_and(|group| group == own);
    foreground(rustix::termios::tcgetpgrp(io::stdin()))
        || foreground(rustix::termios::tcgetpgrp(io::stderr()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals() {
        let status = "Name:\tx\nSigBlk:\t0000000000000004\nSigIgn:\t0000000180000003\nSigCgt:\t1\n";
        assert_eq!(ignored(status), 0x1_8000_0003);
        assert_eq!(ignored("Name:\tx\n"), 0);
        let own = fs::read_to_string("/proc/self/status").unwrap();
        // The standard library ignores SIGPIPE in every program.
        assert_eq!(ignored(&own) >> 12 & 1, 1);
    }

    #[test]
    fn what_both_processes_are_sent_is_passed_on_once() {
        let mut passing = Passing { signals: None, front: None, held: vec![], said: vec![] };
        let begin = Instant::now();
        let mut at = |ms: u64, said: &[i32], own: &[i32], has_front: bool| {
            let mut passed = said.to_vec();
            let now = begin + Duration::from_millis(ms);
            passing.once(&mut passed, own.to_vec(), has_front, now);
            passed
        };
        // The front alone.
        assert_eq!(at(0, &[SIGTERM, SIGUSR1], &[], true), [SIGTERM, SIGUSR1]);
        assert!(at(1000, &[], &[], true).is_empty());
        // Both, in either order, also at once.
        assert_eq!(at(1000, &[SIGTERM], &[], true), [SIGTERM]);
        assert!(at(1001, &[], &[SIGTERM], true).is_empty());
        assert!(at(2000, &[], &[SIGTERM], true).is_empty());
        assert_eq!(at(2001, &[SIGTERM], &[], true), [SIGTERM]);
        assert_eq!(at(3000, &[SIGTERM], &[SIGTERM], true), [SIGTERM]);
        assert!(at(4000, &[], &[], true).is_empty());
        // The back alone, which a later one to the front is not taken for.
        assert!(at(5000, &[], &[SIGTERM], true).is_empty());
        assert_eq!(at(5200, &[], &[], true), [SIGTERM]);
        assert_eq!(at(5300, &[SIGTERM], &[], true), [SIGTERM]);
        // One is not another.
        assert_eq!(at(6000, &[SIGUSR1], &[SIGTERM], true), [SIGUSR1]);
        assert_eq!(at(6300, &[], &[], true), [SIGTERM]);
        // Where there is no front it is passed on at once, and what was held as well.
        assert!(at(7000, &[], &[SIGUSR1], true).is_empty());
        assert_eq!(at(7001, &[], &[SIGTERM], false), [SIGUSR1, SIGTERM]);
    }
}
