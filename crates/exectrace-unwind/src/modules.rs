//! The loaded modules and their unwind tables, published for walks that run meanwhile.
//!
//! What a walk reads is a *list*, in memory of its own, that never changes; a newer one takes its
//! place by one store. The tables of modules that came later are copies: the program may drop such
//! a module at any time, also from inside libc, and a wrong address on a stack may lead to a module
//! that is gone.
//!
//! 1. A walk counts itself in `READERS` before it takes the list and out when it has done. An old
//!    list, and the copies that only it has, are given back when the count was seen to be 0 after a
//!    newer list was published; until then they wait.
//! 2. One thread at a time looks; another one that comes meanwhile has it look once more.
//! 3. The tables of the modules that the program was linked with are read where they stand, since
//!    those are never unloaded: the program itself, what it needs, and what that needs.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::Ordering::SeqCst;

use trace::sys::loader;
use trace::sys::loader::Link;
use trace::sys::loader::Loaded;

use crate::OWN;
use crate::last;
use crate::rule::Rule;
use crate::rules;
use crate::tables::Tables;

/// A module's code and tables.
#[derive(Clone, Copy, Debug)]
struct Module {
    start: usize,
    end: usize,
    tables: Tables<'static>,
    /// Where they are a copy of ours.
    copy: *mut Copied,
}

/// The begin of a mapping that holds a copy of tables.
#[derive(Debug)]
struct Copied {
    bytes: usize,
    /// The one that was retired before it.
    older: *mut Copied,
}

/// Most bytes of all copies; a module that has no room is gone through by frame pointers.
const COPIES_MAX: usize = 64 << 20;
static COPIES: AtomicUsize = AtomicUsize::new(0);
/// Copies that no list has, but maybe a walk.
static DEAD: AtomicPtr<Copied> = AtomicPtr::new(std::ptr::null_mut());
/// How often the loader had dropped modules at the last look.
static DROPS: AtomicU64 = AtomicU64::new(0);

/// The modules by their addresses; it stands at the begin of a mapping of its own.
#[derive(Debug)]
struct List {
    bytes: usize,
    len: usize,
    /// The list that was retired before it.
    older: *mut List,
}

static LIST: AtomicPtr<List> = AtomicPtr::new(std::ptr::null_mut());
static READERS: AtomicU32 = AtomicU32::new(0);
/// The lists that were published before, each with the one before it.
static RETIRED: AtomicPtr<List> = AtomicPtr::new(std::ptr::null_mut());
/// 0: nobody looks; 1: a thread does; 2: it is to look once more.
static LOOKING: AtomicU32 = AtomicU32::new(0);

/// The rule of an address that is not known yet.
#[cold]
#[inline(never)]
pub fn work_out(at: usize, age: u64) -> Rule {
    // SeqCst: pairs with that in `retire`: the count first, then the list.
    READERS.fetch_add(1, SeqCst);
    // SAFETY: null, or published and given back only after this thread has counted itself out.
    let list = unsafe { LIST.load(SeqCst).as_ref() };
    let rule = list.and_then(|l| l.holding(at)).map(|m| m.tables.rule(at));
    // Release: pairs with the SeqCst load in `retire`: what was read stands before.
    READERS.fetch_sub(1, Release);
    // Where no module is known there may be one soon: a guess is not kept then, so that what is
    // kept holds as long as no module goes.
    if let Some(rule) = rule {
        rules::keep(at, age, rule);
    }
    rule.unwrap_or(Rule::GUESS)
}

