//! The modules that the dynamic loader has in memory, seen while it holds its lock.
//!
//! Control side only: the lock is the loader's, which an event must not wait for.
//!
//! The C library's `fork` leaves that lock as it is. A child that was forked while a thread of the
//! recorder's held it would wait for ever where it loads a library, unwinds by tables, or starts a
//! session: so a fork waits until no thread is in here, and none comes in while one is under way
//! ([`Door`]). Both wait for a while only, and hold nothing meanwhile: a program that forks inside
//! its own look at the loader's list would otherwise wait for itself.

use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::sync::AtomicU32;
use crate::sync::door::Door;
use crate::sys::Errno;
use crate::sys::futex;
use crate::sys::time;

static DOOR: Door = Door::new();

/// How long a fork, or a look at the list, waits for the other at most.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(50);

/// Waits until this is so, or for long enough.
fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let until = time::mono_ns() + PATIENCE_NS;
    loop {
        if is_so() {
            return true;
        }
        if time::mono_ns() >= until {
            return false;
        }
        // Of a word that nobody wakes: neither a lock nor a point of cancellation.
        futex::wait(&AtomicU32::new(0), 0, Some(PAUSE));
    }
}

/// Before a fork: waits until nobody holds the loader's lock for the recorder.
pub extern "C" fn before_fork() {
    let _keep = Errno::save();
    DOOR.shut();
    wait_until(|| DOOR.is_empty());
}

/// After a fork, in the parent.
pub extern "C" fn after_fork() {
    DOOR.open();
}

/// After a fork, in the child.
pub fn after_fork_in_child() {
    DOOR.renew();
}

/// How often modules were added and removed in the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `dlpi_adds`.
    pub adds: u64,
    /// `dlpi_subs`.
    pub subs: u64,
}

/// A module as the loader describes it; it cannot be unloaded while this lives.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<'a> {
    /// What was added to the addresses in the file.
    pub bias: u64,
    /// The loader's name of it; empty for the program itself in glibc.
    pub name: &'a [u8],
    /// Whether the kernel started the process with these headers.
    pub is_program: bool,
    /// Whether the kernel brought it.
    pub is_vdso: bool,
    headers: &'a [libc::Elf64_Phdr],
}

