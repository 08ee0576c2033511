//! What the copy of the recorder that owns the recording does for the others in its process:
//! finds them, and records what they hand over. `owner` is their side.
//!
//! 1. Sites and names of functions are copied into memory of the owner's own, each of them once,
//!    however often a plug-in comes and goes; the memory is bounded, and taken before the first
//!    event. It is never given back, so that what a copy was told stays true.
//! 2. An address that a copy has given is used during that call only (owner#2).

use std::ffi::c_void;
use std::ops::ControlFlow;

use crate::annotate::mark;
use crate::annotate::span::NESTED;
use crate::annotate::span::Span;
use crate::annotate::task;
use crate::annotate::value::Values;
use crate::emit;
use crate::emit::Outcome;
use crate::encode::field;
use crate::encode::field::Writer;
use crate::encode::schema;
use crate::encode::schema::Cause;
use crate::encode::schema::Class;
use crate::mapping::Mapping;
use crate::mapping::RESERVED;
use crate::owner;
use crate::owner::Answer;
use crate::owner::Event;
use crate::owner::Object;
use crate::owner::Table;
use crate::owner::Text;
use crate::owner::Told;
use crate::registry;
use crate::site::Meta;
use crate::site::Site;
use crate::site::Types;
use crate::sync::AtomicPtr;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::AcqRel;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sys;
use crate::sys::loader;
use crate::sys::loader::Loaded;
use crate::tables;
use crate::tables::FIELDS_MAX;

static TABLE: Table = Table {
    session: AtomicU32::new(0),
    site: keep_site,
    event,
    span_begin,
    span_place,
    span_end,
    task_ids,
    task_begin,
    task_end,
    task_switch,
    task_now,
    lose,
    runs,
    lend,
    give_back,
};

/// Has the other copies in the process hand over their events to the session that has just begun
/// here, those too that come later, as soon as [`look`] is called.
pub fn own() {
    let Some(m) = registry::mapping() else { return };
    if keep().is_none() {
        let Some(memory) = sys::mapping::private_zeroed(KEEP_BYTES) else { return };
        KEEP.store(memory.cast(), Relaxed);
    }
    TABLE.session.store(m.front().ordinal.load(Relaxed), Relaxed);
    look();
}

/// Looks for copies that have come. Takes the loader's lock.
pub fn look() {
    let Some(m) = registry::mapping().filter(|_| registry::has_session()) else { return };
    let mut others = 0;
    loader::for_each(|module, _| {
        for (bytes, align) in module.notes() {
            match find(module, bytes, align) {
                Some(Found::Copy(copy)) if !std::ptr::eq(copy, owner::own()) => {
                    // SAFETY: a function of a module that is loaded, as `find` has seen.
                    let ids = unsafe { (copy.take)(&TABLE) };
                    m.front().tasks.fetch_max(ids, Relaxed);
                }
                Some(Found::Other) => others += 1,
                _ => {}
            }
        }
        ControlFlow::Continue(())
    });
    static SAID: AtomicU32 = AtomicU32::new(0);
    let epoch = m.front().epoch.load(Relaxed);
    if others != 0 && SAID.swap(epoch, Relaxed) != epoch {
        let text = "a module has another version of the recorder: its events are not in this trace";
        let text = field::Text { bytes: text.as_bytes(), cut_from: None };
        let name = field::Text { bytes: b"copies", cut_from: None };
        let mut bytes = [0; 128];
        let mut w = Writer::new(&mut bytes);
        let put = schema::Note::put(&mut w, name, text);
        let len = w.len();
        let _ = put.and_then(|()| tables::define(m, epoch, &bytes[..len]));
    }
}

