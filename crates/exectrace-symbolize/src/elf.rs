//! One ELF file: opened, checked, its symbols and debug sections read.
//!
//! Files are read, not mapped: a mapping of a file that another program shortens is a SIGBUS.
//! Only headers, the symbol table and the debug sections are read.

use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use object::Endianness;
use object::Object;
use object::ObjectSection;
use object::read::CompressedData;
use object::read::CompressedFileRange;
use object::read::CompressionFormat;
use object::read::ReadCache;
use object::read::elf::ElfFile;
use object::read::elf::FileHeader;
use object::read::elf::SectionHeader;
use object::read::elf::Sym;
use object::read::elf::SymbolTable;

use crate::module::Missing;
use crate::module::Names;
use crate::symbols::Symbol;
use crate::symbols::Symbols;

/// Most bytes read of one section: more than debug sections of the largest programs have, and what
/// a machine has as memory.
const SECTION_BYTES_MAX: u64 = 4 << 30;

/// Most that compressed data may grow; zlib cannot do more than 1,032-fold.
const GROWTH_MAX: u64 = 1_100;

/// An open file of the ELF format.
pub struct ElfReader {
    path: PathBuf,
    file: File,
    meta: Metadata,
    head: Head,
}

/// What is read of every file, wanted or not.
struct Head {
    build_id: Option<Vec<u8>>,
    debuglink: Option<(Vec<u8>, u32)>,
    little_endian: bool,
    symbols: Vec<Symbol>,
    symbol_names: Names,
    names: Option<CompressedFileRange>,
    sections: Vec<(String, CompressedFileRange)>,
}

impl ElfReader {
    /// Opens a file and reads its headers and symbols.
    pub fn open(path: &Path) -> Result<Self, Missing> {
        let unreadable = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing::NotFound,
            _ => Missing::Unreadable(e.to_string()),
        };
        // Asked before it is opened: to open a pipe waits for its other end.
        let meta = std::fs::metadata(path).map_err(unreadable)?;
        if !meta.is_file() {
            return Err(Missing::NotAFile);
        }
        let file = File::open(path).map_err(unreadable)?;
        let cache = ReadCache::new(file);
        let head = read_head(&cache).map_err(|e| Missing::NotElf(e.to_string()))?;
        Ok(ElfReader { path: path.to_owned(), file: cache.into_inner(), meta, head })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size and time.
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Its build id.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.head.build_id.as_deref()
    }

    /// Name and checksum of its debug file.
    pub fn debuglink(&self) -> Option<(&[u8], u32)> {
        self.head.debuglink.as_ref().map(|(name, crc)| (&name[..], *crc))
    }

    /// Whether numbers in it are little-endian.
    pub fn is_little_endian(&self) -> bool {
        self.head.little_endian
    }

    /// Whether it has debug information (and not only a place for it).
    pub fn has_debug_info(&self) -> bool {
        self.head.sections.iter().any(|(name, _)| name == ".debug_info")
    }

    /// CRC-32 of the whole file, as debug links have it.
    pub fn checksum(&mut self) -> io::Result<u32> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut hash = crc32fast::Hasher::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(hash.finalize()),
                n => hash.update(&buffer[..n]),
            }
        }
    }

    /// Which of its tables has its functions.
    pub fn symbol_names(&self) -> Names {
        self.head.symbol_names
    }

    /// Its functions.
    pub fn symbols(&mut self) -> Symbols {
        let list = std::mem::take(&mut self.head.symbols);
        let Some(names) = self.head.names.take() else { return Symbols::default() };
        match self.range(&names) {
            Ok(bytes) => Symbols::new(list, Arc::from(bytes)),
            Err(_) => Symbols::default(),
        }
    }

    /// The bytes of a debug section, decompressed; empty where it has none.
    pub fn section(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let found = self.head.sections.iter().find(|(n, _)| n == name).map(|(_, range)| *range);
        match found {
            Some(range) => self.range(&range).map_err(|e| format!("{name}: {e}")),
            None => Ok(Vec::new()),
        }
    }

    fn range(&mut self, range: &CompressedFileRange) -> Result<Vec<u8>, String> {
        let end = range.offset.checked_add(range.compressed_size);
        if end.is_none_or(|end| end > self.meta.len()) {
            return Err("it reaches beyond the end of the file".to_owned());
        }
        let unpacked_max = range.compressed_size.saturating_mul(GROWTH_MAX);
        if range.compressed_size.max(range.uncompressed_size) > SECTION_BYTES_MAX
            || range.uncompressed_size > unpacked_max
        {
            return Err(format!("{} bytes are too many", range.uncompressed_size));
        }
        let mut bytes = Vec::new();
        let size = range.compressed_size as usize;
        bytes.try_reserve_exact(size).map_err(|e| e.to_string())?;
        self.file.seek(SeekFrom::Start(range.offset)).map_err(|e| e.to_string())?;
        let limited = (&mut self.file).take(range.compressed_size);
        let read = { limited }.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if read != size {
            return Err("the file ends in it".to_owned());
        }
        if range.format == CompressionFormat::None {
            return Ok(bytes);
        }
        let packed = CompressedData {
            format: range.format,
            data: &bytes,
            uncompressed_size: range.uncompressed_size,
        };
        packed.decompress().map(|data| data.into_owned()).map_err(|e| e.to_string())
    }
}

