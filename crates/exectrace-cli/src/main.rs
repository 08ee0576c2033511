//! The command `exectrace`: reads traces and tells what happened.
//!
//! Invariants:
//! 1. Text that comes from a trace, or from a file that a trace names, MUST pass `push_safe` (in
//!    output for people) or the JSON writer. Otherwise a trace could drive the terminal.
//! 2. The exit status is 0 for a complete trace, 2 for one that is damaged or has no end mark, 1
//!    where nothing could be read. Output that nobody reads any more is no error.
//! 3. Memory does not grow with the length of a trace.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod coverage;
mod deadlock;
mod failure;
mod filter;
mod input;
mod json;
mod kinds;
mod lengths;
mod memory;
mod output;
mod places;
mod preload;
mod progress;
mod raw_calls;
mod scheduling;
mod stacks;
mod table;
mod time;
mod unnamed;
mod value;
mod verdict;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::args::Command;
use crate::failure::Failure;
use crate::failure::REFUSED;
use crate::output::Out;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come as errors too, and are none.
            let wanted = !e.use_stderr();
            let _ = e.print();
            return if wanted { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) };
        }
    };
    match &cli.command {
        Command::Record(args) => return cmd::record::run(args),
        Command::Demo(args) => return cmd::demo::run(args),
        _ => {}
    }
    let mut out = Out::stdout();
    let done = match &cli.command {
        Command::Stat(args) => cmd::stat::run(args, &mut out),
        Command::Events(args) => cmd::events::run(args, &mut out),
        Command::Threads(args) => cmd::threads::run(args, &mut out),
        Command::Spans(args) => cmd::spans::run(args, &mut out),
        Command::Tasks(args) => cmd::tasks::run(args, &mut out),
        Command::Logs(args) => cmd::logs::run(args, &mut out),
        Command::Stacks(args) => cmd::stacks::run(args, &mut out),
        Command::Dump(args) => cmd::dump::run(args, &mut out),
        Command::Waits(args) => cmd::waits::run(args, &mut out),
        Command::Report(args) => cmd::report::run(args, &mut out),
        Command::Doctor(args) => match cmd::doctor::run(args, &mut out) {
            Ok(good) => return finish_doctor(out, good),
            Err(failure) => Err(failure),
        },
        // They have run.
        Command::Record(_) | Command::Demo(_) => return ExitCode::SUCCESS,
    };
    out.read();
    match done.and_then(|verdict| out.finish().map(|()| verdict)) {
        Ok(verdict) => verdict.exit_code(),
        Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Refused(why)) => {
            failure::say(&why);
            ExitCode::from(REFUSED)
        }
    }
}

/// The status of `doctor`: 0 where nothing is in the way, 1 where something is.
fn finish_doctor(out: Out, good: bool) -> ExitCode {
    match out.finish() {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::from(if good { 0 } else { REFUSED }),
        Err(Failure::Refused(why)) => {
            failure::say(&why);
            ExitCode::from(REFUSED)
        }
    }
}
