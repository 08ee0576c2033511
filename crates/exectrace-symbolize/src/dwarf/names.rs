//! The name of a function, which often stands elsewhere: inlined functions and definitions out of
//! line refer to a declaration, perhaps in another unit or in another file.

use std::rc::Rc;

use gimli::AttributeValue;
use gimli::DebugInfoOffset;
use gimli::UnitOffset;

use crate::dwarf::Error;
use crate::dwarf::Result;
use crate::dwarf::UNITS_MAX;
use crate::dwarf::functions::UnitRef;
use crate::dwarf::reader::PartReader;
use crate::dwarf::reader::Work;
use crate::recent::Recent;

/// References that are followed from a function to its name. Two are usual.
const STEPS_MAX: usize = 16;

/// Memory of the names that are remembered.
const NAMES_COST_MAX: usize = 32 << 20;

/// Memory of the units that are remembered because names stand in them.
const UNITS_COST_MAX: usize = 64 << 20;

/// Memory of a unit without its line table, about: a table of some hundred kinds of entries.
pub const UNIT_COST: usize = 24 << 10;

/// Which file an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    /// The file itself.
    Own,
    /// What it has in common with others.
    Alt,
    /// What a unit was split off to.
    Apart,
}

/// A file by its number, and an entry or a unit in it.
type Key<E> = (u64, Of, E);

/// Names, and units for their sake, of all files, as far as they are remembered.
#[derive(Debug)]
pub struct Known {
    units: Recent<Key<u64>, Rc<gimli::Unit<PartReader>>>,
    names: Recent<Key<(u64, u64)>, Option<Rc<str>>>,
}

impl Default for Known {
    fn default() -> Self {
        Known { units: Recent::new(UNITS_COST_MAX), names: Recent::new(NAMES_COST_MAX) }
    }
}

/// Where the units of a file stand.
#[derive(Debug)]
pub struct Names {
    number: u64,
    own: Vec<u64>,
    alt: Option<Vec<u64>>,
}

/// What an entry says of the name of its function.
enum Said {
    Name(Rc<str>),
    Elsewhere(AttributeValue<PartReader>),
    Nothing,
}

/// A unit that a reference leads to.
type Found = (Of, Rc<gimli::Unit<PartReader>>);

impl Names {
    /// Of the file with this number.
    pub fn new(number: u64) -> Self {
        Names { number, own: Vec::new(), alt: None }
    }

    /// A unit begins here in the file, after those that were added before.
    pub fn add_unit(&mut self, place: u64) -> Result<()> {
        add(&mut self.own, place)
    }

    /// The name of the function at `entry` of a unit that stands at `place`.
    pub fn get(
        &mut self,
        known: &mut Known,
        sections: &gimli::Dwarf<PartReader>,
        (of, place): (Of, u64),
        unit: UnitRef<'_>,
        entry: u64,
        work: &Work,
    ) -> Option<Rc<str>> {
        let key = (self.number, of, (place, entry));
        if let Some(name) = known.names.get(&key) {
            return name;
        }
        let name = self.read(known, sections, (of, unit), UnitOffset(entry), work).ok().flatten();
        let cost = name.as_deref().map_or(0, str::len) + 96;
        known.names.put(key, name.clone(), cost);
        name
    }

