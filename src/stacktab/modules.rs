//! The loaded modules, so that addresses mean something later: where each stands, and by what its
//! file is known again.
//!
//! Control side only. What is read under the loader's lock goes into memory that was made before,
//! since an allocator may want that lock while it holds its own.

use crate::sys::loader;
use crate::sys::loader::Counters;
use crate::sys::loader::Loaded;
use std::fs;
use std::fs::Metadata;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The link to the program's file, which holds even after the file was removed.
const PROGRAM: &str = "/proc/self/exe";

/// The path of the module that the kernel brings, which has no file.
pub const VDSO: &[u8] = b"[vdso]";

/// A loaded module, with the fields of the event of this name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Lowest address.
    pub base: u64,
    /// Bytes from `base` to the end of the highest mapping.
    pub size: u64,
    /// What was added to the addresses in the file.
    pub bias: u64,
    /// The linker's hash of it; empty where it has none.
    pub build_id: Vec<u8>,
    /// Its file; absolute where that could be found out.
    pub path: Vec<u8>,
    /// The file's size as it is now; 0 = not known.
    pub file_size: u64,
    /// When the file changed, in seconds since 1970; 0 = not known.
    pub mtime: u64,
}

/// What became of the modules since the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// None came or went.
    Same,
    /// Some came, none went: what was known still holds.
    Added,
    /// Some went: an address may mean another module from here on.
    Removed,
}

/// Remembers the loader's counters.
#[derive(Debug, Default)]
pub struct Modules {
    seen: Option<Counters>,
}

impl Modules {
    /// Has seen nothing: the first `poll` says `Added`.
    pub const fn new() -> Self {
        Modules { seen: None }
    }

    /// Whether modules came or went since the last `poll`. Takes the loader's lock for a moment.
    pub fn poll(&mut self) -> Change {
        self.step(loader::counters())
    }

    fn step(&mut self, now: Counters) -> Change {
        match self.seen.replace(now) {
            Some(seen) if seen == now => Change::Same,
            Some(seen) if seen.subs != now.subs => Change::Removed,
            _ => Change::Added,
        }
    }
}

/// Calls `f` with each loaded module, in the loader's order, after its lock was given back.
pub fn for_each(mut f: impl FnMut(&Module)) {
    let mut found = Found::default();
    // Room for twice what the last round met; a round without room says what it would have needed.
    let (mut modules, mut bytes) = (64, 16 << 10);
    for _ in 0..8 {
        found = Found::with_room(modules, bytes);
        loader::for_each(|m, _| {
            found.add(m);
            ControlFlow::Continue(())
        });
        if found.missed == 0 {
            break;
        }
        (modules, bytes) = (2 * modules + found.missed, 2 * (bytes + found.missed_bytes));
    }
    for entry in &found.entries {
        f(&entry.complete(&found.text));
    }
}

/// What was seen under the lock, in memory that does not grow.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    text: Vec<u8>,
    missed: usize,
    missed_bytes: usize,
}

struct Entry {
    base: u64,
    size: u64,
    bias: u64,
    is_program: bool,
    is_vdso: bool,
    /// The ends in `text` of the build id, which begins at `text_from`, and of the name after it.
    text_from: usize,
    build_id_end: usize,
    name_end: usize,
}

impl Found {
    fn with_room(modules: usize, bytes: usize) -> Self {
        let (entries, text) = (Vec::with_capacity(modules), Vec::with_capacity(bytes));
        Found { entries, text, missed: 0, missed_bytes: 0 }
    }

    fn add(&mut self, m: &Loaded<'_>) {
        let Some((base, size)) = m.range() else { return };
        let build_id = m.notes().find_map(|(notes, align)| build_id(notes, align)).unwrap_or(&[]);
        let bytes = build_id.len() + m.name.len();
        let has_room = self.text.capacity() - self.text.len() >= bytes;
        if !has_room || self.entries.len() == self.entries.capacity() {
            self.missed += 1;
            self.missed_bytes += bytes;
            return;
        }
        let text_from = self.text.len();
        self.text.extend_from_slice(build_id);
        let build_id_end = self.text.len();
        self.text.extend_from_slice(m.name);
        self.entries.push(Entry {
            base,
            size,
            bias: m.bias,
            is_program: m.is_program || (m.name.is_empty() && !m.is_vdso),
            is_vdso: m.is_vdso,
            text_from,
            build_id_end,
            name_end: self.text.len(),
        });
    }
}

