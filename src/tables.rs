//! The tables of the running session's epoch: strings, stacks, and the numbers of sites.
//!
//! 1. An id of one epoch MUST NOT be given out in another: every look-up names its epoch.
//! 2. A definition is in the log before its id is given out (Rule D).
//! 3. There are two halves, for the epoch that runs and for the one that comes after it. A half is
//!    filled, and [`publish`](Memory::publish) exchanges them, only while nobody is in here: with
//!    the gate shut, or in a pause that has seen every thread out.

use crate::encode::field::Writer;
use crate::encode::schema;
use crate::encode::schema::Class;
use crate::encode::wire::KIND_DYNAMIC;
use crate::intern;
use crate::intern::Definitions;
use crate::intern::Keys;
use crate::mapping::Mapping;
use crate::site::EXPLICIT_TASK;
use crate::site::KIND_LIMIT;
use crate::site::Site;
use crate::site::Types;
use crate::stacktab::StackTable;
use crate::stringtab::StringTable;
use crate::sync::AtomicBool;
use crate::sync::AtomicPtr;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;

/// Most strings of an epoch: names, modules and files of sites.
const STRINGS_MAX: u32 = 1 << 15;
/// Words of the string table's entries.
const STRING_WORDS: usize = 1 << 19;

/// The tables of one epoch.
struct Tables {
    epoch: u32,
    bounds: Bounds,
    kinds: AtomicU32,
    /// The log had no room for a definition.
    refused: AtomicBool,
    stacks: StackTable<'static>,
    strings: StringTable<'static>,
}

/// What holds for the tables of every epoch of a session.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most segments of the definition log.
    pub segments_max: u32,
    /// The classes of sites that capture stacks, a bit for each.
    pub stack_classes: u64,
}

static CURRENT: AtomicPtr<Tables> = AtomicPtr::new(std::ptr::null_mut());

/// The next epoch; never reset, so that no number is used twice in a process.
static NEXT_EPOCH: AtomicU32 = AtomicU32::new(1);

/// A number for an epoch that no other has.
pub fn next_epoch() -> u32 {
    NEXT_EPOCH.fetch_add(1, Relaxed)
}

/// The memory of the tables, kept from session to session.
#[derive(Debug)]
pub struct Memory {
    halves: [Half; 2],
    bytes: usize,
    stacks_max: u32,
    stack_words: usize,
    /// Made by a `Box`, ours.
    keys: *mut Keys,
}

/// The memory of one epoch.
#[derive(Debug)]
struct Half {
    base: *mut u8,
    /// Where the tables are that were made in it; null before the first ones.
    tables: *mut Tables,
    /// All zero.
    clean: bool,
}

// SAFETY: whoever holds the session's state uses it, one at a time.
unsafe impl Send for Memory {}

impl Memory {
    /// Reserves room for `stacks_max` stacks of `stack_words` words in all, twice.
    pub fn reserve(stacks_max: u32, stack_words: usize) -> Option<Memory> {
        let words = intern::slots_for(stacks_max)
            + stack_words
            + intern::slots_for(STRINGS_MAX)
            + STRING_WORDS;
        let bytes = words * 8;
        let half = |base| Half { base, tables: std::ptr::null_mut(), clean: true };
        let first = sys::mapping::private_zeroed(bytes)?;
        let Some(second) = sys::mapping::private_zeroed(bytes) else {
            // SAFETY: just reserved, and nobody else knows of it.
            unsafe { sys::mapping::release_private(first, bytes) };
            return None;
        };
        let keys = Box::into_raw(Box::new(Keys::new(sys::random_u64())));
        Some(Memory { halves: [half(first), half(second)], bytes, stacks_max, stack_words, keys })
    }

    /// Whether it has the room that a session asks for.
    pub fn fits(&self, stacks_max: u32, stack_words: usize) -> bool {
        self.stacks_max == stacks_max && self.stack_words == stack_words
    }

