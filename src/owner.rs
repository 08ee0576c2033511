//! Several copies of the recorder in one process: a program is linked with one, `exectrace record`
//! preloads another, a plug-in brings a third. One of them owns the recording, and the others are
//! *delegated*: what their part of the program says of itself goes to the owner, by a table of C
//! functions. `copies` is the owner's side, this the side of those that have one.
//!
//! A copy is found by a note in its module, which names an object with a function: `dlsym` does not
//! see the symbols of an executable. The owner calls that function with its table and has the
//! copy's switch turned on. No buffer, no record and no gate of the copy is involved: a thread
//! without a record takes the cold half of `emit` in any case, and that is where the owner is asked
//! for. The hot half knows nothing of it.
//!
//! 1. The types below are those of C: the copies may come from different compilers. Whoever changes
//!    one of them MUST change `VERSION`. Otherwise a copy calls what is not there.
//! 2. The owner is never unloaded; a copy may be. The owner MUST NOT keep an address that a copy
//!    has given it beyond the call. Otherwise it reads what is unmapped.
//! 3. Nothing here or behind the table allocates, locks or waits: a handler may emit.

use std::ffi::c_void;

use crate::encode::schema::Cause;
use crate::registry;
use crate::site::Site;
use crate::site::Types;
use crate::sync::AtomicPtr;
use crate::sync::AtomicU32;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;

/// Of the table and of all types in it, with the table's size: a function more is another version
/// in any case.
pub const VERSION: u32 = 1 << 16 | size_of::<Table>() as u32;

/// A text of a copy's, lent for a call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    /// Its bytes.
    pub at: *const u8,
    /// How many.
    pub len: usize,
}

impl Text {
    /// Lends a text.
    pub const fn new(text: &str) -> Text {
        Text { at: text.as_ptr(), len: text.len() }
    }
}

/// What a copy says of one of its sites, lent for a call.
#[derive(Debug)]
#[repr(C)]
pub struct Told {
    /// `Class`.
    pub class: u32,
    /// The line.
    pub line: u32,
    /// `Meta::flags`.
    pub flags: u64,
    /// Its name.
    pub name: Text,
    /// The module of the source.
    pub module: Text,
    /// The file of the source.
    pub file: Text,
    /// Names of the fields.
    pub fields: *const Text,
    /// How many.
    pub fields_len: usize,
    /// Types of the fields.
    pub types: *const u64,
    /// How many.
    pub types_len: usize,
}

/// An event of a copy's, lent for a call.
#[derive(Debug)]
#[repr(C)]
pub struct Event {
    /// Most bytes that `put` writes.
    pub len_max: usize,
    /// Writes the fields at a place with so much room and eight bytes more; gives the end.
    // SAFETY of callers: `of` while it is lent, and a place with that room.
    pub put: unsafe extern "C" fn(*const c_void, *mut u8) -> *mut u8,
    /// What `put` is called with.
    pub of: *const c_void,
    /// The stack pointer of the program's function: frames below it are the recorder's.
    pub sp: usize,
}

/// What the owner does for the others. Functions give an [`Answer`], where nothing else is said.
#[derive(Debug)]
#[repr(C)]
pub struct Table {
    /// Ordinal of the owner's session.
    pub session: AtomicU32,
    /// The owner's name for a site, which holds for the life of the process; null: no room.
    // SAFETY of callers: what is told of stays for the call.
    pub site: unsafe extern "C" fn(&Told) -> *mut c_void,
    /// An instant, a counter or a log of a site.
    // SAFETY of callers: a name that `site` gave; an event that is lent for the call.
    pub event: unsafe extern "C" fn(*const c_void, &Event) -> u64,
    /// Begins a span; the answer has its place.
    // SAFETY of callers: as for `event`.
    pub span_begin: unsafe extern "C" fn(*const c_void, &Event) -> u64,
    /// The place of the calling thread's innermost span.
    pub span_place: extern "C" fn() -> u32,
    /// Ends the span of this session at this place.
    pub span_end: extern "C" fn(u32, u32) -> u64,
    /// Sets so many task ids aside, gives the first; 0: none.
    pub task_ids: extern "C" fn(u64) -> u64,
    /// Begins a task with this id and this parent, whose fields follow.
    // SAFETY of callers: as for `event`.
    pub task_begin: unsafe extern "C" fn(*const c_void, &Event, u64, u64) -> u64,
    /// Ends a task of this session.
    pub task_end: extern "C" fn(u32, u64) -> u64,
    /// Changes the current task of the calling thread.
    pub task_switch: extern "C" fn(u32, u64) -> u64,
    /// The current task of the calling thread.
    pub task_now: extern "C" fn() -> u64,
    /// Counts an event that is lost for this cause.
    pub lose: extern "C" fn(u32) -> u64,
    /// The calling thread runs the function of this name.
    // SAFETY of callers: a text that is lent for the call.
    pub runs: unsafe extern "C" fn(Text),
    /// Lends 64 KiB of memory and gives its number; null: there is none.
    pub lend: extern "C" fn(&mut u32) -> *mut u8,
    /// Takes it back.
    pub give_back: extern "C" fn(u32),
}

