//! The functions of a unit: which one covers an address, and what is inlined into it there.
//!
//! A unit is read once for where its functions are; what is inlined into a function is read when
//! an address of it is asked for. Nothing here calls itself: a nest of inlined functions is as deep
//! as the file says.

use std::collections::BinaryHeap;

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
    /// The inlined function around it, as its number in the tree.
    around: Option<u32>,
}

/// What is inlined into a function.
#[derive(Debug, Default)]
pub struct Tree {
    all: Vec<Inlined>,
    /// By where they begin; none overlaps another one.
    stretches: Vec<Stretch>,
}

/// Code with the innermost function that is inlined there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    begin: u64,
    end: u64,
    index: u32,
}

/// A range of an inlined function as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        // The inlined functions that are open: their depths in the tree of entries, their numbers.
        let mut open: Vec<(isize, u32)> = Vec::new();
        let mut ranges = Vec::new();
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
            while open.last().is_some_and(|(d, _)| *d >= depth) {
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
            let around = open.last().map(|(_, index)| *index);
            let mut inlined = Inlined { entry: place, call_file: None, call_line: 0, around };
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
            let (index, nest) = (tree.all.len() as u32, open.len() as u32);
            open.push((depth, index));
            tree.all.push(inlined);
            code.for_each(unit, |Range { begin, end }| {
                ranges.push(InlinedRange { depth: nest, index, begin, end });
                match ranges.len() > RANGES_MAX {
                    true => Err(Error::TooMany("inlined functions")),
                    false => Ok(()),
                }
            })?;
        }
        tree.stretches = innermost(ranges);
        Ok(tree)
    }

    /// The functions that are inlined at an address, the innermost first.
    pub fn at(&self, address: u64) -> Result<Vec<Inlined>> {
        let above = self.stretches.partition_point(|s| s.begin <= address);
        let stretch = above.checked_sub(1).map(|i| self.stretches[i]);
        let mut next = stretch.filter(|s| address < s.end).map(|s| s.index);
        let mut out = Vec::new();
        while let Some(inlined) = next.and_then(|index| self.all.get(index as usize)) {
            if out.len() >= NEST_MAX {
                return Err(Error::TooMany("functions inlined at one address"));
            }
            out.push(*inlined);
            next = inlined.around;
        }
        Ok(out)
    }

    /// Bytes of memory that it takes, about.
    pub fn cost(&self) -> usize {
        size_of_val(&self.all[..]) + size_of_val(&self.stretches[..]) + size_of::<Tree>()
    }
}

/// The deepest range at every address. A range need not lie within that of the function around it:
/// compilers move code that is seldom run to another place, and early versions of the format have
/// but one range for a function.
fn innermost(mut ranges: Vec<InlinedRange>) -> Vec<Stretch> {
    ranges.sort_unstable_by_key(|r| (r.begin, r.index));
    let mut points: Vec<u64> = ranges.iter().flat_map(|r| [r.begin, r.end]).collect();
    points.sort_unstable();
    points.dedup();
    let mut out: Vec<Stretch> = Vec::new();
    let mut here: BinaryHeap<InlinedRange> = BinaryHeap::new();
    let mut ranges = ranges.into_iter().peekable();
    for pair in points.windows(2) {
        let (begin, end) = (pair[0], pair[1]);
        while let Some(range) = ranges.next_if(|r| r.begin == begin) {
            here.push(range);
        }
        while here.peek().is_some_and(|r| r.end <= begin) {
            here.pop();
        }
        let Some(deepest) = here.peek() else { continue };
        match out.last_mut() {
            Some(last) if last.end == begin && last.index == deepest.index => last.end = end,
            _ => out.push(Stretch { begin, end, index: deepest.index }),
        }
    }
    out
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

    /// Whether there is a list of ranges.
    pub fn is_listed(&self) -> bool {
        self.ranges.is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_range_at_every_address() {
        let range = |depth, index, begin, end| InlinedRange { depth, index, begin, end };
        let stretches = innermost(vec![
            range(0, 0, 10, 20),
            range(1, 1, 12, 14),
            // Beyond the function around it.
            range(2, 2, 18, 25),
            range(1, 3, 14, 16),
            range(0, 0, 30, 31),
        ]);
        let at = |address: u64| {
            let found = stretches.iter().find(|s| s.begin <= address && address < s.end);
            found.map(|s| s.index)
        };
        let want = |address| match address {
            12..14 => Some(1),
            14..16 => Some(3),
            18..25 => Some(2),
            10..20 | 30 => Some(0),
            _ => None,
        };
        for address in 0..40 {
            assert_eq!(at(address), want(address), "{address}");
        }
        assert!(stretches.windows(2).all(|w| w[0].end <= w[1].begin));
        assert_eq!(innermost(Vec::new()), []);
    }
}