    /// Gives the room back, for a session that asks for another one. Nobody is inside (tables#3).
    pub fn release(self) {
        CURRENT.store(std::ptr::null_mut(), Relaxed);
        for half in &self.halves {
            if !half.tables.is_null() {
                // SAFETY: made by `Box::into_raw` in `fill`, and tables#3.
                drop(unsafe { Box::from_raw(half.tables) });
            }
            // SAFETY: the range is ours, and tables#3.
            unsafe { sys::mapping::release_private(half.base, self.bytes) };
        }
        // SAFETY: made by `Box::into_raw` in `reserve`; the tables that named them are gone.
        drop(unsafe { Box::from_raw(self.keys) });
    }

    /// Makes empty tables for an epoch that is not the current one, nor next to another that is.
    pub fn fill(&mut self, epoch: u32, bounds: Bounds) {
        self.empty(epoch);
        let base = self.halves[epoch as usize & 1].base;
        let mut at = 0;
        let mut words = |n| words(base, self.bytes, &mut at, n);
        let stack_slots = words(intern::slots_for(self.stacks_max));
        let stack_words = words(self.stack_words);
        let string_slots = words(intern::slots_for(STRINGS_MAX));
        let string_words = words(STRING_WORDS);
        // SAFETY: they live until `release`, where nobody is in the tables (tables#3).
        let keys: &'static Keys = unsafe { &*self.keys };
        let tables = Tables {
            epoch,
            bounds,
            kinds: AtomicU32::new(KIND_DYNAMIC as u32),
            refused: AtomicBool::new(false),
            stacks: StackTable::new(keys, stack_slots, stack_words, self.stacks_max),
            strings: StringTable::new(keys, string_slots, string_words, STRINGS_MAX),
        };
        let half = &mut self.halves[epoch as usize & 1];
        half.clean = false;
        if half.tables.is_null() {
            half.tables = Box::into_raw(Box::new(tables));
        } else {
            // SAFETY: ours, and nobody reads it (tables#3).
            unsafe { half.tables.write(tables) };
        }
    }

    /// Gives the pages of an epoch that is over back to the system. Nobody is in its tables.
    pub fn empty(&mut self, epoch: u32) {
        let half = &mut self.halves[epoch as usize & 1];
        if half.clean {
            return;
        }
        // SAFETY: the range is ours, and tables#3.
        if !unsafe { sys::mapping::zero_private(half.base, self.bytes) } {
            // Locked pages stay. What an epoch left must not be found in another.
            // SAFETY: as above.
            unsafe { half.base.write_bytes(0, self.bytes) };
        }
        half.clean = true;
    }

    /// Makes the tables that were filled for this epoch the current ones. Allocates nothing.
    pub fn publish(&self, epoch: u32) {
        // Release: pairs with the Acquire in `current`.
        CURRENT.store(self.halves[epoch as usize & 1].tables, Release);
    }
}

/// No tables are current. Between sessions.
pub fn withdraw() {
    CURRENT.store(std::ptr::null_mut(), Relaxed);
}

/// The next `n` words of a half.
fn words(base: *mut u8, bytes: usize, at: &mut usize, n: usize) -> &'static [AtomicU64] {
    assert!((*at + n) * 8 <= bytes);
    // SAFETY: the place was just checked to lie inside the memory.
    let p = unsafe { base.cast::<AtomicU64>().add(*at) };
    *at += n;
    // SAFETY: zeroed memory that nobody uses once it is released (tables#3), and only ever used as
    // atomics.
    unsafe { std::slice::from_raw_parts(p, n) }
}

fn current(epoch: u32) -> Option<&'static Tables> {
    // Acquire: pairs with the Release in `publish`.
    // SAFETY: null, or tables that are freed only while nobody is in here (tables#3).
    let t = unsafe { CURRENT.load(Acquire).as_ref() }?;
    (t.epoch == epoch).then_some(t)
}

/// What keeps the epoch from taking more definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// A table, or the numbers of kinds.
    Tables,
    /// The definition log had no room: it is at its bound, or there was no free buffer.
    Log,
}

