//! Files, lines and inlined functions from a file's debug information.
//!
//! The library reads the format; what to read, and when, is decided here. At first only where each
//! unit's code stands; then the units, functions and lines that are asked for, of which those used
//! of late are remembered. So what it costs in memory is a matter of the addresses and not of the
//! file.
//!
//! 1. Every operation has an allowance of work by the size of the file, counted where bytes are
//!    read, and every list a bound. Otherwise a small file could ask for any time and memory.
//! 2. Nothing calls itself by what a file says.
//! 3. What was refused stays refused: a broken unit is not read again for its next address.

mod functions;
mod lines;
mod names;
mod reader;
mod split;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;

use gimli::Abbreviations;
use gimli::DebugInfoOffset;

use crate::content::Content;
use crate::elf::Elf;
use crate::recent::Recent;
use functions::Code;
use functions::Function;
use functions::Inlined;
use functions::Tree;
use functions::UnitRef;
use lines::Lines;
use lines::Place;
use names::Known;
use names::Names;
use names::Of;
use names::UNIT_COST;
use reader::PartReader;
use reader::Trouble;
use reader::Work;
use split::Apart;
pub use split::Split;

/// Memory of the units, functions and lines that are remembered, of all files together.
const UNITS_COST_MAX: usize = 384 << 20;

/// Stretches of code of all units of a file.
const RANGES_MAX: usize = 16 << 20;

/// Units of a file.
const UNITS_MAX: usize = 4 << 20;

/// Units looked at for an address, and stretches looked at below it. Where code is shared by
/// several units, one of them is enough.
const COVERING_MAX: usize = 8;

/// Bytes between two functions of a unit that may be taken for code of the unit.
const PADDING: u64 = 64;

/// Work that every operation may do whatever the size of the file: a fraction of a second.
const WORK_MIN: u64 = 4 << 20;

/// Work for each byte of the file beside that. Reading all of it once takes less than a quarter.
const WORK_A_BYTE: u64 = 8;

/// Operations that may use up their allowance; then the file is given up.
const TOO_MUCH_MAX: u32 = 4;

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The form is broken, or not known.
    Form(gimli::Error),
    /// More of these than any program has.
    TooMany(&'static str),
}

/// What was asked for, or why it is not known.
pub type Result<T> = std::result::Result<T, Error>;

impl From<gimli::Error> for Error {
    fn from(error: gimli::Error) -> Self {
        Error::Form(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Form(error) => error.fmt(f),
            Error::TooMany(what) => write!(f, "too many {what}"),
        }
    }
}

/// A function on the way to an address, as the debug information has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DwarfFrame {
    /// Its name, mangled or not.
    pub function: Option<Rc<str>>,
    /// The source file of the address, or of the call.
    pub file: Option<Rc<str>>,
    /// The line in it.
    pub line: Option<u32>,
}

/// What is remembered of all files.
pub struct Memory {
    units: RefCell<Recent<(u64, u64), Rc<Unit>>>,
    names: RefCell<Known>,
    files: Cell<u64>,
}

impl Memory {
    /// Of nothing so far.
    pub fn new() -> Rc<Self> {
        let units = RefCell::new(Recent::new(UNITS_COST_MAX));
        Rc::new(Memory { units, names: RefCell::default(), files: Cell::new(0) })
    }
}

