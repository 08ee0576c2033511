//! Tracy: a queue per thread, sent to a profiler over TCP by a thread of its own.
//!
//! Without a profiler its memory grows without limit, so the harness plays one: a thread that says
//! hello, and writes what comes to a file as it is (LZ4 blocks). The file is complete with the last
//! byte before the stream falls silent. Tracy has no instants with a number: the nearest is a point
//! of a plot.
//!
//! The version of the protocol and the lengths of its items are those of the tracy-client that
//! Cargo.toml names exactly.

use std::fs::File;
use std::hint::black_box;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use tracy_client::Client;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;

const FILE: &str = "stream.lz4";

/// What a profiler says first, and the version of the protocol.
const HELLO: [u8; 12] = *b"TracyPrf\x52\0\0\0";
/// The answer that welcomes, and how many bytes follow it once.
const WELCOME: u8 = 1;
const WELCOME_BYTES: usize = 8 * 8 + 2 + 12 + 4 + 64 + 1024;

/// Silence of this length means that nothing is left to send; the sender sleeps 10 ms when it has
/// nothing. A report on the system's load comes every 100 ms all the same, and is this short.
const SILENCE: Duration = Duration::from_millis(300);
const REPORT_BYTES_MAX: usize = 256;

/// A block holds at most so many bytes, unpacked, and may refer to so many before it.
const BLOCK_BYTES: usize = 512 << 10;
const WINDOW_BYTES: usize = 64 << 10;

/// The number of an item's type, and the bytes of the item with it. Others do not occur here.
const ITEMS: [(u8, usize); 16] = [
    (ZONE_BEGIN, 1 + 8 + 8),
    (ZONE_BEGIN + 1, 1 + 4 + 8),
    (ZONE_BEGIN + 2, 1 + 2 + 8),
    (ZONE_END, 1 + 8),
    (ZONE_END + 1, 1 + 4),
    (ZONE_END + 2, 1 + 2),
    (PLOT, 1 + 8 + 8 + 8),
    (KEEP_ALIVE, 1),
    (THREAD, 1 + 4),
    (SYS_TIME, 1 + 8 + 4),
    (SYS_POWER, 1 + 8 + 8 + 8),
    (CPU_TOPOLOGY, 1 + 4 + 4 + 4 + 4),
    (MESSAGE, 1 + 8 + 1),
    (MESSAGE_COLOR, 1 + 8 + 3 + 1),
    (TEXT, 1 + 2),
    (SHORT_TEXT, 1 + 1),
];
const MESSAGE: u8 = 2;
const MESSAGE_COLOR: u8 = 3;
const ZONE_BEGIN: u8 = 19;
const ZONE_END: u8 = 25;
const PLOT: u8 = 57;
const KEEP_ALIVE: u8 = 74;
const THREAD: u8 = 75;
const SYS_TIME: u8 = 97;
const SYS_POWER: u8 = 98;
const CPU_TOPOLOGY: u8 = 111;
/// These two are followed by a text; their last bytes are its length.
const TEXT: u8 = 112;
const SHORT_TEXT: u8 = 114;

pub struct Recorder {
    reader: Option<Reader>,
}

/// The thread that plays the profiler; it gives when the last byte came.
struct Reader {
    thread: JoinHandle<Result<Instant, String>>,
    ending: Arc<AtomicBool>,
}

#[inline(never)]
fn instants(n: u64) {
    let m = black_box(0x3f);
    let client = Client::running().expect("it runs from the start of the process");
    for i in 0..n {
        client.plot(tracy_client::plot_name!("bench"), (i & m) as f64);
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        let _span = tracy_client::span!("bench");
    }
}

