//! Runs the same work through exectrace and through other tracers, side by side, and prints tables.
//!
//! ```text
//! cargo run --release -- [--quick] [--rounds N] [--events N] [--millis N] [--only A,B] [--out DIR]
//! ```
//!
//! 1. Each job of each peer runs in a process of its own.
//! 2. Rounds are interleaved: every peer does a job before any does it again, so that a change of
//!    the machine's speed meets all of them. The median of the rounds is told; of the time until a
//!    flood's file is complete, which other programs can only make longer, the least.
//! 3. A peer that cannot be built, crashes or hangs is a row with that reason. Only exectrace
//!    itself must not fail.
//!
//! `--quick` does a little of everything in less than a minute, to see that it still works. The
//! tables are printed as text; `--out DIR` also writes them as `compare.md` and `compare.json`.

mod making;
mod peers;
mod running;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use peers::PEERS;
use peers::Peer;
use running::Amount;
use running::Daemon;
use running::Place;

const USAGE: &str = "usage: compare [--quick] [--rounds N] [--events N] [--millis N] [--only A,B] \
                     [--out DIR]";

/// What is asked for.
struct Options {
    rounds: usize,
    amount: Amount,
    only: Option<Vec<String>>,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let amount = Amount { events: 8_000_000, millis: 600 };
        let mut o = Options { rounds: 3, amount, only: None, out: None };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |v: String| v.parse::<u64>().map_err(|e| format!("{v}: {e}"));
            match arg.as_str() {
                "--quick" => (o.rounds, o.amount) = (1, Amount { events: 100_000, millis: 60 }),
                "--rounds" => o.rounds = number(value()?)?.max(1) as usize,
                "--events" => o.amount.events = number(value()?)?.max(10_000),
                "--millis" => o.amount.millis = number(value()?)?.max(3),
                "--only" => o.only = Some(value()?.split(',').map(|s| s.trim().into()).collect()),
                "--out" => o.out = Some(value()?.into()),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(o)
    }

    fn wants(&self, peer: &Peer) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|n| n == peer.feature))
    }
}

/// A peer with its program and what was measured of it.
pub struct Row {
    peer: &'static Peer,
    version: String,
    program: Option<PathBuf>,
    measured: BTreeMap<String, Vec<f64>>,
    /// What went wrong, in words.
    failures: Vec<String>,
}

impl Row {
    /// The median of the rounds.
    fn get(&self, name: &str) -> Option<f64> {
        let mut values = self.measured.get(name)?.clone();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some((low + high) / 2.0)
    }

    /// The least of the rounds, for what other programs of the machine can only make longer.
    fn least(&self, name: &str) -> Option<f64> {
        self.measured.get(name)?.iter().copied().reduce(f64::min)
    }
}

/// Builds what is wanted.
fn make(options: &Options) -> Vec<Row> {
    let lock = peers::lock();
    let mut rows = Vec::new();
    for peer in PEERS.iter().filter(|p| options.wants(p)) {
        eprintln!("building {}", peer.name);
        let built = match peer.missing() {
            Some(why) => Err(format!("skipped: {why}")),
            None => making::build(peer),
        };
        let (program, failures) = match built {
            Ok(program) => (Some(program), Vec::new()),
            Err(why) => (None, vec![why]),
        };
        let version = peer.version(&lock);
        rows.push(Row { peer, version, program, measured: BTreeMap::new(), failures });
    }
    rows
}

/// All jobs of all peers, once.
fn round(rows: &mut [Row], options: &Options, place: &Place) {
    let mut jobs: Vec<&str> = Vec::new();
    for job in rows.iter().flat_map(|r| r.peer.jobs) {
        if !jobs.contains(job) {
            jobs.push(job);
        }
    }
    for job in jobs {
        for row in rows.iter_mut().filter(|r| r.peer.jobs.contains(&job)) {
            let Some(program) = &row.program else { continue };
            match running::run(program, row.peer, job, options.amount, place) {
                Ok(measured) => {
                    for (name, value) in measured {
                        row.measured.entry(name).or_default().push(value);
                    }
                }
                Err(why) if row.failures.contains(&why) => {}
                Err(why) => {
                    eprintln!("{}: {why}", row.peer.name);
                    row.failures.push(why);
                }
            }
        }
    }
}

fn run() -> Result<bool, String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let place = Place::new()?;
    let mut rows = make(&options);
    let wants_daemon = rows.iter().any(|r| r.peer.feature == "lttng" && r.program.is_some());
    let daemon = wants_daemon.then(|| Daemon::start(&place));
    for n in 1..=options.rounds {
        eprintln!("round {n} of {}", options.rounds);
        round(&mut rows, &options, &place);
    }
    drop(daemon);
    let markdown = tables::markdown(&rows);
    println!("{}", tables::text(&rows));
    if let Some(dir) = &options.out {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for (name, content) in [("compare.md", markdown), ("compare.json", tables::json(&rows))] {
            let path = dir.join(name);
            std::fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    // exectrace did all its jobs, and lost nothing where its threads wait.
    let ours = || rows.iter().filter(|r| r.peer.feature == "exectrace" && r.program.is_some());
    let lossless = |r: &Row| r.peer.how != "wait" || r.get("flood_instant_lost") == Some(0.0);
    let whole = ours().all(|r| r.failures.is_empty() && lossless(r));
    Ok(whole && (ours().next().is_some() || options.only.is_some()))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::from(2)
        }
    }
}