/// What became of an event at the owner: in the low half of the word how, in the high half what
/// more there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is recorded.
    Off,
    /// It is in a buffer of the thread's; of a span with its place.
    Recorded(u32),
    /// It is in the thread's side ring.
    Nested,
    /// It is counted.
    Lost(Cause),
}

impl Answer {
    /// As one word.
    pub fn to_word(self) -> u64 {
        match self {
            Answer::Off => 0,
            Answer::Recorded(place) => 1 | u64::from(place) << 32,
            Answer::Nested => 2,
            Answer::Lost(cause) => 3 | (cause as u64) << 32,
        }
    }

    /// The meaning of a word.
    pub fn from_word(word: u64) -> Answer {
        let more = (word >> 32) as u32;
        match word as u32 {
            1 => Answer::Recorded(more),
            2 => Answer::Nested,
            3 => Answer::Lost(Cause::from_u64(more.into()).unwrap_or(Cause::Unregistered)),
            _ => Answer::Off,
        }
    }
}

/// What the note of a copy names.
#[derive(Debug)]
#[repr(C)]
pub struct Object {
    /// Gives the copy its owner; gives how many task ids the copy has given out. Takes no lock.
    // SAFETY of callers: a table of the version that the note says.
    pub take: unsafe extern "C" fn(&'static Table) -> u64,
    table: AtomicPtr<Table>,
}

/// The owner of the note, with its zero.
pub const NOTE_NAME: &[u8; 10] = b"exectrace\0";

// In `.data`, which the loader relocates; the note, which it does not, names it by its distance.
#[cfg(not(miri))]
std::arch::global_asm!(
    ".pushsection .data.exectrace_copy,\"aw\",@progbits",
    ".balign 8",
    ".globl exectrace_copy",
    ".hidden exectrace_copy",
    ".type exectrace_copy, @object",
    ".size exectrace_copy, 16",
    "exectrace_copy:",
    ".quad {take}",
    ".quad 0",
    ".popsection",
    ".pushsection .note.exectrace,\"a\",@note",
    ".balign 4",
    ".long 10",
    ".long 16",
    ".long 1",
    ".asciz \"exectrace\"",
    ".balign 4",
    ".quad exectrace_copy - .",
    ".long {version}",
    ".long 0",
    ".popsection",
    take = sym take,
    version = const VERSION,
);

// SAFETY: the object above, of this type: written by the loader, and then through its atomic.
#[cfg(not(miri))]
unsafe extern "C" {
    #[link_name = "exectrace_copy"]
    safe static COPY: Object;
}

#[cfg(miri)]
static COPY: Object = Object { take, table: AtomicPtr::new(std::ptr::null_mut()) };

/// What the own note names.
pub fn own() -> &'static Object {
    &COPY
}

/// # Safety
///
/// - The table is one of `VERSION`.
unsafe extern "C" fn take(table: &'static Table) -> u64 {
    // Release: pairs with the Acquire in `table`.
    COPY.table.store(std::ptr::from_ref(table).cast_mut(), Release);
    registry::delegate()
}

/// The owner's table, where another copy owns the recording.
#[inline]
pub fn table() -> Option<&'static Table> {
    if registry::switch().delegated.load(Relaxed) == 0 {
        return None;
    }
    // Acquire: pairs with the Release in `take`.
    // SAFETY: null, or the owner's, which is never unloaded (owner#2).
    unsafe { COPY.table.load(Acquire).as_ref() }
}

/// Whether an event goes to the owner alone: there is no session of this copy's own, or the event
/// ends or changes what the owner knows (`changes`).
pub fn alone(changes: Option<u32>) -> bool {
    !registry::has_session() || changes.is_some_and(registry::is_delegated)
}

/// The owner's session, as a guard has it.
pub fn session(to: &Table) -> u32 {
    to.session.load(Relaxed) | registry::DELEGATED
}

/// Most fields of an event.
const FIELDS_MAX: usize = 24;

/// The owner's name for a site; `None`: there is no room, which is counted.
pub fn site(to: &Table, site: &Site, types: Types) -> Option<*mut c_void> {
    // Acquire: pairs with the Release below.
    let known = site.owned.load(Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let meta = &site.meta;
    let mut fields = [Text::new(""); FIELDS_MAX];
    let n = meta.fields.len().min(types.len()).min(FIELDS_MAX);
    for (to, name) in fields.iter_mut().zip(meta.fields) {
        *to = Text::new(name);
    }
    let told = Told {
        class: meta.class as u32,
        line: meta.line,
        flags: meta.flags,
        name: Text::new(meta.name),
        module: Text::new(meta.module),
        file: Text::new(meta.file),
        fields: fields.as_ptr(),
        fields_len: n,
        types: types.as_ptr(),
        types_len: n,
    };
    // SAFETY: texts and lists that live until the call returns.
    let name = unsafe { (to.site)(&told) };
    if name.is_null() {
        (to.lose)(Cause::SiteTable as u32);
        return None;
    }
    // Release: pairs with the Acquire above.
    site.owned.store(name, Release);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_from_their_word() {
        let all = [Answer::Off, Answer::Recorded(0), Answer::Recorded(u32::MAX), Answer::Nested];
        let lost = Cause::ALL.iter().map(|c| Answer::Lost(*c));
        for answer in all.into_iter().chain(lost) {
            assert_eq!(Answer::from_word(answer.to_word()), answer);
        }
    }
}
