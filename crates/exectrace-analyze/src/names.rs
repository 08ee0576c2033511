//! Names of spans and tasks, each known once.
//!
//! 1. At most [`NAMES_MAX`] names are kept; those that come later share one entry.
//! 2. Two places in the source with one name are one name: people ask for names.

use std::collections::HashMap;
use std::collections::HashSet;

use trace_decode::Tables;
use trace_decode::tables::Site;

/// Most names that are kept. 4,096: names are written in the source of a program, and this many
/// with all that is known of their lengths stay below some hundred MiB at the very worst.
pub const NAMES_MAX: usize = 4096;

/// A name, by its number in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(u32);

impl NameId {
    /// Stands for the names beyond the limit.
    pub const BEYOND: NameId = NameId(0);
    /// Stands for what the trace gives no name.
    pub const UNKNOWN: NameId = NameId(1);

    /// A small number, for tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The name; `None` for [`NameId::BEYOND`] and [`NameId::UNKNOWN`].
    pub text: Option<Box<[u8]>>,
    /// The source file of the first place that has it.
    pub file: Box<[u8]>,
    /// The line there; 0 where it is not known.
    pub line: u64,
    /// How many places have it.
    pub sites: u32,
}

/// The names of a trace.
#[derive(Debug)]
pub struct Names {
    names: Vec<Name>,
    by_text: HashMap<Box<[u8]>, NameId>,
    /// Kinds of the session at hand.
    by_kind: HashMap<(u32, u64), NameId>,
    /// Places in the source, over all sessions: the same one has another kind in each.
    places: HashSet<(NameId, Box<[u8]>, u64)>,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            names: vec![Name::default(); 2],
            by_text: HashMap::new(),
            by_kind: HashMap::new(),
            places: HashSet::new(),
        }
    }
}

impl Names {
    /// Kinds mean something else from here on.
    pub fn begin_session(&mut self) {
        self.by_kind.clear();
    }

    /// The name of a site.
    pub fn of_site(&mut self, tables: &Tables, site: &Site) -> NameId {
        let key = (tables.epoch(), site.kind);
        if let Some(id) = self.by_kind.get(&key) {
            return *id;
        }
        let id = match tables.string(site.name) {
            Some(text) => self.add(text.bytes, tables, site),
            None => NameId::UNKNOWN,
        };
        self.by_kind.insert(key, id);
        id
    }

    /// The name of a kind, which may be no site.
    pub fn of_kind(&mut self, tables: &Tables, kind: u64) -> NameId {
        match tables.site(kind) {
            Some(site) => self.of_site(tables, site),
            None => NameId::UNKNOWN,
        }
    }

    fn add(&mut self, text: &[u8], tables: &Tables, site: &Site) -> NameId {
        let known = self.by_text.get(text).copied();
        let id = match known {
            Some(id) => id,
            None if self.by_text.len() >= NAMES_MAX => return NameId::BEYOND,
            None => NameId(self.names.len() as u32),
        };
        let file: Box<[u8]> = tables.string(site.file).map_or(&[][..], |file| file.bytes).into();
        if known.is_none() {
            self.by_text.insert(text.into(), id);
            let text = Some(text.into());
            self.names.push(Name { text, file: file.clone(), line: site.line, sites: 0 });
        }
        if self.places.len() < 16 * NAMES_MAX
            && self.places.insert((id, file, site.line))
            && let Some(name) = self.names.get_mut(id.index())
        {
            name.sites += 1;
        }
        id
    }

    /// What is known of a name.
    pub fn get(&self, id: NameId) -> &Name {
        self.names.get(id.index()).unwrap_or(&self.names[NameId::UNKNOWN.index()])
    }

    /// All names, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (NameId, &Name)> {
        self.names.iter().enumerate().map(|(i, name)| (NameId(i as u32), name))
    }
}
