//! fastrace: spans of a thread below a root span, handed over when the root ends, reported by a
//! thread of its own.
//!
//! Its instants are events of the current span; a property is a text, here always the same one, so
//! that no number is formatted. A burst stands below one root span, as a request does. It has no
//! file format: the harness writes each span in a plain one.

use std::fs::File;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use fastrace::Event;
use fastrace::Span;
use fastrace::collector::Config;
use fastrace::collector::Reporter;
use fastrace::collector::SpanContext;
use fastrace::collector::SpanRecord;
use fastrace::local::LocalSpan;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;

const FILE: &str = "spans.bin";

pub struct Recorder {
    out: Option<Arc<Mutex<Out>>>,
}

/// The file, and the first thing that went wrong with it.
struct Out {
    file: BufWriter<File>,
    failure: Option<std::io::Error>,
}

struct ToFile(Arc<Mutex<Out>>);

/// What begins a record: a span, the root of a burst, an event of the span before it.
const SPAN: u8 = 1;
const ROOT: u8 = 2;
const EVENT: u8 = 3;

/// Bytes of a record of fixed length; a name is one byte, since all are known.
const SPAN_BYTES: usize = 1 + 1 + 8 + 8 + 8 + 8;
const EVENT_BYTES: usize = 1 + 1 + 8 + 4;

impl Out {
    fn write(&mut self, span: &SpanRecord) -> std::io::Result<()> {
        let root = span.name == "burst";
        self.file.write_all(&[if root { ROOT } else { SPAN }, 0])?;
        self.file.write_all(&span.span_id.0.to_le_bytes())?;
        self.file.write_all(&span.parent_id.0.to_le_bytes())?;
        self.file.write_all(&span.begin_time_unix_ns.to_le_bytes())?;
        self.file.write_all(&span.duration_ns.to_le_bytes())?;
        for event in &span.events {
            self.file.write_all(&[EVENT, 0])?;
            self.file.write_all(&event.timestamp_unix_ns.to_le_bytes())?;
            let n: u32 = event.properties.first().and_then(|p| p.1.parse().ok()).unwrap_or(0);
            self.file.write_all(&n.to_le_bytes())?;
        }
        Ok(())
    }
}

impl Reporter for ToFile {
    fn report(&mut self, spans: Vec<SpanRecord>) {
        let mut out = self.0.lock().unwrap();
        for span in &spans {
            if let Err(e) = out.write(span) {
                out.failure.get_or_insert(e);
            }
        }
    }
}

#[inline(never)]
fn instants(n: u64) {
    for _ in 0..n {
        LocalSpan::add_event(Event::new("bench").with_property(|| ("n", "7")));
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        let _span = LocalSpan::enter_with_local_parent("bench");
    }
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder { out: None })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        let file = BufWriter::new(File::create(dir.join(FILE))?);
        let out = Arc::new(Mutex::new(Out { file, failure: None }));
        let often = Config::default().report_interval(Duration::from_millis(5));
        fastrace::set_reporter(ToFile(out.clone()), often);
        Ok(Recorder { out: Some(out) })
    }

    fn inside(&self, work: &mut dyn FnMut()) {
        let root = Span::root("burst", SpanContext::random());
        let _parent = root.set_local_parent();
        work();
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        fastrace::flush();
        if let Some(out) = self.out {
            let mut out = out.lock().unwrap();
            out.file.flush()?;
            if let Some(e) = out.failure.take() {
                return Err(e.into());
            }
        }
        Ok(Finished::default())
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let bytes = std::fs::read(dir.join(FILE))?;
        let (mut at, mut counts) = (0, [0; 4]);
        while let Some(tag) = bytes.get(at) {
            at += match *tag {
                SPAN | ROOT => SPAN_BYTES,
                EVENT => EVENT_BYTES,
                other => return Err(format!("a record of kind {other}").into()),
            };
            counts[usize::from(*tag)] += 1;
        }
        let tag = if kind == Kind::Span { SPAN } else { EVENT };
        Ok(Found { events: counts[usize::from(tag)], unpacked: None })
    }
}
