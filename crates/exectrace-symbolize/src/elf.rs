//! One ELF file: its headers read and checked, its symbols and debug sections on demand.
//!
//! What a header says of sizes is believed only as far as the file reaches, and no more is read for
//! one purpose than its bound.

use std::cell::Cell;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use object::Endianness;
use object::ReadRef;
use object::elf;
use object::read::CompressedData;
use object::read::CompressionFormat;
use object::read::ReadCache;
use object::read::elf::FileHeader;
use object::read::elf::ProgramHeader;
use object::read::elf::SectionHeader;
use object::read::elf::Sym;

use crate::content::Content;
use crate::content::Pages;
use crate::module::Missing;
use crate::symbols::Strings;
use crate::symbols::Symbol;
use crate::symbols::Symbols;

/// Most bytes read of headers, names of sections and notes.
const HEAD_BYTES_MAX: u64 = 128 << 20;

/// Most symbols that are looked at. The largest programs have a few million.
const SYMBOLS_MAX: u64 = 32 << 20;

/// Most bytes of a section in memory, packed or not. Only compressed ones are held in memory.
const SECTION_BYTES_MAX: u64 = 2 << 30;

/// Most that a compressed section may grow, where it is no small one: debug information shrinks to
/// a third, and what is compressed a thousandfold is made to fill the memory.
const GROWTH_MAX: u64 = 64;

/// Bytes of a small one.
const SMALL_BYTES: u64 = 8 << 20;

/// An open file of the ELF format.
pub struct Elf {
    path: PathBuf,
    content: Content,
    meta: Option<Metadata>,
    head: Head,
}

/// What is read of every file, wanted or not.
struct Head {
    wide: bool,
    endian: Endianness,
    build_id: Option<Vec<u8>>,
    /// Those with names that are asked for, and all symbol tables.
    sections: Vec<Section>,
    /// Where code stands, by index of the section.
    code: Vec<Range<u64>>,
}

#[derive(Clone, Debug)]
struct Section {
    name: String,
    what: elf::SectionType,
    packed: bool,
    at: u64,
    len: u64,
    /// Where the section that it refers to stands.
    strings: Range<u64>,
}

/// Which table of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// All functions.
    Full,
    /// What the dynamic linker needs.
    Dynamic,
}

impl Elf {
    /// Opens a file and reads its headers.
    pub fn open(path: &Path, pages: &Rc<Pages>) -> Result<Self, Missing> {
        let (content, meta) = Content::open(path, pages)?;
        let mut elf = Elf::read(path, content)?;
        elf.meta = Some(meta);
        Ok(elf)
    }

    /// Reads the headers of a file that was read already, and how it is called.
    pub fn read(path: &Path, content: Content) -> Result<Self, Missing> {
        let stream = Stream { content: content.clone(), at: 0 };
        let cache = ReadCache::new(stream);
        let left = Cell::new(HEAD_BYTES_MAX);
        let bytes = Bounded { cache: &cache, left: &left };
        let head = match object::FileKind::parse(bytes) {
            Ok(object::FileKind::Elf32) => head::<elf::FileHeader32<Endianness>>(bytes),
            // The library's error has no public constructor: where it is no ELF, this says so.
            _ => head::<elf::FileHeader64<Endianness>>(bytes),
        };
        let head = head.map_err(|e| Missing::NotElf(e.to_string()))?;
        Ok(Elf { path: path.to_owned(), content, meta: None, head })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size and time, where it is a file on disk.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.meta.as_ref()
    }

