//! Records to the file that the environment names, and ends in the way of its first argument.

use std::io::Write;
use std::time::Duration;

unsafe extern "C" {
    fn _exit(code: i32) -> !;
    fn quick_exit(code: i32) -> !;
    fn exit(code: i32) -> !;
    fn raise(signal: i32) -> i32;
    fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    fn ualarm(first: u32, then: u32) -> u32;
}

const SIGALRM: i32 = 14;

/// Ends the process where it has interrupted an event.
extern "C" fn exits_inside_an_event(_: i32) {
    if xt::emit_probe(1) == xt::Outcome::Nested {
        // SAFETY: ends the process; the event that stands below uses nothing that this does.
        unsafe { exit(3) }
    }
}

fn exit_inside_an_event() -> ! {
    // SAFETY: a handler for the life of the process.
    unsafe { signal(SIGALRM, exits_inside_an_event) };
    // SAFETY: numbers only.
    unsafe { ualarm(100, 100) };
    loop {
        xt::emit_probe(2);
    }
}

/// Takes nothing, ever.
struct Blocked;

impl Write for Blocked {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn work(events: u64) {
    for n in 0..events {
        xt::instant!("work", n = n, half = n / 2);
    }
}

fn main() {
    let way = std::env::args().nth(1).unwrap_or_default();
    let events = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(50_000);
    if way == "blocked" {
        xt::start(Blocked).unwrap();
    } else if !xt::init_from_env().unwrap() {
        println!("off");
        return;
    }
    let (send, receive) = std::sync::mpsc::channel();
    // A thread that is there to the end, with a buffer that is not full.
    std::thread::spawn(move || {
        work(events);
        send.send(()).unwrap();
        loop {
            std::thread::park();
        }
    });
    work(events);
    receive.recv().unwrap();
    let _span = xt::span!("open to the end");
    println!("emitted {}", 2 * events + 1);
    match way.as_str() {
        "return" | "blocked" => {}
        "exit" => std::process::exit(3),
        "exit from a thread" => {
            let _ = std::thread::spawn(|| std::process::exit(3)).join();
        }
        "panic" => panic!("on purpose"),
        "stop and return" => drop(xt::stop().unwrap()),
        _ => {
            // Time for the full buffers to reach the file.
            std::thread::sleep(Duration::from_millis(300));
            match way.as_str() {
                "abort" => std::process::abort(),
                // SAFETY: ends the process.
                "_exit" => unsafe { _exit(3) },
                // SAFETY: as above.
                "quick_exit" => unsafe { quick_exit(3) },
                "exit inside an event" => exit_inside_an_event(),
                // SAFETY: none: a store to where nothing is. A signal that is raised would return.
                "fault" => unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) },
                // SAFETY: a signal to this thread.
                signal => drop(unsafe { raise(signal.parse().unwrap()) }),
            }
        }
    }
}
