//! What a session defines: strings, stacks, sites, threads, modules, clocks, losses.
//!
//! 1. Ids belong to a table epoch; a look-up of an id that nothing defines gives `None`, never a
//!    plausible value. The first definition of an id counts, later ones are ignored and counted.
//! 2. Memory is at most 64 bytes for each byte of input: encoded bytes are kept as they came, and
//!    nothing is allocated on the word of a declared size.
//! 3. Nothing here follows a reference from one definition to another: no recursion, no cycles.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::LazyLock;

use trace::encode::field::List;
use trace::encode::field::Reader;
use trace::encode::field::Text;
use trace::encode::schema;
use trace::encode::schema::Cause;
use trace::encode::schema::Class;
use trace::encode::schema::STACK_TRUNCATED;
use trace::encode::wire::KIND_DYNAMIC;

use crate::clock::Clock;
use crate::event::FieldTypes;
use crate::event::Structural;
use crate::shape;
use crate::shape::Meaning;
use crate::shape::Slot;
use crate::shape::Step;

/// Name and type of a field, of a site or of a kind that only the trace describes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldDef {
    /// Where the name stands in the definition's `names`.
    from: u32,
    to: u32,
    pub(crate) ty: u64,
}

/// The fields of a site or of a kind that only the trace describes.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldDefs {
    names: Box<[u8]>,
    defs: Box<[FieldDef]>,
}

impl FieldDefs {
    fn of(fields: trace::encode::field::Fields<'_>) -> Self {
        let (mut names, mut defs) = (Vec::new(), Vec::new());
        for (name, ty) in fields.iter() {
            let from = names.len() as u32;
            names.extend_from_slice(name.bytes);
            defs.push(FieldDef { from, to: names.len() as u32, ty });
        }
        FieldDefs { names: names.into(), defs: defs.into() }
    }

    pub(crate) fn get(&self, at: usize) -> Option<(&[u8], u64)> {
        let def = self.defs.get(at)?;
        Some((self.names.get(def.from as usize..def.to as usize)?, def.ty))
    }

    pub(crate) fn len(&self) -> usize {
        self.defs.len()
    }
}

/// A place in the recorded program's source that emits; a kind of its own.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its kind.
    pub kind: u64,
    /// What it emits: a number of [`Class`].
    pub class: u64,
    /// Bit 0: a field `stack` stands last; bit 1: the first field names the task.
    pub flags: u64,
    /// Id of the string that is its name; of a log, the category.
    pub name: u64,
    /// Id of the string that is the path of its module.
    pub module: u64,
    /// Id of the string that is the path of its source file.
    pub file: u64,
    /// Its line there.
    pub line: u64,
    pub(crate) fields: FieldDefs,
    pub(crate) steps: Option<Box<[Step]>>,
}

impl Site {
    /// What it emits; `None` for a class of a later version.
    pub fn class(&self) -> Option<Class> {
        Class::from_u64(self.class)
    }

    /// Name and type of each of its fields.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], u64)> {
        (0..self.fields.len()).filter_map(|i| self.fields.get(i))
    }

    pub(crate) fn types(&self) -> FieldTypes<'_> {
        FieldTypes::Defined(&self.fields)
    }
}

/// A static kind as the trace's own `Schema` event describes it.
#[derive(Clone, Debug)]
pub struct SchemaDef {
    /// The kind.
    pub kind: u64,
    /// Its name.
    pub name: Box<[u8]>,
    /// What it means for the time line: 0 structure, 1 instant, 2 begin, 3 end.
    pub phase: u64,
    /// The range that begins or ends here.
    pub pair: Box<[u8]>,
    pub(crate) fields: FieldDefs,
    pub(crate) steps: Option<Box<[Step]>>,
}

impl SchemaDef {
    /// Name and type of each of its fields.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], u64)> {
        (0..self.fields.len()).filter_map(|i| self.fields.get(i))
    }
}

/// A loaded module of the recorded process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where its code begins.
    pub base: u64,
    /// How many bytes it has.
    pub size: u64,
    /// What to take from an address to have one of the file's own.
    pub bias: u64,
    /// The build id of the file.
    pub build_id: Box<[u8]>,
    /// The file.
    pub path: Box<[u8]>,
    /// Its size.
    pub file_size: u64,
    /// When it was changed last.
    pub mtime: u64,
}

