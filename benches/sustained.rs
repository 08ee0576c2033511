//! How long does a flood of events from one thread take until the file is complete, nothing lost?

use std::hint::black_box;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use trace::Overflow;

const EVENTS: u64 = 8_000_000;

/// A file on tmpfs where there is one.
fn file() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    dir.join(format!("exectrace-bench-{}.trace", std::process::id()))
}

#[inline(never)]
fn emit(n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        trace::instant!("flood", n = i & m);
    }
}

/// From the first event until `stop()` says that everything is written.
fn flood(path: &Path) -> Duration {
    let wait = Overflow::Wait { at_most: Duration::from_secs(10) };
    let file = std::fs::File::create(path).unwrap();
    trace::Config::new().overflow(wait).start(file).unwrap();
    let began = Instant::now();
    emit(EVENTS);
    let summary = trace::stop().unwrap();
    let time = began.elapsed();
    assert_eq!(summary.lost, 0);
    assert!(summary.events >= EVENTS);
    let bytes = std::fs::metadata(path).unwrap().len();
    assert_eq!(summary.bytes, bytes);
    time
}

fn benches(c: &mut Criterion) {
    c.bench_function("rdtsc", |b| b.iter(|| black_box(trace::clock::raw())));
    let path = file();
    flood(&path);
    c.bench_function("flood of one thread, per event", |b| {
        b.iter_custom(|rounds| {
            let runs = (rounds / EVENTS).clamp(1, 10);
            let time: Duration = (0..runs).map(|_| flood(&path)).sum();
            time.mul_f64(rounds as f64 / (runs * EVENTS) as f64)
        })
    });
    let bytes = std::fs::metadata(&path).unwrap().len();
    println!("bytes an event: {:.3}", bytes as f64 / EVENTS as f64);
    std::fs::remove_file(&path).unwrap();
}

criterion_group! {
    name = sustained;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(4))
        .sample_size(20);
    targets = benches
}
criterion_main!(sustained);