impl List {
    /// An empty one with room for so many; `None` where there is no memory.
    fn new(room: usize) -> Option<&'static mut List> {
        let bytes = size_of::<List>() + room * size_of::<Module>();
        let list: *mut List = map(bytes)?.cast();
        // SAFETY: the begin of a new mapping, which is page-aligned and long enough.
        unsafe { list.write(List { bytes, len: 0, older: std::ptr::null_mut() }) };
        // SAFETY: as above, and nobody else knows it.
        Some(unsafe { &mut *list })
    }

    fn first(&self) -> *const Module {
        std::ptr::from_ref(self).wrapping_add(1).cast()
    }

    fn modules(&self) -> &[Module] {
        // SAFETY: behind the list `len` modules were written.
        unsafe { std::slice::from_raw_parts(self.first(), self.len) }
    }

    /// Puts one behind the others; whether there was room.
    fn push(&mut self, module: Module) -> bool {
        let room = (self.bytes - size_of::<List>()) / size_of::<Module>();
        if self.len == room {
            return false;
        }
        let place = self.first().cast_mut().wrapping_add(self.len);
        // SAFETY: inside the mapping, as was tested.
        unsafe { place.write(module) };
        self.len += 1;
        true
    }

    /// What this list says of a module that is loaded, where that still holds. `held`: nothing was
    /// dropped since.
    fn keep(&self, found: &Module, held: bool) -> Option<Module> {
        let former = self.modules().iter().find(|m| m.is_of(found));
        former.filter(|m| held || m.copy.is_null() || m.says_as(found)).copied()
    }

    /// The copies that this list has and that one has not.
    fn copies_that_lacks<'l>(&'l self, that: &'l List) -> impl Iterator<Item = *mut Copied> + 'l {
        let copies = self.modules().iter().map(|m| m.copy).filter(|c| !c.is_null());
        copies.filter(|c| !that.modules().iter().any(|m| m.copy == *c))
    }

    /// Gives back a list that was not published, with the copies that were made for it.
    fn abandon(&'static mut self, former: Option<&List>) {
        let nothing = List { bytes: 0, len: 0, older: std::ptr::null_mut() };
        self.copies_that_lacks(former.unwrap_or(&nothing)).for_each(retire);
        let bytes = self.bytes;
        // SAFETY: mapped by `new`, and nobody else knows it.
        unsafe { unmap(std::ptr::from_mut(self).cast(), bytes) };
    }

    fn sort(&mut self) {
        let first = self.first().cast_mut();
        // SAFETY: as in `modules`; the list is not published yet.
        let modules = unsafe { std::slice::from_raw_parts_mut(first, self.len) };
        modules.sort_unstable_by_key(|m| m.start);
    }

    fn holding(&self, at: usize) -> Option<&Module> {
        let modules = self.modules();
        let after = modules.partition_point(|m| m.start <= at);
        modules.get(after.checked_sub(1)?).filter(|m| at < m.end)
    }
}

impl Module {
    /// Whether both stand at the same addresses.
    fn is_of(&self, other: &Module) -> bool {
        let at = |m: &Module| {
            let t = &m.tables;
            [m.start, m.end, t.index_address, t.entries_address, t.index.len(), t.entries.len()]
        };
        at(self) == at(other)
    }

    fn says_as(&self, other: &Module) -> bool {
        self.tables.index == other.tables.index && self.tables.entries == other.tables.entries
    }

    /// The same with a copy of its tables, whose bytes cannot go away.
    fn copied(&self) -> Option<Module> {
        let Tables { index, entries, .. } = self.tables;
        let bytes = size_of::<Copied>() + size_of_val(index) + entries.len();
        if COPIES.fetch_add(bytes, Relaxed).saturating_add(bytes) > COPIES_MAX {
            COPIES.fetch_sub(bytes, Relaxed);
            return None;
        }
        let Some(at) = map(bytes) else {
            COPIES.fetch_sub(bytes, Relaxed);
            return None;
        };
        let copy: *mut Copied = at.cast();
        // SAFETY: the begin of a new mapping, long enough for it and for the rest below.
        unsafe { copy.write(Copied { bytes, older: std::ptr::null_mut() }) };
        let to: *mut [i32; 2] = copy.wrapping_add(1).cast();
        // SAFETY: behind the begin, aligned as that; the tables stay while the loader's lock is
        // held.
        unsafe { to.copy_from_nonoverlapping(index.as_ptr(), index.len()) };
        // SAFETY: written above, and nothing is changed any more.
        let index = unsafe { std::slice::from_raw_parts(to, index.len()) };
        let to: *mut u8 = to.wrapping_add(index.len()).cast();
        // SAFETY: behind the index.
        unsafe { to.copy_from_nonoverlapping(entries.as_ptr(), entries.len()) };
        // SAFETY: as above.
        let entries = unsafe { std::slice::from_raw_parts(to, entries.len()) };
        Some(Module { tables: Tables { index, entries, ..self.tables }, copy, ..*self })
    }
}

/// New memory, zeroed.
fn map(bytes: usize) -> Option<*mut u8> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping where the kernel likes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at.cast())
}