fn read_head(cache: &ReadCache<File>) -> object::Result<Head> {
    match object::FileKind::parse(cache)? {
        object::FileKind::Elf64 => read_class::<object::elf::FileHeader64<Endianness>>(cache),
        object::FileKind::Elf32 => read_class::<object::elf::FileHeader32<Endianness>>(cache),
        _ => {
            // The library's error has no public constructor: this parse fails with a fit one.
            read_class::<object::elf::FileHeader64<Endianness>>(cache)
        }
    }
}

fn read_class<E: FileHeader<Endian = Endianness>>(cache: &ReadCache<File>) -> object::Result<Head> {
    let elf = ElfFile::<E, &ReadCache<File>>::parse(cache)?;
    let mut sections = Vec::new();
    for section in elf.sections() {
        // Names of other sections may be anything.
        let Ok(name) = section.name() else { continue };
        if let Some(plain) = name.strip_prefix(".zdebug_") {
            sections.push((format!(".debug_{plain}"), section.compressed_file_range()?));
        } else if name.starts_with(".debug_") && section.file_range().is_some() {
            sections.push((name.to_owned(), section.compressed_file_range()?));
        }
    }
    let mut symbols = Vec::new();
    let mut symbol_names = Names::SymbolTable;
    let mut names = None;
    for (what, table) in [
        (Names::SymbolTable, elf.elf_symbol_table()),
        (Names::DynamicSymbols, elf.elf_dynamic_symbol_table()),
    ] {
        if symbols.is_empty() {
            symbols = functions(&elf, table);
            symbol_names = what;
            names = elf
                .section_by_index(table.string_section())
                .and_then(|s| s.compressed_file_range())
                .ok();
        }
    }
    Ok(Head {
        build_id: elf.build_id()?.map(<[u8]>::to_vec),
        debuglink: elf.gnu_debuglink()?.map(|(name, crc)| (name.to_vec(), crc)),
        little_endian: elf.is_little_endian(),
        symbols,
        symbol_names,
        names,
        sections,
    })
}

/// Symbols of defined functions and of code without a type (assembly).
fn functions<'c, E: FileHeader<Endian = Endianness>>(
    elf: &ElfFile<'c, E, &'c ReadCache<File>>,
    table: &SymbolTable<'c, E, &'c ReadCache<File>>,
) -> Vec<Symbol> {
    let endian = elf.endian();
    // End of each section with code.
    let code = |section: &E::SectionHeader| {
        let flags = section.sh_flags(endian);
        let start: u64 = section.sh_addr(endian).into();
        let size: u64 = section.sh_size(endian).into();
        flags.contains(object::elf::SHF_EXECINSTR).then(|| start.saturating_add(size))
    };
    let ends: Vec<Option<u64>> = elf.elf_section_table().iter().map(code).collect();
    let mut out = Vec::new();
    for (index, symbol) in table.enumerate() {
        let Ok(Some(section)) = table.symbol_section(endian, symbol, index) else { continue };
        let Some(Some(section_end)) = ends.get(section.0) else { continue };
        let typed = match symbol.st_type() {
            object::elf::STT_FUNC | object::elf::STT_GNU_IFUNC => true,
            object::elf::STT_NOTYPE => false,
            _ => continue,
        };
        let address: u64 = symbol.st_value(endian).into();
        let size: u64 = symbol.st_size(endian).into();
        let local = symbol.st_bind() == object::elf::STB_LOCAL;
        out.push(Symbol {
            address,
            end: if size == 0 { *section_end } else { address.saturating_add(size) },
            sized: size != 0,
            name: symbol.st_name(endian),
            rank: u8::from(!typed) << 2 | u8::from(size == 0) << 1 | u8::from(local),
        });
    }
    out
}