/// The debug information of one file.
pub struct Dwarf {
    memory: Rc<Memory>,
    number: u64,
    work: Rc<Work>,
    work_max: u64,
    sections: gimli::Dwarf<PartReader>,
    code: Vec<Range<u64>>,
    /// By their start, then by falling end.
    ranges: Vec<UnitRange>,
    /// Units that cannot be read, by their place.
    refused: Recent<u64, Error>,
    names: Names,
    split: Split,
    /// The first unit or line table that was broken.
    broken: Option<Error>,
    /// Operations that used up their allowance.
    too_much: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnitRange {
    begin: u64,
    end: u64,
    unit: u64,
    /// The furthest end of this one and those before it: where to stop looking back.
    reach: u64,
}

/// A unit of which an address was asked for.
struct Unit {
    unit: gimli::Unit<PartReader>,
    /// Its better half, where it was split.
    apart: Option<Apart>,
    functions: Vec<Function>,
    trees: RefCell<HashMap<u64, Rc<Tree>>>,
    lines: Option<Lines>,
}

impl Dwarf {
    /// Reads where the units of a file are; of `alt`, what it has in common with others.
    pub fn read(
        elf: &Elf,
        alt: Option<&Elf>,
        split: Split,
        memory: &Rc<Memory>,
    ) -> std::result::Result<Dwarf, String> {
        let work = Rc::new(Work::default());
        let mut sections = load(elf, &work, false)?;
        let mut work_max = WORK_MIN + WORK_A_BYTE * elf.len();
        if let Some(alt) = alt {
            sections.set_sup(load(alt, &work, false)?);
            work_max += WORK_A_BYTE * alt.len();
        }
        let number = memory.files.get();
        memory.files.set(number + 1);
        let mut dwarf = Dwarf {
            memory: Rc::clone(memory),
            number,
            work,
            work_max,
            code: elf.code(),
            ranges: Vec::new(),
            refused: Recent::new(1 << 20),
            names: Names::new(number),
            sections,
            split,
            broken: None,
            too_much: 0,
        };
        let index = dwarf.guarded(Dwarf::index)?;
        dwarf.ranges = index;
        Ok(dwarf)
    }

    /// The functions at an address of the file, innermost first; none where nothing is known.
    pub fn frames(&mut self, address: u64) -> std::result::Result<Vec<DwarfFrame>, String> {
        self.guarded(|dwarf| dwarf.find(address))
    }

    /// Does work with an allowance. The library has no known panic but for sums that overflow where
    /// that is checked; the files are untrusted, and one costs its names, not the program.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Dwarf) -> Result<T>,
    ) -> std::result::Result<T, String> {
        let given_up = self.too_much >= TOO_MUCH_MAX;
        self.work.allow(if given_up { 0 } else { self.work_max });
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        match (done, self.work.trouble()) {
            (Ok(Ok(done)), _) => Ok(done),
            (Ok(Err(Error::Form(_))), Some(Trouble::Unreadable)) => {
                Err("it cannot be read, or was changed while it was read".to_owned())
            }
            (Ok(Err(Error::Form(_))), Some(Trouble::TooMuch)) => {
                self.too_much += 1;
                Err("its debug information is larger than its size explains".to_owned())
            }
            (Ok(Err(error)), _) => Err(format!("debug information: {error}")),
            (Err(_), _) => Err("its debug information is broken".to_owned()),
        }
    }