/// # Safety
/// - `map` gave it, with this length, and nobody refers to it.
unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(at.cast(), bytes) };
}

/// The tables of a loaded module, where they have the form that linkers make.
pub fn tables_of(m: &Loaded<'_>) -> Option<Tables<'static>> {
    // `.eh_frame_hdr`: version 1; the address of `.eh_frame`, as 32 bits from here; the number of
    // entries, 32 bits; the pairs, 32 bits each from the begin of the header.
    const FORM: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    let header = m.unwind_header()?;
    let (form, rest) = header.split_first_chunk::<4>()?;
    let (to_entries, rest) = rest.split_first_chunk::<4>()?;
    let (count, pairs) = rest.split_first_chunk::<4>()?;
    let count = u32::from_ne_bytes(*count) as usize;
    if *form != FORM || count > pairs.len() / 8 || pairs.as_ptr().addr() % 4 != 0 {
        return None;
    }
    let distance = i32::from_ne_bytes(*to_entries) as isize;
    let entries_address = to_entries.as_ptr().addr().wrapping_add_signed(distance);
    let entries = m.readable_from(entries_address)?;
    // SAFETY: `count` pairs lie inside; aligned, as was tested; any bytes are numbers.
    let index = unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast::<[i32; 2]>(), count) };
    // SAFETY: the module stays, as `List` says.
    let index = unsafe { std::mem::transmute::<&[[i32; 2]], &'static [[i32; 2]]>(index) };
    // SAFETY: as above.
    let entries = unsafe { std::mem::transmute::<&[u8], &'static [u8]>(entries) };
    Some(Tables { index, index_address: header.as_ptr().addr(), entries, entries_address })
}

/// Hashes of the names of modules that stay for the life of the process. Whoever is not among them
/// for want of room has its tables copied.
struct Linked {
    len: usize,
}

/// Not on the stack, which may be small; only who looks uses them.
static NAMES: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

impl Linked {
    /// From the program on through all that is needed.
    fn find() -> Linked {
        let mut linked = Linked { len: 0 };
        // Each round goes one link further; most of them are in the order of need.
        for _ in 0..64 {
            let before = linked.len;
            loader::for_each(|m, _| {
                if linked.has(m) {
                    m.names(|link| match link {
                        Link::Needed(name) => linked.add(name),
                        Link::Own(_) => {}
                    });
                }
                ControlFlow::Continue(())
            });
            if linked.len == before {
                break;
            }
        }
        linked
    }

    fn add(&mut self, name: &[u8]) {
        if !self.knows(name) && self.len < NAMES.len() {
            NAMES[self.len].store(hash(name), Relaxed);
            self.len += 1;
        }
    }

    fn knows(&self, name: &[u8]) -> bool {
        NAMES[..self.len].iter().any(|n| n.load(Relaxed) == hash(name))
    }

    /// Whether this module is the program, the kernel's, or one of those names.
    fn has(&self, m: &Loaded<'_>) -> bool {
        let mut has = m.is_program || m.is_vdso;
        let file = m.name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        has |= !file.is_empty() && self.knows(file);
        m.names(|link| match link {
            Link::Own(name) => has |= self.knows(name),
            Link::Needed(_) => {}
        });
        has
    }
}

fn hash(name: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    name.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Notes where the module around this address has its code.
pub fn find_own(own: usize) {
    loader::for_each(|m, _| match m.code() {
        Some((start, end)) if (start..end).contains(&own) => {
            OWN[0].store(start, Relaxed);
            OWN[1].store(end - start, Relaxed);
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
}

/// Looks at the modules that are loaded now. Takes the loader's lock; allocates nothing.
pub fn look() {
    // Acquire: pairs with the Release of who looked before.
    if LOOKING.fetch_max(1, Acquire) != 0 {
        LOOKING.fetch_max(2, Relaxed);
        return;
    }
    loop {
        look_once();
        // Release: pairs with the Acquire above.
        if LOOKING.compare_exchange(1, 0, Release, Relaxed).is_ok() {
            return;
        }
        LOOKING.store(1, Relaxed);
    }
}

fn look_once() {
    // SAFETY: null, or published; who looks alone retires it.
    let former = unsafe { LIST.load(Acquire).as_ref() };
    let (mut room, drops) = (former.map_or(128, |f| f.len + 64), DROPS.load(Relaxed));
    let list = loop {
        let Some(list) = List::new(room) else { return };
        let mut all = true;
        // All of them were there at the first look.
        let linked = former.is_none().then(Linked::find);
        loader::for_each(|m, counters| {
            DROPS.store(counters.subs, Relaxed);
            if let (Some((start, end)), Some(tables)) = (m.code(), tables_of(m)) {
                let copy = std::ptr::null_mut();
                let found = Module { start, end, tables, copy };
                let held = drops == counters.subs;
                let known = former.and_then(|f| f.keep(&found, held));
                let stays = || linked.as_ref().is_some_and(|l| l.has(m)).then_some(found);
                let module = known.or_else(stays).or_else(|| found.copied());
                all &= module.is_none_or(|m| list.push(m));
            }
            ControlFlow::Continue(())
        });
        if all {
            break list;
        }
        room *= 2;
        list.abandon(former);
    };
    list.sort();
    publish(list, former, drops != DROPS.load(Relaxed));
}

/// Hands the list to the walks, and gives older ones back where no walk can have them. `dropped`:
/// modules went, and what is known of their addresses holds no longer.
fn publish(list: &'static mut List, former: Option<&'static List>, dropped: bool) {
    if let Some(former) = former {
        former.copies_that_lacks(list).for_each(retire);
    }
    // SeqCst: pairs with that in `work_out`.
    let old = LIST.swap(list, SeqCst);
    if dropped {
        rules::renew();
    }
    // SAFETY: null, or published before and now retired; who looks alone changes it.
    if let Some(retired) = unsafe { old.as_mut() } {
        retired.older = RETIRED.load(Relaxed);
        RETIRED.store(old, Relaxed);
    }
    // SeqCst: a reader that is not seen here takes the list that was stored above.
    if READERS.load(SeqCst) != 0 {
        return;
    }
    let mut at = RETIRED.swap(std::ptr::null_mut(), Relaxed);
    while !at.is_null() {
        // SAFETY: retired, and no reader is left that can have it.
        let List { bytes, older, .. } = unsafe { at.read() };
        // SAFETY: as above.
        unsafe { unmap(at.cast(), bytes) };
        at = older;
    }
    let mut at = DEAD.swap(std::ptr::null_mut(), Relaxed);
    while !at.is_null() {
        // SAFETY: in no list that is published, and no reader is left that can have an older one.
        let Copied { bytes, older } = unsafe { at.read() };
        // SAFETY: as above.
        unsafe { unmap(at.cast(), bytes) };
        COPIES.fetch_sub(bytes, Relaxed);
        at = older;
    }
}

/// Sets a copy aside that no list has from here on.
fn retire(copy: *mut Copied) {
    // SAFETY: a copy that is still mapped; readers do not look at its begin.
    unsafe { (*copy).older = DEAD.load(Relaxed) };
    DEAD.store(copy, Relaxed);
}

/// In a forked child: nobody reads and nobody looks, whatever the parent's threads did.
pub fn forget_parent() {
    READERS.store(0, Relaxed);
    LOOKING.store(0, Relaxed);
    last::forget_parent();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_was_linked_with_stays_and_nothing_else() {
        // SAFETY: a library of the system, which stays open.
        unsafe { libc::dlopen(c"libanl.so.1".as_ptr(), libc::RTLD_NOW) };
        let linked = Linked::find();
        let (mut stays, mut others) = (Vec::with_capacity(64), Vec::with_capacity(64));
        loader::for_each(|m, _| {
            let file = m.name.rsplit(|b| *b == b'/').next().unwrap();
            let list = if linked.has(m) { &mut stays } else { &mut others };
            if list.len() < 64 && m.unwind_header().is_some() {
                list.push((
                    m.is_program,
                    file.starts_with(b"libc.so"),
                    file.starts_with(b"libanl"),
                ));
            }
            ControlFlow::Continue(())
        });
        assert!(stays.iter().any(|m| m.0) && stays.iter().any(|m| m.1));
        assert!(!stays.iter().any(|m| m.2));
        assert!(!others.iter().any(|m| m.0 || m.1));
        if !others.iter().any(|m| m.2) {
            println!("skipped in part: no library to load");
        }
    }
}
