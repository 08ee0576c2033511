//! Files, lines and inlined functions from a file's debug information.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use gimli::EndianReader;
use gimli::EndianSlice;
use gimli::RunTimeEndian;

use crate::elf::ElfReader;

/// Deepest nest of inlined functions. Compilers stay below 100; reading recurses once for each,
/// in stack frames of some hundred bytes.
const INLINED_DEPTH_MAX: usize = 250;

type Reader = EndianReader<RunTimeEndian, Arc<[u8]>>;

/// A function on the way to an address, as the debug information has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DwarfFrame {
    /// Its name, mangled or not.
    pub function: Option<String>,
    /// The source file of the address, or of the call.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
}

/// The debug information of one file.
pub struct Dwarf {
    context: addr2line::Context<Reader>,
}

impl Dwarf {
    /// Reads the debug sections of a file.
    pub fn read(elf: &mut ElfReader) -> Result<Dwarf, String> {
        let endian =
            if elf.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let sections = gimli::DwarfSections::load(|id| {
            let wanted = !matches!(id, gimli::SectionId::DebugTypes | gimli::SectionId::DebugNames);
            let bytes = if wanted { elf.section(id.name())? } else { Vec::new() };
            Ok::<Arc<[u8]>, String>(Arc::from(bytes))
        })?;
        let plain = sections.borrow(|bytes| EndianSlice::new(bytes, endian));
        let depth = guarded(|| inlined_depth(&plain))?.map_err(|e| e.to_string())?;
        if depth > INLINED_DEPTH_MAX {
            return Err(format!("inlined functions nest {depth} deep"));
        }
        let dwarf = sections.borrow(|bytes| EndianReader::new(Arc::clone(bytes), endian));
        let context = guarded(|| addr2line::Context::from_dwarf(dwarf))?;
        Ok(Dwarf { context: context.map_err(|e| e.to_string())? })
    }

    /// The functions at an address of the file, innermost first; none where nothing is known.
    pub fn frames(&self, address: u64) -> Result<Vec<DwarfFrame>, String> {
        guarded(|| self.find(address))?.map_err(|e| e.to_string())
    }

    fn find(&self, address: u64) -> gimli::Result<Vec<DwarfFrame>> {
        let mut found = self.context.find_frames(address).skip_all_loads()?;
        let mut out = Vec::new();
        while let Some(frame) = found.next()? {
            let location = frame.location.as_ref();
            out.push(DwarfFrame {
                function: frame.function.and_then(|f| f.raw_name().ok().map(|n| n.into_owned())),
                file: location.and_then(|l| l.file).map(str::to_owned),
                line: location.and_then(|l| l.line).filter(|line| *line != 0),
            });
        }
        Ok(out)
    }
}

/// The libraries have no known panic, but the files are untrusted: one costs the file's names, not
/// the program.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "its debug information is broken".to_owned())
}

/// The deepest nest of inlined functions in a file.
fn inlined_depth(dwarf: &gimli::Dwarf<EndianSlice<'_, RunTimeEndian>>) -> gimli::Result<usize> {
    let mut deepest = 0;
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let abbreviations = dwarf.abbreviations(&header)?;
        let mut entries = header.entries_raw(&abbreviations, None)?;
        // Depths in the tree at which the open inlined functions stand.
        let mut open: Vec<isize> = Vec::new();
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let Some(entry) = entries.read_abbreviation()? else { continue };
            while open.last().is_some_and(|d| *d >= depth) {
                open.pop();
            }
            if entry.tag() == gimli::DW_TAG_inlined_subroutine {
                open.push(depth);
                deepest = deepest.max(open.len());
            }
            entries.skip_attributes(entry.attributes())?;
        }
    }
    Ok(deepest)
}
