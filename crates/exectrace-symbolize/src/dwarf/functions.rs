//! The functions of a unit: which one covers an address, and what is inlined into it there.
//!
//! A unit is read once for where its functions are; what is inlined into a function is read when
//! an address of it is asked for. Nothing here calls itself: a nest of inlined functions is as deep
//! as the file says.

use gimli::AttributeValue;
use gimli::Range;
use gimli::UnitOffset;

use crate::dwarf::Error;
use crate::dwarf::Result;
use crate::dwarf::reader::PartReader;
use crate::dwarf::reader::Work;

/// Ranges of functions in a unit, and of what is inlined in a function.
const RANGES_MAX: usize = 8 << 20;

/// Deepest nest of inlined functions; compilers stay below 100. A stack has a frame for each.
const NEST_MAX: usize = 250;

/// A unit and the sections that it stands in.
pub type UnitRef<'u> = gimli::UnitRef<'u, PartReader>;

/// A stretch of a function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it begins.
    pub begin: u64,
    /// Where it ends.
    pub end: u64,
    /// The function, as its place in the unit.
    pub entry: u64,
}

/// The functions with code in a unit, sorted for [`covering`](crate::dwarf::covering).
pub fn functions(
    unit: UnitRef<'_>,
    work: &Work,
    is_code: impl Fn(u64) -> bool,
) -> Result<Vec<Function>> {
    let mut out = Vec::new();
    let mut entries = unit.entries_raw(None)?;
    while !entries.is_empty() {
        let entry = entries.next_offset().0;
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        // Attributes may be of no bytes, and as many as one likes.
        work.spend(abbreviation.attributes().len() as u64)?;
        if abbreviation.tag() != gimli::DW_TAG_subprogram {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        let mut code = Code::default();
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            code.note(unit, attribute.name(), attribute.value())?;
        }
        code.for_each(unit, |range| {
            if is_code(range.begin) {
                out.push(Function { begin: range.begin, end: range.end, entry });
            }
            if out.len() > RANGES_MAX { Err(Error::TooMany("functions")) } else { Ok(()) }
        })?;
    }
    out.sort_unstable_by_key(|f| (f.begin, u64::MAX - f.end, u64::MAX - f.entry));
    Ok(out)
}

/// A function that is inlined into another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inlined {
    /// Its place in the unit.
    pub entry: u64,
    /// The file of the call, as its number in the line table.
    pub call_file: Option<u64>,
    /// The line of the call; 0 where that is not known.
    pub call_line: u32,
}

/// What is inlined into a function.
#[derive(Debug, Default)]
pub struct Tree {
    all: Vec<Inlined>,
    /// Sorted by depth, then by address.
    ranges: Vec<InlinedRange>,
}

#[derive(Clone, Copy, Debug)]
struct InlinedRange {
    depth: u32,
    index: u32,
    begin: u64,
    end: u64,
}