    fn read(
        &mut self,
        known: &mut Known,
        sections: &gimli::Dwarf<PartReader>,
        (first_of, first): (Of, UnitRef<'_>),
        mut entry: UnitOffset<u64>,
        work: &Work,
    ) -> Result<Option<Rc<str>>> {
        let mut found: Option<Found> = None;
        for _ in 0..STEPS_MAX {
            let (of, unit) = match &found {
                None => (first_of, first),
                Some((Of::Alt, unit)) => {
                    let Some(alt) = sections.sup() else { return Ok(None) };
                    (Of::Alt, UnitRef::new(alt, unit))
                }
                Some((of, unit)) => (*of, UnitRef::new(sections, unit)),
            };
            match (said(unit, entry, work)?, of) {
                (Said::Name(name), _) => return Ok(Some(name)),
                (Said::Elsewhere(AttributeValue::UnitRef(to)), _) => entry = to,
                (Said::Elsewhere(AttributeValue::DebugInfoRef(to)), Of::Own | Of::Alt) => {
                    let next = self.unit_of(known, sections, of, to)?;
                    entry = inside(to, &next.1)?;
                    found = Some(next);
                }
                (Said::Elsewhere(AttributeValue::DebugInfoRefSup(to)), _) => {
                    let next = self.unit_of(known, sections, Of::Alt, to)?;
                    entry = inside(to, &next.1)?;
                    found = Some(next);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The unit that an entry stands in.
    fn unit_of(
        &mut self,
        known: &mut Known,
        sections: &gimli::Dwarf<PartReader>,
        of: Of,
        entry: DebugInfoOffset<u64>,
    ) -> Result<Found> {
        let (sections, places) = match of {
            Of::Alt => {
                let nowhere = gimli::Error::NoEntryAtGivenOffset(entry.0);
                let sections = sections.sup().ok_or(nowhere)?;
                (sections, self.alt_places(sections)?)
            }
            _ => (sections, &self.own),
        };
        let above = places.partition_point(|place| *place <= entry.0);
        let place = above.checked_sub(1).map(|i| places[i]);
        let place = place.ok_or(gimli::Error::NoEntryAtGivenOffset(entry.0))?;
        let key = (self.number, of, place);
        if let Some(unit) = known.units.get(&key) {
            return Ok((of, unit));
        }
        let header = sections.unit_header(DebugInfoOffset(place))?;
        let mut unit = sections.unit(header)?;
        // Its lines are not asked for.
        unit.line_program = None;
        let unit = Rc::new(unit);
        known.units.put(key, Rc::clone(&unit), UNIT_COST);
        Ok((of, unit))
    }

    fn alt_places(&mut self, alt: &gimli::Dwarf<PartReader>) -> Result<&Vec<u64>> {
        if self.alt.is_none() {
            let mut places = Vec::new();
            let mut headers = alt.units();
            while let Some(header) = headers.next()? {
                if let Some(DebugInfoOffset(place)) = header.debug_info_offset() {
                    add(&mut places, place)?;
                }
            }
            self.alt = Some(places);
        }
        Ok(self.alt.get_or_insert_default())
    }
}

fn add(places: &mut Vec<u64>, place: u64) -> Result<()> {
    if places.len() >= UNITS_MAX {
        return Err(Error::TooMany("units"));
    }
    places.push(place);
    Ok(())
}

fn inside(entry: DebugInfoOffset<u64>, unit: &gimli::Unit<PartReader>) -> Result<UnitOffset<u64>> {
    let inside = entry.to_unit_offset(&unit.header);
    Ok(inside.ok_or(gimli::Error::NoEntryAtGivenOffset(entry.0))?)
}

fn said(unit: UnitRef<'_>, entry: UnitOffset<u64>, work: &Work) -> Result<Said> {
    let mut entries = unit.entries_raw(Some(entry))?;
    let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(Said::Nothing) };
    work.spend(abbreviation.attributes().len() as u64)?;
    let text = |value| -> Option<Rc<str>> {
        let text = unit.attr_string(value).ok()?.text().ok()?;
        (!text.is_empty()).then(|| Rc::from(text))
    };
    let (mut short, mut elsewhere) = (None, None);
    for spec in abbreviation.attributes() {
        let attribute = entries.read_attribute(*spec)?;
        match attribute.name() {
            // The linker's name says where the function stands as well.
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                if let Some(name) = text(attribute.value()) {
                    return Ok(Said::Name(name));
                }
            }
            gimli::DW_AT_name => short = text(attribute.value()),
            gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                elsewhere = Some(attribute.value());
            }
            _ => {}
        }
    }
    Ok(match (short, elsewhere) {
        (Some(name), _) => Said::Name(name),
        (None, Some(to)) => Said::Elsewhere(to),
        (None, None) => Said::Nothing,
    })
}