/// A note of a recorder.
enum Found {
    Copy(&'static Object),
    /// Of another version.
    Other,
}

/// The recorder's note among these of a module.
fn find(module: &Loaded<'_>, mut notes: &[u8], align: u64) -> Option<Found> {
    let align = if align == 8 { 8 } else { 4 };
    let word = |at: &[u8], i: usize| {
        at.get(4 * i..4 * i + 4)?.try_into().ok().map(|b| u32::from_ne_bytes(b) as usize)
    };
    while notes.len() >= 12 {
        let (name_len, len) = (word(notes, 0)?, word(notes, 1)?);
        let from = 12usize.checked_add(name_len)?.next_multiple_of(align);
        let of = notes.get(from..from.checked_add(len)?)?;
        if notes.get(12..12 + name_len)? == owner::NOTE_NAME {
            let distance = of.get(..8)?.try_into().ok().map(i64::from_ne_bytes)?;
            let at = of.as_ptr().expose_provenance().wrapping_add_signed(distance as isize);
            let (base, size) = module.range()?;
            let inside = (at as u64).wrapping_sub(base) < size.saturating_sub(16);
            if word(of, 2)? != owner::VERSION as usize || !inside || !at.is_multiple_of(8) {
                return Some(Found::Other);
            }
            let copy: *const Object = std::ptr::with_exposed_provenance(at);
            // SAFETY: the module is loaded, and has there what its note of this version says.
            return Some(Found::Copy(unsafe { &*copy }));
        }
        notes = notes.get((from + len).next_multiple_of(align)..)?;
    }
    None
}

/// Room for about ten thousand sites.
const KEEP_BYTES: usize = 8 << 20;
const PLACES: usize = 1 << 14;

/// What is kept of the copies: places, found by a hash, and the memory behind them.
#[repr(C)]
struct Keep {
    used: AtomicU64,
    places: [AtomicPtr<Kept>; PLACES],
}

/// A site of a copy's. A name alone has no fields and no class.
struct Kept {
    site: Site,
    types: Types,
    class: u32,
}

static KEEP: AtomicPtr<Keep> = AtomicPtr::new(std::ptr::null_mut());

fn keep() -> Option<&'static Keep> {
    // SAFETY: null, or zeroed memory that is never given back, for which zero is a value.
    unsafe { KEEP.load(Relaxed).as_ref() }
}

impl Keep {
    /// Room for so many of this type. Not given back.
    fn room<T>(&self, n: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 8) };
        let bytes = size_of::<T>().checked_mul(n)?.checked_next_multiple_of(8)?;
        let at = self.used.fetch_add(bytes as u64, Relaxed) as usize;
        let end = size_of::<Keep>().checked_add(at)?.checked_add(bytes)?;
        if end > KEEP_BYTES {
            self.used.fetch_sub(bytes as u64, Relaxed);
            return None;
        }
        let base = std::ptr::from_ref(self).cast_mut().cast::<u8>();
        Some(base.wrapping_add(end - bytes).cast())
    }

    fn text(&self, text: &str) -> Option<&'static str> {
        let to = self.room::<u8>(text.len())?;
        // SAFETY: room for so many bytes, which is this text's alone.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len()) };
        // SAFETY: just written, and never again.
        let bytes = unsafe { std::slice::from_raw_parts(to, text.len()) };
        std::str::from_utf8(bytes).ok()
    }

    fn list<T: Copy>(
        &self,
        n: usize,
        mut of: impl FnMut(usize) -> Option<T>,
    ) -> Option<&'static [T]> {
        let to = self.room::<T>(n)?;
        for i in 0..n {
            // SAFETY: room for `n` of them, which is this list's alone.
            unsafe { to.wrapping_add(i).write(of(i)?) };
        }
        // SAFETY: just written, and never again.
        Some(unsafe { std::slice::from_raw_parts(to, n) })
    }

    /// What is kept of a site; `None`: there is no room. Lock-free, signal-safe.
    fn find(&self, told: &Lent<'_>) -> Option<&'static Kept> {
        let hash = told.hash();
        for i in 0..64 {
            let place = &self.places[(hash as usize).wrapping_add(i) % PLACES];
            // Acquire: pairs with the Release below.
            let mut found = place.load(Acquire);
            if found.is_null() {
                let made = self.copy(told)?;
                // AcqRel: publishes it, or finds another's. What lost is not used again.
                match place.compare_exchange(std::ptr::null_mut(), made, AcqRel, Acquire) {
                    Ok(_) => found = made,
                    Err(other) => found = other,
                }
            }
            // SAFETY: not null, and never given back.
            let kept = unsafe { &*found };
            if told.is(kept) {
                return Some(kept);
            }
        }
        None
    }

    fn copy(&self, told: &Lent<'_>) -> Option<*mut Kept> {
        let fields = self.list(told.fields, |i| self.text(told.field(i)))?;
        let meta = Meta {
            class: Class::from_u64(told.class.into()).unwrap_or(Class::Instant),
            name: self.text(told.name)?,
            module: self.text(told.module)?,
            file: self.text(told.file)?,
            line: told.line,
            flags: told.flags,
            fields,
        };
        let types = self.list(told.types.len(), |i| told.types.get(i).copied())?;
        let to = self.room::<Kept>(1)?;
        // SAFETY: room for one, which is this one's alone.
        unsafe { to.write(Kept { site: Site::new(meta), types, class: told.class }) };
        Some(to)
    }
}

