//! Why a command ends early.

use std::io;
use std::io::Write;

/// Exit status where nothing could be read: usage, missing file, not a trace.
pub const REFUSED: u8 = 1;

/// Exit status of a trace that is damaged or has no end mark.
pub const INCOMPLETE: u8 = 2;

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// The reader of the output went away (`exectrace events trace | head`).
    NobodyReads,
    /// Nothing can be read, or written; one line for people, escaped.
    Refused(String),
}

impl Failure {
    /// The failure to write output.
    pub fn output(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyReads,
            _ => Failure::Refused(format!("cannot write output: {e}")),
        }
    }
}

/// Prints one line about a failure or a fault of the trace.
pub fn say(line: &str) {
    // Where nobody reads standard error, the exit status still tells.
    let _ = writeln!(io::stderr().lock(), "exectrace: {line}");
}