    fn index(&mut self) -> Result<Vec<UnitRange>> {
        let mut out: Vec<UnitRange> = Vec::new();
        let mut listed = Vec::new();
        let mut headers = self.sections.units();
        let mut last: Option<(gimli::DebugAbbrevOffset<u64>, Arc<Abbreviations>)> = None;
        loop {
            let header = match headers.next() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                // What stands before it can be read.
                Err(error) => {
                    self.work.spend(1)?;
                    self.broken = Some(error.into());
                    break;
                }
            };
            let Some(DebugInfoOffset(place)) = header.debug_info_offset() else { continue };
            self.names.add_unit(place)?;
            match header.type_() {
                gimli::UnitType::Compilation | gimli::UnitType::Skeleton(_) => {}
                // Others have no code of their own.
                _ => continue,
            }
            // Units of one file often share a table.
            let table = header.debug_abbrev_offset();
            let known = last.take().filter(|(of, _)| *of == table).map(|(_, known)| Ok(known));
            let known = known.unwrap_or_else(|| self.sections.abbreviations(&header));
            let made = known.and_then(|known| {
                last = Some((table, Arc::clone(&known)));
                gimli::Unit::new_with_abbreviations(&self.sections, header, known)
            });
            match made {
                Ok(mut unit) => match self.add_ranges(&mut unit, place, &mut out) {
                    Ok(true) => listed.push(place),
                    Ok(false) => {}
                    Err(Error::Form(error)) => self.skip_unit(error)?,
                    Err(error) => return Err(error),
                },
                Err(error) => self.skip_unit(error)?,
            }
        }
        self.add_table(&listed, &mut out)?;
        out.sort_unstable_by_key(|r| (r.begin, u64::MAX - r.end, r.unit));
        // Most units have a list of their functions, which stand side by side.
        out.dedup_by(|next, last| {
            let joins = next.unit == last.unit && next.begin <= last.end.saturating_add(PADDING);
            if joins {
                last.end = last.end.max(next.end);
            }
            joins
        });
        out.shrink_to_fit();
        let mut reach = 0;
        for range in &mut out {
            reach = range.end.max(reach);
            range.reach = reach;
        }
        Ok(out)
    }

    /// One broken unit costs that one; an allowance that is used up ends all.
    fn skip_unit(&mut self, error: gimli::Error) -> Result<()> {
        self.broken.get_or_insert(error.into());
        Ok(self.work.spend(1)?)
    }

    /// Adds where the code of a unit is; whether it has a list of that, and not only an extent.
    fn add_ranges(
        &self,
        unit: &mut gimli::Unit<PartReader>,
        place: u64,
        out: &mut Vec<UnitRange>,
    ) -> Result<bool> {
        let mut add = |begin, end| {
            if is_code(&self.code, begin) {
                out.push(UnitRange { begin, end, unit: place, reach: 0 });
            }
            if out.len() > RANGES_MAX { Err(Error::TooMany("units")) } else { Ok(()) }
        };
        let of = UnitRef::new(&self.sections, unit);
        let mut is_somewhere = false;
        let code = root_code(of, &self.work)?;
        code.for_each(of, |range| {
            is_somewhere = true;
            add(range.begin, range.end)
        })?;
        // Some assemblers, and compilers for early versions, say nothing of where the code of a
        // unit is but in its lines.
        if !is_somewhere && let Ok(Some(lines)) = Lines::of(unit, |at| is_code(&self.code, at)) {
            lines.ranges().try_for_each(|(begin, end)| add(begin, end))?;
        }
        Ok(code.is_listed())
    }

    /// Adds what the table of addresses says of units without a list: in early versions of the
    /// format, their extent leaves out what stands apart.
    fn add_table(&self, listed: &[u64], out: &mut Vec<UnitRange>) -> Result<()> {
        let mut headers = self.sections.debug_aranges.headers();
        while let Ok(Some(header)) = headers.next() {
            let DebugInfoOffset(unit) = header.debug_info_offset();
            if listed.binary_search(&unit).is_ok() {
                continue;
            }
            let mut entries = header.entries();
            while let Ok(Some(entry)) = entries.next() {
                let gimli::Range { begin, end } = entry.range();
                if begin < end && is_code(&self.code, begin) {
                    out.push(UnitRange { begin, end, unit, reach: 0 });
                }
                if out.len() > RANGES_MAX {
                    return Err(Error::TooMany("units"));
                }
            }
        }
        Ok(())
    }

    fn find(&mut self, address: u64) -> Result<Vec<DwarfFrame>> {
        let mut best: Option<(Rc<Unit>, Function)> = None;
        let mut place: Option<(Rc<Unit>, Place)> = None;
        let mut failed = None;
        for at in self.units_at(address) {
            let unit = match self.unit(at) {
                Ok(unit) => unit,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let found = covering(&unit.functions, address, |f| (f.begin, f.end)).next();
            let function = found.map(|i| unit.functions[i]);
            // Of two, the one whose code begins later: the other may be a relic of the linker.
            if let Some(function) = function
                && best.as_ref().is_none_or(|(_, b)| function.begin > b.begin)
            {
                best = Some((Rc::clone(&unit), function));
            }
            let mut cost = 0;
            let line = match (&unit.lines, &place) {
                (Some(lines), None) => lines.find(address, &mut cost),
                _ => Ok(None),
            };
            let line = line.unwrap_or_else(|error| self.note(error));
            self.grew(&unit, cost);
            place = place.or(line.map(|line| (unit, line)));
        }
        match (best, place, failed) {
            (Some((unit, function)), ..) => self.functions_at(&unit, function, address),
            (None, Some((unit, place)), _) => {
                let (file, line) = self.place(&unit, Some(place));
                Ok(vec![DwarfFrame { function: None, file, line }])
            }
            (None, None, Some(error)) => Err(error),
            (None, None, None) => Ok(Vec::new()),
        }
    }

    /// The places of the units with code at an address.
    fn units_at(&self, address: u64) -> Vec<u64> {
        let above = self.ranges.partition_point(|r| r.begin <= address);
        let mut out = Vec::new();
        for range in self.ranges[..above].iter().rev().take(64) {
            if range.reach <= address || out.len() >= COVERING_MAX {
                break;
            }
            if address < range.end && !out.contains(&range.unit) {
                out.push(range.unit);
            }
        }
        out
    }

    fn unit(&mut self, place: u64) -> Result<Rc<Unit>> {
        let key = (self.number, place);
        if let Some(unit) = self.memory.units.borrow_mut().get(&key) {
            return Ok(unit);
        }
        if let Some(error) = self.refused.get(&place) {
            return Err(error);
        }
        match self.read_unit(place) {
            Ok((unit, cost)) => {
                let unit = Rc::new(unit);
                self.memory.units.borrow_mut().put(key, Rc::clone(&unit), cost);
                Ok(unit)
            }
            Err(error) => {
                self.refused.put(place, error, 64);
                self.note::<()>(error);
                Err(error)
            }
        }
    }

    fn read_unit(&mut self, place: u64) -> Result<(Unit, usize)> {
        let header = self.sections.unit_header(DebugInfoOffset(place))?;
        let mut unit = self.sections.unit(header)?;
        let lines = Lines::of(&mut unit, |at| is_code(&self.code, at));
        // Its functions have names without them.
        let lines = lines.unwrap_or_else(|error| self.note(error));
        let apart = self.split.unit(&self.sections, &unit, &self.work)?;
        let (functions, trees) = (Vec::new(), RefCell::default());
        let mut unit = Unit { unit, apart, functions, trees, lines };
        let functions = functions::functions(unit.main(&self.sections), &self.work, |at| {
            is_code(&self.code, at)
        });
        unit.functions = functions?;
        let cost = UNIT_COST
            + unit.apart.as_ref().map_or(0, |apart| apart.cost + UNIT_COST)
            + size_of_val(&unit.functions[..])
            + unit.lines.as_ref().map_or(0, Lines::cost);
        Ok((unit, cost))
    }

    fn functions_at(
        &mut self,
        unit: &Rc<Unit>,
        function: Function,
        address: u64,
    ) -> Result<Vec<DwarfFrame>> {
        let inlined = self.tree(unit, function.entry)?.at(address)?;
        let mut cost = 0;
        let innermost = match &unit.lines {
            Some(lines) => lines.find(address, &mut cost),
            None => Ok(None),
        };
        let innermost = innermost.unwrap_or_else(|error| self.note(error));
        self.grew(unit, cost);
        let mut out = Vec::with_capacity(inlined.len() + 1);
        let (mut file, mut line) = self.place(unit, innermost);
        for Inlined { entry, call_file, call_line, .. } in inlined {
            let function = self.name(unit, entry);
            let call = call_file.map(|file| Place { file, line: call_line });
            let (call_file, _) = self.place(unit, call);
            let frame = DwarfFrame { function, file, line };
            out.push(frame);
            (file, line) = (call_file, (call_line != 0).then_some(call_line));
        }
        let function = self.name(unit, function.entry);
        out.push(DwarfFrame { function, file, line });
        Ok(out)
    }

    fn tree(&mut self, unit: &Rc<Unit>, entry: u64) -> Result<Rc<Tree>> {
        if let Some(tree) = unit.trees.borrow().get(&entry) {
            return Ok(Rc::clone(tree));
        }
        let tree = Rc::new(Tree::read(unit.main(&self.sections), entry, &self.work)?);
        self.grew(unit, tree.cost());
        unit.trees.borrow_mut().insert(entry, Rc::clone(&tree));
        Ok(tree)
    }

    fn place(&mut self, unit: &Rc<Unit>, place: Option<Place>) -> (Option<Rc<str>>, Option<u32>) {
        let (Some(lines), Some(place)) = (&unit.lines, place) else { return (None, None) };
        let mut cost = 0;
        let file = lines.file(&self.sections, &unit.unit, place.file, &mut cost);
        self.grew(unit, cost);
        (file, (place.line != 0).then_some(place.line))
    }

    fn name(&mut self, unit: &Rc<Unit>, entry: u64) -> Option<Rc<str>> {
        let of = if unit.apart.is_some() { Of::Apart } else { Of::Own };
        let main = unit.main(&self.sections);
        let mut known = self.memory.names.borrow_mut();
        let at = (of, unit.place());
        self.names.get(&mut known, &self.sections, at, main, entry, &self.work)
    }

    fn grew(&self, unit: &Unit, by: usize) {
        self.memory.units.borrow_mut().grew(&(self.number, unit.place()), by);
    }

    /// What of its information is not there or cannot be read, as far as is known by now.
    pub fn trouble(&self) -> Option<String> {
        let missing = self.split.missing();
        let missing = missing.map(|name| format!("{name}, which was split off, is not there"));
        missing.or_else(|| self.broken.map(|error| format!("a part is broken: {error}")))
    }

    /// Remembers that a part is broken, and goes on without it. What was not read for want of work
    /// or of the file is no part that is broken, and said by `guarded`.
    fn note<T>(&mut self, error: Error) -> Option<T> {
        if error != Error::Form(gimli::Error::Io) {
            self.broken.get_or_insert(error);
        }
        None
    }
}

