//! Whether a trace is complete: what was skipped, and which sessions have no end.

use std::process::ExitCode;

use trace_decode::Damage;
use trace_decode::Session;

use crate::failure;
use crate::failure::INCOMPLETE;
use crate::time::count;

/// Lines about damage before they are only counted: who wants all of them asks `dump`.
const SHOWN_MAX: u64 = 10;

/// What was found wrong with a trace so far.
#[derive(Debug)]
pub struct Verdict {
    name: String,
    damages: u64,
    damaged_bytes: u64,
    incomplete: u64,
}

impl Verdict {
    /// On the input of this (escaped) name.
    pub fn new(name: &str) -> Verdict {
        Verdict { name: name.to_owned(), damages: 0, damaged_bytes: 0, incomplete: 0 }
    }

    /// A range was skipped.
    pub fn damage(&mut self, damage: &Damage) {
        self.damages += 1;
        self.damaged_bytes += damage.len;
        if self.damages <= SHOWN_MAX {
            failure::say(&format!("{}: {damage}", self.name));
        }
    }

    /// The order of events over threads is broken from here.
    pub fn out_of_order(&mut self, held_bytes: u64) {
        let held = count(held_bytes);
        failure::say(&format!(
            "{}: {held} bytes wait for a late thread; events may stand out of order from here",
            self.name
        ));
    }

    /// A session is over, the `number`th of the trace.
    pub fn session(&mut self, number: usize, session: &Session) {
        for fault in faults(session) {
            self.incomplete += 1;
            failure::say(&format!("{}: session {number} {fault}", self.name));
        }
    }

    /// Bytes that were skipped.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Ranges that were skipped.
    pub fn damages(&self) -> u64 {
        self.damages
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.damages == 0 && self.incomplete == 0
    }

    /// 0 or 2. Says how much was skipped where not each range was named.
    pub fn exit_code(self) -> ExitCode {
        if self.damages > SHOWN_MAX {
            let (more, bytes) = (count(self.damages - SHOWN_MAX), count(self.damaged_bytes));
            failure::say(&format!("{}: {more} more; {bytes} bytes skipped in all", self.name));
        }
        if self.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) }
    }
}

/// Why a session is not complete.
pub fn faults(session: &Session) -> Vec<String> {
    let decoded = session.totals().events;
    match session.end() {
        None => vec!["has no end mark: it was cut, or did not end".to_owned()],
        Some(end) if end.events != decoded => vec![format!(
            "should have {} events by its end mark, {} were read",
            count(end.events),
            count(decoded)
        )],
        Some(_) => Vec::new(),
    }
}
