//! Writers that fail, dawdle, block, panic and call back, at places that a seed chooses.

use std::io;
use std::io::ErrorKind;
use std::io::Write;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use trace::ReadError;
use trace::StartError;
use trace::StopError;

use super::random::Rng;

/// What goes wrong with a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Sleeps before each write, for so many microseconds.
    Slow(u64),
    /// Takes a part of what it is given, is interrupted, would block.
    Little,
    /// From this byte on, an error.
    Error(u64),
    /// At this byte, a panic.
    Panic(u64),
    /// From this byte on it takes nothing.
    Zero(u64),
    /// At this byte it waits for its door.
    Block(u64),
    /// Emits, starts, stops and reads.
    CallBack,
}

impl Fault {
    pub fn random(rng: &mut Rng) -> Fault {
        // Near the beginning, near the bounds of batches, anywhere.
        let near = [0, 1, 63, 64, 65, 1000, 4096, 65_535, 65_536];
        let byte = if rng.one_in(3) { rng.pick(&near) } else { rng.below(1 << 19) };
        match rng.below(20) {
            0..8 => Fault::None,
            8..10 => Fault::Slow(rng.below(5000)),
            10..12 => Fault::Little,
            12 | 13 => Fault::Error(byte),
            14 => Fault::Panic(byte),
            15 => Fault::Zero(byte),
            16 | 17 => Fault::Block(byte),
            _ => Fault::CallBack,
        }
    }

    /// Whether such a writer may end before the trace does.
    pub fn cuts(self) -> bool {
        matches!(self, Fault::Error(_) | Fault::Panic(_) | Fault::Zero(_))
    }
}

/// What writers wait behind.
#[derive(Default)]
pub struct Door(Mutex<bool>, Condvar);

/// Longest wait of a writer, where nobody opens its door.
const WAIT: Duration = Duration::from_millis(150);

impl Door {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.lock().unwrap();
        drop(self.1.wait_timeout_while(shut, WAIT, |open| !*open).unwrap());
    }
}

/// Where the bytes go.
pub type Bytes = Arc<Mutex<Vec<u8>>>;

pub struct Odd {
    pub fault: Fault,
    pub rng: Rng,
    pub out: Bytes,
    pub door: Arc<Door>,
    pub taken: u64,
}

impl Odd {
    fn keep(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.lock().unwrap().extend_from_slice(bytes);
        self.taken += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Keeps what comes before byte `at`; `None` where nothing does.
    fn keep_before(&mut self, at: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        let left = at.saturating_sub(self.taken).min(bytes.len() as u64) as usize;
        (left > 0).then(|| self.keep(&bytes[..left]))
    }
}

impl Write for Odd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.fault {
            Fault::None => self.keep(bytes),
            Fault::Slow(us) => {
                std::thread::sleep(Duration::from_micros(us));
                self.keep(bytes)
            }
            Fault::Little => match self.rng.below(16) {
                0 => Err(ErrorKind::Interrupted.into()),
                1 => Err(ErrorKind::WouldBlock.into()),
                _ => {
                    let n = 1 + self.rng.below(bytes.len() as u64) as usize;
                    self.keep(&bytes[..n])
                }
            },
            Fault::Error(at) => {
                let gone = || Err(io::Error::other("the disk is gone"));
                self.keep_before(at, bytes).unwrap_or_else(gone)
            }
            Fault::Zero(at) => self.keep_before(at, bytes).unwrap_or(Ok(0)),
            Fault::Panic(at) => self
                .keep_before(at, bytes)
                // A panic without the hook, which would print.
                .unwrap_or_else(|| std::panic::resume_unwind(Box::new("no more"))),
            Fault::Block(at) => {
                if self.taken >= at {
                    self.door.pass();
                    self.fault = Fault::None;
                }
                self.keep(bytes)
            }
            Fault::CallBack => {
                call_back();
                self.keep(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing that a writer asks of the recorder is done, and nothing hangs.
fn call_back() {
    let off = trace::emit_probe(u64::MAX) == trace::Outcome::Off;
    let stop = matches!(trace::stop(), Err(StopError::WouldDeadlock));
    let start = matches!(trace::start(io::sink()), Err(StartError::WouldDeadlock));
    let read = matches!(trace::read_trace(), Err(ReadError::WouldDeadlock));
    if !(off && stop && start && read) {
        super::fail(&format!("the writer was answered: {off} {stop} {start} {read}"));
    }
}
