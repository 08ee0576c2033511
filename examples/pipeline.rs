//! A program that traces itself: it reads a directory tree, hashes and compresses every file, and
//! keeps an index of what it found.
//!
//! ```text
//! walker (main) --files--> workers: read, hash, compress --results--> indexer
//!                                        \                              /
//!                                         +---- index (one mutex) -----+
//! ```
//!
//! Each file is a task: begun by the walker, worked for by a worker, ended by the indexer. What the
//! threads do meanwhile is spans; what is worth saying is logs; what grows and shrinks is counters.
//! Nothing is written but the trace.
//!
//! `cargo run --release --example pipeline -- [DIRECTORY] [--out FILE]`

use std::collections::HashMap;
use std::collections::hash_map;
use std::error::Error;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::Digest as _;
use sha2::Sha256;

const USAGE: &str = "usage: pipeline [DIRECTORY] [--out FILE]";
/// Files that wait for a worker; a full queue makes the walker wait.
const QUEUE_MAX: usize = 32;
/// A larger file is skipped: the whole of it stands in memory.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Names that are not entered: what cargo and git keep there is large and nobody's source.
const NOT_ENTERED: [&str; 2] = ["target", ".git"];

type Hash = [u8; 32];

/// A file on its way from the walker to a worker.
struct Job {
    task: trace::Task,
    path: PathBuf,
}

/// A file on its way from a worker to the indexer.
struct Finished {
    task: trace::Task,
    path: PathBuf,
    result: io::Result<Measured>,
}

/// What a worker found out about a file. Its content was compressed where it was the first of its
/// hash.
struct Measured {
    hash: Hash,
    bytes: u64,
    compressed_bytes: Option<u64>,
}

/// What is known, by content.
#[derive(Default)]
struct Index {
    /// Files of each content. A worker claims a hash by entering it.
    by_hash: HashMap<Hash, Vec<PathBuf>>,
    bytes: u64,
    compressed_bytes: u64,
    skipped: u64,
}

impl Index {
    /// Whether the caller is the first who has this content, and so the one who compresses it.
    fn claim(&mut self, hash: Hash) -> bool {
        match self.by_hash.entry(hash) {
            hash_map::Entry::Vacant(v) => {
                v.insert(Vec::new());
                true
            }
            hash_map::Entry::Occupied(_) => false,
        }
    }

    fn add(&mut self, path: PathBuf, file: &Measured) {
        self.bytes += file.bytes;
        self.compressed_bytes += file.compressed_bytes.unwrap_or(0);
        self.by_hash.entry(file.hash).or_default().push(path);
    }

    fn files(&self) -> usize {
        self.by_hash.values().map(Vec::len).sum()
    }
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    index: Mutex<Index>,
    /// Files that wait for a worker.
    waiting: AtomicU64,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pipeline: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(options) = Options::parse(std::env::args_os().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    if !options.tree.is_dir() {
        return Err(format!("{} is not a directory", options.tree.display()).into());
    }
    if let Some(dir) = options.out.parent() {
        fs::create_dir_all(dir)?;
    }
    // Written beside its place and renamed at the end, so that a reader never meets half a trace.
    let growing = options.out.with_extension(format!("{}.part", std::process::id()));
    trace::start(fs::File::create(&growing)?)?;
    let begun = Instant::now();
    let worked = work(&options.tree);
    let took = begun.elapsed();
    let summary = trace::stop()?;
    fs::rename(&growing, &options.out)?;

    let (shared, workers) = worked?;
    report(&shared.index(), workers, took);
    report_trace(&summary, &options.out);
    Ok(())
}

/// Runs the pipeline over `tree` to its end; gives what was found, and the number of workers.
fn work(tree: &Path) -> io::Result<(Arc<Shared>, usize)> {
    let shared = Arc::new(Shared::default());
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let (to_workers, jobs) = mpsc::sync_channel(QUEUE_MAX);
    let (to_indexer, finished) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));

    let mut threads = Vec::new();
    for n in 1..=workers {
        let (shared, jobs, to_indexer) = (shared.clone(), jobs.clone(), to_indexer.clone());
        threads.push(spawn(format!("worker-{n}"), move || worker(&shared, &jobs, &to_indexer))?);
    }
    // The workers hold the other copies: when the last of them ends, so does the indexer.
    drop(to_indexer);
    let indexed = shared.clone();
    threads.push(spawn("indexer".into(), move || indexer(&indexed, &finished))?);

    trace::log!(pipeline, "{workers} workers, tree {}", tree.display());
    walk(tree, tree, &shared, &to_workers);
    drop(to_workers);
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread of the pipeline panicked"))?;
    }
    Ok((shared, workers))
}

fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    trace::thread::Builder::new().name(name).spawn(f)
}

