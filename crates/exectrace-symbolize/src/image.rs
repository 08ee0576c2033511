//! What a module's files say: the right ones found, checked and opened.

use std::cell::RefCell;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use crate::content::Pages;
use crate::demangle::is_mangled;
use crate::dwarf::Dwarf;
use crate::dwarf::DwarfFrame;
use crate::dwarf::Memory;
use crate::dwarf::Split;
use crate::elf::Elf;
use crate::elf::Table;
use crate::embedded;
use crate::module::Missing;
use crate::module::Module;
use crate::module::Names;
use crate::module::Source;
use crate::module::Status;
use crate::separate::Places;
use crate::symbols::Symbols;

/// Symbols of one address whose names are compared with that of the debug information.
const FOLDED_MAX: usize = 16;

/// Where files are looked for, and what all of them are read through.
pub struct Library {
    /// Where to look.
    pub places: Places,
    /// Their bytes.
    pub pages: Rc<Pages>,
    /// What was read.
    pub memory: Rc<Memory>,
}

/// What the files of a module say.
pub struct Image {
    status: RefCell<Status>,
    /// The best table first.
    symbols: Vec<Symbols>,
    dwarf: Option<RefCell<Dwarf>>,
}

impl Image {
    /// Whether addresses can be resolved, as far as is known by now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The functions at an address of the file, innermost first.
    pub fn frames(&self, address: u64) -> Vec<DwarfFrame> {
        let mut known = match &self.dwarf {
            Some(dwarf) => {
                let mut dwarf = dwarf.borrow_mut();
                let found = dwarf.frames(address);
                let trouble = found.as_ref().err().cloned().or_else(|| dwarf.trouble());
                if let (Some(why), Status::Found(s)) = (trouble, &mut *self.status.borrow_mut()) {
                    s.partial.get_or_insert(why);
                }
                found.unwrap_or_default()
            }
            None => Vec::new(),
        };
        let symbols = || self.symbols.iter().flat_map(|s| s.covering(address)).take(FOLDED_MAX);
        match known.last_mut() {
            None => {
                let function = symbols().next().map(|name| Some(Rc::from(name)));
                known
                    .extend(function.map(|function| DwarfFrame { function, ..Default::default() }));
            }
            Some(last) => {
                // Line tables alone have the last part of a name only, and of functions in which
                // nothing is inlined not even that. The symbol has the whole name.
                let short = last.function.as_deref().filter(|name| !is_mangled(name));
                if last.function.is_none() || short.is_some() {
                    let all: Vec<String> = symbols().collect();
                    let fits = |symbol: &&String| short.is_none_or(|s| symbol.contains(stem(s)));
                    let symbol = all.iter().find(fits).or(all.first());
                    if let Some(symbol) = symbol
                        && (short.is_none() || is_mangled(symbol))
                    {
                        last.function = Some(Rc::from(symbol.as_str()));
                    }
                }
            }
        }
        known
    }

    /// Finds and opens the files of a module.
    pub fn open(module: &Module, library: &Library) -> Image {
        let Library { places, pages, .. } = library;
        let (own, why) = match open_own(module, pages) {
            Ok(elf) => (Some(elf), Missing::NoSymbols),
            Err(missing) => (None, missing),
        };
        let mut separate = None;
        if own.as_ref().is_none_or(|elf| !elf.has_debug_info()) {
            let by_id = places.by_build_id(module, pages);
            separate = by_id.or_else(|| places.by_link(own.as_ref()?, pages));
        }
        let mut image =
            Image { status: RefCell::new(Status::Missing(why)), symbols: Vec::new(), dwarf: None };
        for elf in separate.iter().chain(&own) {
            image.read_debug(elf, module, library);
        }
        let full = separate.iter().chain(&own).map(|elf| (elf, Table::Full, Names::SymbolTable));
        let mini = own.as_ref().and_then(embedded::mini);
        let mini = mini.iter().map(|elf| (elf, Table::Full, Names::MiniDebug));
        let dynamic = own.iter().map(|elf| (elf, Table::Dynamic, Names::DynamicSymbols));
        for (elf, table, names) in full.chain(mini).chain(dynamic) {
            image.read_symbols(elf, table, names);
        }
        image
    }

    fn read_debug(&mut self, elf: &Elf, module: &Module, library: &Library) {
        if self.dwarf.is_some() || !elf.has_debug_info() {
            return;
        }
        let Library { places, pages, memory } = library;
        let alt = places.alt(elf, pages);
        let common = alt.as_ref().and_then(|alt| alt.as_ref().ok());
        let packages = places.packages(&module.path, elf.path());
        let split = Split::new(pages, packages, places.dirs.clone());
        let read = Dwarf::read(elf, common, split, memory);
        let partial = match (&read, &alt) {
            (Err(why), _) => Some(why.clone()),
            (Ok(_), Some(Err(name))) => Some(format!("{name}, which it refers to, is not there")),
            _ => None,
        };
        self.dwarf = read.ok().map(RefCell::new);
        let (file, names) = (elf.path().to_owned(), Names::DebugInformation);
        *self.status.borrow_mut() = match (&self.dwarf, partial) {
            (None, Some(why)) => Status::Missing(Missing::BrokenDebug(why)),
            (_, partial) => Status::Found(Source { file, names, lines: true, partial }),
        };
    }

    fn read_symbols(&mut self, elf: &Elf, table: Table, names: Names) {
        // One whole table is enough; those of a stripped file add to each other.
        if names == Names::SymbolTable && !self.symbols.is_empty() {
            return;
        }
        let symbols = elf.symbols(table);
        if symbols.is_empty() {
            return;
        }
        self.symbols.push(symbols);
        let mut status = self.status.borrow_mut();
        if let Status::Missing(why) = &*status {
            let partial = match why {
                Missing::BrokenDebug(why) => Some(why.clone()),
                _ => None,
            };
            let file = elf.path().to_owned();
            *status = Status::Found(Source { file, names, lines: false, partial });
        }
    }
}

/// The part of a name in source that its mangled form contains as well.
fn stem(name: &str) -> &str {
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    &name[..end]
}

/// Opens the module's file and checks that it is the one that was loaded.
fn open_own(module: &Module, pages: &Rc<Pages>) -> Result<Elf, Missing> {
    let path = module.path.as_os_str().as_bytes();
    if path == b"[vdso]" || path.starts_with(b"linux-vdso.so") {
        let id = module.build_id.as_deref().ok_or(Missing::NoPath)?;
        let own = embedded::vdso().ok_or(Missing::NoPath)?;
        return if own.build_id() == Some(id) { Ok(own) } else { Err(Missing::OtherKernel) };
    }
    if !path.contains(&b'/') || path.contains(&0) {
        return Err(Missing::NoPath);
    }
    if module.build_id.is_none() && module.file_size == 0 {
        return Err(Missing::NoIdentity);
    }
    let elf = Elf::open(&module.path, pages)?;
    match &module.build_id {
        Some(id) if elf.build_id() == Some(id) => Ok(elf),
        Some(id) => Err(Missing::OtherBuildId {
            module: id.clone(),
            file: elf.build_id().map(<[u8]>::to_vec),
        }),
        None => {
            let same = elf.metadata().is_some_and(|meta| {
                let mtime = u64::try_from(meta.mtime());
                meta.len() == module.file_size && mtime.is_ok_and(|t| t == module.mtime)
            });
            if same { Ok(elf) } else { Err(Missing::OtherFile) }
        }
    }
}
