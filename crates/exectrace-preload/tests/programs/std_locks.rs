//! Rust's own locks, condition variables, channels and parking. A probe before each wait makes sure
//! that it sleeps; the numbers that must be in the trace are printed.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 5;

/// Until a thread has said that it is about to wait for the `round`th time. The kernel alone does
/// not tell: a thread that was woken and has not run yet still stands in the wait before.
fn waits_for(round: u64, said: &AtomicU64) {
    while said.load(SeqCst) != round {
        thread::sleep(Duration::from_micros(200));
    }
}

/// Until this thread of the process sleeps in a futex wait, as the kernel says.
fn sleeps(tid: u64) {
    let path = format!("/proc/self/task/{tid}/syscall");
    loop {
        let state = std::fs::read_to_string(&path).unwrap_or_default();
        if state.starts_with("202 ") || state.starts_with("98 ") {
            return;
        }
        if state.is_empty() {
            // Where the kernel does not tell: long enough in nearly all runs.
            return thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn tid() -> u64 {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn main() {
    let (says, hears) = mpsc::channel();
    let pair = Arc::new((Mutex::new(0u64), Condvar::new()));
    let about = Arc::new(AtomicU64::new(0));
    let (p, s, a) = (pair.clone(), says.clone(), about.clone());
    let waiter = thread::spawn(move || {
        s.send(tid()).unwrap();
        let mut n = p.0.lock().unwrap();
        for round in 1..=ROUNDS {
            while *n < round {
                a.store(round, SeqCst);
                n = p.1.wait(n).unwrap();
            }
        }
    });
    let of_waiter = hears.recv().unwrap();
    println!("condvar_thread {of_waiter}");
    for round in 1..=ROUNDS {
        waits_for(round, &about);
        sleeps(of_waiter);
        *pair.0.lock().unwrap() = round;
        pair.1.notify_one();
    }
    waiter.join().unwrap();

    let lock = Arc::new(Mutex::new(()));
    for _ in 0..ROUNDS {
        let held = lock.lock().unwrap();
        let (l, s) = (lock.clone(), says.clone());
        let contender = thread::spawn(move || {
            s.send(tid()).unwrap();
            drop(l.lock().unwrap());
        });
        let contender_tid = hears.recv().unwrap();
        println!("mutex_thread {contender_tid}");
        sleeps(contender_tid);
        drop(held);
        contender.join().unwrap();
    }

    let s = says.clone();
    let parked = thread::spawn(move || {
        s.send(tid()).unwrap();
        thread::park();
    });
    let parked_tid = hears.recv().unwrap();
    println!("park_thread {parked_tid}");
    sleeps(parked_tid);
    parked.thread().unpark();
    parked.join().unwrap();

    let (to, from) = mpsc::channel::<u64>();
    about.store(u64::MAX, SeqCst);
    let (s, a) = (says.clone(), about.clone());
    let receiver = thread::spawn(move || {
        s.send(tid()).unwrap();
        let mut sum = 0;
        for round in 0..ROUNDS {
            a.store(round, SeqCst);
            sum += from.recv().unwrap();
        }
        a.store(ROUNDS, SeqCst);
        assert!(from.recv().is_err());
        sum
    });
    let receiver_tid = hears.recv().unwrap();
    println!("channel_thread {receiver_tid}");
    for n in 0..ROUNDS {
        waits_for(n, &about);
        sleeps(receiver_tid);
        to.send(n).unwrap();
    }
    waits_for(ROUNDS, &about);
    sleeps(receiver_tid);
    drop(to);
    println!("sum {}", receiver.join().unwrap());
    println!("rounds {ROUNDS}");
}
