//! The command line: commands and the options that several share.

use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;

use crate::cmd;

const EXAMPLES: &str = "\
Examples:
  exectrace stat trace.bin                     counts, losses, times
  exectrace events trace.bin | head            what happened, in order
  exectrace events --stacks --kind log trace.bin
  exectrace events --json trace.bin | jq -c 'select(.kind == \"SpanEnd\")'
  exectrace threads trace.bin                  who ran, who made whom
  exectrace spans trace.bin                    where time went, by name
  exectrace tasks --name request trace.bin     the slowest requests, and where they ran
  exectrace logs --grep error --from 1.2s trace.bin
  exectrace stacks trace.bin                   where events came from, most frequent first
  zcat trace.bin.gz | exectrace stat -         from standard input

Tables take the width of the terminal, or of COLUMNS; in a file or a pipe nothing is cut. A read
of more than a second has a bar on standard error, where that is a terminal and standard output is
no pipe, behind which a pager may own the terminal. NO_COLOR is respected.

Exit status: 0 the trace is complete; 2 it is damaged or has no end mark; 1 nothing could be read.";

/// Records programs and reads execution traces.
#[derive(Parser, Debug)]
#[command(name = "exectrace", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a program, record what its threads wait for, and say where the time went
    Record(cmd::record::Options),
    /// Record a built-in program with a planted fault, to see what a report is
    Demo(cmd::demo::Options),
    /// Say what can be recorded here and what not, and why
    Doctor(cmd::doctor::Options),
    /// Say where the time of a recorded program's threads went
    Report(cmd::report::Options),
    /// List waits: on what, how long, and who ended them
    Waits(cmd::waits::Options),
    /// Count what is in a trace, and say what is missing from it
    Stat(cmd::stat::Options),
    /// List the events of all threads in the order of their time
    Events(cmd::events::Options),
    /// List the threads
    Threads(cmd::threads::Options),
    /// Sum up spans by their name: how often, how long, how much of it on their own
    Spans(cmd::spans::Options),
    /// Sum up tasks by their name, or list them with the threads that they ran on
    Tasks(cmd::tasks::Options),
    /// List logs, by category and text
    Logs(cmd::logs::Options),
    /// Count the call stacks that events came from
    Stacks(cmd::stacks::Options),
    /// Print every batch and event as it stands in the file
    Dump(cmd::dump::Options),
}

/// The trace, and the form of the output.
#[derive(Args, Debug)]
pub struct Common {
    /// The trace; - reads standard input
    pub file: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// How addresses become names.
#[derive(Args, Debug)]
pub struct Symbols {
    /// Do not look for the names of functions
    #[arg(long)]
    pub no_symbols: bool,
    /// Look for programs and debug files of the right build id here first (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,
}
