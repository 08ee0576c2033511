//! A program that links the library: it has spans, tasks and logs of its own, and records itself
//! into memory where nobody else does.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use trace::log;
use trace::span;
use trace::task;

fn main() {
    let started = trace::start(std::io::sink());
    let pair = Arc::new((Mutex::new(0u32), Condvar::new()));
    let threads: Vec<_> = (0..2u32)
        .map(|own| {
            let pair = pair.clone();
            let name = format!("player-{own}");
            std::thread::Builder::new().name(name).spawn(move || play(&pair, own)).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    println!("{} rounds", pair.0.lock().unwrap());
    eprintln!("recorded itself: {}", started.is_ok());
    if started.is_ok() {
        trace::stop().unwrap();
    }
}

/// Threads that take turns.
fn play(pair: &(Mutex<u32>, Condvar), own: u32) {
    let task = task!("player");
    let _entered = task.enter();
    loop {
        let _span = span!("turn");
        let mut n = pair.0.lock().unwrap();
        while *n % 2 != own && *n < 1_000 {
            n = pair.1.wait(n).unwrap();
        }
        if *n >= 1_000 {
            return;
        }
        *n += 1;
        if *n % 100 == 0 {
            log!(turns, "turn {}", *n);
        }
        pair.1.notify_all();
    }
}
