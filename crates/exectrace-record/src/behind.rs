//! What goes on when the command has ended: processes that outlive the program's first one are
//! recorded to their end.
//!
//! 1. From then on nothing of the terminal or of the command's pipes is held: whoever waits for
//!    their end has it.
//! 2. A signal that asks this process to end ends the recording, and no process that is recorded.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use crate::drains::Drains;
use crate::folder::Folder;
use crate::library::Library;
use crate::run::YOUNG;
use crate::signals::Passing;

/// Processes that are recorded on.
#[derive(Debug)]
pub struct Behind {
    pub(crate) drains: Drains,
    pub(crate) signals: Passing,
    pub(crate) folder: Folder,
    pub(crate) library: Library,
}

/// The stack of the thread that does something meanwhile: as much as the first one has.
const STACK: usize = 8 << 20;

impl Behind {
    /// The processes and their traces, which are complete when they have ended.
    pub fn traces(&self) -> Vec<(u32, PathBuf)> {
        self.drains.traces()
    }

    /// Does some work while the recording goes on.
    pub fn meanwhile(&mut self, work: impl Fn() + Sync) {
        thread::scope(|scope| {
            let thread = thread::Builder::new().stack_size(STACK);
            match thread.spawn_scoped(scope, &work) {
                Ok(working) => {
                    while !working.is_finished() {
                        self.drains.step();
                        self.drains.sleep();
                    }
                }
                Err(_) => work(),
            }
        });
    }

    /// Lets the command end with this status, and records until the last process has ended or a
    /// signal asks for an end.
    pub fn go_on(self, status: u8) {
        let Behind { mut drains, mut signals, folder, library } = self;
        let_go();
        signals.end_front(status);
        let mut seen = Instant::now();
        while !signals.ask_to_end() && seen.elapsed() < YOUNG {
            drains.step();
            if drains.running() + drains.expected() > 0 {
                seen = Instant::now();
            }
            drains.sleep();
        }
        drains.step();
        drains.finish();
        drop((library, folder));
    }
}

/// Leaves the terminal and its session, and lets go of standard input, output and error.
fn let_go() {
    // It leads no group: its front, or who started that, does.
    let _ = rustix::process::setsid();
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