/// A name in a module's list of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// A module without which it cannot be loaded.
    Needed(&'a [u8]),
    /// What it is called itself.
    Own(&'a [u8]),
}

/// Tags of the dynamic section, as elf.h has them.
const NEEDED: u64 = 1;
const STRTAB: u64 = 5;
const SONAME: u64 = 14;

/// Calls `f` with each module until it breaks. MUST NOT allocate or wait inside `f`: an allocator
/// may want the loader's lock while it holds its own. Otherwise two threads wait for each other.
pub fn for_each(mut f: impl FnMut(&Loaded<'_>, Counters) -> ControlFlow<()>) {
    unsafe extern "C" fn call<F: FnMut(&Loaded<'_>, Counters) -> ControlFlow<()>>(
        info: *mut libc::dl_phdr_info,
        bytes: libc::size_t,
        f: *mut c_void,
    ) -> c_int {
        // SAFETY: `f` is the closure below, lent to this call alone.
        let f = unsafe { &mut *f.cast::<F>() };
        // SAFETY: the loader's struct, valid during the call; counters are read only where it is
        // long enough to have them.
        let info = unsafe { &*info };
        let has_counters = bytes >= size_of::<libc::dl_phdr_info>();
        let counters = if has_counters {
            Counters { adds: info.dlpi_adds, subs: info.dlpi_subs }
        } else {
            Counters::default()
        };
        match f(&Loaded::new(info), counters) {
            ControlFlow::Continue(()) => 0,
            ControlFlow::Break(()) => 1,
        }
    }
    fn with<F: FnMut(&Loaded<'_>, Counters) -> ControlFlow<()>>(f: &mut F) {
        // SAFETY: `call::<F>` gets the closure that it is made for, only during this call.
        unsafe { libc::dl_iterate_phdr(Some(call::<F>), std::ptr::from_mut(f).cast()) };
    }
    if !wait_until(|| DOOR.enter()) {
        DOOR.push_in();
    }
    with(&mut f);
    DOOR.leave();
}

/// The counters now. Takes the loader's lock once.
pub fn counters() -> Counters {
    let mut now = Counters::default();
    for_each(|_, counters| {
        now = counters;
        ControlFlow::Break(())
    });
    now
}

impl<'a> Loaded<'a> {
    fn new(info: &'a libc::dl_phdr_info) -> Self {
        let count = usize::from(info.dlpi_phnum);
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            // SAFETY: the loader gives `count` headers, in memory as long as the module.
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, count) }
        };
        let name = if info.dlpi_name.is_null() {
            c""
        } else {
            // SAFETY: the loader's string, in memory as long as the module.
            unsafe { CStr::from_ptr(info.dlpi_name) }
        };
        // SAFETY: a number for a number.
        let program = unsafe { libc::getauxval(libc::AT_PHDR) };
        // SAFETY: as above.
        let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        let mut loaded = Loaded {
            bias: info.dlpi_addr,
            name: name.to_bytes(),
            is_program: info.dlpi_phdr.addr() as u64 == program && program != 0,
            is_vdso: false,
            headers,
        };
        let range = loaded.range();
        loaded.is_vdso = vdso != 0 && range.is_some_and(|(base, _)| base == vdso);
        loaded
    }

    /// Lowest address and the bytes from there to the highest, whole pages at the low end.
    pub fn range(&self) -> Option<(u64, u64)> {
        let page = super::page_bytes() as u64;
        let loads = || self.headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
        let low = loads().map(|h| h.p_vaddr).min()? / page * page;
        let high = loads().map(|h| h.p_vaddr.saturating_add(h.p_memsz)).max()?;
        Some((self.bias.wrapping_add(low), high.saturating_sub(low)))
    }

    /// From the lowest address of code to the end of the highest.
    pub fn code(&self) -> Option<(usize, usize)> {
        let code = || {
            let loads = self.headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
            loads.filter(|h| h.p_flags & libc::PF_X != 0)
        };
        let low = code().map(|h| h.p_vaddr).min()?;
        let high = code().map(|h| h.p_vaddr.saturating_add(h.p_memsz)).max()?;
        let start = self.bias.wrapping_add(low) as usize;
        Some((start, start.checked_add(high.checked_sub(low)? as usize)?))
    }

    /// The bytes from this address to the end of what is mapped there from the file, readable and
    /// not writable.
    pub fn readable_from(&self, at: usize) -> Option<&'a [u8]> {
        let vaddr = (at as u64).wrapping_sub(self.bias);
        let inside = |h: &&libc::Elf64_Phdr| {
            let (read, write) = (h.p_flags & libc::PF_R != 0, h.p_flags & libc::PF_W != 0);
            h.p_type == libc::PT_LOAD
                && (read, write) == (true, false)
                && vaddr.checked_sub(h.p_vaddr).is_some_and(|offset| offset < h.p_filesz)
        };
        let load = self.headers.iter().find(inside)?;
        let len = load.p_filesz - (vaddr - load.p_vaddr);
        // SAFETY: the bytes are mapped readable, and nobody writes to them; the module stays in
        // memory while the loader's lock is held, which 'a does not outlive.
        Some(unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), len as usize)
        })
    }

    /// Calls `f` with the names of the modules that this one cannot do without, then with its own
    /// name as they give it, where it has one.
    pub fn names(&self, mut f: impl FnMut(Link<'a>)) {
        let dynamic = self.headers.iter().find(|h| h.p_type == libc::PT_DYNAMIC);
        let Some(dynamic) = dynamic.filter(|d| self.headers.iter().any(|l| covers(l, d))) else {
            return;
        };
        let at = self.bias.wrapping_add(dynamic.p_vaddr) as usize;
        let first: *const [u64; 2] = std::ptr::with_exposed_provenance(at);
        let entries = || {
            let all = (0..dynamic.p_memsz as usize / 16).map(move |i| {
                // SAFETY: inside of what is mapped readable, as `covers` says; the loader changes
                // entries before any module runs only.
                unsafe { first.wrapping_add(i).read_volatile() }
            });
            all.take_while(|[tag, _]| *tag != 0)
        };
        let Some([_, texts]) = entries().find(|[tag, _]| *tag == STRTAB) else { return };
        // glibc has made an address of it, where it can write there.
        let texts = if texts < self.bias { texts.wrapping_add(self.bias) } else { texts };
        let Some(texts) = self.readable_from(texts as usize) else { return };
        let text = |offset: u64| {
            CStr::from_bytes_until_nul(texts.get(offset as usize..)?).ok().map(CStr::to_bytes)
        };
        for (tag, link) in [(NEEDED, Link::Needed as fn(&'a [u8]) -> Link<'a>), (SONAME, Link::Own)]
        {
            entries().filter(|[t, _]| *t == tag).filter_map(|[_, at]| text(at)).for_each(|name| {
                f(link(name));
            });
        }
    }

    /// The bytes of the header of the unwind tables, `.eh_frame_hdr`.
    pub fn unwind_header(&self) -> Option<&'a [u8]> {
        let header = self.headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME)?;
        let bytes = self.readable_from(self.bias.wrapping_add(header.p_vaddr) as usize)?;
        bytes.get(..header.p_filesz as usize)
    }

    /// The bytes of the notes, those only that lie inside what is mapped readable from the file.
    pub fn notes(&self) -> impl Iterator<Item = (&'a [u8], u64)> {
        let (bias, headers) = (self.bias, self.headers);
        let notes = headers.iter().filter(|h| h.p_type == libc::PT_NOTE);
        notes.filter(move |n| headers.iter().any(|l| holds(l, n))).map(move |n| {
            let at = bias.wrapping_add(n.p_vaddr) as usize;
            // SAFETY: `holds`: the bytes are mapped readable, and nobody writes to them; the
            // module stays in memory while the loader's lock is held, which 'a does not outlive.
            let bytes = unsafe {
                std::slice::from_raw_parts(
                    std::ptr::with_exposed_provenance(at),
                    n.p_filesz as usize,
                )
            };
            (bytes, n.p_align)
        })
    }
}