/// A stack.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// How it was walked, and where the walk ended: the bits of `trace::encode::schema`.
    pub flags: u64,
    frames: List<'a>,
}

impl<'a> Stack<'a> {
    /// Return addresses, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = u64> + 'a {
        self.frames.iter()
    }

    /// How many frames.
    pub fn len(&self) -> u64 {
        self.frames.len()
    }

    /// Whether it has no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether the walk ended before the outermost frame.
    pub fn is_truncated(&self) -> bool {
        self.flags & STACK_TRUNCATED != 0
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    at: usize,
    len: u32,
    /// One more than the length before the text was cut; 0 where it was not.
    cut: u64,
}

/// Most threads of which it is kept what they were waiting for. 16,384: as many as a recorder
/// knows at the same time.
const BLOCKED_MAX: usize = 1 << 14;

/// Most threads whose coverage is kept.
const COVERAGE_MAX: usize = 1 << 16;

/// What a thread was waiting for when the recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The thread.
    pub thread: u64,
    /// What it had called, a number of `trace::encode::op`.
    pub op: u64,
    /// On which object.
    pub object: u64,
    /// Since when, in scaled ticks.
    pub since: u64,
    /// From which stack; 0 not known.
    pub stack: u64,
    /// Who had it when the wait began, as a wait's result says it; 0 not known.
    pub by: u64,
    /// The table epoch of the stack.
    pub epoch: u32,
}

/// The kernel's counts of a thread beside those of its recorded waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The thread.
    pub thread: u64,
    /// Until when, in scaled ticks.
    pub at: u64,
    /// Switches that the thread asked for, as the kernel counted them.
    pub switches: u64,
    /// Pages that it waited for.
    pub faults: u64,
    /// Recorded waits that slept, by calls that sleep once.
    pub slept: u64,
    /// Other recorded calls that took as long.
    pub longer: u64,
    /// The time that those took, in nanoseconds.
    pub longer_ns: u64,
    /// How much of its life is known below, in nanoseconds; 0: nothing.
    pub over_ns: u64,
    /// Of that, blocked, by the kernel's count.
    pub blocked_ns: u64,
    /// Of that, in recorded waits.
    pub waited_ns: u64,
}

/// The tables of one epoch.
#[derive(Clone, Debug)]
pub struct Tables {
    epoch: u32,
    bytes: Vec<u8>,
    strings: HashMap<u64, Piece>,
    stacks: HashMap<u64, Piece>,
    /// Definitions of stacks that were counted and not kept.
    stacks_passed: usize,
    #[allow(clippy::vec_box)] // A vector that grows moves 8 bytes a site then, not 150.
    sites: Vec<Box<Site>>,
    /// Kinds that are too far apart for `slots`.
    sparse: HashMap<u64, u32>,
    slots: Vec<Slot>,
    modules: BTreeMap<u64, Module>,
    repeated: u64,
}

/// Kinds below this have a slot in every epoch: 2 KiB.
const SLOTS_MIN: usize = 128;

impl Tables {
    fn new(epoch: u32, schema: &Schemas) -> Self {
        let mut slots = vec![Slot::UNKNOWN; SLOTS_MIN];
        slots[..schema.slots.len()].copy_from_slice(&schema.slots);
        Tables {
            epoch,
            bytes: Vec::new(),
            strings: HashMap::new(),
            stacks: HashMap::new(),
            stacks_passed: 0,
            sites: Vec::new(),
            sparse: HashMap::new(),
            slots,
            modules: BTreeMap::new(),
            repeated: 0,
        }
    }