    /// Its build id.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.head.build_id.as_deref()
    }

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.content.len()
    }

    /// Whether numbers in it are little-endian.
    pub fn is_little_endian(&self) -> bool {
        self.head.endian == Endianness::Little
    }

    /// Where code stands in it, sorted.
    pub fn code(&self) -> Vec<Range<u64>> {
        let mut code = self.head.code.clone();
        code.retain(|range| !range.is_empty());
        code.sort_unstable_by_key(|range| range.start);
        code
    }

    /// Whether it has debug information (and not only a place for it).
    pub fn has_debug_info(&self) -> bool {
        self.has(".debug_info")
    }

    /// Whether it has a section of this name with bytes.
    pub fn has(&self, name: &str) -> bool {
        self.section(name).is_some_and(|s| s.len > 0)
    }

    /// Name and checksum of its debug file.
    pub fn debuglink(&self) -> Option<(Vec<u8>, u32)> {
        let bytes = self.small(".gnu_debuglink")?;
        let len = bytes.iter().position(|b| *b == 0)?;
        let sum = bytes.get((len + 1).next_multiple_of(4)..)?.first_chunk::<4>()?;
        let sum = match self.head.endian {
            Endianness::Little => u32::from_le_bytes(*sum),
            Endianness::Big => u32::from_be_bytes(*sum),
        };
        Some((bytes[..len].to_vec(), sum))
    }

    /// Name and build id of the file with what several debug files have in common.
    pub fn altlink(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let bytes = self.small(".gnu_debugaltlink")?;
        let len = bytes.iter().position(|b| *b == 0)?;
        Some((bytes[..len].to_vec(), bytes[len + 1..].to_vec()))
    }

    /// CRC-32 of the whole file, as debug links have it.
    pub fn checksum(&self) -> io::Result<u32> {
        let mut hash = crc32fast::Hasher::new();
        let mut at = 0;
        while at < self.content.len() {
            let window = self.content.window(at)?;
            let bytes = &window.bytes[(at - window.from) as usize..];
            hash.update(bytes);
            at += bytes.len() as u64;
        }
        Ok(hash.finalize())
    }

    /// Functions of one of its tables.
    pub fn symbols(&self, table: Table) -> Symbols {
        let what = match table {
            Table::Full => elf::SHT_SYMTAB,
            Table::Dynamic => elf::SHT_DYNSYM,
        };
        let Some(section) = self.head.sections.iter().find(|s| s.what == what) else {
            return Symbols::default();
        };
        let strings = Strings::new(&self.content, section.strings.clone());
        let list = match self.head.wide {
            true => self.functions::<elf::FileHeader64<Endianness>>(section, &strings),
            false => self.functions::<elf::FileHeader32<Endianness>>(section, &strings),
        };
        Symbols::new(list.unwrap_or_default(), strings)
    }

    /// Symbols of defined functions and of code without a type (assembly).
    fn functions<E: FileHeader<Endian = Endianness>>(
        &self,
        section: &Section,
        strings: &Strings,
    ) -> io::Result<Vec<Symbol>> {
        let entry = size_of::<E::Sym>() as u64;
        let count = (section.len / entry).min(SYMBOLS_MAX);
        let mut out = Vec::new();
        let mut bytes = Vec::new();
        let mut index = 0;
        while index < count {
            let n = (count - index).min(1 << 12);
            bytes.resize((n * entry) as usize, 0);
            self.content.read_at(section.at + index * entry, &mut bytes)?;
            let symbols = object::pod::slice_from_all_bytes::<E::Sym>(&bytes).unwrap_or_default();
            out.extend(symbols.iter().filter_map(|s| self.function::<E>(s, strings)));
            index += n;
        }
        Ok(out)
    }

    fn function<E: FileHeader<Endian = Endianness>>(
        &self,
        symbol: &E::Sym,
        strings: &Strings,
    ) -> Option<Symbol> {
        let endian = self.head.endian;
        let address: u64 = symbol.st_value(endian).into();
        let size: u64 = symbol.st_size(endian).into();
        let typed = match symbol.st_type() {
            elf::STT_FUNC | elf::STT_GNU_IFUNC => true,
            elf::STT_NOTYPE => false,
            _ => return None,
        };
        let name = symbol.st_name(endian);
        // Where files have more sections than fit the symbol, they have no symbols of interest.
        let section = self.head.code.get(usize::from(symbol.st_shndx(endian).0))?;
        if section.is_empty() || name == 0 {
            return None;
        }
        // Assemblers leave labels that mean no function: `$x` for a stretch of code, `.L1`.
        if !typed && strings.get(name).is_none_or(|n| n.starts_with('$') || n.starts_with(".L")) {
            return None;
        }
        let local = symbol.st_bind() == elf::STB_LOCAL;
        Some(Symbol {
            address,
            end: if size == 0 { section.end } else { address.saturating_add(size) },
            sized: size != 0,
            name,
            rank: u8::from(!typed) << 2 | u8::from(size == 0) << 1 | u8::from(local),
        })
    }

    /// Where the bytes of a section stand, decompressed; `None` where it has none.
    pub fn bytes(&self, name: &str) -> Result<Option<(Content, u64, u64)>, String> {
        let Some(section) = self.section(name).filter(|s| s.len > 0) else { return Ok(None) };
        let gnu = section.name.starts_with(".zdebug_");
        if !section.packed && !gnu {
            return Ok(Some((self.content.clone(), section.at, section.len)));
        }
        let unpacked = self.unpack(section, gnu).map_err(|e| format!("{name}: {e}"))?;
        let len = unpacked.len() as u64;
        Ok(Some((Content::memory(unpacked), 0, len)))
    }

    fn unpack(&self, section: &Section, gnu: bool) -> Result<Vec<u8>, String> {
        let short = || "it is shorter than its head".to_owned();
        let mut head = [0; 24];
        let head_len = if self.head.wide || gnu { 24 } else { 12 }.min(section.len as usize);
        let read = |at, to: &mut [u8]| self.content.read_at(at, to).map_err(|e| e.to_string());
        read(section.at, &mut head[..head_len])?;
        let number = |at: usize, len: usize, little: bool| {
            let bytes = head[..head_len].get(at..at + len)?;
            let join = |n: u64, b: &u8| n << 8 | u64::from(*b);
            Some(match little {
                true => bytes.iter().rev().fold(0, join),
                false => bytes.iter().fold(0, join),
            })
        };
        let little = self.is_little_endian();
        let (format, size, skip) = if gnu {
            let magic = head.starts_with(b"ZLIB");
            (magic.then_some(1), number(4, 8, false), 12)
        } else if self.head.wide {
            (number(0, 4, little), number(8, 8, little), 24)
        } else {
            (number(0, 4, little), number(4, 4, little), 12)
        };
        let format = match format.ok_or_else(short)? {
            1 => CompressionFormat::Zlib,
            2 => CompressionFormat::Zstandard,
            other => return Err(format!("compression {other} is not known")),
        };
        let size = size.ok_or_else(short)?;
        let len = section.len.checked_sub(skip).ok_or_else(short)?;
        let growth = len.saturating_mul(GROWTH_MAX).max(SMALL_BYTES);
        if len.max(size) > SECTION_BYTES_MAX || size > growth {
            return Err(format!("{size} bytes are too many"));
        }
        let mut packed = vec![0; len as usize];
        read(section.at + skip, &mut packed)?;
        let packed = CompressedData { format, data: &packed, uncompressed_size: size };
        Ok(packed.decompress().map_err(|e| e.to_string())?.into_owned())
    }

    /// All bytes of a section that is not compressed, if they are a few.
    pub fn whole(&self, name: &str, max: u64) -> Option<Vec<u8>> {
        let section = self.section(name).filter(|s| s.len > 0 && s.len <= max && !s.packed)?;
        let mut bytes = vec![0; section.len as usize];
        self.content.read_at(section.at, &mut bytes).ok()?;
        Some(bytes)
    }

    fn small(&self, name: &str) -> Option<Vec<u8>> {
        self.whole(name, 8 << 10)
    }

    fn section(&self, name: &str) -> Option<&Section> {
        let plain = |s: &&Section| s.name == name;
        let packed = |s: &&Section| {
            let (of, name) = (s.name.strip_prefix(".zdebug_"), name.strip_prefix(".debug_"));
            of.is_some() && of == name
        };
        let sections = &self.head.sections;
        sections.iter().find(plain).or_else(|| sections.iter().find(packed))
    }
}

