//! The mapping as a file: another process reads records, buffers and definitions there, while the
//! program runs and after it was killed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use trace::Config;
use trace::Outcome;
use trace::buf::Arena;
use trace::encode::crc::crc32c;
use trace::encode::wire;
use trace::encode::wire::BatchKind;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::intern::log::Body;
use trace::intern::log::Cursor;
use trace::mapping::Mapping;
use trace::mapping::record;
use trace::registry::gate;

const THREADS: usize = 4;

/// A folder on tmpfs, removed with everything in it; `None` where there is no tmpfs.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Option<Folder> {
        let path = PathBuf::from(format!("/dev/shm/exectrace-{name}-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Folder(path)),
            Err(e) => {
                eprintln!("skipped: no tmpfs at /dev/shm: {e}");
                None
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the threads of a child say of themselves, in a file that both processes map: kernel number
/// and count of probes that were recorded.
fn progress(dir: &Path) -> &'static [AtomicU64] {
    use std::os::fd::AsRawFd;
    let path = dir.join("progress");
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(4096).unwrap();
    let (null, prot) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of a file of this length.
    let p = unsafe { libc::mmap(null, 4096, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(p, libc::MAP_FAILED);
    // SAFETY: the mapping is never unmapped and only used as atomics.
    unsafe { std::slice::from_raw_parts(p.cast::<AtomicU64>(), 2 * THREADS) }
}

/// The child: four threads that emit until it is killed, and say how far they are.
fn emit_until_killed(dir: &Path, writes: bool) -> ! {
    // The child goes with the thread that made it, also where that one failed.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let told = progress(dir);
    let config = Config::new().memory_bytes(4 << 20).mapping_dir(dir);
    let config = config.generation(Duration::from_millis(3));
    match writes {
        true => config.start(fs::File::create(dir.join("trace")).unwrap()).unwrap(),
        false => config.start_reading().unwrap(),
    }
    std::thread::scope(|s| {
        for me in told.chunks(2) {
            s.spawn(move || {
                me[0].store(support::tid().into(), Release);
                let mut n = 1;
                loop {
                    if trace::emit_probe(n) == Outcome::Recorded {
                        me[1].store(n, Release);
                        n += 1;
                    } else {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    if n % 50 == 0 {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            });
        }
    });
    unreachable!()
}

fn start_child(test: &str, scenario: &str, dir: &Path) -> Child {
    let mut child = support::child(test, scenario);
    child.env("EXECTRACE_TEST_DIR", dir).stdout(Stdio::null()).spawn().unwrap()
}

/// The child's mapping, once all its threads emit.
fn open(dir: &Path, child: &mut Child, told: &[AtomicU64]) -> Mapping {
    while told.iter().any(|w| w.load(Acquire) == 0) {
        assert_eq!(child.try_wait().unwrap(), None, "the child ended");
        std::thread::sleep(Duration::from_micros(200));
    }
    let prefix = format!("{}-", child.id());
    let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let found = fs::read_dir(dir).unwrap().map(name).find(|n| n.starts_with(&prefix));
    Mapping::open(&dir.join(found.expect("the mapping's file"))).unwrap()
}

/// Bytes of a buffer, behind its head.
fn body(m: &Mapping, index: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    m.copy(index, HEADER_BYTES as u32, (len - HEADER_BYTES) as u32, &mut bytes);
    bytes
}

/// The batch that a buffer holds: one that the controller has finished or was about to, or what its
/// thread has published.
fn batch(m: &Mapping, index: u32, session: u64) -> Option<(Header, Vec<u8>)> {
    let head = m.head(index);
    let word = head.publish.load(Acquire);
    let magic = u32::from_le_bytes(wire::MAGIC);
    if word as u32 == magic {
        // The header of the batch stands where the head was: words that only our own code wrote.
        // SAFETY: the head is 64 bytes of the mapping, aligned to 64, and only read.
        let words = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(head).cast(), 8) };
        let words: &[AtomicU64] = words;
        let mut bytes = [0; HEADER_BYTES];
        for (to, word) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        let header = Header::from_bytes(&bytes)?;
        let len = header.length as usize;
        if header.session != session || !(HEADER_BYTES..=65_536).contains(&len) {
            return None;
        }
        let body = body(m, index, len);
        bytes[wire::CRC_AT..wire::CRC_AT + 4].fill(0);
        let sound = header.crc == 0 || crc32c(&[&bytes[..], &body[..]].concat()) == header.crc;
        return sound.then_some((header, body));
    }
    let len = word as u32 as usize;
    let epoch = m.front().epoch.load(Relaxed);
    let thread = head.thread.load(Relaxed);
    if !(HEADER_BYTES..=65_536).contains(&len) || head.epoch.load(Relaxed) != epoch || thread == 0 {
        return None;
    }
    let header = Header {
        length: len as u32,
        kind: BatchKind::Events as u8,
        lane: head.lane.load(Relaxed) as u8,
        version: wire::VERSION,
        crc: 0,
        session,
        epoch,
        generation: head.generation.load(Relaxed),
        thread,
        sequence: head.sequence.load(Relaxed),
        first_ticks: head.first_ticks.load(Relaxed),
        last_ticks: head.last_ticks.load(Relaxed),
        count: (word >> 32) as u32,
        flags: wire::FLAG_PREFIX,
    };
    Some((header, body(m, index, len)))
}

fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.length = (HEADER_BYTES + body.len()) as u32;
    header.crc = 0;
    let mut bytes = [&header.to_bytes()[..], body].concat();
    let crc = crc32c(&bytes);
    bytes[wire::CRC_AT..wire::CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A trace of all that the mapping holds, behind the whole batches of `file`.
fn recover(m: &Mapping, file: &[u8]) -> Vec<u8> {
    let session = m.front().session.load(Relaxed);
    assert_ne!(session, 0);
    let mut trace = Vec::new();
    let mut batches = BTreeMap::new();
    let mut at = 0;
    while let Some(head) = file.get(at..at + HEADER_BYTES) {
        let header = Header::from_bytes(head.try_into().unwrap()).expect("a batch");
        assert_eq!(header.session, session);
        let Some(whole) = file.get(at..at + header.length as usize) else { break };
        at += whole.len();
        match header.kind == BatchKind::Events as u8 {
            true => {
                let key = (header.thread, header.lane, header.sequence);
                batches.insert(key, whole.to_vec());
            }
            false => trace.extend_from_slice(whole),
        }
    }
    // Buffers first, definitions after them: as the controller does it (Rule D).
    let epoch = m.front().epoch.load(Relaxed);
    let segments: Vec<u32> = m.log(epoch).segments(m).collect();
    for index in (0..m.committed()).filter(|i| !segments.contains(i)) {
        if let Some((header, body)) = batch(m, index, session) {
            let key = (header.thread, header.lane, header.sequence);
            batches.entry(key).or_insert_with(|| sealed(header, &body));
        }
    }
    let (mut definitions, mut count) = (Vec::new(), 0u32);
    Cursor::default().scan(m.log(epoch), m, |record| {
        definitions.extend_from_slice(record);
        count += 1;
    });
    assert!(count > THREADS as u32, "{count} definitions");
    let header = Header {
        length: 0,
        kind: BatchKind::Definitions as u8,
        lane: 0,
        version: wire::VERSION,
        crc: 0,
        session,
        epoch,
        generation: 0,
        thread: 0,
        sequence: 0,
        first_ticks: 0,
        last_ticks: 0,
        count,
        flags: 0,
    };
    trace.extend(sealed(header, &definitions));
    for bytes in batches.values() {
        trace.extend_from_slice(bytes);
    }
    trace
}

/// Every probe that a thread had said was recorded is there, from the first on, without a gap.
/// `more`: how many it may have recorded since.
#[track_caller]
fn assert_all_there(trace: &[u8], told: &[(u32, u64)], more: u64) -> u64 {
    let c = support::contents(trace);
    assert_eq!(c.damaged, 0, "{}", support::keep(trace).display());
    let mut found = 0;
    for (tid, said) in told {
        let h = c.of_tid(*tid);
        let n = h.probes;
        assert!(
            n >= *said && n - said <= more && h.sum == n * (n + 1) / 2,
            "thread {tid} had said {said}, found {n} in {}",
            support::keep(trace).display()
        );
        found += n;
    }
    found
}

fn said(told: &[AtomicU64]) -> Vec<(u32, u64)> {
    told.chunks(2).map(|w| (w[0].load(Acquire) as u32, w[1].load(Acquire))).collect()
}

/// In the child.
fn scenario(writes: bool) {
    let dir = std::env::var_os("EXECTRACE_TEST_DIR").expect("the parent's folder");
    emit_until_killed(Path::new(&dir), writes);
}

#[test]
fn a_running_program_is_read_from_outside() {
    if support::scenario().is_some() {
        scenario(false);
    }
    let _watch = support::watch("a_running_program_is_read_from_outside", 60);
    let Some(dir) = Folder::new("reads") else { return };
    let told = progress(&dir.0);
    let mut child = start_child("a_running_program_is_read_from_outside", "emits", &dir.0);
    let m = open(&dir.0, &mut child, told);
    assert_eq!(m.front().pid.load(Relaxed), child.id());
    assert!(matches!(
        gate::state(m.front().gate.0.load(Acquire)),
        gate::State::Running(generation) if generation > 0
    ));
    let mut found = 0;
    for _ in 0..5 {
        let before = said(told);
        let live: Vec<_> =
            m.records().filter(|(_, r)| r.state.load(Acquire) == record::LIVE).collect();
        for (tid, _) in &before {
            let r = live.iter().find(|(_, r)| r.tid.load(Relaxed) == *tid).expect("a record").1;
            let slot = gate::slot_content(r.slot.load(Acquire));
            if let Some((generation, buffer)) = slot {
                assert!(generation > 0 && buffer < m.committed());
            }
        }
        let trace = recover(&m, &[]);
        found = assert_all_there(&trace, &before, u64::MAX);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(found > 1000, "{found} events");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_all_there(&recover(&m, &[]), &said(told), 1);
}

#[test]
fn what_was_published_survives_a_kill() {
    if let Some(name) = support::scenario() {
        scenario(name == "writes");
    }
    let _watch = support::watch("what_was_published_survives_a_kill", 120);
    let mut found = 0;
    for round in 0..12 * support::multiplier() {
        let Some(dir) = Folder::new(&format!("kill-{round}")) else { return };
        let told = progress(&dir.0);
        let name = if round % 2 == 0 { "writes" } else { "is read" };
        let mut child = start_child("what_was_published_survives_a_kill", name, &dir.0);
        let m = open(&dir.0, &mut child, told);
        let path = dir.0.join("trace");
        // The writer's thread may be the last that gets a CPU.
        while round % 2 == 0 && fs::metadata(&path).map_or(0, |f| f.len()) == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(round * 2_300 % 25_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let file = fs::read(path).unwrap_or_default();
        assert_eq!(file.is_empty(), round % 2 != 0);
        found += assert_all_there(&recover(&m, &file), &said(told), 1);
    }
    println!("{found} events of killed programs");
    assert!(found > 0);
}

#[test]
fn other_files_are_refused() {
    let _watch = support::watch("other_files_are_refused", 20);
    let Some(dir) = Folder::new("refused") else { return };
    let path = dir.0.join("file");
    assert!(Mapping::open(&path).is_err(), "no file");
    for len in [0u64, 1, 4096, 1 << 20, 1 << 30] {
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        assert!(Mapping::open(&path).is_err(), "{len} zeros");
    }
    std::os::unix::fs::symlink(&path, dir.0.join("link")).unwrap();
    assert!(Mapping::open(&dir.0.join("link")).is_err(), "a link");
    assert!(Mapping::open(&dir.0).is_err(), "a folder");
}

/// A folder that is not on tmpfs is an error of `start`, and nothing is left behind.
#[test]
fn a_disk_is_refused() {
    if support::scenario().is_some() {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-tmpfs");
        fs::create_dir_all(&dir).unwrap();
        match Config::new().mapping_dir(&dir).start(io::sink()) {
            Err(trace::StartError::Memory(e)) => assert_eq!(e.kind(), io::ErrorKind::Unsupported),
            Ok(()) => eprintln!("skipped: the build folder is on tmpfs"),
            Err(e) => panic!("{e}"),
        }
        let _ = trace::stop();
        // The next session does without a file.
        trace::start(io::sink()).unwrap();
        assert_eq!(trace::emit_probe(1), Outcome::Recorded);
        trace::stop().unwrap();
        return;
    }
    support::in_child("a_disk_is_refused", "disk");
}