    /// The number of the epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The string with this id.
    pub fn string(&self, id: u64) -> Option<Text<'_>> {
        let p = self.strings.get(&id)?;
        let bytes = self.bytes.get(p.at..p.at + p.len as usize)?;
        Some(Text { bytes, cut_from: p.cut.checked_sub(1) })
    }

    /// The stack with this id; `None` also where stacks are not kept.
    pub fn stack(&self, id: u64) -> Option<Stack<'_>> {
        let p = self.stacks.get(&id)?;
        let frames = Reader::new(self.bytes.get(p.at..p.at + p.len as usize)?).list()?;
        Some(Stack { flags: p.cut, frames })
    }

    /// Every stack with its id, in no order; none where stacks are not kept.
    pub fn stacks(&self) -> impl Iterator<Item = (u64, Stack<'_>)> {
        self.stacks.keys().filter_map(|id| Some((*id, self.stack(*id)?)))
    }

    /// The site that is this kind.
    pub fn site(&self, kind: u64) -> Option<&Site> {
        if kind < KIND_DYNAMIC {
            return None;
        }
        self.site_of(self.slot(kind))
    }

    #[inline]
    pub(crate) fn site_of(&self, slot: Slot) -> Option<&Site> {
        self.site_at(slot.meaning.steps)
    }

    /// The site with these steps, as its [`Slot`] has them.
    #[inline]
    pub(crate) fn site_at(&self, steps: u32) -> Option<&Site> {
        self.sites.get((steps as usize).wrapping_sub(1)).map(|s| &**s)
    }

    /// Every site, in the order of their definition.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().map(|s| &**s)
    }

    /// Every module, by where its code begins.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// The module that has code at this address.
    pub fn module_of(&self, addr: u64) -> Option<&Module> {
        let (base, module) = self.modules.range(..=addr).next_back()?;
        (addr - base < module.size).then_some(module)
    }

    /// How many strings and stacks are defined. Where stacks are not kept, one that is defined
    /// again counts again.
    pub fn counts(&self) -> (usize, usize) {
        (self.strings.len(), self.stacks.len() + self.stacks_passed)
    }

    /// Definitions of an id that was already defined.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    #[inline]
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots[..self.slots.len().min(shape::SHORT_KINDS)]
    }

    pub(crate) fn slot(&self, kind: u64) -> Slot {
        if let Some(slot) = usize::try_from(kind).ok().and_then(|k| self.slots.get(k)) {
            return *slot;
        }
        let Some(index) = self.sparse.get(&kind) else { return Slot::UNKNOWN };
        self.slot_of_site(*index as usize)
    }

    fn slot_of_site(&self, index: usize) -> Slot {
        let Some(site) = self.sites.get(index) else { return Slot::UNKNOWN };
        shape::slot(site.steps.as_deref(), index, shape::site_action(site.class))
    }

    fn add_string(&mut self, id: u64, text: Text<'_>) {
        let cut = text.cut_from.map_or(0, |n| n.saturating_add(1));
        let (at, len) = (self.bytes.len(), text.bytes.len() as u32);
        match self.strings.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => self.repeated += 1,
            std::collections::hash_map::Entry::Vacant(e) => {
                e.insert(Piece { at, len, cut });
                self.bytes.extend_from_slice(text.bytes);
            }
        }
    }

    /// `frames` is the list as it is encoded.
    fn add_stack(&mut self, id: u64, flags: u64, frames: &[u8]) {
        let (at, len) = (self.bytes.len(), frames.len() as u32);
        match self.stacks.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => self.repeated += 1,
            std::collections::hash_map::Entry::Vacant(e) => {
                e.insert(Piece { at, len, cut: flags });
                self.bytes.extend_from_slice(frames);
            }
        }
    }

    fn add_site(&mut self, s: &schema::Site<'_>) {
        if s.kind < KIND_DYNAMIC || self.site_index(s.kind).is_some() {
            self.repeated += 1;
            return;
        }
        let index = self.sites.len();
        self.sites.push(Box::new(Site {
            kind: s.kind,
            class: s.class,
            flags: s.flags,
            name: s.name,
            module: s.module,
            file: s.file,
            line: s.line,
            fields: FieldDefs::of(s.fields),
            steps: shape::steps_of(s.fields.iter().map(|f| f.1)),
        }));
        self.grow_slots();
        match usize::try_from(s.kind).ok().filter(|k| *k < self.slots.len()) {
            Some(kind) => self.slots[kind] = self.slot_of_site(index),
            None => drop(self.sparse.insert(s.kind, index as u32)),
        }
    }

    fn site_index(&self, kind: u64) -> Option<usize> {
        match usize::try_from(kind).ok().and_then(|k| self.slots.get(k)) {
            Some(slot) => (slot.meaning.steps as usize).checked_sub(1),
            None => self.sparse.get(&kind).map(|i| *i as usize),
        }
    }

    /// Slots for four times as many kinds as there are sites, doubled each time, so that the
    /// tables stay within their bound and the usual numbering, from 64 up, has no holes.
    fn grow_slots(&mut self) {
        if self.sites.len() * 4 < self.slots.len() * 2 {
            return;
        }
        let len = self.slots.len() * 2;
        self.slots.resize(len, Slot::UNKNOWN);
        let near: Vec<(u64, u32)> =
            self.sparse.iter().filter(|e| *e.0 < len as u64).map(|e| (*e.0, *e.1)).collect();
        for (kind, index) in near {
            self.sparse.remove(&kind);
            self.slots[kind as usize] = self.slot_of_site(index as usize);
        }
    }

    fn add_module(&mut self, m: &schema::Module<'_>) {
        let module = Module {
            base: m.base,
            size: m.size,
            bias: m.bias,
            build_id: m.build_id.bytes.into(),
            path: m.path.bytes.into(),
            file_size: m.file_size,
            mtime: m.mtime,
        };
        self.modules.entry(m.base).or_insert(module);
    }
}