fn head<E: FileHeader<Endian = Endianness>>(bytes: Bounded<'_>) -> object::Result<Head> {
    let header = E::parse(bytes)?;
    let endian = header.endian()?;
    let table = header.sections(endian, bytes)?;
    let file_end = bytes.len().unwrap_or(0);
    let mut head = Head {
        wide: header.is_type_64(),
        endian,
        build_id: None,
        sections: Vec::new(),
        code: Vec::with_capacity(table.len()),
    };
    for section in table.iter() {
        let what = section.sh_type(endian);
        let flags = section.sh_flags(endian);
        let start: u64 = section.sh_addr(endian).into();
        let size: u64 = section.sh_size(endian).into();
        let is_code = flags.contains(elf::SHF_EXECINSTR);
        head.code.push(if is_code { start..start.saturating_add(size) } else { 0..0 });
        if head.build_id.is_none()
            && let Ok(Some(notes)) = section.notes(endian, bytes)
        {
            head.build_id = build_id(endian, notes);
        }
        // Names of other sections may be anything.
        let name = table.section_name(endian, section).unwrap_or_default();
        let name = std::str::from_utf8(name).unwrap_or_default();
        let known = [".debug_", ".zdebug_", ".gnu_debug"].iter().any(|p| name.starts_with(p));
        let symbols = what == elf::SHT_SYMTAB || what == elf::SHT_DYNSYM;
        let Some((at, len)) = section.file_range(endian) else { continue };
        if (!known && !symbols) || at.checked_add(len).is_none_or(|end| end > file_end) {
            continue;
        }
        let link = table.section(section.link(endian)).ok().filter(|_| symbols);
        let strings = link.and_then(|s| s.file_range(endian));
        let strings = strings.map_or(0..0, |(at, len)| at..at.saturating_add(len));
        let packed = flags.contains(elf::SHF_COMPRESSED);
        head.sections.push(Section { name: name.to_owned(), what, packed, at, len, strings });
    }
    for segment in header.program_headers(endian, bytes).unwrap_or_default() {
        if head.build_id.is_none()
            && let Ok(Some(notes)) = segment.notes(endian, bytes)
        {
            head.build_id = build_id(endian, notes);
        }
    }
    Ok(head)
}

