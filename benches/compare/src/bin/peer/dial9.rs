//! dial9: events are structs, encoded into a buffer of the thread; a thread of its own writes full
//! ones every 5 ms.
//!
//! It has no spans: the nearest is two events, as it records polls of tasks.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use dial9_core::buffer::DiskBuffer;
use dial9_core::clock::clock_monotonic_ns;
use dial9_core::handle::Dial9Handle;
use dial9_core::recorder::recorder;
use dial9_core::recording::Recorder as Recording;
use dial9_trace_format::TraceEvent;
use dial9_trace_format::decoder::Decoder;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::Read;

/// The name that a single file gets when it is sealed.
const FILE: &str = "dial9.0.bin";

#[derive(TraceEvent)]
struct Bench {
    #[traceevent(timestamp)]
    timestamp_ns: u64,
    n: u64,
}

#[derive(TraceEvent)]
struct SpanBegin {
    #[traceevent(timestamp)]
    timestamp_ns: u64,
}

#[derive(TraceEvent)]
struct SpanEnd {
    #[traceevent(timestamp)]
    timestamp_ns: u64,
}

pub struct Recorder {
    recording: Option<Recording>,
    handle: Dial9Handle,
}

#[inline(never)]
fn instants(handle: &Dial9Handle, n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        handle.record_event_with(|| Bench { timestamp_ns: clock_monotonic_ns(), n: i & m });
    }
}

#[inline(never)]
fn spans(handle: &Dial9Handle, n: u64) {
    for _ in 0..n {
        handle.record_event_with(|| SpanBegin { timestamp_ns: clock_monotonic_ns() });
        handle.record_event_with(|| SpanEnd { timestamp_ns: clock_monotonic_ns() });
    }
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder { recording: None, handle: Dial9Handle::disabled() })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        let recording = recorder(DiskBuffer::single_file(dir.join("dial9.bin"))?).build();
        let handle = recording.handle().clone();
        Ok(Recorder { recording: Some(recording), handle })
    }

    fn instants(&self, n: u64) {
        instants(&self.handle, n);
    }

    fn spans(&self, n: u64) {
        spans(&self.handle, n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        if let Some(recording) = self.recording {
            recording.graceful_shutdown(Duration::from_secs(10));
        }
        Ok(Finished::default())
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let name = if kind == Kind::Span { "SpanEnd" } else { "Bench" };
        let bytes = fs::read(dir.join(FILE))?;
        let mut events = 0;
        Decoder::new(&bytes)
            .ok_or("not a trace")?
            .for_each_event(|e| events += u64::from(e.name == name))?;
        Ok(Found { events, unpacked: None })
    }

    fn readers() -> &'static [(&'static str, Read)] {
        &[("own", |dir| {
            let bytes = fs::read(dir.join(FILE))?;
            let mut events = 0;
            Decoder::new(&bytes).ok_or("not a trace")?.for_each_event(|e| {
                black_box((e.timestamp_ns, e.fields));
                events += 1;
            })?;
            Ok(events)
        })]
    }
}