/// The static kinds of a session: our table, and what the trace says of others.
#[derive(Clone, Debug)]
struct Schemas {
    slots: [Slot; OWN],
    defs: Vec<SchemaDef>,
}

/// Slots of kinds that only the trace describes point behind those of our own table.
const OWN: usize = KIND_DYNAMIC as usize;

/// The timed kinds of our own table.
#[derive(Debug)]
struct OwnKinds {
    slots: [Slot; OWN],
    steps: Vec<Box<[Step]>>,
}

static OWN_KINDS: LazyLock<OwnKinds> = LazyLock::new(|| {
    let mut own = OwnKinds { slots: [Slot::UNKNOWN; OWN], steps: vec![Box::default(); OWN] };
    for (kind, slot) in own.slots.iter_mut().enumerate() {
        let Some(spec) = shape::timed_spec(kind as u64) else { continue };
        let Some(steps) = shape::steps_of(spec.fields.iter().map(|f| f.1)) else { continue };
        *slot = shape::slot(Some(&steps), kind, shape::static_action(kind as u64));
        own.steps[kind] = steps;
    }
    own
});

/// Tables without any definition.
static BLANK: LazyLock<Tables> = LazyLock::new(|| Tables::new(0, &Schemas::new()));

impl Schemas {
    fn new() -> Self {
        Schemas { slots: OWN_KINDS.slots, defs: Vec::new() }
    }

    /// Whether the kind is one that can be stepped over only now.
    fn add(&mut self, s: &schema::Schema<'_>) -> bool {
        if s.kind >= KIND_DYNAMIC || self.get(s.kind).is_some() {
            return false;
        }
        let steps = shape::steps_of(s.fields.iter().map(|f| f.1));
        let index = OWN + self.defs.len();
        let ours = shape::spec(s.kind).is_some();
        let mut new = false;
        if let (Some(steps), false, 1..) = (&steps, ours, s.phase) {
            self.slots[s.kind as usize] = shape::slot(Some(steps), index, shape::Action::None);
            new = true;
        }
        self.defs.push(SchemaDef {
            kind: s.kind,
            name: s.name.bytes.into(),
            phase: s.phase,
            pair: s.pair.bytes.into(),
            fields: FieldDefs::of(s.fields),
            steps,
        });
        new
    }

    fn get(&self, kind: u64) -> Option<&SchemaDef> {
        self.defs.iter().find(|d| d.kind == kind)
    }

    fn steps(&self, meaning: Meaning) -> Option<&[Step]> {
        let index = (meaning.steps as usize).checked_sub(1)?;
        match index.checked_sub(OWN) {
            None => OWN_KINDS.steps.get(index).map(|s| &**s),
            Some(i) => self.defs.get(i)?.steps.as_deref(),
        }
    }
}

/// A thread of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its number in the trace.
    pub number: u64,
    /// The kernel's number, which may be used again by a later thread.
    pub tid: u64,
    /// The thread that created it; 0 where that is not known.
    pub creator: u64,
    /// Its newest name.
    pub name: Box<[u8]>,
    /// The function that it runs.
    pub function: Box<[u8]>,
    /// Where that function's code is.
    pub entry: u64,
    /// When the recorder met it, in scaled ticks.
    pub registered: u64,
}

/// A thread that a snapshot met and that the recorder knows nothing else of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unregistered<'a> {
    /// The kernel's number.
    pub tid: u64,
    /// Its newest name.
    pub name: &'a [u8],
}

/// Most threads without a number that are kept. 4,096: more than a process should have idle.
const UNREGISTERED_MAX: usize = 4096;

