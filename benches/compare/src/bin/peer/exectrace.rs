//! exectrace itself.

use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use trace::Overflow;
use trace::encode::schema;
use trace::encode::wire::KIND_DYNAMIC;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Scan;
use trace_decode::ScanItem;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::Read;

const FILE: &str = "exectrace.trace";

/// The bound of memory where threads wait rather than lose events.
const WAITING_BYTES: u64 = 4 << 20;

/// How much is read at once.
const PIECE_BYTES: usize = 1 << 18;

pub struct Recorder;

#[inline(never)]
fn instants(n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        trace::instant!("bench", n = i & m);
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        let _span = trace::span!("bench");
    }
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder)
    }

    fn on(dir: &Path, how: &str) -> Result<Self, Failure> {
        let wait = Overflow::Wait { at_most: Duration::from_secs(10) };
        let config = match how {
            "defaults" => trace::Config::new(),
            _ => trace::Config::new().memory_bytes(WAITING_BYTES).overflow(wait),
        };
        config.start(File::create(dir.join(FILE))?)?;
        Ok(Recorder)
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        let summary = trace::stop()?;
        Ok(Finished { complete: None, lost: Some(summary.lost) })
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let counts = scan(&dir.join(FILE))?;
        Ok(Found {
            events: if kind == Kind::Span { counts.ends } else { counts.sites },
            unpacked: None,
        })
    }

    fn readers() -> &'static [(&'static str, Read)] {
        &[
            ("checked", |dir| Ok(scan(&dir.join(FILE))?.sites)),
            ("ordered", |dir| decode(&dir.join(FILE))),
        ]
    }
}

/// What a scan counts.
#[derive(Default)]
struct Counts {
    /// Events of the program's own kinds.
    sites: u64,
    /// Ends of spans.
    ends: u64,
}

/// Feeds a file piece by piece; `None` at its end.
fn pieces(
    path: &Path,
    mut f: impl FnMut(Option<&[u8]>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return f(None),
            n => f(Some(&piece[..n]))?,
        }
    }
}

/// Steps over every event and checks it.
fn scan(path: &Path) -> Result<Counts, Failure> {
    let (mut scan, mut found) = (Scan::new(), Counts::default());
    pieces(path, |piece| {
        match piece {
            Some(piece) => scan.push(piece),
            None => scan.finish(),
        }
        while let Some(item) = scan.next_item()? {
            if let ScanItem::Batch(batch) = item {
                for (kind, count) in batch.counts.iter().filter(|_| batch.is_events()) {
                    found.sites += if *kind >= KIND_DYNAMIC { *count } else { 0 };
                    found.ends += if *kind == schema::Kind::SpanEnd as u64 { *count } else { 0 };
                }
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Gives every event, typed, in the order of time.
fn decode(path: &Path) -> Result<u64, Failure> {
    let (mut decoder, mut events) = (Decoder::new(), 0);
    pieces(path, |piece| {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        while let Some(item) = decoder.next_item()? {
            if let Item::Event(e) = item {
                events += 1;
                black_box(&e.event());
            }
        }
        Ok(())
    })?;
    Ok(events)
}