fn build_id<E: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    notes: object::read::elf::NoteIterator<'_, E>,
) -> Option<Vec<u8>> {
    let is_id = |name: &[u8], what| name == elf::ELF_NOTE_GNU && what == elf::NT_GNU_BUILD_ID;
    let mut ids = notes.filter_map(|note| note.ok());
    let id = ids.find(|note| is_id(note.name(), note.n_type(endian)))?;
    (!id.desc().is_empty()).then(|| id.desc().to_vec())
}

/// A content as a stream, as the library wants it.
struct Stream {
    content: Content,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.content.len().saturating_sub(self.at).min(to.len() as u64) as usize;
        self.content.read_at(self.at, &mut to[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(n) => self.content.len().checked_add_signed(n),
            SeekFrom::Current(n) => self.at.checked_add_signed(n),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Reads with an allowance: headers may declare as much as a file has, in any number of places.
#[derive(Clone, Copy)]
struct Bounded<'c> {
    cache: &'c ReadCache<Stream>,
    left: &'c Cell<u64>,
}

impl Bounded<'_> {
    fn spend(&self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'c> ReadRef<'c> for Bounded<'c> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'c [u8], ()> {
        self.spend(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'c [u8], ()> {
        let bytes = self.cache.read_bytes_at_until(range, delimiter)?;
        self.spend(bytes.len() as u64 + 1)?;
        Ok(bytes)
    }
}