/// Events of a thread that were lost for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The thread; 0 for threads without a number.
    pub thread: u64,
    /// A number of [`Cause`].
    pub cause: u64,
    /// How many events since the session began.
    pub count: u64,
}

impl Loss {
    /// Whether events are missing; otherwise they are there, with less in them.
    pub fn is_event(&self) -> bool {
        self.cause < 32
    }

    /// The name of the cause; `None` for one of a later version.
    pub fn cause_name(&self) -> Option<&'static str> {
        Cause::from_u64(self.cause).map(Cause::name)
    }
}

/// What the recorder says of a session at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version of the format.
    pub format: u64,
    /// Name and version of the recorder.
    pub recorder: Box<[u8]>,
    /// Bits by which the counter was shifted right to have scaled ticks.
    pub tick_shift: u64,
    /// Scaled ticks a second, as estimated at the start; 0 where not known.
    pub tick_rate: u64,
    /// Which clock: 1 x86 time stamp counter, 2 ARM virtual counter, 3 monotonic clock.
    pub clock: u64,
    /// Scaled ticks when the session began.
    pub start: u64,
    /// The process.
    pub pid: u64,
    /// The program.
    pub program: Box<[u8]>,
    /// The machine's architecture.
    pub arch: Box<[u8]>,
    /// 1 membarrier, 2 fences.
    pub mode: u64,
}

/// What the recorder says of a session at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are described in docs/format.md.
pub struct End {
    pub at: u64,
    pub events: u64,
    pub lost: u64,
    pub threads: u64,
    pub generations: u64,
    pub batches: u64,
    pub pause_max: u64,
    pub reason: u64,
}

#[derive(Clone, Debug)]
struct Note {
    name: Box<[u8]>,
    text: Box<[u8]>,
}

/// What was read of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Timed events that decoded.
    pub events: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes of these batches.
    pub bytes: u64,
    /// `GenerationEnd` events.
    pub generations: u64,
    /// Bytes that were skipped since the session began.
    pub damaged_bytes: u64,
    /// Ranges that were skipped.
    pub damages: u64,
    /// The earliest time in the header of an events batch.
    pub first_ticks: Option<u64>,
    /// The latest time of an event or of the session's end.
    pub last_ticks: Option<u64>,
}

/// A session: everything its trace defines.
#[derive(Clone, Debug)]
pub struct Session {
    id: u64,
    offset: u64,
    info: Option<Info>,
    clock: Clock,
    schemas: Schemas,
    /// Whether stacks are counted and not kept.
    passes_stacks: bool,
    blocked: Vec<Blocked>,
    coverage: Vec<Coverage>,
    coverage_left: u64,
    epochs: Vec<Tables>,
    epoch_index: HashMap<u32, u32>,
    #[allow(clippy::box_collection)]
    threads: BTreeMap<u64, Box<Thread>>,
    /// By the kernel's number.
    unregistered: BTreeMap<u64, Box<[u8]>>,
    losses: BTreeMap<(u64, u64), u64>,
    notes: Vec<Note>,
    end: Option<End>,
    pub(crate) totals: Totals,
}

impl Default for Session {
    fn default() -> Self {
        Session::new(0, 0, 0)
    }
}

impl Session {
    pub(crate) fn new(id: u64, offset: u64, start: u64) -> Self {
        Session {
            id,
            offset,
            info: None,
            clock: Clock::new(start, 0),
            schemas: Schemas::new(),
            passes_stacks: false,
            blocked: Vec::new(),
            coverage: Vec::new(),
            coverage_left: 0,
            epochs: Vec::new(),
            epoch_index: HashMap::new(),
            threads: BTreeMap::new(),
            unregistered: BTreeMap::new(),
            losses: BTreeMap::new(),
            notes: Vec::new(),
            end: None,
            totals: Totals::default(),
        }
    }

    /// The same, of a reader that needs no stacks: they are the largest of its tables.
    pub(crate) fn without_stacks(self) -> Self {
        Session { passes_stacks: true, ..self }
    }

    /// The number that all its batches have.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it begins in the input.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What the recorder says of it; `None` where its first batch is missing.
    pub fn info(&self) -> Option<&Info> {
        self.info.as_ref()
    }

    /// The rule from ticks to nanoseconds.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The tables of an epoch.
    pub fn tables(&self, epoch: u32) -> Option<&Tables> {
        self.tables_at(*self.epoch_index.get(&epoch)?)
    }