/// Sends each file below `dir` to the workers. Links are not followed.
fn walk(root: &Path, dir: &Path, shared: &Shared, to_workers: &SyncSender<Job>) {
    let shown = dir.strip_prefix(root).unwrap_or(dir);
    let _span = trace::span!("walk", directory = shown.to_string_lossy());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            trace::log!(walk, "{} cannot be listed: {e}", shown.display());
            shared.index().skipped += 1;
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !NOT_ENTERED.iter().any(|name| entry.file_name() == *name) {
                walk(root, &path, shared, to_workers);
            }
        } else if kind.is_file() && path.extension().is_none_or(|e| e != "part") {
            let shown = path.strip_prefix(root).unwrap_or(&path);
            let task = trace::task!("file", path = shown.to_string_lossy());
            trace::counter!("files waiting", shared.waiting.fetch_add(1, Relaxed) + 1);
            if to_workers.send(Job { task, path }).is_err() {
                // No worker is left; why, is found when they are joined.
                return;
            }
        }
    }
}

/// Takes files until there are no more.
fn worker(shared: &Shared, jobs: &Mutex<Receiver<Job>>, to_indexer: &Sender<Finished>) {
    let mut files = 0u64;
    while let Some(Job { task, path }) = take(jobs) {
        trace::counter!("files waiting", shared.waiting.fetch_sub(1, Relaxed) - 1);
        let current = task.enter();
        let result = measure(shared, &path);
        drop(current);
        files += 1;
        if to_indexer.send(Finished { task, path, result }).is_err() {
            break;
        }
    }
    trace::log!(pipeline, "out of work after {files} files");
}

fn take(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    let _span = trace::span!("take");
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Reads, hashes and, where the content is new, compresses a file.
fn measure(shared: &Shared, path: &Path) -> io::Result<Measured> {
    let content = trace::span("read", || read(path))?;
    let bytes = content.len() as u64;
    let hash: Hash = {
        let _span = trace::span!("hash", bytes = bytes);
        Sha256::digest(&content).into()
    };
    let first = shared.index().claim(hash);
    if !first {
        trace::instant!("seen before", bytes = bytes);
        return Ok(Measured { hash, bytes, compressed_bytes: None });
    }
    let _span = trace::span!("compress", bytes = bytes);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&content)?;
    let compressed = encoder.finish()?;
    Ok(Measured { hash, bytes, compressed_bytes: Some(compressed.len() as u64) })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("{bytes} bytes are more than this example reads")));
    }
    fs::read(path)
}

/// Enters what the workers found, and ends the tasks.
fn indexer(shared: &Shared, finished: &Receiver<Finished>) {
    for Finished { task, path, result } in finished {
        let current = task.enter();
        let mut index = {
            let _span = trace::span!("index");
            shared.index()
        };
        match result {
            Ok(file) => {
                index.add(path, &file);
                trace::counter!("bytes read", index.bytes);
            }
            Err(e) => {
                index.skipped += 1;
                trace::log!(pipeline, "skipped {}: {e}", path.display());
            }
        }
        drop(index);
        drop(current);
        task.end();
    }
}

/// What the command line says.
struct Options {
    tree: PathBuf,
    out: PathBuf,
}

impl Options {
    /// `None` where help was asked for.
    fn parse(
        mut args: impl Iterator<Item = std::ffi::OsString>,
    ) -> Result<Option<Options>, String> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut tree, mut out) = (None, None);
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("--out") if out.is_none() => out = Some(args.next().ok_or(USAGE)?.into()),
                Some(flag) if flag.starts_with('-') => return Err(USAGE.into()),
                _ if tree.is_none() => tree = Some(PathBuf::from(arg)),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(Some(Options {
            tree: tree.unwrap_or_else(|| here.into()),
            out: out.unwrap_or_else(|| here.join("target/pipeline.trace")),
        }))
    }
}

fn report(index: &Index, workers: usize, took: Duration) {
    let files = index.files();
    let again = index.by_hash.values().map(|paths| paths.len().saturating_sub(1)).sum::<usize>();
    println!(
        "{files} files, {} KiB, compressed to {} KiB by {workers} workers in {} ms; \
         {again} with a content seen before, {} skipped",
        index.bytes / 1024,
        index.compressed_bytes / 1024,
        took.as_millis(),
        index.skipped,
    );
}

fn report_trace(summary: &trace::Summary, out: &Path) {
    let here = std::env::current_dir().unwrap_or_default();
    let out = out.strip_prefix(here).unwrap_or(out).display();
    println!(
        "recorded {} events of {} threads in {} bytes, {} lost",
        summary.events, summary.threads, summary.bytes, summary.lost
    );
    println!("\nThe trace is {out}. To look into it:");
    let exectrace = "  cargo run --release -p exectrace-cli --";
    println!("{exectrace} stat {out}");
    println!("{exectrace} threads {out}");
    println!("{exectrace} events {out} --limit 40");
    println!("{exectrace} events {out} --kind Log");
}
