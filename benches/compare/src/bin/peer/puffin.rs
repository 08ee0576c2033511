//! puffin: scopes of a thread are handed over when the outermost of them ends, and collected frame
//! by frame.
//!
//! It has no instants: the nearest is a scope with a text, here always the same one, so that no
//! number is formatted. A burst stands inside one outer scope, as the work of a frame does; a
//! thread of the harness ends a frame every 5 ms and writes it.

use std::fs::File;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use puffin::FrameData;
use puffin::GlobalProfiler;
use puffin::Reader;
use puffin::Stream;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::Read;

const FILE: &str = "frames.puffin";
const FRAME: Duration = Duration::from_millis(5);

pub struct Recorder {
    threads: Option<Threads>,
}

/// The thread that ends frames, until this side of the channel is dropped, and the one that writes
/// them.
struct Threads {
    end: mpsc::SyncSender<()>,
    framer: JoinHandle<()>,
    writer: JoinHandle<Result<(), String>>,
}

#[inline(never)]
fn instants(n: u64) {
    for _ in 0..n {
        puffin::profile_scope!("bench", "7");
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        puffin::profile_scope!("bench");
    }
}

/// Writes the frames that come.
fn write(path: &Path, frames: mpsc::Receiver<Arc<FrameData>>) -> Result<(), Failure> {
    let mut out = BufWriter::new(File::create(path)?);
    for frame in frames {
        frame.write_into(None, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder { threads: None })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        let (to_writer, frames) = mpsc::channel();
        let path = dir.join(FILE);
        let writer = std::thread::spawn(move || write(&path, frames).map_err(|e| e.to_string()));
        let sink = GlobalProfiler::lock().add_sink(Box::new(move |frame| {
            let _ = to_writer.send(frame);
        }));
        let (end, ended) = mpsc::sync_channel::<()>(0);
        let framer = std::thread::spawn(move || {
            while ended.recv_timeout(FRAME) == Err(mpsc::RecvTimeoutError::Timeout) {
                GlobalProfiler::lock().new_frame();
            }
            let mut profiler = GlobalProfiler::lock();
            profiler.new_frame();
            // With the sink goes the writer's last sender.
            drop(profiler.remove_sink(sink));
        });
        puffin::set_scopes_on(true);
        Ok(Recorder { threads: Some(Threads { end, framer, writer }) })
    }

    fn inside(&self, work: &mut dyn FnMut()) {
        puffin::profile_scope!("burst");
        work();
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        puffin::set_scopes_on(false);
        if let Some(Threads { end, framer, writer }) = self.threads {
            drop(end);
            framer.join().map_err(|_| "the frames' thread panicked")?;
            writer.join().map_err(|_| "the writer panicked")??;
        }
        Ok(Finished::default())
    }

    fn count(dir: &Path, _: Kind) -> Result<Found, Failure> {
        read(dir)
    }

    fn readers() -> &'static [(&'static str, Read)] {
        &[("own", |dir| Ok(read(dir)?.events))]
    }
}

/// Reads all frames, and all scopes inside the outer ones.
fn read(dir: &Path) -> Result<Found, Failure> {
    let mut file = BufReader::new(File::open(dir.join(FILE))?);
    let (mut events, mut unpacked) = (0, 0);
    while let Some(frame) = FrameData::read_next(&mut file)? {
        for stream in frame.unpacked()?.thread_streams.values() {
            unpacked += stream.stream.len() as u64;
            events += inner(&stream.stream).map_err(|e| format!("{e:?}"))?;
        }
    }
    Ok(Found { events, unpacked: Some(unpacked) })
}

/// Scopes one level down.
fn inner(stream: &Stream) -> Result<u64, puffin::Error> {
    let mut events = 0;
    for outer in Reader::from_start(stream) {
        let outer = outer?;
        let children = Reader::with_offset(stream, outer.child_begin_position)?;
        for child in children {
            std::hint::black_box(&child?);
            events += 1;
        }
    }
    Ok(events)
}
