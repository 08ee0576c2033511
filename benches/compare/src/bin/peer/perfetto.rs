//! perfetto-sdk: track events of the in-process backend, written into a file while they come.

use std::hint::black_box;
use std::path::Path;

use perfetto_sdk::heap_buffer::HeapBuffer;
use perfetto_sdk::pb_decoder::PbDecoder;
use perfetto_sdk::pb_decoder::PbDecoderField;
use perfetto_sdk::pb_msg::PbMsg;
use perfetto_sdk::pb_msg::PbMsgWriter;
use perfetto_sdk::producer::Backends;
use perfetto_sdk::producer::Producer;
use perfetto_sdk::producer::ProducerInitArgsBuilder;
use perfetto_sdk::protos::config::data_source_config::DataSourceConfig;
use perfetto_sdk::protos::config::trace_config::TraceConfig;
use perfetto_sdk::protos::config::trace_config::TraceConfigBufferConfig;
use perfetto_sdk::protos::config::trace_config::TraceConfigDataSource;
use perfetto_sdk::protos::config::track_event::track_event_config::TrackEventConfig;
use perfetto_sdk::scoped_track_event;
use perfetto_sdk::tracing_session::TracingSession;
use perfetto_sdk::track_event::EventContext;
use perfetto_sdk::track_event::TrackEvent;
use perfetto_sdk::track_event::TrackEventDebugArg;
use perfetto_sdk::track_event_categories;
use perfetto_sdk::track_event_instant;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;

track_event_categories! {
    pub mod perfetto_te_ns {
        ("bench", "What is measured", []),
    }
}

const FILE: &str = "trace.pftrace";
/// The central buffer; large, so that what is lost is lost on the way to it.
const BUFFER_KIB: u32 = 256 << 10;
/// The memory between a thread and that buffer; as much as may be asked for.
const SHARED_KIB: u32 = 32 << 10;
/// How often the buffer is written to the file.
const WRITE_MILLIS: u32 = 100;

/// Fields of the messages Trace, TracePacket and TrackEvent, and the types of a track event.
const PACKET: u32 = 1;
const TRACK_EVENT: u32 = 11;
const TYPE: u32 = 9;
const SLICE_END: u64 = 2;
const INSTANT: u64 = 3;

pub struct Recorder {
    session: Option<Session>,
}

/// Only the thread that started it stops it.
struct Session(TracingSession);

// SAFETY: the session is used by the thread that owns the recorder alone; other threads that have
// the recorder by reference emit, which does not name it.
unsafe impl Sync for Session {}

#[inline(never)]
fn instants(n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        track_event_instant!("bench", "bench", |ctx: &mut EventContext| {
            ctx.add_debug_arg("n", TrackEventDebugArg::Uint64(i & m));
        });
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        scoped_track_event!("bench", "bench");
    }
}

fn init() -> Result<(), Failure> {
    let args = ProducerInitArgsBuilder::new().backends(Backends::IN_PROCESS);
    Producer::init(args.shmem_size_hint_kb(SHARED_KIB).build());
    TrackEvent::init();
    perfetto_te_ns::register()?;
    Ok(())
}

/// The session's configuration, as the SDK wants it.
fn config(path: &str) -> Result<Vec<u8>, Failure> {
    let writer = PbMsgWriter::new();
    let buffer = HeapBuffer::new(writer.stream_writer());
    let mut msg = PbMsg::new(&writer)?;
    {
        let mut config = TraceConfig { msg: &mut msg };
        config.set_buffers(|b: &mut TraceConfigBufferConfig| {
            b.set_size_kb(BUFFER_KIB);
        });
        config.set_data_sources(|sources: &mut TraceConfigDataSource| {
            sources.set_config(|source: &mut DataSourceConfig| {
                source.set_name("track_event");
                source.set_track_event_config(|events: &mut TrackEventConfig| {
                    events.set_enabled_categories("bench");
                });
            });
        });
        config.set_write_into_file(true);
        config.set_output_path(path);
        config.set_file_write_period_ms(WRITE_MILLIS);
    }
    msg.finalize();
    let mut bytes = vec![0; writer.stream_writer().get_written_size()];
    buffer.copy_into(&mut bytes);
    Ok(bytes)
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        init()?;
        Ok(Recorder { session: None })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        init()?;
        let mut session = TracingSession::in_process()?;
        session.setup(&config(dir.join(FILE).to_str().ok_or("a path that is no text")?)?);
        session.start_blocking();
        Ok(Recorder { session: Some(Session(session)) })
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        if let Some(Session(mut session)) = self.session {
            session.stop_blocking();
        }
        Ok(Finished::default())
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let wanted = if kind == Kind::Span { SLICE_END } else { INSTANT };
        let bytes = std::fs::read(dir.join(FILE))?;
        let mut events = 0;
        for packet in inside(&bytes, PACKET) {
            for event in inside(packet, TRACK_EVENT) {
                let mut fields = PbDecoder::new(event).flatten();
                let found = fields.any(|f| f == (TYPE, PbDecoderField::Varint(wanted)));
                events += u64::from(found);
            }
        }
        Ok(Found { events, unpacked: None })
    }
}

/// The messages in field `id`.
fn inside(bytes: &[u8], id: u32) -> impl Iterator<Item = &[u8]> {
    PbDecoder::new(bytes).flatten().filter_map(move |field| match field {
        (n, PbDecoderField::Delimited(message)) if n == id => Some(message),
        _ => None,
    })
}