/// What a copy says of a site, while it is lent.
struct Lent<'a> {
    class: u32,
    line: u32,
    flags: u64,
    name: &'a str,
    module: &'a str,
    file: &'a str,
    names: *const Text,
    fields: usize,
    types: &'a [u64],
}

/// Longest text of a site.
const TEXT_MAX: usize = 1024;

/// # Safety
///
/// - The text is lent for as long as what is made of it lives.
unsafe fn text<'a>(text: Text) -> &'a str {
    if text.len == 0 {
        return "";
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(text.at, text.len.min(TEXT_MAX)) };
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or(""),
    }
}

impl<'a> Lent<'a> {
    /// # Safety
    ///
    /// - All in it is lent for as long as what is made of it lives.
    unsafe fn new(told: &'a Told) -> Lent<'a> {
        let types = match told.types_len {
            0 => &[][..],
            // SAFETY: the caller's promise.
            n => unsafe { std::slice::from_raw_parts(told.types, n.min(FIELDS_MAX)) },
        };
        Lent {
            class: told.class,
            line: told.line,
            flags: told.flags,
            // SAFETY: the caller's promise.
            name: unsafe { text(told.name) },
            // SAFETY: as above.
            module: unsafe { text(told.module) },
            // SAFETY: as above.
            file: unsafe { text(told.file) },
            names: told.fields,
            fields: told.fields_len.min(types.len()),
            types,
        }
    }

    fn field(&self, i: usize) -> &'a str {
        debug_assert!(i < self.fields);
        // SAFETY: below the number of fields, lent as `new` was promised.
        let field = unsafe { *self.names.wrapping_add(i) };
        // SAFETY: as above.
        unsafe { text(field) }
    }

    fn hash(&self) -> u64 {
        let mut hash = u64::from(self.class) << 32 | u64::from(self.line);
        for text in [self.name, self.module, self.file] {
            for byte in text.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash ^ hash >> 29
    }

    fn is(&self, kept: &Kept) -> bool {
        let meta = &kept.site.meta;
        (self.class, self.line, self.flags) == (kept.class, meta.line, meta.flags)
            && (self.name, self.module, self.file) == (meta.name, meta.module, meta.file)
            && self.types == kept.types
            && self.fields == meta.fields.len()
            && (0..self.fields).all(|i| self.field(i) == meta.fields[i])
    }
}

// SAFETY of callers: as `Table::site` says.
unsafe extern "C" fn keep_site(told: &Told) -> *mut c_void {
    // SAFETY: lent for this call, as the table says.
    let lent = unsafe { Lent::new(told) };
    let kept = keep().and_then(|keep| keep.find(&lent));
    kept.map_or(std::ptr::null_mut(), |kept| std::ptr::from_ref(kept).cast_mut().cast())
}

/// The fields of a copy's event.
#[derive(Clone, Copy)]
struct Fields<'a> {
    event: &'a Event,
    types: Types,
}

