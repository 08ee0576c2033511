//! Logs: timed texts with a category, formatted before the section.

use std::fmt;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::ptr::NonNull;

use crate::annotate::value::TaskId;
use crate::annotate::value::Text;
use crate::emit;
use crate::emit::Outcome;
use crate::encode::schema::Cause;
use crate::encode::wire::LOG_BYTES_MAX;
use crate::mapping::Mapping;
use crate::mapping::RESERVED;
use crate::owner;
use crate::registry;
use crate::site::Site;

/// What is formatted on the stack; a longer text goes on in a buffer of the pool.
const STACK_BYTES: usize = 1024;

/// A buffer of the pool, on loan.
#[derive(Clone, Copy)]
struct Far {
    /// Whose it is; `None`: the owner's of the recording.
    of: Option<&'static Mapping>,
    index: u32,
    at: NonNull<u8>,
}

impl Far {
    fn lent() -> Option<Far> {
        if let Some(m) = registry::mapping()
            && let Some(index) = m.pop(RESERVED).or_else(|| m.grow(RESERVED))
        {
            let at = m.buffer(index).and_then(NonNull::new)?;
            return Some(Far { of: Some(m), index, at });
        }
        let mut index = 0;
        let at = NonNull::new((owner::table()?.lend)(&mut index))?;
        Some(Far { of: None, index, at })
    }

    fn give_back(self) {
        match (self.of, owner::table()) {
            (Some(m), _) => m.push_free(self.index),
            (None, Some(to)) => (to.give_back)(self.index),
            (None, None) => {}
        }
    }
}

/// A text while it is being formatted.
struct Scratch {
    near: [u8; STACK_BYTES],
    far: Option<Far>,
    len: usize,
    whole: usize,
}

impl Scratch {
    /// The text so far.
    fn bytes(&self) -> &[u8] {
        match self.far {
            // SAFETY: the buffer was popped for this text alone, and `len` bytes of it are written.
            Some(far) => unsafe { std::slice::from_raw_parts(far.at.as_ptr(), self.len) },
            None => &self.near[..self.len],
        }
    }

    /// Moves to a buffer of the pool, if one can be had.
    fn move_far(&mut self) {
        let Some(far) = Far::lent() else { return };
        // SAFETY: a buffer is longer than the text, and this one is nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(self.near.as_ptr(), far.at.as_ptr(), self.len) };
        self.far = Some(far);
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
            Some(far) => {
                // SAFETY: len + n <= LOG_BYTES_MAX, which is less than a buffer.
                let to = unsafe { far.at.as_ptr().add(self.len) };
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
        if let Some(far) = self.far {
            far.give_back();
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