/// Connects to the client in this very process.
fn connect() -> Result<TcpStream, Failure> {
    let port: u16 = std::env::var("TRACY_PORT")?.parse()?;
    let until = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() > until => return Err(e.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    stream.write_all(&HELLO)?;
    let mut answer = [0; 1 + WELCOME_BYTES];
    stream.read_exact(&mut answer[..1])?;
    if answer[0] != WELCOME {
        return Err(format!("the client answers {}", answer[0]).into());
    }
    stream.read_exact(&mut answer[1..])?;
    Ok(stream)
}

/// Writes what comes until told to end and the stream is silent; gives when the last byte came.
fn receive(mut stream: TcpStream, path: &Path, ending: &AtomicBool) -> Result<Instant, Failure> {
    let mut file = File::create(path)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut piece = vec![0; 1 << 20];
    let mut last = Instant::now();
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(last),
            Ok(n) => {
                file.write_all(&piece[..n])?;
                if n > REPORT_BYTES_MAX {
                    last = Instant::now();
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
        if ending.load(Relaxed) && last.elapsed() > SILENCE {
            return Ok(last);
        }
    }
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        if !cfg!(feature = "tracy-ondemand") {
            return Err("records from the start of the process: cannot be off".into());
        }
        Ok(Recorder { reader: None })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        let stream = connect()?;
        let (path, ending) = (dir.join(FILE), Arc::new(AtomicBool::new(false)));
        let told = ending.clone();
        let thread = std::thread::spawn(move || {
            receive(stream, &path, &told).map_err(|e| format!("reader: {e}"))
        });
        Ok(Recorder { reader: Some(Reader { thread, ending }) })
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        let Some(reader) = self.reader else { return Ok(Finished::default()) };
        reader.ending.store(true, Relaxed);
        let complete = reader.thread.join().map_err(|_| "the reader panicked")??;
        Ok(Finished { complete: Some(complete), lost: None })
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let mut file = BufReader::new(File::open(dir.join(FILE))?);
        let (mut events, mut unpacked) = (0, 0);
        let mut held = vec![0; WINDOW_BYTES + BLOCK_BYTES];
        let mut window = WINDOW_BYTES..WINDOW_BYTES;
        while let Some(block) = next_block(&mut file)? {
            let (before, out) = held.split_at_mut(WINDOW_BYTES);
            let n = lz4_flex::block::decompress_into_with_dict(&block, out, &before[window])?;
            events += count_items(&out[..n], kind)?;
            unpacked += n as u64;
            // What the next block may refer to ends where it begins.
            held.copy_within(n..n + WINDOW_BYTES, 0);
            window = WINDOW_BYTES.saturating_sub(unpacked as usize)..WINDOW_BYTES;
        }
        Ok(Found { events, unpacked: Some(unpacked) })
    }
}

/// The bytes of the next block, packed; `None` at the end, even where a block was cut there.
fn next_block(file: &mut impl std::io::Read) -> Result<Option<Vec<u8>>, Failure> {
    let mut length = [0; 4];
    if let Err(e) = file.read_exact(&mut length) {
        return if e.kind() == ErrorKind::UnexpectedEof { Ok(None) } else { Err(e.into()) };
    }
    let mut block = vec![0; u32::from_le_bytes(length) as usize];
    file.read_exact(&mut block)?;
    Ok(Some(block))
}

/// Steps over the items of a block.
fn count_items(mut items: &[u8], kind: Kind) -> Result<u64, Failure> {
    let mut events = 0;
    while let Some(number) = items.first() {
        let (_, bytes) =
            ITEMS.iter().find(|(n, _)| n == number).ok_or(format!("an item of type {number}"))?;
        let text = match (*number, items) {
            (TEXT, [_, low, high, ..]) => u16::from_le_bytes([*low, *high]).into(),
            (SHORT_TEXT, [_, length, ..]) => usize::from(*length),
            _ => 0,
        };
        items = items.get(*bytes + text..).ok_or("a block ends inside an item")?;
        events += u64::from(match kind {
            Kind::Instant => *number == PLOT,
            Kind::Span => (ZONE_END..ZONE_END + 3).contains(number),
        });
    }
    Ok(events)
}
