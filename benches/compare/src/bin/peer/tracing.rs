//! `tracing`: without a subscriber, or with tracing-chrome as its only layer.

use std::hint::black_box;
use std::path::Path;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;

#[cfg(feature = "tracing-chrome")]
const FILE: &str = "trace.json";

pub struct Recorder {
    #[cfg(feature = "tracing-chrome")]
    guard: Option<Guard>,
}

/// Ends the file where it is dropped. Only the thread that made it does so.
#[cfg(feature = "tracing-chrome")]
struct Guard(tracing_chrome::FlushGuard);

// SAFETY: the guard is dropped by the thread that owns the recorder; no other thread that has the
// recorder by reference touches it.
#[cfg(feature = "tracing-chrome")]
unsafe impl Sync for Guard {}

#[inline(never)]
fn instants(n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        tracing::event!(name: "bench", tracing::Level::INFO, n = i & m);
    }
}

#[inline(never)]
fn spans(n: u64) {
    for _ in 0..n {
        let _span = tracing::info_span!("bench").entered();
    }
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder {
            #[cfg(feature = "tracing-chrome")]
            guard: None,
        })
    }

    #[cfg(feature = "tracing-chrome")]
    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        use tracing_subscriber::layer::SubscriberExt as _;

        let builder = tracing_chrome::ChromeLayerBuilder::new();
        let (layer, guard) = builder.file(dir.join(FILE)).include_args(true).build();
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
        Ok(Recorder { guard: Some(Guard(guard)) })
    }

    #[cfg(not(feature = "tracing-chrome"))]
    fn on(_: &Path, _: &str) -> Result<Self, Failure> {
        Err("tracing without a subscriber records nothing".into())
    }

    fn instants(&self, n: u64) {
        instants(n);
    }

    fn spans(&self, n: u64) {
        spans(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        #[cfg(feature = "tracing-chrome")]
        drop(self.guard.map(|g| g.0));
        Ok(Finished::default())
    }

    #[cfg(feature = "tracing-chrome")]
    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        use std::io::BufRead as _;

        let phase: &[u8] = if kind == Kind::Span { b"\"ph\":\"E\"" } else { b"\"ph\":\"i\"" };
        let mut file = std::io::BufReader::new(std::fs::File::open(dir.join(FILE))?);
        let (mut events, mut line) = (0, Vec::new());
        // An event stands on a line of its own.
        while file.read_until(b'\n', &mut line)? > 0 {
            events += u64::from(line.windows(phase.len()).any(|w| w == phase));
            line.clear();
        }
        Ok(Found { events, unpacked: None })
    }

    #[cfg(not(feature = "tracing-chrome"))]
    fn count(_: &Path, _: Kind) -> Result<Found, Failure> {
        Ok(Found::default())
    }
}
