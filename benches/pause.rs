//! For how long does a stop keep threads out of the recorder, beside a bare membarrier?
//!
//! The threads are registered and spin. Prints medians, since criterion has no place for a time
//! that the program itself has measured. The sessions are read, not written, so that the measuring
//! thread never sleeps: with a thousand spinning ones it would wait seconds for its turn.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

/// One session from start to end; gives its longest pause.
fn session(between: impl FnOnce()) -> Duration {
    trace::Config::new().start_reading().unwrap();
    between();
    let pause = trace::stop().unwrap().pause_max;
    while trace::read_trace().unwrap().is_some() {}
    pause
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
        session(|| {
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
        });
        emit.store(emitting, Relaxed);
        let (mut pauses, mut barriers) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            pauses.push(session(|| ()));
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
    // A number among the arguments measures with so many threads alone.
    let only = std::env::args().find_map(|a| a.parse::<usize>().ok());
    for (threads, rounds) in [(1, 201), (64, 201), (1000, 21)] {
        if only.is_some_and(|n| n != threads) {
            continue;
        }
        for emitting in [false, true] {
            let rounds = if quick { 3 } else { rounds };
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
