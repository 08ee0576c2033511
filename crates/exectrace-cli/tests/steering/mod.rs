//! Commands that are signalled, killed and stopped: one at a time, and what they say line by line.

use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ChildStdout;
use std::process::Command;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::recording;

/// An empty folder of this test's own, for as long as it is alone.
pub fn folder(name: &str) -> (PathBuf, MutexGuard<'static, ()>) {
    // One after the other: each command sweeps the folders of killed ones, and holds their locks
    // for that moment.
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (recording::folder(name), alone)
}

/// To a process, or to a group where there is a minus.
pub fn kill(signal: &str, to: impl std::fmt::Display) {
    let line = format!("kill -{signal} -- {to}");
    assert!(Command::new("bash").args(["-c", &line]).status().unwrap().success(), "{line}");
}

/// The next line that a program prints.
pub fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