impl Values for Fields<'_> {
    const TYPES: Types = &[];

    fn types(&self) -> Types {
        self.types
    }

    fn types_of_task(&self) -> Types {
        self.types
    }

    fn from(&self) -> usize {
        self.event.sp
    }

    fn len_max(&self) -> usize {
        self.event.len_max
    }

    // SAFETY of callers: as `Values::put` says.
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller has checked room; the copy's function is lent for this call.
        unsafe { (self.event.put)(self.event.of, p) }
    }
}

/// A copy's site, and the fields of its event.
///
/// # Safety
///
/// - `site` is what `keep_site` has given; the event is lent for as long as it is used.
unsafe fn of_copy<'a>(site: *const c_void, event: &'a Event) -> (&'static Site, Fields<'a>) {
    // SAFETY: the caller's promise; never given back.
    let kept = unsafe { &*site.cast::<Kept>() };
    (&kept.site, Fields { event, types: kept.types })
}

/// As the copy is told.
fn answer(outcome: Outcome) -> u64 {
    let answer = match outcome {
        Outcome::Recorded => Answer::Recorded(0),
        Outcome::Nested => Answer::Nested,
        Outcome::Lost(cause) => Answer::Lost(cause),
        Outcome::Off | Outcome::Delegated => Answer::Off,
    };
    answer.to_word()
}

// SAFETY of callers: as `Table::event` says.
unsafe extern "C" fn event(site: *const c_void, event: &Event) -> u64 {
    if !registry::has_session() {
        return Answer::Off.to_word();
    }
    // SAFETY: as the table says.
    let (site, fields) = unsafe { of_copy(site, event) };
    answer(mark(site, fields))
}

// SAFETY of callers: as `Table::span_begin` says.
unsafe extern "C" fn span_begin(site: *const c_void, event: &Event) -> u64 {
    if !registry::has_session() {
        return Answer::Off.to_word();
    }
    // SAFETY: as the table says.
    let (site, fields) = unsafe { of_copy(site, event) };
    let (span, outcome) = Span::begin_told(site, fields);
    let (_, place) = span.into_parts();
    match outcome {
        Outcome::Recorded => Answer::Recorded(place).to_word(),
        other => answer(other),
    }
}

extern "C" fn span_place() -> u32 {
    Span::innermost()
}

extern "C" fn span_end(session: u32, place: u32) -> u64 {
    // A span inside another event is of no session.
    let session = if place == NESTED { 1 } else { session };
    answer(Span::from_parts(session, place).end_told())
}

extern "C" fn task_ids(count: u64) -> u64 {
    let ids = registry::has_session().then(|| task::ids(count)).flatten();
    ids.unwrap_or(0)
}

// SAFETY of callers: as `Table::task_begin` says.
unsafe extern "C" fn task_begin(site: *const c_void, event: &Event, id: u64, parent: u64) -> u64 {
    if !registry::has_session() {
        return Answer::Off.to_word();
    }
    // SAFETY: as the table says.
    let (site, fields) = unsafe { of_copy(site, event) };
    answer(task::begin_with(site, fields, id, parent))
}

extern "C" fn task_end(session: u32, id: u64) -> u64 {
    answer(task::Task::from_parts(session, id).end_told())
}

extern "C" fn task_switch(session: u32, id: u64) -> u64 {
    answer(task::switch(session, id))
}

extern "C" fn task_now() -> u64 {
    task::current_task()
}