impl Entry {
    fn complete(&self, text: &[u8]) -> Module {
        let build_id = text[self.text_from..self.build_id_end].to_vec();
        let name = &text[self.build_id_end..self.name_end];
        let (path, about) = if self.is_vdso {
            (VDSO.to_vec(), None)
        } else if self.is_program {
            (program_path(), fs::metadata(PROGRAM).ok())
        } else {
            file_of(name)
        };
        let Module { file_size, mtime, .. } = identity(about);
        Module {
            base: self.base,
            size: self.size,
            bias: self.bias,
            build_id,
            path,
            file_size,
            mtime,
        }
    }
}

fn identity(about: Option<Metadata>) -> Module {
    about.map_or_else(Module::default, |about| Module {
        file_size: about.size(),
        mtime: u64::try_from(about.mtime()).unwrap_or(0),
        ..Module::default()
    })
}

/// A library's file. Where the loader has a name that depends on the working directory, it is made
/// whole while that is still the same, if it is.
fn file_of(name: &[u8]) -> (Vec<u8>, Option<Metadata>) {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let about = fs::metadata(path).ok();
    let whole = (path.is_relative() && about.is_some()).then(|| fs::canonicalize(path).ok());
    match whole.flatten() {
        Some(whole) => (whole.into_os_string().into_vec(), about),
        None => (name.to_vec(), about),
    }
}

/// The program's file; the kernel marks one that was removed or replaced.
fn program_path() -> Vec<u8> {
    let path = fs::read_link(PROGRAM).unwrap_or_default().into_os_string().into_vec();
    match path.strip_suffix(b" (deleted)") {
        Some(plain) if fs::symlink_metadata(std::ffi::OsStr::from_bytes(&path)).is_err() => {
            plain.to_vec()
        }
        _ => path,
    }
}