impl Unit {
    fn place(&self) -> u64 {
        self.unit.header.debug_info_offset().map_or(0, |DebugInfoOffset(place)| place)
    }

    /// Where its functions are described.
    fn main<'u>(&'u self, sections: &'u gimli::Dwarf<PartReader>) -> UnitRef<'u> {
        match &self.apart {
            Some(apart) => UnitRef::new(&apart.sections, &apart.unit),
            None => UnitRef::new(sections, &self.unit),
        }
    }
}

/// Where a unit's code stands, by its first entry.
fn root_code(of: UnitRef<'_>, work: &Work) -> Result<Code> {
    let mut code = Code::default();
    let mut entries = of.entries_raw(None)?;
    let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(code) };
    work.spend(abbreviation.attributes().len() as u64)?;
    for spec in abbreviation.attributes() {
        let attribute = entries.read_attribute(*spec)?;
        code.note(of, attribute.name(), attribute.value())?;
    }
    Ok(code)
}

/// The debug sections of a file, or those that a unit was split off to.
fn load(
    elf: &Elf,
    work: &Rc<Work>,
    apart: bool,
) -> std::result::Result<gimli::Dwarf<PartReader>, String> {
    // Those of types, variables and macros are not read: nothing is asked of them here.
    let unwanted = [".debug_types", ".debug_names", ".debug_loc", ".debug_mac"];
    gimli::Dwarf::load(|id| {
        let name = if apart { id.dwo_name() } else { Some(id.name()) };
        let name = name.filter(|name| !unwanted.iter().any(|u| name.starts_with(u)));
        section(elf, work, name)
    })
}

fn section(
    elf: &Elf,
    work: &Rc<Work>,
    name: Option<&str>,
) -> std::result::Result<PartReader, String> {
    let found = match name {
        Some(name) => elf.bytes(name)?,
        None => None,
    };
    let (content, at, len) = found.unwrap_or_else(|| (Content::memory(&[][..]), 0, 0));
    Ok(PartReader::new(&content, at, len, elf.is_little_endian(), work))
}

/// Whether code stands at an address; yes, where the file does not say.
fn is_code(code: &[Range<u64>], address: u64) -> bool {
    let above = code.partition_point(|range| range.start <= address);
    let below = above.checked_sub(1).map(|i| &code[i]);
    code.is_empty() || below.is_some_and(|range| address < range.end)
}

/// Indexes of the stretches that cover an address, the one that begins last first. They MUST be
/// sorted by their beginning; a few may overlap.
fn covering<T>(
    all: &[T],
    address: u64,
    range: impl Fn(&T) -> (u64, u64),
) -> impl Iterator<Item = usize> {
    let above = all.partition_point(|t| range(t).0 <= address);
    let below = (0..above).rev().take(COVERING_MAX);
    below.filter(move |i| address < range(&all[*i]).1)
}
