//! `exectrace demo`: records a program of its own with a lock convoy in it, so that the first run
//! finds something.

use std::ffi::OsString;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use clap::Args;

use crate::cmd::record;
use crate::failure;
use crate::failure::REFUSED;

const HELP: &str = "\
The program has four workers that look something up in a cache under a mutex, and one thread that
holds that mutex while it writes the cache to a file. The report should say so.";

/// What to do.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// The trace
    #[arg(short, long, value_name = "FILE", default_value = "demo.trace")]
    output: PathBuf,
    /// Be the program that is recorded
    #[arg(long, hide = true)]
    run: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> ExitCode {
    if options.run {
        convoy(Duration::from_millis(1500));
        return ExitCode::SUCCESS;
    }
    match std::env::current_exe() {
        Ok(own) => {
            let command: Vec<OsString> = vec![own.into(), "demo".into(), "--run".into()];
            record::run_here(&record::Options::of(command, options.output.clone()))
        }
        Err(e) => {
            failure::say(&format!("the path of this program: {e}"));
            ExitCode::from(REFUSED)
        }
    }
}

static CACHE: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn cache() -> MutexGuard<'static, Vec<u64>> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks something up, under the lock.
#[inline(never)]
fn look_up(n: u64) -> u64 {
    let cache = cache();
    let found = cache.get(n as usize % cache.len().max(1)).copied();
    black_box(found.unwrap_or(n))
}

/// Writes the cache to a file while it holds the lock: the mistake to be found.
#[inline(never)]
fn refresh(round: u64) {
    let mut cache = cache();
    cache.truncate(512);
    cache.insert(0, round);
    let path = std::env::temp_dir().join(format!("exectrace-demo-{}", std::process::id()));
    if let Ok(mut file) = std::fs::File::create(&path) {
        for n in cache.iter() {
            let _ = file.write_all(&n.to_le_bytes());
        }
        let _ = file.sync_all();
    }
    // As slow as a disk that is busy.
    thread::sleep(Duration::from_millis(8));
    let _ = std::fs::remove_file(&path);
}

fn convoy(length: Duration) {
    let until = Instant::now() + length;
    let worker = move || {
        let mut n = 0u64;
        while Instant::now() < until {
            n = n.wrapping_add(look_up(n)).wrapping_add(1);
            for i in 0..2000u64 {
                n = black_box(n.rotate_left(5) ^ i);
            }
        }
    };
    let writer = move || {
        let mut round = 0;
        while Instant::now() < until {
            refresh(round);
            round += 1;
            thread::sleep(Duration::from_millis(2));
        }
    };
    let named = |name: String| thread::Builder::new().name(name);
    thread::scope(|s| {
        for i in 0..4 {
            // A thread that cannot be made is missed by nobody here.
            let _ = named(format!("worker {i}")).spawn_scoped(s, worker);
        }
        let _ = named("refresher".into()).spawn_scoped(s, writer);
    });
}
