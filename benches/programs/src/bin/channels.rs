//! Threads that hand work on by crossbeam's channels, and rayon's pool that sorts what they made.

use crossbeam_channel::bounded;
use rayon::prelude::*;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20_000u64);
    let (to_workers, work) = bounded::<u64>(16);
    let (to_sink, done) = bounded::<u64>(16);
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (work, to_sink) = (work.clone(), to_sink.clone());
            std::thread::spawn(move || {
                for n in work {
                    let hash = (0..50).fold(n, |h, i| (h ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    to_sink.send(hash).unwrap();
                }
            })
        })
        .collect();
    drop((work, to_sink));
    let source = std::thread::spawn(move || (0..rounds).for_each(|n| to_workers.send(n).unwrap()));
    let mut all: Vec<u64> = done.into_iter().collect();
    source.join().unwrap();
    workers.into_iter().for_each(|w| w.join().unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let folded = pool.install(|| {
        for _ in 0..10 {
            all.par_sort_unstable_by_key(|h| h.rotate_left(17));
            all.par_sort_unstable();
        }
        all.par_iter()
            .enumerate()
            .map(|(i, h)| h.wrapping_mul(i as u64))
            .reduce(|| 0, u64::wrapping_add)
    });
    println!("{} numbers, {folded:016x}", all.len());
}
