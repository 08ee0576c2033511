//! The tables of the running session's epoch: strings, stacks, and the numbers of sites.
//!
//! 1. An id of one epoch MUST NOT be given out in another: every look-up names its epoch.
//! 2. A definition is in the log before its id is given out (Rule D).
//! 3. The memory is private, reserved once, and emptied between sessions while nobody is in here.

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
    segments_max: u32,
    stack_classes: u64,
    kinds: AtomicU32,
    stacks: StackTable<'static>,
    strings: StringTable<'static>,
}

static CURRENT: AtomicPtr<Tables> = AtomicPtr::new(std::ptr::null_mut());

/// The memory of the tables, kept from session to session.
#[derive(Debug)]
pub struct Memory {
    base: *mut u8,
    bytes: usize,
    stacks_max: u32,
    stack_words: usize,
    keys: &'static Keys,
    tables: *mut Tables,
}

// SAFETY: whoever holds the session's state uses it, one at a time.
unsafe impl Send for Memory {}

impl Memory {
    /// Reserves room for `stacks_max` stacks of `stack_words` words in all.
    pub fn reserve(stacks_max: u32, stack_words: usize) -> Option<Memory> {
        let words = intern::slots_for(stacks_max)
            + stack_words
            + intern::slots_for(STRINGS_MAX)
            + STRING_WORDS;
        let bytes = words * 8;
        let base = sys::mapping::private_zeroed(bytes)?;
        // One KiB for each change of the bound, never freed.
        let keys = Box::leak(Box::new(Keys::new(sys::random_u64())));
        Some(Memory { base, bytes, stacks_max, stack_words, keys, tables: std::ptr::null_mut() })
    }

    /// Whether it has the room that a session asks for.
    pub fn fits(&self, stacks_max: u32, stack_words: usize) -> bool {
        self.stacks_max == stacks_max && self.stack_words == stack_words
    }

    /// Gives the room back, for a session that asks for another one. Nobody is inside (tables#3).
    pub fn release(self) {
        CURRENT.store(std::ptr::null_mut(), Relaxed);
        // SAFETY: the range is ours, and tables#3. The keys and the few words that say where the
        // tables are stay.
        unsafe { sys::mapping::release_private(self.base, self.bytes) };
    }

    fn words(&self, at: &mut usize, n: usize) -> &'static [AtomicU64] {
        assert!((*at + n) * 8 <= self.bytes);
        // SAFETY: the place was just checked to lie inside the memory.
        let p = unsafe { self.base.cast::<AtomicU64>().add(*at) };
        *at += n;
        // SAFETY: zeroed memory that is never freed, and only ever used as atomics.
        unsafe { std::slice::from_raw_parts(p, n) }
    }

    /// Empties the tables and begins an epoch with them. Nobody is inside (tables#3).
    pub fn begin(&mut self, epoch: u32, segments_max: u32, stack_classes: u64) {
        CURRENT.store(std::ptr::null_mut(), Relaxed);
        if !self.tables.is_null() {
            // SAFETY: the range is ours, and tables#3.
            unsafe { sys::mapping::zero_private(self.base, self.bytes) };
        }
        let mut at = 0;
        let stack_slots = self.words(&mut at, intern::slots_for(self.stacks_max));
        let stack_words = self.words(&mut at, self.stack_words);
        let string_slots = self.words(&mut at, intern::slots_for(STRINGS_MAX));
        let string_words = self.words(&mut at, STRING_WORDS);
        let tables = Tables {
            epoch,
            segments_max,
            stack_classes,
            kinds: AtomicU32::new(KIND_DYNAMIC as u32),
            stacks: StackTable::new(self.keys, stack_slots, stack_words, self.stacks_max),
            strings: StringTable::new(self.keys, string_slots, string_words, STRINGS_MAX),
        };
        if self.tables.is_null() {
            self.tables = Box::into_raw(Box::new(tables));
        } else {
            // SAFETY: ours, and nobody reads it (tables#3).
            unsafe { self.tables.write(tables) };
        }
        // Release: pairs with the Acquire in `current`.
        CURRENT.store(self.tables, Release);
    }
}

fn current(epoch: u32) -> Option<&'static Tables> {
    // Acquire: pairs with the Release in `begin`.
    // SAFETY: null, or a table that is never freed.
    let t = unsafe { CURRENT.load(Acquire).as_ref() }?;
    (t.epoch == epoch).then_some(t)
}

impl Tables {
    fn log<'m>(&self, m: &'m Mapping) -> Definitions<'m, Mapping> {
        Definitions { log: &m.front().log.0, segments: m, segments_max: self.segments_max }
    }
}

/// Puts an encoded definition into the log of this epoch. Signal-safe.
pub fn define(m: &Mapping, epoch: u32, record: &[u8]) -> Option<()> {
    let t = current(epoch)?;
    t.log(m).insert(record.len(), |to| {
        to.copy_from_slice(record);
        true
    })?;
    Some(())
}

/// The id of a stack; `None` where it cannot be kept. Signal-safe.
#[inline]
pub fn stack_id(
    m: Option<&'static Mapping>,
    frames: &[u64],
    sum: u64,
    truncated: bool,
    epoch: u32,
) -> Option<u32> {
    let t = current(epoch)?;
    match t.stacks.id(frames, sum, truncated, &t.log(m?)) {
        0 => None,
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
    let stack = t.stack_classes >> meta.class as u64 & 1 != 0;
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
