//! How the DWARF library reads a file: in windows of its content, and with an allowance of work.
//!
//! Debug information refers to itself freely: a thousand units may share one table of a megabyte,
//! and each reference to it is followed. So what a file costs is bounded here, where every byte is
//! read: an operation has an allowance by the size of the file, and beyond it every read fails.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

use gimli::Endianity;
use gimli::Error;
use gimli::Reader;
use gimli::ReaderOffsetId;
use gimli::Result;
use gimli::RunTimeEndian;

use crate::content::Content;
use crate::content::Window;

/// Longest name or path that is taken from debug information.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Why reading failed, where that is not the file's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It could not be read.
    Unreadable,
    /// The allowance was used up.
    TooMuch,
}

/// The allowance of an operation, shared by all readers of a file.
#[derive(Debug, Default)]
pub struct Work {
    left: Cell<u64>,
    trouble: Cell<Option<Trouble>>,
}

impl Work {
    /// Allows so much from here on.
    pub fn allow(&self, work: u64) {
        self.left.set(work);
        self.trouble.set(None);
    }

    /// Uses some of it up.
    #[inline]
    pub fn spend(&self, work: u64) -> Result<()> {
        match self.left.get().checked_sub(work) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => self.fail(Trouble::TooMuch),
        }
    }

    /// What went wrong since it was allowed.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.get()
    }

    #[cold]
    fn fail<T>(&self, trouble: Trouble) -> Result<T> {
        self.left.set(0);
        // The first one is the reason for those that follow.
        self.trouble.set(self.trouble.get().or(Some(trouble)));
        Err(Error::Io)
    }
}

/// A part of a file that is read from its beginning to its end.
///
/// A clone has no window of its own until it reads: thousands of them are kept, each of which would
/// hold its bytes in memory otherwise.
#[derive(Debug)]
pub struct PartReader {
    part: Rc<Part>,
    at: u64,
    end: u64,
    window: Option<Rc<Window>>,
}

#[derive(Debug)]
struct Part {
    content: Content,
    endian: RunTimeEndian,
    work: Rc<Work>,
}

