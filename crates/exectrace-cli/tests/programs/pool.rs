//! A server of 32 workers that have next to nothing to do, and one lock that is held for 2 ms.

use std::collections::VecDeque;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

struct Pool {
    jobs: Mutex<Option<VecDeque<u32>>>,
    more: Condvar,
}

static POOL: Pool = Pool { jobs: Mutex::new(None), more: Condvar::new() };
static PLANTED: Mutex<u64> = Mutex::new(0);

/// The next job; none at the end.
fn next_job() -> Option<u32> {
    let mut jobs = POOL.jobs.lock().unwrap();
    loop {
        let queue = jobs.as_mut()?;
        if let Some(job) = queue.pop_front() {
            return Some(job);
        }
        jobs = POOL.more.wait(jobs).unwrap();
    }
}

#[inline(never)]
fn count_visit(job: u32) {
    let mut visits = PLANTED.lock().unwrap();
    *visits += u64::from(job);
    thread::sleep(Duration::from_millis(2));
}

fn serve() {
    while let Some(job) = next_job() {
        count_visit(job);
    }
}

fn main() {
    *POOL.jobs.lock().unwrap() = Some(VecDeque::new());
    let name = |i| thread::Builder::new().name(format!("worker-{i}"));
    let workers: Vec<_> = (0..32).map(|i| name(i).spawn(serve).unwrap()).collect();
    for round in 0..100 {
        // Four at a time: three of them wait for the lock.
        if let Some(queue) = POOL.jobs.lock().unwrap().as_mut() {
            queue.extend([round; 4]);
        }
        for _ in 0..4 {
            POOL.more.notify_one();
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Whoever is not done yet is, before the queue goes.
    while POOL.jobs.lock().unwrap().as_ref().is_some_and(|queue| !queue.is_empty()) {
        thread::sleep(Duration::from_millis(1));
    }
    *POOL.jobs.lock().unwrap() = None;
    POOL.more.notify_all();
    for worker in workers {
        worker.join().unwrap();
    }
    println!("{}", PLANTED.lock().unwrap());
}
