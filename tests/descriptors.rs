//! Writers that are files, pipes and sockets of the system: full, at their limit, without a reader,
//! not willing to wait. An error for `stop`, and no signal for the program.

mod confined;
mod support;

use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::StopError;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    // A program of Rust ignores it unless it says so, one of C does not: there it would end here.
    // SAFETY: the default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    body();
}

/// Emits until the recorder says that it is off.
fn emit_until_off() -> u64 {
    let mut kept = 0;
    loop {
        match trace::emit_probe(kept << 32) {
            Outcome::Off => return kept,
            Outcome::Recorded => kept += 1,
            _ => std::thread::yield_now(),
        }
    }
}

/// Records into `writer` until it fails, and gives the error's kind.
#[track_caller]
fn fails(writer: impl Write + Send + 'static) -> ErrorKind {
    Config::new().memory_bytes(4 << 20).start(writer).unwrap();
    let kept = emit_until_off();
    let Err(StopError::Write { error, summary }) = trace::stop() else { panic!("no error") };
    let sink = summary.lost_by_cause.iter().find(|l| l.0 == "sink").map_or(0, |l| l.1);
    assert!(sink > 0 && summary.events + sink >= kept, "{kept} kept, {summary:?}");
    error.kind()
}

/// What the file holds is a trace, as far as it goes.
#[track_caller]
fn assert_prefix(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    support::assert_valid_prefix(&bytes);
    let c = support::contents(&bytes);
    assert!(c.end.is_none() && c.events > 0);
    bytes.len() as u64
}

#[test]
fn pipes_and_sockets_without_a_reader() {
    alone("pipes_and_sockets_without_a_reader", 60, || {
        let (mut from, to) = std::io::pipe().unwrap();
        let reader = std::thread::spawn(move || from.read_exact(&mut [0; 100_000]).unwrap());
        assert_eq!(fails(to), ErrorKind::BrokenPipe);
        reader.join().unwrap();
        let (mut from, to) = UnixStream::pair().unwrap();
        let reader = std::thread::spawn(move || from.read_exact(&mut [0; 100_000]).unwrap());
        let kind = fails(to);
        assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&kind), "{kind}");
        reader.join().unwrap();
    });
}

/// Beyond RLIMIT_FSIZE a write would end the process by SIGXFSZ.
#[test]
fn a_file_at_its_limit() {
    alone("a_file_at_its_limit", 60, || {
        const LIMIT: u64 = 200_000;
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = path.join(format!("limit-{}", std::process::id()));
        let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: numbers only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        assert_eq!(fails(File::create(&path).unwrap()), ErrorKind::FileTooLarge);
        assert_eq!(assert_prefix(&path), LIMIT);
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_full_disk() {
    alone("a_full_disk", 60, || {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(fails(full), ErrorKind::StorageFull);
        if !confined::own_mounts() {
            return;
        }
        let folder = confined::tmpfs("full", 256 << 10);
        let path = folder.join("trace");
        assert_eq!(fails(File::create(&path).unwrap()), ErrorKind::StorageFull);
        assert_eq!(assert_prefix(&path), 256 << 10);
        confined::remove_tmpfs(&folder);
    });
}

/// A socket that does not wait, with a reader that is slow at first: every byte arrives, in order.
#[test]
fn a_socket_that_would_block() {
    alone("a_socket_that_would_block", 60, || {
        let (mut from, to) = UnixStream::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        Config::new().memory_bytes(16 << 20).start(to).unwrap();
        let mut a = Attempted::default();
        // Some megabytes: many times what a socket holds.
        for n in 0..500_000u64 {
            a.probe(n << 32);
        }
        let out = Capture::default();
        let mut copy = out.clone();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            std::io::copy(&mut from, &mut copy).unwrap()
        });
        let summary = trace::stop().unwrap();
        assert_eq!(reader.join().unwrap(), summary.bytes);
        let bytes = out.take();
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
        assert_eq!(a.lost, 0);
    });
}