impl Tree {
    /// Reads what is inlined into the function at `entry` of the unit.
    pub fn read(unit: UnitRef<'_>, entry: u64, work: &Work) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut entries = unit.entries_raw(Some(UnitOffset(entry)))?;
        let top = entries.next_depth();
        // Depths in the tree of entries of the inlined functions that are open.
        let mut open: Vec<isize> = Vec::new();
        // Below a function within the function, which is listed by itself.
        let mut apart: Option<isize> = None;
        let mut first = true;
        while !entries.is_empty() {
            let (place, depth) = (entries.next_offset().0, entries.next_depth());
            if depth <= top && !std::mem::take(&mut first) {
                break;
            }
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            work.spend(abbreviation.attributes().len() as u64)?;
            while open.last().is_some_and(|d| *d >= depth) {
                open.pop();
            }
            apart = apart.filter(|d| *d < depth);
            if abbreviation.tag() == gimli::DW_TAG_subprogram && depth > top && apart.is_none() {
                apart = Some(depth);
            }
            if abbreviation.tag() != gimli::DW_TAG_inlined_subroutine || apart.is_some() {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let mut inlined = Inlined { entry: place, call_file: None, call_line: 0 };
            let mut code = Code::default();
            for spec in abbreviation.attributes() {
                let attribute = entries.read_attribute(*spec)?;
                match (attribute.name(), attribute.value()) {
                    // Before version 5, file 0 is none.
                    (gimli::DW_AT_call_file, AttributeValue::FileIndex(file)) => {
                        let is_file = file > 0 || unit.header.version() >= 5;
                        inlined.call_file = is_file.then_some(file);
                    }
                    (gimli::DW_AT_call_line, _) => {
                        let line = attribute.udata_value().unwrap_or(0);
                        inlined.call_line = u32::try_from(line).unwrap_or(0);
                    }
                    (name, value) => code.note(unit, name, value)?,
                }
            }
            tree.add(unit, inlined, open.len(), &code)?;
            open.push(depth);
        }
        tree.ranges.sort_unstable_by_key(|r| (r.depth, r.begin, r.index));
        Ok(tree)
    }

    fn add(
        &mut self,
        unit: UnitRef<'_>,
        inlined: Inlined,
        depth: usize,
        code: &Code,
    ) -> Result<()> {
        let (depth, index) = (depth as u32, self.all.len() as u32);
        code.for_each(unit, |Range { begin, end }| {
            self.ranges.push(InlinedRange { depth, index, begin, end });
            match self.ranges.len() > RANGES_MAX {
                true => Err(Error::TooMany("inlined functions")),
                false => Ok(()),
            }
        })?;
        self.all.push(inlined);
        Ok(())
    }

    /// The functions that are inlined at an address, the outermost first.
    pub fn at(&self, address: u64) -> Result<Vec<Inlined>> {
        let mut out = Vec::new();
        let mut rest = &self.ranges[..];
        loop {
            let depth = out.len() as u32;
            let above = rest.partition_point(|r| (r.depth, r.begin) <= (depth, address));
            let Some(range) = above.checked_sub(1).and_then(|i| rest.get(i)) else { break };
            if range.depth != depth || address >= range.end {
                break;
            }
            if out.len() >= NEST_MAX {
                return Err(Error::TooMany("functions inlined at one address"));
            }
            out.push(self.all[range.index as usize]);
            rest = &rest[above..];
        }
        Ok(out)
    }

    /// Bytes of memory that it takes, about.
    pub fn cost(&self) -> usize {
        size_of_val(&self.all[..]) + size_of_val(&self.ranges[..]) + size_of::<Tree>()
    }
}

/// The addresses of an entry, as its attributes have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Code {
    low: Option<u64>,
    high: Option<u64>,
    size: Option<u64>,
    ranges: Option<gimli::RangeListsOffset<u64>>,
}

impl Code {
    /// Takes in an attribute of the entry, whichever it is.
    pub fn note(
        &mut self,
        unit: UnitRef<'_>,
        name: gimli::DwAt,
        value: AttributeValue<PartReader>,
    ) -> Result<()> {
        match (name, value) {
            (gimli::DW_AT_low_pc, value) => self.low = unit.attr_address(value)?,
            (gimli::DW_AT_high_pc, AttributeValue::Udata(size)) => self.size = Some(size),
            (gimli::DW_AT_high_pc, value) => self.high = unit.attr_address(value)?,
            (gimli::DW_AT_ranges, value) => self.ranges = unit.attr_ranges_offset(value)?,
            _ => {}
        }
        Ok(())
    }

    /// Whether nothing was said.
    pub fn is_nowhere(&self) -> bool {
        self.low.is_none() && self.ranges.is_none()
    }

    /// Calls `f` with each range that is not empty.
    pub fn for_each(
        &self,
        unit: UnitRef<'_>,
        mut f: impl FnMut(Range) -> Result<()>,
    ) -> Result<()> {
        if let Some(ranges) = self.ranges {
            let mut ranges = unit.ranges(ranges)?;
            while let Some(range) = ranges.next()? {
                if range.begin < range.end {
                    f(range)?;
                }
            }
            return Ok(());
        }
        let Some(begin) = self.low else { return Ok(()) };
        // What a linker has thrown away may begin at the highest address.
        let end = self.size.map_or(self.high, |size| begin.checked_add(size));
        match end {
            Some(end) if begin < end => f(Range { begin, end }),
            _ => Ok(()),
        }
    }
}
