//! A program whose `malloc` is jemalloc's, linked into it: it locks, maps memory and reads files
//! before `main`, and is called by every library in the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20_000u64);
    let shared = Arc::new((Mutex::new(BTreeMap::new()), Condvar::new()));
    let threads: Vec<_> = (0..4u64)
        .map(|t| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for n in 0..rounds {
                    let text = vec![t as u8; (n % 3_000) as usize + 1];
                    let mut map = shared.0.lock().unwrap();
                    map.insert(n % 500 * 4 + t, text);
                    if n % 100 == 0 {
                        shared.1.notify_all();
                    }
                }
            })
        })
        .collect();
    let mut map = shared.0.lock().unwrap();
    while map.len() < 2_000 {
        map = shared.1.wait(map).unwrap();
    }
    drop(map);
    threads.into_iter().for_each(|t| t.join().unwrap());
    let bytes: usize = shared.0.lock().unwrap().values().map(Vec::len).sum();
    println!("{} texts, {bytes} bytes", shared.0.lock().unwrap().len());
}
