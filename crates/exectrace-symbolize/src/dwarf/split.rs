//! Units whose better half was split off, to a file of their own (`.dwo`) or to a package of all of
//! them beside the program (`.dwp`).

use std::path::PathBuf;
use std::rc::Rc;

use gimli::DwarfFileType;
use gimli::DwoId;

use crate::content::Content;
use crate::content::Pages;
use crate::dwarf::Error;
use crate::dwarf::Result;
use crate::dwarf::load;
use crate::dwarf::reader::PartReader;
use crate::dwarf::reader::Work;
use crate::dwarf::section;
use crate::elf::Elf;

/// Bytes of one split-off file, which is read whole: one unit.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A unit that was split off, and the sections that it stands in.
pub struct Apart {
    /// The sections.
    pub sections: Rc<gimli::Dwarf<PartReader>>,
    /// The unit.
    pub unit: gimli::Unit<PartReader>,
    /// Bytes of memory that it takes.
    pub cost: usize,
}

/// Where to look for what was split off.
pub struct Split {
    pages: Rc<Pages>,
    /// Packages that may be there.
    packages: Vec<PathBuf>,
    /// Where else units may stand, by the last part of their name.
    dirs: Vec<PathBuf>,
    package: Option<gimli::DwarfPackage<PartReader>>,
    looked: bool,
    missing: Option<String>,
}

impl Split {
    /// Looks into `packages`, then where the program says, then in `dirs`.
    pub fn new(pages: &Rc<Pages>, packages: Vec<PathBuf>, dirs: Vec<PathBuf>) -> Self {
        let pages = Rc::clone(pages);
        Split { pages, packages, dirs, package: None, looked: false, missing: None }
    }

    /// The first file that was wanted and not there.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// The better half of a unit; `None` where it was not split, or its other half is not there.
    pub fn unit(
        &mut self,
        parent: &gimli::Dwarf<PartReader>,
        skeleton: &gimli::Unit<PartReader>,
        work: &Rc<Work>,
    ) -> Result<Option<Apart>> {
        let Some(id) = skeleton.dwo_id else { return Ok(None) };
        if let Some(package) = self.package(work)
            && let Some(sections) = package.find_cu(id, parent)?
        {
            return in_sections(sections, skeleton, id, 0);
        }
        let Some(name) = skeleton.dwo_name()? else { return Ok(None) };
        let name = parent.attr_string(skeleton, name)?.text()?;
        let mut places = Vec::new();
        match &skeleton.comp_dir {
            Some(dir) => places.push(PathBuf::from(dir.text()?).join(&name)),
            None => places.push(PathBuf::from(&name)),
        }
        if let Some(last) = PathBuf::from(&name).file_name() {
            places.extend(self.dirs.iter().map(|dir| dir.join(last)));
        }
        for place in places.iter().filter(|place| place.is_absolute()) {
            let Some((elf, cost)) = self.open(place) else { continue };
            let Ok(mut sections) = load(&elf, work, true) else { continue };
            sections.make_dwo(parent);
            if let Ok(Some(apart)) = in_sections(sections, skeleton, id, cost) {
                return Ok(Some(apart));
            }
        }
        self.missing.get_or_insert(name);
        Ok(None)
    }

    /// Opens a file and reads it whole: programs are split into thousands, more than may be open.
    fn open(&self, path: &std::path::Path) -> Option<(Elf, usize)> {
        let (content, _) = Content::open(path, &self.pages).ok()?;
        let elf = Elf::read(path, content.clone()).ok()?;
        if !elf.has(".debug_info.dwo") || content.len() > FILE_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; content.len() as usize];
        content.read_at(0, &mut bytes).ok()?;
        let cost = bytes.len();
        Some((Elf::read(path, Content::memory(bytes)).ok()?, cost))
    }

    fn package(&mut self, work: &Rc<Work>) -> Option<&gimli::DwarfPackage<PartReader>> {
        if !std::mem::replace(&mut self.looked, true) {
            for path in &self.packages {
                let Ok(elf) = Elf::open(path, &self.pages) else { continue };
                let read = |id: gimli::SectionId| {
                    let read = section(&elf, work, id.dwo_name());
                    read.map_err(|_| Error::Form(gimli::Error::Io))
                };
                let Ok(empty) = section(&elf, work, None) else { continue };
                if let Ok(package) = gimli::DwarfPackage::load(read, empty) {
                    self.package = Some(package);
                    break;
                }
            }
        }
        self.package.as_ref()
    }
}

/// Finds the unit with this id. A file has one, and may have units of types beside it.
fn in_sections(
    mut sections: gimli::Dwarf<PartReader>,
    skeleton: &gimli::Unit<PartReader>,
    id: DwoId,
    cost: usize,
) -> Result<Option<Apart>> {
    sections.file_type = DwarfFileType::Dwo;
    let mut headers = sections.units();
    while let Some(header) = headers.next()? {
        if matches!(header.type_(), gimli::UnitType::SplitType { .. }) {
            continue;
        }
        let mut unit = sections.unit(header)?;
        if unit.dwo_id == Some(id) {
            unit.copy_relocated_attributes(skeleton);
            unit.line_program = None;
            return Ok(Some(Apart { sections: Rc::new(sections), unit, cost }));
        }
    }
    Ok(None)
}