extern "C" fn lose(cause: u32) -> u64 {
    match Cause::from_u64(cause.into()).filter(|_| registry::has_session()) {
        Some(cause) => answer(emit::lose(cause)),
        None => Answer::Off.to_word(),
    }
}

// SAFETY of callers: as `Table::runs` says.
unsafe extern "C" fn runs(name: Text) {
    // SAFETY: lent for this call, as the table says.
    let name = unsafe { text(name) };
    let told = Lent {
        class: 0,
        line: 0,
        flags: 0,
        name,
        module: "",
        file: "",
        names: std::ptr::null(),
        fields: 0,
        types: &[],
    };
    let kept = keep().and_then(|keep| keep.find(&told));
    if let Some(kept) = kept.filter(|_| registry::has_session()) {
        emit::runs(kept.site.meta.name);
    }
}

fn lender() -> Option<&'static Mapping> {
    registry::mapping().filter(|_| registry::has_session())
}

extern "C" fn lend(index: &mut u32) -> *mut u8 {
    let obtain = |m: &'static Mapping| m.pop(RESERVED).or_else(|| m.grow(RESERVED));
    let lent = lender().and_then(|m| obtain(m).map(|i| (m, i)));
    let Some((m, i)) = lent else { return std::ptr::null_mut() };
    *index = i;
    m.buffer(i).unwrap_or(std::ptr::null_mut())
}

extern "C" fn give_back(index: u32) {
    if let Some(m) = lender() {
        m.push_free(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a program that has one copy, the walk finds the note of that one.
    #[test]
    fn the_own_note_is_found() {
        let (mut own, mut all) = (0, 0);
        loader::for_each(|module, _| {
            for (bytes, align) in module.notes() {
                if let Some(Found::Copy(copy)) = find(module, bytes, align) {
                    all += 1;
                    own += u32::from(std::ptr::eq(copy, owner::own()));
                }
            }
            ControlFlow::Continue(())
        });
        assert_eq!((own, all), (1, 1));
    }

    #[test]
    fn what_is_said_twice_is_kept_once() {
        let memory = sys::mapping::private_zeroed(KEEP_BYTES).unwrap();
        // SAFETY: zeroed, never given back.
        let keep = unsafe { &*memory.cast::<Keep>() };
        let names = ["n".to_owned(), "text".to_owned()];
        let lent = |line: u32, types: &'static [u64], fields: &[Text]| {
            let told = Told {
                class: Class::Instant as u32,
                line,
                flags: 0,
                name: Text::new("name"),
                module: Text::new("module"),
                file: Text::new("file"),
                fields: fields.as_ptr(),
                fields_len: fields.len(),
                types: types.as_ptr(),
                types_len: types.len(),
            };
            // SAFETY: all of it lives longer than the look-up.
            let lent = unsafe { Lent::new(&told) };
            keep.find(&lent).map(std::ptr::from_ref)
        };
        let fields = names.each_ref().map(|n| Text::new(n));
        let first = lent(1, &[1, 5], &fields).unwrap();
        assert_eq!(lent(1, &[1, 5], &fields), Some(first));
        assert_ne!(lent(2, &[1, 5], &fields), Some(first));
        assert_ne!(lent(1, &[1, 1], &fields), Some(first));
        assert_ne!(lent(1, &[1], &fields[..1]), Some(first));
        drop(names);
        // SAFETY: never given back.
        let kept = unsafe { &*first };
        assert_eq!(kept.site.meta.fields, ["n", "text"]);
        assert_eq!((kept.site.meta.name, kept.site.meta.line), ("name", 1));
        // Full: no room is an answer, and what is there is found still.
        let mut line = 10;
        while lent(line, &[1, 5], &fields).is_some() {
            line += 1;
            assert!(line < 100_000);
        }
        assert!(line > 5_000, "{line}");
        assert_eq!(lent(1, &[1, 5], &[Text::new("n"), Text::new("text")]), Some(first));
    }
}
