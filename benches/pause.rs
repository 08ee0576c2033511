//! For how long does a stop keep threads out of the recorder, beside a bare membarrier?
//!
//! The threads are registered and spin. Prints medians, since criterion has no place for a time
//! that the program itself has measured.

use std::hint::black_box;
use std::io::Write;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

/// Takes everything.
struct Sink;

impl Write for Sink {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        Ok(b.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn median(mut v: Vec<Duration>) -> Duration {
    v.sort_unstable();
    v[v.len() / 2]
}

/// Runs sessions while `threads` threads spin, and emit or not; gives the median pause and the
/// longest, and the median time of a bare membarrier between them.
fn measure(threads: usize, emitting: bool, rounds: usize) -> (Duration, Duration, Duration) {
    let (done, emit) = (AtomicBool::new(false), AtomicBool::new(false));
    let ready = Barrier::new(threads + 1);
    std::thread::scope(|s| {
        trace::start(Sink).unwrap();
        for _ in 0..threads {
            s.spawn(|| {
                // The first event makes the thread known.
                trace::instant!("here");
                ready.wait();
                while !done.load(Relaxed) {
                    if emit.load(Relaxed) {
                        trace::instant!("spin", n = 1);
                    }
                    black_box(0);
                }
            });
        }
        ready.wait();
        trace::stop().unwrap();
        emit.store(emitting, Relaxed);
        let (mut pauses, mut barriers) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            trace::start(Sink).unwrap();
            pauses.push(trace::stop().unwrap().pause_max);
            let began = Instant::now();
            assert!(trace::sys::membarrier::barrier());
            barriers.push(began.elapsed());
        }
        done.store(true, Relaxed);
        let longest = pauses.iter().copied().max().unwrap_or_default();
        (median(pauses), longest, median(barriers))
    })
}

fn main() {
    // `cargo test` runs benches too, with this argument.
    let quick = std::env::args().any(|a| a == "--test");
    let rounds = if quick { 3 } else { 201 };
    for threads in [1, 64, 1000] {
        for emitting in [false, true] {
            let (pause, longest, barrier) = measure(threads, emitting, rounds);
            println!(
                "{threads:>5} threads {:<9} pause {:>9.1} us, longest {:>9.1} us; membarrier \
                 {:>7.1} us; ratio {:.2}",
                if emitting { "emitting" } else { "spinning" },
                pause.as_secs_f64() * 1e6,
                longest.as_secs_f64() * 1e6,
                barrier.as_secs_f64() * 1e6,
                pause.as_secs_f64() / barrier.as_secs_f64().max(1e-9),
            );
        }
    }
}