    #[inline]
    pub(crate) fn tables_at(&self, index: u32) -> Option<&Tables> {
        self.epochs.get(index as usize)
    }

    #[inline]
    pub(crate) fn blank(&self) -> &Tables {
        &BLANK
    }

    /// The tables of every epoch, in the order in which they were met.
    pub fn epochs(&self) -> impl Iterator<Item = &Tables> {
        self.epochs.iter()
    }

    /// The thread with this number.
    pub fn thread(&self, number: u64) -> Option<&Thread> {
        self.threads.get(&number).map(|t| &**t)
    }

    /// Every thread that has a number, by number.
    pub fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.threads.values().map(|t| &**t)
    }

    /// Threads that a snapshot met and that have no number, by the kernel's number: the first
    /// 4,096. One with the kernel's number of a thread that has one is taken for that thread.
    pub fn unregistered(&self) -> impl Iterator<Item = Unregistered<'_>> {
        let known: HashSet<u64> = self.threads().map(|t| t.tid).collect();
        let others = self.unregistered.iter().filter(move |u| !known.contains(u.0));
        others.map(|(&tid, name)| Unregistered { tid, name })
    }

    /// The newest count of each thread and cause.
    pub fn losses(&self) -> impl Iterator<Item = Loss> {
        self.losses.iter().map(|(&(thread, cause), &count)| Loss { thread, cause, count })
    }

    /// Events that the trace says are missing.
    pub fn lost(&self) -> u64 {
        self.losses().filter(Loss::is_event).fold(0, |sum, l| sum.saturating_add(l.count))
    }

    /// Facts about the environment or the recorder: name and text.
    pub fn notes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.notes.iter().map(|n| (&*n.name, &*n.text))
    }

    /// What threads were waiting for when the recording ended.
    pub fn blocked(&self) -> &[Blocked] {
        &self.blocked
    }

    /// The kernel's counts of threads beside those of their recorded waits, for the first 65,536 of
    /// them.
    pub fn coverage(&self) -> &[Coverage] {
        &self.coverage
    }

    /// How many threads more there were.
    pub fn coverage_left(&self) -> u64 {
        self.coverage_left
    }

    /// What the recorder says at the end; `None` where the trace was cut.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// What was read of it so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What the trace itself says of a static kind.
    pub fn schema(&self, kind: u64) -> Option<&SchemaDef> {
        self.schemas.get(kind)
    }

    /// Nanoseconds from the session's start to its last event or its end.
    pub fn duration_ns(&self) -> u64 {
        self.totals.last_ticks.map_or(0, |t| self.clock.ns(t))
    }

    /// The index of an epoch's tables, which are made where there are none.
    pub(crate) fn epoch(&mut self, epoch: u32) -> u32 {
        *self.epoch_index.entry(epoch).or_insert_with(|| {
            self.epochs.push(Tables::new(epoch, &self.schemas));
            self.epochs.len() as u32 - 1
        })
    }

    /// The steps over the fields of a timed event.
    pub(crate) fn steps<'a>(
        &'a self,
        tables: &'a Tables,
        head: &shape::Head,
    ) -> Option<&'a [Step]> {
        match head.kind < KIND_DYNAMIC {
            true => self.schemas.steps(head.meaning),
            false => tables.site_at(head.meaning.steps)?.steps.as_deref(),
        }
    }

    /// Takes in what a structural event says. `raw` are its bytes.
    pub(crate) fn apply(&mut self, epoch: u32, event: &Structural<'_>, raw: &[u8]) {
        match event {
            Structural::Session(s) => self.begin(s),
            Structural::Schema(s) => {
                if self.schemas.add(s) {
                    let kind = s.kind as usize;
                    self.epochs.iter_mut().for_each(|t| t.slots[kind] = self.schemas.slots[kind]);
                }
            }
            Structural::String(s) => self.tables_mut(epoch).add_string(s.id, s.text),
            Structural::Stack(_) if self.passes_stacks => {
                self.tables_mut(epoch).stacks_passed += 1;
            }
            Structural::Stack(s) => {
                let mut r = Reader::new(raw);
                let _kind_id_flags = (r.varint(), r.varint(), r.varint());
                self.tables_mut(epoch).add_stack(s.id, s.flags, r.rest());
            }
            Structural::Site(s) => self.tables_mut(epoch).add_site(s),
            Structural::Module(m) => self.tables_mut(epoch).add_module(m),
            Structural::Thread(t) => self.add_thread(t),
            Structural::ThreadName(t) => {
                if let Some(thread) = self.thread_mut(t.thread) {
                    thread.name = t.name.bytes.into();
                }
            }
            Structural::ThreadState(t) => self.saw_thread(t),
            Structural::ClockSnapshot(c) => {
                self.clock.add(c.at, c.mono_ns, c.wall_ns, c.boot_ns, c.error);
            }
            Structural::GenerationEnd(_) => self.totals.generations += 1,
            Structural::Loss(l) => drop(self.losses.insert((l.thread, l.cause), l.count)),
            Structural::Note(n) => {
                self.notes.push(Note { name: n.name.bytes.into(), text: n.text.bytes.into() })
            }
            Structural::End(e) => self.finish(e),
            Structural::Blocked(b) if self.blocked.len() < BLOCKED_MAX => {
                self.blocked.push(Blocked {
                    thread: b.thread,
                    op: b.op,
                    object: b.object,
                    since: b.since,
                    stack: b.stack,
                    by: b.by,
                    epoch,
                });
            }
            Structural::Coverage(c) if self.coverage.len() < COVERAGE_MAX => {
                self.coverage.push(Coverage {
                    thread: c.thread,
                    at: c.at,
                    switches: c.switches,
                    faults: c.faults,
                    slept: c.slept,
                    longer: c.longer,
                    longer_ns: c.longer_time,
                    over_ns: c.over,
                    blocked_ns: c.blocked,
                    waited_ns: c.waited,
                });
            }
            Structural::Coverage(_) => self.coverage_left += 1,
            Structural::Blocked(_) | Structural::TaskState(_) | Structural::Other(_) => {}
        }
    }

    fn tables_mut(&mut self, epoch: u32) -> &mut Tables {
        let index = self.epoch(epoch) as usize;
        &mut self.epochs[index]
    }

    /// The thread with this number; none has number 0.
    fn thread_mut(&mut self, number: u64) -> Option<&mut Thread> {
        if number == 0 {
            return None;
        }
        let thread = self.threads.entry(number).or_default();
        thread.number = number;
        Some(thread)
    }

    /// Takes in what a snapshot says of a thread.
    fn saw_thread(&mut self, t: &schema::ThreadState<'_>) {
        if let Some(thread) = self.thread_mut(t.thread) {
            if thread.tid == 0 {
                thread.tid = t.tid;
            }
            if thread.name.is_empty() {
                thread.name = t.name.bytes.into();
            }
        } else if self.unregistered.len() < UNREGISTERED_MAX
            || self.unregistered.contains_key(&t.tid)
        {
            self.unregistered.insert(t.tid, t.name.bytes.into());
        }
    }

    fn begin(&mut self, s: &schema::Session<'_>) {
        if self.info.is_some() {
            return;
        }
        self.clock = Clock::new(s.start, s.tick_rate);
        self.info = Some(Info {
            format: s.format,
            recorder: s.recorder.bytes.into(),
            tick_shift: s.tick_shift,
            tick_rate: s.tick_rate,
            clock: s.clock,
            start: s.start,
            pid: s.pid,
            program: s.program.bytes.into(),
            arch: s.arch.bytes.into(),
            mode: s.mode,
        });
    }

    fn add_thread(&mut self, t: &schema::Thread<'_>) {
        let Some(thread) = self.thread_mut(t.thread) else { return };
        // A thread that was named since keeps its newer name; a checkpoint may define it again.
        if thread.name.is_empty() {
            thread.name = t.name.bytes.into();
        }
        thread.tid = t.tid;
        thread.creator = t.creator;
        thread.function = t.function.bytes.into();
        thread.entry = t.entry;
        thread.registered = t.registered;
    }

    fn finish(&mut self, e: &schema::End<'_>) {
        self.saw_ticks(e.at);
        self.end = Some(End {
            at: e.at,
            events: e.events,
            lost: e.lost,
            threads: e.threads,
            generations: e.generations,
            batches: e.batches,
            pause_max: e.pause_max,
            reason: e.reason,
        });
    }

    pub(crate) fn saw_ticks(&mut self, ticks: u64) {
        self.totals.last_ticks = self.totals.last_ticks.max(Some(ticks));
    }
}
