//! The bytes of a file: on disk, read page by page as they are asked for, or in memory.
//!
//! Files are read, not mapped. A mapping of a file that somebody shortens is a SIGBUS, and a file
//! that a trace names is anybody's; a read of it is an error. What was read is kept in a bounded
//! number of pages, so that debug information of gigabytes costs no more memory than that of a
//! small program, and the system's own cache does the rest.
//!
//! 1. Only an ordinary file is opened, without waiting for anybody, and only what it had as bytes
//!    when it was opened is read of it.
//! 2. Pages of one content are of one version of the file: each page that is read is followed by a
//!    look at its size and time. Otherwise names could be made of halves of two files.

use std::cell::Cell;
use std::cell::RefCell;
use std::fs::File;
use std::fs::Metadata;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use crate::module::Missing;
use crate::recent::Recent;

/// Bytes that are read at once.
const PAGE_BYTES: usize = 32 << 10;

/// Bytes of all files that are kept in memory.
const PAGES_BYTES_MAX: usize = 64 << 20;

/// A file, and where the page begins in it.
type PageKey = (u64, u64);

/// Pages of files, shared by all that read.
#[derive(Debug)]
pub struct Pages {
    kept: RefCell<Recent<PageKey, Rc<Window>>>,
    files: Cell<u64>,
}

impl Pages {
    /// None so far.
    pub fn new() -> Rc<Self> {
        Rc::new(Pages { kept: RefCell::new(Recent::new(PAGES_BYTES_MAX)), files: Cell::new(0) })
    }
}

/// The bytes of a file; as cheap to clone as a reference.
#[derive(Clone, Debug)]
pub struct Content(Rc<Kind>);

#[derive(Debug)]
enum Kind {
    Disk(Disk),
    Memory(Rc<Window>),
}

#[derive(Debug)]
struct Disk {
    file: File,
    state: State,
    pages: Rc<Pages>,
    number: u64,
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    len: u64,
    modified: (i64, i64),
}

impl State {
    fn of(meta: &Metadata) -> State {
        State { len: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// A part of a file in memory. It is shared, and a reference to it is one word: there are many.
#[derive(Debug)]
pub struct Window {
    /// Where it begins in the content.
    pub from: u64,
    /// Its bytes.
    pub bytes: Box<[u8]>,
}

/// Opens an ordinary file for reading. MUST NOT wait, whatever the path names: a pipe, a terminal,
/// a device that does something when it is opened.
pub fn open_ordinary(path: &Path) -> Result<(File, Metadata), Missing> {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing::NotFound,
        _ => Missing::Unreadable(e.to_string()),
    };
    // Asked before it is opened, since opening some devices has effects, and once more after it,
    // since another file may stand there by then.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Missing::NotAFile);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let open = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = open.map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Missing::NotAFile);
    }
    Ok((file, meta))
}

impl Content {
    /// Opens a file.
    pub fn open(path: &Path, pages: &Rc<Pages>) -> Result<(Content, Metadata), Missing> {
        let (file, meta) = open_ordinary(path)?;
        let number = pages.files.get();
        pages.files.set(number + 1);
        let disk = Disk { file, state: State::of(&meta), pages: Rc::clone(pages), number };
        Ok((Content(Rc::new(Kind::Disk(disk))), meta))
    }

    /// Bytes that are there already.
    pub fn memory(bytes: impl Into<Box<[u8]>>) -> Content {
        Content(Rc::new(Kind::Memory(Rc::new(Window { from: 0, bytes: bytes.into() }))))
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        match &*self.0 {
            Kind::Disk(disk) => disk.state.len,
            Kind::Memory(all) => all.bytes.len() as u64,
        }
    }

    /// A window that holds the byte at `at`, which MUST lie below `len`.
    pub fn window(&self, at: u64) -> io::Result<Rc<Window>> {
        let disk = match &*self.0 {
            Kind::Memory(all) => return Ok(Rc::clone(all)),
            Kind::Disk(disk) => disk,
        };
        let from = at / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        let mut kept = disk.pages.kept.borrow_mut();
        if let Some(window) = kept.get(&(disk.number, from)) {
            return Ok(window);
        }
        let end = disk.state.len.min(from + PAGE_BYTES as u64);
        if at >= end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; (end - from) as usize];
        disk.file.read_exact_at(&mut bytes, from)?;
        if State::of(&disk.file.metadata()?) != disk.state {
            return Err(io::Error::other("the file was changed while it was read"));
        }
        let window = Rc::new(Window { from, bytes: bytes.into() });
        kept.put((disk.number, from), Rc::clone(&window), window.bytes.len());
        Ok(window)
    }

