//! No tracer: what the measuring itself costs.

use std::path::Path;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::measure::empty;

pub struct Recorder;

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder)
    }

    fn on(_: &Path, _: &str) -> Result<Self, Failure> {
        Ok(Recorder)
    }

    fn instants(&self, n: u64) {
        empty(n);
    }

    fn spans(&self, n: u64) {
        empty(n);
    }

    fn finish(self) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }

    fn count(_: &Path, _: Kind) -> Result<Found, Failure> {
        Ok(Found::default())
    }
}
