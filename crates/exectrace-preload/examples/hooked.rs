//! A binary that has the hooks by one line of its own, for the tests: what it waits for is in its
//! own session's trace, with or without a preloaded library. Built and run by `tests/copies.rs`.

use std::io::Read;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

trace_hooks::hooks!();

fn main() {
    let name = std::env::args().nth(1).expect("a file");
    let file = std::fs::File::create(name).expect("the file");
    trace::start(file).expect("a session");
    let (mut reads, mut writes) = std::io::pipe().expect("a pipe");
    {
        let _span = trace::span!("by one line");
        let (tells, hears) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut byte = [0];
            reads.read_exact(&mut byte).expect("a byte");
            tells.send(byte[0]).expect("a listener");
        });
        std::thread::sleep(Duration::from_millis(7));
        writes.write_all(&[9]).expect("a reader");
        assert_eq!(hears.recv(), Ok(9));
        reader.join().expect("the reader");
    }
    trace::stop().expect("its end");
    println!("done");
}