/// The build id among ELF notes: each is the lengths of name and content, a type, the name, the
/// content, both filled up to the alignment. Bytes that are no notes give `None`.
fn build_id(notes: &[u8], align: u64) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let filled = |n: usize| n.checked_next_multiple_of(if align == 8 { 8 } else { 4 });
    let mut rest = notes;
    loop {
        let (head, after) = rest.split_at_checked(12)?;
        let word = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let (name_len, len) = (word(0) as usize, word(4) as usize);
        // Filled up from the note's start, whose head is 12 bytes.
        let content_at = filled(name_len.checked_add(12)?)?.checked_sub(12)?;
        let content = after.get(content_at..content_at.checked_add(len)?)?;
        if word(8) == NT_GNU_BUILD_ID && after.get(..name_len)? == b"GNU\0" && len != 0 {
            return Some(content);
        }
        rest = rest.get(filled((content_at + 12).checked_add(len)?)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::process::Command;

    fn all() -> Vec<Module> {
        let mut all = Vec::new();
        for_each(|m| all.push(m.clone()));
        all
    }

    fn holding(all: &[Module], addr: usize) -> &Module {
        let addr = addr as u64;
        let mut here = all.iter().filter(|m| m.base <= addr && addr - m.base < m.size);
        let one = here.next().unwrap();
        assert!(here.next().is_none());
        one
    }

    #[test]
    fn the_program_itself() {
        let all = all();
        let own = holding(&all, the_program_itself as fn() as usize);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.path, exe.as_os_str().as_bytes());
        let about = fs::metadata(&exe).unwrap();
        assert_eq!((own.file_size, own.mtime), (about.size(), about.mtime() as u64));
        // The kernel's list names the same file at the same lowest address.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let path = exe.to_str().unwrap();
        let first = maps.lines().find(|l| l.ends_with(path)).unwrap();
        let base = first.split('-').next().unwrap();
        assert_eq!(u64::from_str_radix(base, 16).unwrap(), own.base);
    }

    #[test]
    fn libc_and_vdso() {
        let all = all();
        let libc = holding(&all, libc::getpid as *const () as usize);
        assert!(Path::new(std::ffi::OsStr::from_bytes(&libc.path)).is_absolute());
        assert!(libc.file_size > 0 && libc.mtime > 0);
        // SAFETY: a number for a number.
        let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
        if vdso != 0 && all.iter().any(|m| m.base == vdso as u64) {
            let vdso = holding(&all, vdso);
            assert_eq!((vdso.path.as_slice(), vdso.file_size), (VDSO, 0));
        }
    }

    #[test]
    fn changes_are_seen() {
        let at = |adds, subs| Counters { adds, subs };
        let mut m = Modules::new();
        assert_eq!(m.step(at(5, 0)), Change::Added);
        assert_eq!(m.step(at(5, 0)), Change::Same);
        assert_eq!(m.step(at(6, 0)), Change::Added);
        assert_eq!(m.step(at(7, 1)), Change::Removed);
        assert_eq!(m.step(at(7, 2)), Change::Removed);
        assert_eq!(m.step(at(7, 2)), Change::Same);
    }

    /// Builds a library with a build id of our own, loads it, and looks at its module.
    #[test]
    fn a_library_comes_and_goes() {
        let dir = std::env::temp_dir().join(format!("exectrace-module-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (source, object) = (dir.join("m.c"), dir.join("m.so"));
        fs::write(&source, "int exectrace_here(void) { return 1; }").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-Wl,--build-id=0x0123456789abcdef0011"]);
        match cc.arg("-o").arg(&object).arg(&source).status() {
            Ok(status) => assert!(status.success()),
            Err(_) => {
                eprintln!("skipped: no C compiler");
                return;
            }
        }
        let mut modules = Modules::new();
        modules.poll();
        let path = CString::new(object.to_str().unwrap()).unwrap();
        // SAFETY: a library without constructors.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        assert_ne!(modules.poll(), Change::Same);
        // SAFETY: the handle is open, the name ends in a zero.
        let here = unsafe { libc::dlsym(library, c"exectrace_here".as_ptr()) };
        let all = all();
        let own = holding(&all, here.addr()).clone();
        assert_eq!(own.path, object.as_os_str().as_bytes());
        let id = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x00, 0x11];
        assert_eq!(own.build_id, id);
        // SAFETY: nothing of the library is used any more.
        unsafe { libc::dlclose(library) };
        assert_eq!(modules.poll(), Change::Removed);
        assert!(!self::all().iter().any(|m| m.path == own.path));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn no_room_is_said() {
        let mut found = Found::with_room(0, 0);
        loader::for_each(|m, _| {
            found.add(m);
            ControlFlow::Continue(())
        });
        assert!(found.entries.is_empty() && found.missed >= 3 && found.missed_bytes > 0);
    }

    fn note(kind: u32, name: &[u8], content: &[u8], align: usize) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            note.extend(word.to_ne_bytes());
        }
        note.extend(name);
        note.resize(note.len().next_multiple_of(align), 0);
        note.extend(content);
        note.resize(note.len().next_multiple_of(align), 0);
        note
    }

    #[test]
    fn notes_whole_and_broken() {
        for align in [4usize, 8] {
            let other = note(1, b"GNU\0", &[9; 16], align);
            let foreign = note(3, b"Go\0\0", &[7; 5], align);
            let own = note(3, b"GNU\0", &[1, 2, 3, 4, 5], align);
            let notes = [other, foreign, own].concat();
            assert_eq!(build_id(&notes, align as u64), Some(&[1, 2, 3, 4, 5][..]));
            let content_end = notes.len() - (5usize.next_multiple_of(align) - 5);
            let mut checked = 0;
            for cut in 0..content_end - 3 {
                assert_eq!(build_id(&notes[..cut], align as u64), None, "{cut}");
                checked += 1;
            }
            assert!(checked > 60);
            for at in 0..notes.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = notes.clone();
                    bad[at] = value;
                    build_id(&bad, align as u64);
                }
            }
        }
        assert_eq!(build_id(&[0xff; 64], 4), None);
        assert_eq!(build_id(&[0; 64], 4), None);
    }
}
