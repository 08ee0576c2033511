//! Two threads take two mutexes in opposite orders and wait for each other for ever.

use std::sync::Barrier;
use std::sync::Mutex;
use std::thread;

static A: Mutex<u32> = Mutex::new(0);
static B: Mutex<u32> = Mutex::new(0);
static BOTH: Barrier = Barrier::new(2);

#[inline(never)]
fn take_b() {
    *B.lock().unwrap() += 1;
}

#[inline(never)]
fn take_a() {
    *A.lock().unwrap() += 1;
}

fn main() {
    let first = || {
        let _a = A.lock().unwrap();
        BOTH.wait();
        take_b();
    };
    let second = || {
        let _b = B.lock().unwrap();
        BOTH.wait();
        take_a();
    };
    let named = |name: &str| thread::Builder::new().name(name.into());
    let first = named("first").spawn(first).unwrap();
    let second = named("second").spawn(second).unwrap();
    first.join().unwrap();
    second.join().unwrap();
}