/// Whether something was refused in this epoch that another one could take.
pub fn full(epoch: u32) -> Option<Full> {
    let t = current(epoch)?;
    if t.stacks.is_full() || t.strings.is_full() || t.kinds.load(Relaxed) >= KIND_LIMIT {
        return Some(Full::Tables);
    }
    t.refused.load(Relaxed).then_some(Full::Log)
}

impl Tables {
    fn log<'m>(&self, m: &'m Mapping) -> Definitions<'m, Mapping> {
        let segments_max = self.bounds.segments_max;
        Definitions { log: m.log(self.epoch), segments: m, segments_max }
    }

    /// Notes that the log had no room.
    #[cold]
    fn refuse(&self) {
        // Looked at first: every thread may come here with every event.
        if !self.refused.load(Relaxed) {
            self.refused.store(true, Relaxed);
        }
    }
}

/// Puts an encoded definition into the log of this epoch. Signal-safe.
pub fn define(m: &Mapping, epoch: u32, record: &[u8]) -> Option<()> {
    let t = current(epoch)?;
    let place = t.log(m).insert(record.len(), |to| {
        to.copy_from_slice(record);
        true
    });
    if place.is_none() {
        t.refuse();
    }
    place.map(drop)
}

/// The id of a stack; `None` where it cannot be kept. Signal-safe.
#[inline]
pub fn stack_id(
    m: Option<&'static Mapping>,
    frames: &[u64],
    sum: u64,
    flags: u64,
    epoch: u32,
) -> Option<u32> {
    let t = current(epoch)?;
    match t.stacks.id(frames, sum, flags, &t.log(m?)) {
        0 => {
            t.refuse();
            None
        }
        id => Some(id),
    }
}

/// The keys with which stacks are hashed while they are walked.
#[inline]
pub fn stack_keys(epoch: u32) -> Option<&'static Keys> {
    Some(current(epoch)?.stacks.keys())
}

/// Defines a site in this epoch. Signal-safe. `None`: there is no room.
#[cold]
pub fn define_site(m: &Mapping, site: &'static Site, types: Types, epoch: u32) -> Option<()> {
    let t = current(epoch)?;
    let to = t.log(m);
    let id = |s: &str| u64::from(t.strings.id(s.as_bytes(), &to));
    let meta = &site.meta;
    let (name, module, file) = (id(meta.name), id(meta.module), id(meta.file));
    let kind = t.kinds.fetch_add(1, Relaxed);
    if kind >= KIND_LIMIT {
        t.kinds.store(KIND_LIMIT, Relaxed);
        return None;
    }
    let stack = t.bounds.stack_classes >> meta.class as u64 & 1 != 0;
    let mut fields = [("", 0u64); FIELDS_MAX + 1];
    let mut n = 0;
    for pair in meta.fields.iter().copied().zip(types.iter().copied()).take(FIELDS_MAX) {
        fields[n] = pair;
        n += 1;
    }
    if stack {
        fields[n] = ("stack", crate::encode::field::ty::STACK);
        n += 1;
    }
    let flags = u64::from(stack) | meta.flags & EXPLICIT_TASK;
    let mut bytes = [0u8; 1024];
    let mut w = Writer::new(&mut bytes);
    let put = schema::Site::put(
        &mut w,
        kind.into(),
        class_code(meta.class),
        flags,
        name,
        module,
        file,
        meta.line.into(),
        &fields[..n],
    );
    let len = w.len();
    let done = put.and_then(|()| define(m, epoch, &bytes[..len]));
    match done {
        Some(()) => site.set(epoch, kind, stack),
        // So that events which come again and again while there is no room do not use all up.
        None => drop(t.kinds.compare_exchange(kind + 1, kind, Relaxed, Relaxed)),
    }
    done
}

/// Most fields of an event, the implicit ones included.
pub const FIELDS_MAX: usize = 18;

fn class_code(class: Class) -> u64 {
    class as u64
}