/// Whether this segment is readable and has these bytes.
fn covers(load: &libc::Elf64_Phdr, part: &libc::Elf64_Phdr) -> bool {
    let end = |h: &libc::Elf64_Phdr| h.p_vaddr.checked_add(h.p_memsz);
    load.p_type == libc::PT_LOAD
        && load.p_flags & libc::PF_R != 0
        && load.p_vaddr <= part.p_vaddr
        && end(part).is_some_and(|e| end(load).is_some_and(|l| e <= l))
}

/// Whether the note's bytes lie in the part of this segment that stands in the file, readable and
/// not writable.
fn holds(load: &libc::Elf64_Phdr, note: &libc::Elf64_Phdr) -> bool {
    let Some(load_end) = load.p_vaddr.checked_add(load.p_filesz) else { return false };
    let Some(note_end) = note.p_vaddr.checked_add(note.p_filesz) else { return false };
    load.p_type == libc::PT_LOAD
        && load.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R
        && load.p_vaddr <= note.p_vaddr
        && note_end <= load_end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32, flags: u32, vaddr: u64, filesz: u64) -> libc::Elf64_Phdr {
        libc::Elf64_Phdr {
            p_type: kind,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: vaddr,
            p_paddr: 0,
            p_filesz: filesz,
            p_memsz: filesz + 8,
            p_align: 4,
        }
    }

    #[test]
    fn notes_outside_of_what_is_mapped_are_not_read() {
        let load = header(libc::PT_LOAD, libc::PF_R | libc::PF_X, 0x1000, 0x200);
        let note = |vaddr, filesz| header(libc::PT_NOTE, libc::PF_R, vaddr, filesz);
        assert!(holds(&load, &note(0x1000, 0x200)));
        assert!(holds(&load, &note(0x1100, 0x24)));
        for (vaddr, filesz) in
            [(0xfff, 8), (0x11f0, 0x11), (0x1201, 0), (u64::MAX, 2), (0, 1 << 63)]
        {
            assert!(!holds(&load, &note(vaddr, filesz)), "{vaddr:#x}");
        }
        let writable = header(libc::PT_LOAD, libc::PF_R | libc::PF_W, 0x1000, 0x200);
        assert!(!holds(&writable, &note(0x1100, 0x24)));
        let hidden = header(libc::PT_LOAD, libc::PF_X, 0x1000, 0x200);
        assert!(!holds(&hidden, &note(0x1100, 0x24)));
        let other = header(libc::PT_DYNAMIC, libc::PF_R, 0x1000, 0x200);
        assert!(!holds(&other, &note(0x1100, 0x24)));
    }

    #[test]
    fn the_program_needs_the_c_library_and_that_knows_its_name() {
        let (mut needed, mut own) = (0, 0);
        for_each(|m, _| {
            m.names(|link| match link {
                Link::Needed(b"libc.so.6") if m.is_program => needed += 1,
                Link::Own(b"libc.so.6") => own += 1,
                _ => {}
            });
            ControlFlow::Continue(())
        });
        assert_eq!((needed, own), (1, 1));
    }

    #[test]
    fn program_and_vdso_are_among_them() {
        let (mut programs, mut vdsos, mut all) = (0, 0, 0);
        let here = program_and_vdso_are_among_them as fn() as usize as u64;
        for_each(|m, counters| {
            assert!(counters.adds > 0);
            let (base, size) = m.range().unwrap();
            all += 1;
            programs += usize::from(m.is_program);
            vdsos += usize::from(m.is_vdso);
            assert_eq!(m.is_program, base <= here && here < base + size);
            ControlFlow::Continue(())
        });
        assert!(all >= 3);
        assert_eq!(programs, 1);
        assert!(vdsos <= 1);
        assert_eq!(counters(), counters());
    }
}