    /// Fills `to` with the bytes from `at` on.
    pub fn read_at(&self, mut at: u64, mut to: &mut [u8]) -> io::Result<()> {
        if at.checked_add(to.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !to.is_empty() {
            let window = self.window(at)?;
            let bytes = &window.bytes[(at - window.from) as usize..];
            let n = bytes.len().min(to.len());
            let (now, rest) = to.split_at_mut(n);
            now.copy_from_slice(&bytes[..n]);
            (at, to) = (at + n as u64, rest);
        }
        Ok(())
    }

    /// The text that begins at `at` and ends before a zero, which MUST stand before `end`; `None`
    /// where there is none of at most `max` bytes.
    pub fn text_at(&self, at: u64, end: u64, max: usize) -> Option<Vec<u8>> {
        let end = end.min(self.len()).min(at.saturating_add(max as u64 + 1));
        let mut at = at;
        let mut text = Vec::new();
        while at < end {
            let window = self.window(at).ok()?;
            let bytes = &window.bytes[(at - window.from) as usize..];
            let bytes = &bytes[..bytes.len().min((end - at) as usize)];
            if let Some(len) = bytes.iter().position(|b| *b == 0) {
                text.extend_from_slice(&bytes[..len]);
                return Some(text);
            }
            text.extend_from_slice(bytes);
            at += bytes.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("symbolize-content-{name}-{}", std::process::id()))
    }

    #[test]
    fn any_part_of_a_file_and_nothing_beyond() {
        let path = path("parts");
        let bytes: Vec<u8> = (0..PAGE_BYTES * 2 + 100).map(|i| (i % 251) as u8 + 1).collect();
        std::fs::write(&path, &bytes).unwrap();
        let pages = Pages::new();
        let (disk, meta) = Content::open(&path, &pages).unwrap();
        assert_eq!((disk.len(), meta.len()), (bytes.len() as u64, bytes.len() as u64));
        for content in [disk, Content::memory(bytes.clone())] {
            let mut checked = 0;
            for at in [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES, 2 * PAGE_BYTES + 99] {
                for len in [0, 1, 2, 50, PAGE_BYTES, PAGE_BYTES + 60] {
                    let mut to = vec![0; len];
                    match (content.read_at(at as u64, &mut to), bytes.get(at..at + len)) {
                        (Ok(()), Some(want)) => assert_eq!(to, want),
                        (Err(_), None) => {}
                        (got, want) => panic!("{at} {len}: {got:?} {}", want.is_some()),
                    }
                    checked += 1;
                }
            }
            assert_eq!(checked, 36);
            assert!(content.read_at(u64::MAX, &mut [0]).is_err());
            assert!(content.text_at(0, content.len(), usize::MAX - 1).is_none(), "no zero");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn texts_end_at_a_zero_before_their_bound() {
        let mut bytes = vec![b'a'; PAGE_BYTES - 2];
        bytes.extend(b"bcd\0ef");
        let path = path("texts");
        std::fs::write(&path, &bytes).unwrap();
        let (disk, _) = Content::open(&path, &Pages::new()).unwrap();
        let (start, len) = (PAGE_BYTES as u64 - 2, bytes.len() as u64);
        for content in [disk, Content::memory(bytes)] {
            assert_eq!(content.text_at(start, len, 9).as_deref(), Some(&b"bcd"[..]));
            assert_eq!(content.text_at(start, len, 3).as_deref(), Some(&b"bcd"[..]));
            assert_eq!(content.text_at(start, len, 2), None);
            assert_eq!(content.text_at(start + 3, len, 2).as_deref(), Some(&b""[..]));
            assert_eq!(content.text_at(start, start + 3, 9), None);
            assert_eq!(content.text_at(start + 4, len, 9), None);
            assert_eq!(content.text_at(u64::MAX, u64::MAX, 9), None);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_changes_is_an_error_and_not_two_halves() {
        let path = path("changes");
        std::fs::write(&path, vec![1; PAGE_BYTES * 3]).unwrap();
        let (content, _) = Content::open(&path, &Pages::new()).unwrap();
        let mut byte = [0];
        content.read_at(0, &mut byte).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(PAGE_BYTES as u64 * 2).unwrap();
        assert!(content.read_at(PAGE_BYTES as u64, &mut byte).is_err());
        assert!(content.read_at(PAGE_BYTES as u64 * 3 - 1, &mut byte).is_err());
        content.read_at(1, &mut byte).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
