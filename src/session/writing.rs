//! The thread of `start(writer)`: takes the pieces of the stream and writes them.
//!
//! It has all signals blocked, so that it takes none that the program meant for its own threads,
//! and is muted: what it emits is not recorded. Where it is the process's last thread it ends the
//! session and itself, so that it does not keep the process alive. The writer is the user's: it
//! may fail, block, write little, or panic.

use std::any::Any;
use std::io;
use std::io::ErrorKind;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use crate::emit;
use crate::encode::schema;
use crate::registry;
use crate::registry::local;
use crate::session::DONE;
use crate::session::IDLE;
use crate::session::Next;
use crate::session::SHARED;
use crate::session::STARTING;
use crate::session::STOPPING;
use crate::session::StopError;
use crate::session::Summary;
use crate::session::WRITER;
use crate::session::count_undelivered;
use crate::session::set_state;
use crate::session::sleep_until;
use crate::sync::AtomicU32;
use crate::sync::Ordering::AcqRel;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;

/// What the writer's thread came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    error: Option<io::Error>,
    accepted: u64,
    lost_events: u64,
    lost_bytes: u64,
}

impl Outcome {
    /// The session's result.
    pub(super) fn judge(self, mut summary: Summary) -> Result<Summary, StopError> {
        summary.bytes = self.accepted;
        count_undelivered(&mut summary, self.lost_events);
        summary.undelivered = self.lost_bytes;
        match self.error {
            None => Ok(summary),
            Some(error) => Err(StopError::Write { error, summary }),
        }
    }
}

/// Starts the thread.
pub(super) fn spawn(writer: Box<dyn Write + Send>) -> io::Result<()> {
    let writer = Box::into_raw(Box::new(writer));
    // AcqRel: handed over to the thread.
    WRITER.swap(writer, AcqRel);
    let masked = sys::thread::block_all_signals();
    let spawned = sys::thread::start(c"exectrace", run);
    drop(masked);
    if let Err(e) = spawned {
        drop(take_writer());
        return Err(e);
    }
    exit_hook();
    Ok(())
}

/// No `Once`: a child that is forked in the middle of it would wait for ever. Two hooks are as good
/// as one.
fn exit_hook() {
    static HOOKED: AtomicU32 = AtomicU32::new(0);
    if HOOKED.load(Relaxed) == 0 {
        sys::at_exit(super::at_exit);
        HOOKED.store(1, Relaxed);
    }
}

/// How often the thread looks whether it is the last one.
const LAST_NS: u64 = 1_000_000_000;

fn take_writer() -> Option<Box<dyn Write + Send>> {
    // AcqRel: pairs with itself in `spawn`.
    let p = WRITER.swap(std::ptr::null_mut(), AcqRel);
    // SAFETY: not null: made by `Box::into_raw` in `spawn`, and taken out once by the swap.
    (!p.is_null()).then(|| *unsafe { Box::from_raw(p) })
}

fn run() {
    local::with(|l| {
        l.set(local::NEVER_WAITS, true);
        if l.registered() {
            // An allocator that emits has made the thread known before it came here, and muted is
            // only who is not.
            emit::thread_exits(std::ptr::null_mut());
        }
        l.set(local::MUTED, true);
    });
    let Some(writer) = take_writer() else { return };
    let mut sink = Sink { writer, outcome: Outcome::default() };
    let Some(m) = registry::mapping() else { return };
    // Until the gate is open: the controller must not turn it before, nor a request shut it.
    // Acquire: pairs with the Release of `set_state`.
    while registry::switch().state.load(Acquire) == STARTING {
        std::thread::yield_now();
    }
    let mut looked = sys::mono_ns();
    loop {
        let last = sys::mono_ns().saturating_sub(looked) >= LAST_NS && {
            looked = sys::mono_ns();
            sys::thread::is_last()
        };
        let next = {
            let mut shared = SHARED.lock();
            let Some(s) = &mut shared.session else { return };
            s.seal_if_asked();
            if last {
                s.seal(sys::mono_ns(), schema::END_EXIT);
            }
            s.next()
        };
        match next {
            Next::Piece(mut piece) => {
                sink.take(piece.bytes(), piece.events());
                piece.release();
            }
            Next::At(deadline) => {
                sleep_until(m, deadline.min(looked.saturating_add(LAST_NS)), || {
                    let s = registry::switch();
                    // Acquire: pairs with the Release of `set_state` and of `change`.
                    s.asked.load(Relaxed) != 0 || s.state.load(Acquire) == STOPPING
                });
            }
            Next::End => break,
        }
    }
    sink.flush();
    let outcome = sink.end();
    finish(outcome);
}

fn finish(outcome: Outcome) {
    let mut shared = SHARED.lock();
    let Some(s) = &mut shared.session else { return };
    s.result = Some(outcome);
    let abandoned = s.abandoned;
    if abandoned {
        shared.clean_up();
    }
    drop(shared);
    if abandoned {
        set_state(IDLE);
    }
    // Release: pairs with the Acquire of whoever waits.
    DONE.fetch_add(1, Release);
    sys::futex::wake(&DONE, u32::MAX);
}

/// The user's writer, and what it did not take.
struct Sink {
    writer: Box<dyn Write + Send>,
    outcome: Outcome,
}

/// How long a writer may say "would block" in a row.
const WOULD_BLOCK_MAX: Duration = Duration::from_secs(30);

impl Sink {
    fn take(&mut self, bytes: &[u8], events: u64) {
        if self.outcome.error.is_none() {
            match catch_unwind(AssertUnwindSafe(|| write_all(&mut self.writer, bytes))) {
                Ok(Ok(())) => {
                    self.outcome.accepted += bytes.len() as u64;
                    return;
                }
                Ok(Err(e)) => self.fail(e),
                Err(panic) => self.fail(panicked(&*panic)),
            }
        }
        self.outcome.lost_events += events;
        self.outcome.lost_bytes += bytes.len() as u64;
    }

    /// Nothing that is recorded from here on could be kept: recording goes off.
    fn fail(&mut self, error: io::Error) {
        registry::switch().on.store(0, Relaxed);
        self.outcome.error = Some(error);
    }

    fn flush(&mut self) {
        if self.outcome.error.is_some() {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| self.writer.flush())) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.fail(e),
            Err(panic) => self.fail(panicked(&*panic)),
        }
    }

    /// Drops the writer, which may panic too.
    fn end(self) -> Outcome {
        let Sink { writer, mut outcome } = self;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(writer))) {
            outcome.error.get_or_insert_with(|| panicked(&*panic));
        }
        outcome
    }
}

/// As `write_all`, but waits where the writer would block.
fn write_all(writer: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    let mut blocked_since = None;
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = bytes.get(n..).ok_or(ErrorKind::InvalidData)?;
                blocked_since = None;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let now = sys::mono_ns();
                let since = *blocked_since.get_or_insert(now);
                if u128::from(now - since) > WOULD_BLOCK_MAX.as_nanos() {
                    return Err(e);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn panicked(payload: &(dyn Any + Send)) -> io::Error {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!("the writer panicked: {}", text.unwrap_or("without a message")))
}
