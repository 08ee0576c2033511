//! The watchdog: a round that takes too long is a deadlock; every thread's state is printed, with
//! what the recorder knows of it, and the process aborts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use crate::support::tell;

/// Longest round.
const ROUND: Duration = Duration::from_secs(90);

/// Threads that are there before the first round, and stay.
static BASE: AtomicU64 = AtomicU64::new(0);

pub struct Watch {
    beats: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
}

fn count() -> u64 {
    std::fs::read_dir("/proc/self/task").map_or(0, |d| d.count() as u64)
}

/// Threads that are there now and were not before the first round.
pub fn others() -> u64 {
    count().saturating_sub(BASE.load(Relaxed))
}

/// Starts to watch.
pub fn start() -> Watch {
    let w = Watch { beats: Arc::default(), done: Arc::default() };
    let (beats, done) = (w.beats.clone(), w.done.clone());
    std::thread::spawn(move || {
        let (mut seen, mut since) = (0, Instant::now());
        while !done.load(Relaxed) {
            let now = beats.load(Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > ROUND {
                tell(&format!("round {now} hangs"));
                print_threads();
                super::fail("a deadlock, or a round that takes too long");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    BASE.store(count(), Relaxed);
    w
}

impl Watch {
    /// A round begins.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
    }
}

/// Every thread as the kernel sees it, and every record.
pub fn print_threads() {
    let read = |path: &Path, file: &str| {
        let text = std::fs::read_to_string(path.join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let path = task.path();
        let stat = read(&path, "stat");
        let state = stat.rsplit(')').next().unwrap_or("").trim().chars().next();
        tell(&format!(
            "  {:?} {} {state:?} in {} syscall {}",
            task.file_name(),
            read(&path, "comm"),
            read(&path, "wchan"),
            read(&path, "syscall"),
        ));
    }
    let s = trace::registry::switch();
    tell(&format!(
        "  switch {} state {} lock {} reading {} asked {}",
        s.on.load(Relaxed),
        s.state.load(Relaxed),
        s.lock.load(Relaxed),
        s.reading.load(Relaxed),
        s.asked.load(Relaxed)
    ));
    let Some(m) = trace::registry::mapping() else { return };
    let f = m.front();
    tell(&format!(
        "  gate {:#x} committed {} free {} cap {} waiting {}",
        f.gate.0.load(Relaxed),
        m.committed(),
        f.pool.0.free(),
        f.buffers_cap.load(Relaxed),
        f.waiting.load(Relaxed)
    ));
    for (i, r) in m.records().filter(|(_, r)| r.state.load(Relaxed) != 0) {
        tell(&format!(
            "  record {i}: state {} thread {} tid {} busy {:#x} slot {:#x} side {}",
            r.state.load(Relaxed),
            r.thread.load(Relaxed),
            r.tid.load(Relaxed),
            r.busy.load(Relaxed),
            r.slot.load(Relaxed),
            r.side_busy.load(Relaxed)
        ));
    }
}
