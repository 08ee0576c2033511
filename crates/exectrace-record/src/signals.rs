//! Signals that this process is sent and the program should have.
//!
//! 1. What was ignored when this process began stays ignored, here and in the program: `nohup`, or
//!    a shell that runs it in the background. A signal with a handler goes to the program as the
//!    system has it by default, since handlers end where a program begins.
//! 2. The limit of a file's size is an error of a write, and ends nothing.

use std::fs;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Pid;
use rustix::process::Signal;
use signal_hook::consts::SIGCHLD;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGQUIT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR1;
use signal_hook::consts::SIGUSR2;
use signal_hook::consts::SIGXFSZ;
use signal_hook::iterator::Signals;

/// Those that are given to the program.
const PASSED: [i32; 6] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];

/// The signals that are waited for.
#[derive(Debug)]
pub struct Passing(Option<Signals>);

impl Passing {
    /// Takes signals from here on; before the program starts, so that it finds none of them ignored
    /// that was not.
    pub fn begin() -> Passing {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let taken = |signal: &i32| ignored >> (signal - 1) & 1 == 0;
        // The end of a child ends a sleep.
        for signal in [SIGXFSZ, SIGCHLD].into_iter().filter(taken) {
            let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
        }
        let passed: Vec<i32> = PASSED.into_iter().filter(taken).collect();
        Passing(Signals::new(passed).ok())
    }

    /// Gives those that came to the program.
    pub fn pass_on(&mut self, to: &Child) {
        if let Some(signals) = &mut self.0 {
            signals.pending().for_each(|signal| pass_on(to, signal));
        }
    }
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
}
