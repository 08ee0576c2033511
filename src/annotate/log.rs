//! Logs: timed texts with a category, formatted before the section.

use std::fmt;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use crate::annotate::value::TaskId;
use crate::annotate::value::Text;
use crate::emit;
use crate::emit::Outcome;
use crate::encode::schema::Cause;
use crate::encode::wire::LOG_BYTES_MAX;
use crate::mapping::Mapping;
use crate::mapping::RESERVED;
use crate::registry;
use crate::site::Site;

/// What is formatted on the stack; a longer text goes on in a buffer of the pool.
const STACK_BYTES: usize = 1024;

/// A text while it is being formatted.
struct Scratch {
    near: [u8; STACK_BYTES],
    far: Option<(&'static Mapping, u32, *mut u8)>,
    len: usize,
    whole: usize,
}

impl Scratch {
    /// The text so far.
    fn bytes(&self) -> &[u8] {
        match self.far {
            // SAFETY: the buffer was popped for this text alone, and `len` bytes of it are written.
            Some((_, _, far)) => unsafe { std::slice::from_raw_parts(far, self.len) },
            None => &self.near[..self.len],
        }
    }

    /// Moves to a buffer of the pool, if one can be had.
    fn move_far(&mut self) {
        let taken = registry::mapping().and_then(|m| Some((m, m.pop(RESERVED)?)));
        let Some((m, index)) = taken else { return };
        let Some(far) = m.buffer(index) else { return };
        // SAFETY: a buffer is longer than the text, and this one is nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(self.near.as_ptr(), far, self.len) };
        self.far = Some((m, index, far));
    }
}

impl Write for Scratch {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.whole += s.len();
        if self.far.is_none()
            && self.len + s.len() > STACK_BYTES
            && self.len == self.whole - s.len()
        {
            self.move_far();
        }
        let max = if self.far.is_some() { LOG_BYTES_MAX } else { STACK_BYTES };
        if self.len < self.whole - s.len() {
            return Ok(());
        }
        let n = whole_chars(s, max - self.len);
        match self.far {
            Some((_, _, far)) => {
                // SAFETY: len + n <= LOG_BYTES_MAX, which is less than a buffer.
                let to = unsafe { far.add(self.len) };
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(s.as_ptr(), to, n) };
            }
            None => self.near[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]),
        }
        self.len += n;
        Ok(())
    }
}

/// How much of `s` fits into `max` bytes without cutting a character.
fn whole_chars(s: &str, max: usize) -> usize {
    let mut n = max.min(s.len());
    while !s.is_char_boundary(n) {
        n -= 1;
    }
    n
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some((m, index, _)) = self.far {
            m.push_free(index);
        }
    }
}

/// Formats a text and emits it. The switch was seen on.
///
/// A panic while formatting is caught: the event is counted as lost and the program goes on. What
/// became of the event is told to tests that account for every event. Cold, so that a program with
/// tracing off falls through where it would log.
#[doc(hidden)]
#[cold]
#[inline(never)]
pub fn log(site: &'static Site, task: Option<u64>, text: fmt::Arguments<'_>) -> Outcome {
    let mut scratch = Scratch { near: [0; STACK_BYTES], far: None, len: 0, whole: 0 };
    match text.as_str() {
        Some(text) => {
            let _ = scratch.write_str(text);
        }
        None => {
            let done = catch_unwind(AssertUnwindSafe(|| scratch.write_fmt(text)));
            if done.is_err() {
                return emit::lose(Cause::Panicked);
            }
        }
    }
    let text = Text::new(scratch.bytes(), LOG_BYTES_MAX).cut_from(scratch.whole);
    match task {
        Some(task) => crate::annotate::mark(site, (TaskId(task), text)),
        None => crate::annotate::mark(site, (text,)),
    }
}
