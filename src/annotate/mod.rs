//! What a program says of itself: instants, counters, logs, spans, tasks.
//!
//! The macros test the switch first, evaluate their arguments only then, make the values ready, and
//! hand them to `emit`. Each place is a static of its own.

pub mod log;
mod macros;
pub mod span;
pub mod task;
pub mod thread;
pub mod value;

use crate::annotate::value::Values;
use crate::emit;
use crate::emit::Emission;
use crate::emit::Outcome;
use crate::encode::schema::Class;
use crate::registry::local::Local;
use crate::site::Meta;
use crate::site::Site;
use crate::site::Types;

/// An event that is only its fields.
#[derive(Clone, Copy)]
struct Mark<V> {
    site: &'static Site,
    values: V,
}

impl<V: Values> Emission for Mark<V> {
    #[inline(always)]
    fn len_max(&self) -> usize {
        self.values.len_max()
    }

    #[inline(always)]
    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.site.plain_kind(l.tag.get())
    }

    #[inline(always)]
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller's duty is the same.
        unsafe { self.values.put(p) }
    }

    #[inline(always)]
    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        Some((self.site, self.values.types()))
    }

    fn from(&self) -> usize {
        self.values.from()
    }
}

/// A name as the program means it: without the mark of a raw identifier.
#[doc(hidden)]
pub const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Emits an instant, a counter or a log. The switch was seen on.
#[doc(hidden)]
#[inline(always)]
pub fn mark<V: Values>(site: &'static Site, values: V) -> Outcome {
    emit::emit(Mark { site, values })
}

/// Emits an instant `probe` with one field and says what became of it: for tests that account for
/// every event.
#[doc(hidden)]
#[inline]
pub fn emit_probe(n: u64) -> Outcome {
    if !crate::registry::is_on() {
        return Outcome::Off;
    }
    static SITE: Site = Site::new(Meta {
        class: Class::Instant,
        name: "probe",
        module: module_path!(),
        file: file!(),
        line: line!(),
        flags: 0,
        fields: &["n"],
    });
    mark(&SITE, (value::Unsigned(n),))
}