impl PartReader {
    /// Reads `len` bytes from `at` on, which MUST lie within the content.
    pub fn new(content: &Content, at: u64, len: u64, little: bool, work: &Rc<Work>) -> Self {
        let endian = if little { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let part = Part { content: content.clone(), endian, work: Rc::clone(work) };
        PartReader { part: Rc::new(part), at, end: at + len, window: None }
    }

    /// All that is left, as text, with replacement characters for what is none; an error where that
    /// is longer than a name may be.
    pub fn text(&self) -> Result<String> {
        if self.end - self.at > TEXT_BYTES_MAX {
            return self.part.work.fail(Trouble::TooMuch);
        }
        match String::from_utf8(self.rest()?) {
            Ok(text) => Ok(text),
            Err(e) => Ok(String::from_utf8_lossy(e.as_bytes()).into_owned()),
        }
    }

    fn rest(&self) -> Result<Vec<u8>> {
        let len = self.end - self.at;
        self.part.work.spend(len)?;
        let mut bytes = vec![0; len as usize];
        self.clone().copy(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes in memory from here on: one at least, unless nothing is left.
    fn here(&mut self) -> Result<&[u8]> {
        let held = |w: &Rc<Window>| self.at >= w.from && self.at - w.from < w.bytes.len() as u64;
        if self.at == self.end {
            return Ok(&[]);
        }
        if !self.window.as_ref().is_some_and(held) {
            match self.part.content.window(self.at) {
                Ok(window) => self.window = Some(window),
                Err(_) => return self.part.work.fail(Trouble::Unreadable),
            }
        }
        let Some(window) = &self.window else { return Ok(&[]) };
        let bytes = window.bytes.get((self.at - window.from) as usize..).unwrap_or_default();
        let len = (bytes.len() as u64).min(self.end - self.at);
        Ok(&bytes[..len as usize])
    }

    /// The next bytes, as most are read: a few, and all in the window.
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        if let Some(window) = &self.window
            && let Some(from) = self.at.checked_sub(window.from)
            && let Some(rest) = window.bytes.get(from as usize..)
            && let Some(bytes) = rest.first_chunk::<N>()
            && self.end - self.at >= N as u64
        {
            self.part.work.spend(N as u64)?;
            self.at += N as u64;
            return Ok(*bytes);
        }
        self.take_across()
    }

    #[cold]
    fn take_across<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.part.work.spend(N as u64)?;
        self.copy(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads on without using the allowance.
    #[cold]
    fn copy(&mut self, mut to: &mut [u8]) -> Result<()> {
        if to.len() as u64 > self.end - self.at {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        while !to.is_empty() {
            let here = self.here()?;
            let n = here.len().min(to.len());
            let (now, rest) = to.split_at_mut(n);
            now.copy_from_slice(&here[..n]);
            self.at += n as u64;
            to = rest;
        }
        Ok(())
    }
}

impl Clone for PartReader {
    fn clone(&self) -> Self {
        PartReader { part: Rc::clone(&self.part), at: self.at, end: self.end, window: None }
    }
}

impl Reader for PartReader {
    type Endian = RunTimeEndian;
    type Offset = u64;

    fn endian(&self) -> RunTimeEndian {
        self.part.endian
    }

    #[inline]
    fn len(&self) -> u64 {
        self.end - self.at
    }

    fn empty(&mut self) {
        self.end = self.at;
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        if len > self.end - self.at {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        self.end = self.at + len;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> u64 {
        self.at.saturating_sub(base.at)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.at)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<u64> {
        (self.at..=self.end).contains(&id.0).then(|| id.0 - self.at)
    }

    fn find(&self, byte: u8) -> Result<u64> {
        let mut rest = self.clone();
        loop {
            let here = rest.here()?;
            let found = here.iter().position(|b| *b == byte);
            let n = found.unwrap_or(here.len()) as u64;
            rest.part.work.spend(n + 1)?;
            if n == 0 && found.is_none() {
                return Err(Error::UnexpectedEof(self.offset_id()));
            }
            rest.at += n;
            if found.is_some() {
                return Ok(rest.at - self.at);
            }
        }
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        if len > self.end - self.at {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        self.at += len;
        self.part.work.spend(1)
    }

    fn split(&mut self, len: u64) -> Result<Self> {
        let mut head = self.clone();
        head.truncate(len)?;
        self.skip(len)?;
        Ok(head)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.rest()?))
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Owned(self.text()?))
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Owned(self.text()?))
    }

    fn read_slice(&mut self, to: &mut [u8]) -> Result<()> {
        self.part.work.spend(to.len() as u64)?;
        self.copy(to)
    }

    #[inline(always)]
    fn read_u8(&mut self) -> Result<u8> {
        self.take().map(|[byte]| byte)
    }

    #[inline(always)]
    fn read_i8(&mut self) -> Result<i8> {
        self.take().map(|[byte]| byte as i8)
    }

    #[inline]
    fn read_u16(&mut self) -> Result<u16> {
        let bytes = self.take::<2>()?;
        Ok(self.endian().read_u16(&bytes))
    }

    #[inline]
    fn read_u32(&mut self) -> Result<u32> {
        let bytes = self.take::<4>()?;
        Ok(self.endian().read_u32(&bytes))
    }

    #[inline]
    fn read_u64(&mut self) -> Result<u64> {
        let bytes = self.take::<8>()?;
        Ok(self.endian().read_u64(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8], work: u64) -> (PartReader, Rc<Work>) {
        let allowance = Rc::new(Work::default());
        allowance.allow(work);
        let content = Content::memory(bytes);
        let len = bytes.len() as u64 - 4;
        (PartReader::new(&content, 2, len, true, &allowance), allowance)
    }

    #[test]
    fn nothing_before_and_nothing_beyond_its_part() {
        let (mut all, _) = reader(b"..\x01\x02\x03\x04ab\0cd..", 1_000);
        assert_eq!(all.len(), 9);
        assert_eq!(all.read_u32(), Ok(0x0403_0201));
        assert_eq!(all.find(0), Ok(2));
        assert_eq!(all.find(b'.'), Err(Error::UnexpectedEof(ReaderOffsetId(6))));
        let text = all.read_null_terminated_slice().unwrap();
        assert_eq!(text.text().unwrap(), "ab");
        assert!(all.read_u32().is_err());
        assert_eq!(all.read_u8(), Ok(b'c'));
        assert!(all.clone().split(2).is_err() && all.clone().skip(u64::MAX).is_err());
        let last = all.split(1).unwrap();
        assert_eq!((last.to_slice().unwrap().as_ref(), all.len()), (&b"d"[..], 0));
        assert!(all.read_u8().is_err());
        assert_eq!(all.find(0), Err(Error::UnexpectedEof(ReaderOffsetId(11))));
    }

    #[test]
    fn work_that_is_used_up_stops_every_read() {
        let bytes = [0; 104];
        let (mut all, work) = reader(&bytes, 50);
        let mut read = 0;
        while all.clone().read_u8().is_ok() {
            read += 1;
        }
        assert_eq!((read, work.trouble()), (50, Some(Trouble::TooMuch)));
        assert!(all.find(0).is_err() && all.skip(0).is_err() && all.rest().is_err());
        work.allow(10);
        assert_eq!(work.trouble(), None);
        assert!(all.rest().is_err(), "100 bytes are more than the 10 allowed");
        work.allow(1_000);
        assert_eq!(all.rest().unwrap(), [0; 100]);
        assert!(all.find(1).is_err());
        assert_eq!(work.trouble(), None, "a byte that is not there is no trouble");
    }
}
