//! From an address in memory to functions: finds the module, reads its file once, remembers.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use crate::demangle::demangle;
use crate::demangle::is_mangled;
use crate::dwarf::Dwarf;
use crate::dwarf::DwarfFrame;
use crate::elf::ElfReader;
use crate::module::Missing;
use crate::module::Module;
use crate::module::ModuleId;
use crate::module::Names;
use crate::module::Report;
use crate::module::Source;
use crate::module::Space;
use crate::module::Status;
use crate::separate;
use crate::symbols::Symbols;

/// Addresses remembered; then it begins anew. A million takes some hundred MiB at most.
const CACHED_MAX: usize = 1 << 20;

/// Modules looked at below an address: one may lie in a hole of another.
const OVERLAP_MAX: usize = 8;

/// A function at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its name, demangled.
    pub function: Option<Arc<str>>,
    /// The source file.
    pub file: Option<Arc<str>>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether it was inlined into the frame that follows.
    pub inlined: bool,
}

/// What stands at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The module that it lies in.
    pub module: Option<ModuleId>,
    /// The functions, innermost first: those inlined, then the one they are inlined into. Empty
    /// where none is known.
    pub frames: Vec<Frame>,
}

/// What a file says.
struct Image {
    status: Status,
    symbols: Symbols,
    dwarf: Option<Dwarf>,
}

/// How to know a file: modules that agree share an image.
type Identity = (PathBuf, Option<Vec<u8>>, u64, u64);

struct Entry {
    module: Module,
    image: Option<Rc<Image>>,
    asked: u64,
    resolved: u64,
}

/// Resolves addresses. Files are opened when an address of theirs is first asked for.
pub struct Symbolizer {
    debug_dirs: Vec<PathBuf>,
    modules: Vec<Entry>,
    by_base: BTreeMap<(Space, u64), ModuleId>,
    images: HashMap<Identity, Rc<Image>>,
    cache: HashMap<(Space, u64), Rc<Resolved>>,
    texts: HashSet<Arc<str>>,
}

impl Default for Symbolizer {
    fn default() -> Self {
        Symbolizer::new()
    }
}

impl Symbolizer {
    /// Looks for debug files where systems keep them, `/usr/lib/debug`.
    pub fn new() -> Self {
        Symbolizer::with_debug_dirs(Vec::new())
    }

    /// Looks for debug files, and for files of the right build id, in `dirs` first.
    pub fn with_debug_dirs(mut dirs: Vec<PathBuf>) -> Self {
        dirs.push(PathBuf::from("/usr/lib/debug"));
        Symbolizer {
            debug_dirs: dirs,
            modules: Vec::new(),
            by_base: BTreeMap::new(),
            images: HashMap::new(),
            cache: HashMap::new(),
            texts: HashSet::new(),
        }
    }

    /// Tells of a module. One that stands at the base of an earlier one takes its place.
    pub fn add_module(&mut self, space: Space, module: Module) -> ModuleId {
        if let Some(id) = self.by_base.get(&(space, module.base))
            && self.modules[id.0 as usize].module == module
        {
            return *id;
        }
        let id = ModuleId(self.modules.len() as u32);
        self.by_base.insert((space, module.base), id);
        self.modules.push(Entry { module, image: None, asked: 0, resolved: 0 });
        self.cache.retain(|(s, _), _| *s != space);
        id
    }

    /// What was told of a module.
    pub fn module(&self, id: ModuleId) -> Option<&Module> {
        self.modules.get(id.0 as usize).map(|e| &e.module)
    }

    /// Every module, in the order in which they were added: where its names come from or why it
    /// has none, and how many addresses were asked for. Opens no file.
    pub fn modules(&self) -> impl Iterator<Item = Report<'_>> {
        self.modules.iter().enumerate().map(|(i, e)| Report {
            id: ModuleId(i as u32),
            module: &e.module,
            status: e.image.as_ref().map(|image| &image.status),
            asked: e.asked,
            resolved: e.resolved,
        })
    }

    /// Whether a module's addresses can be resolved. Reads its file.
    pub fn status(&mut self, id: ModuleId) -> Status {
        match self.image(id) {
            Some(image) => image.status.clone(),
            None => Status::Missing(Missing::NoPath),
        }
    }

    /// The functions at an address of code: where a function begins, or where a program stands.
    pub fn resolve(&mut self, space: Space, address: u64) -> Rc<Resolved> {
        if let Some(known) = self.cache.get(&(space, address)) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.look_up(space, address));
        if self.cache.len() >= CACHED_MAX {
            self.cache.clear();
            self.texts.clear();
        }
        self.cache.insert((space, address), Rc::clone(&found));
        found
    }

    /// The functions that will be returned to at `address`. The call stands before it, and may be
    /// the last instruction of its function and of its line.
    pub fn resolve_return(&mut self, space: Space, address: u64) -> Rc<Resolved> {
        self.resolve(space, address.wrapping_sub(1))
    }

    fn look_up(&mut self, space: Space, address: u64) -> Resolved {
        let below = self.by_base.range((space, 0)..=(space, address)).rev().take(OVERLAP_MAX);
        let found = below.map(|(_, id)| *id).find(|id| {
            let module = &self.modules[id.0 as usize].module;
            address - module.base < module.size
        });
        let Some(id) = found else { return Resolved::default() };
        let bias = self.modules[id.0 as usize].module.bias;
        let Some(image) = self.image(id) else { return Resolved::default() };
        let frames = self.frames(&image, address.wrapping_sub(bias));
        let entry = &mut self.modules[id.0 as usize];
        entry.asked += 1;
        entry.resolved += u64::from(frames.iter().any(|f| f.function.is_some()));
        Resolved { module: Some(id), frames }
    }

    fn frames(&mut self, image: &Image, address: u64) -> Vec<Frame> {
        let mut known =
            image.dwarf.as_ref().and_then(|d| d.frames(address).ok()).unwrap_or_default();
        let mut symbols = image.symbols.covering(address).peekable();
        if known.is_empty() && symbols.peek().is_some() {
            known.push(DwarfFrame::default());
        }
        if let Some(last) = known.last_mut() {
            // Line tables alone have the last part of a name only, and of functions in which
            // nothing is inlined not even that. The symbol has the whole name.
            let short = last.function.as_deref().filter(|name| !is_mangled(name));
            let fits = |symbol: &&str| short.is_none_or(|short| symbol.contains(stem(short)));
            let all: Vec<&str> = symbols.collect();
            let symbol = all.iter().find(|s| fits(s)).or(all.first());
            if let Some(symbol) = symbol
                && (last.function.is_none() || (short.is_some() && is_mangled(symbol)))
            {
                last.function = Some((*symbol).to_owned());
            }
        }
        let count = known.len();
        let frame = |(i, frame): (usize, DwarfFrame)| Frame {
            function: frame.function.map(|name| self.text(demangle(&name))),
            file: frame.file.map(|file| self.text(file)),
            line: frame.line,
            inlined: i + 1 < count,
        };
        known.into_iter().enumerate().map(frame).collect()
    }

    /// Every text is kept once: frames repeat a few thousand names.
    fn text(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.texts.get(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = Arc::from(text);
        self.texts.insert(Arc::clone(&text));
        text
    }

    fn image(&mut self, id: ModuleId) -> Option<Rc<Image>> {
        let entry = self.modules.get_mut(id.0 as usize)?;
        if entry.image.is_none() {
            let m = &entry.module;
            let identity = (m.path.clone(), m.build_id.clone(), m.file_size, m.mtime);
            let dirs = &self.debug_dirs;
            let image = self.images.entry(identity).or_insert_with(|| Rc::new(load(dirs, m)));
            entry.image = Some(Rc::clone(image));
        }
        entry.image.clone()
    }
}

/// The part of a name in source that its mangled form contains as well.
fn stem(name: &str) -> &str {
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    &name[..end]
}

/// Opens the module's file and checks that it is the one that was loaded.
fn open_own(module: &Module) -> Result<ElfReader, Missing> {
    let path = module.path.as_os_str().as_bytes();
    if !path.contains(&b'/') || path.contains(&0) {
        return Err(Missing::NoPath);
    }
    if module.build_id.is_none() && module.file_size == 0 {
        return Err(Missing::NoIdentity);
    }
    let elf = ElfReader::open(&module.path)?;
    match &module.build_id {
        Some(id) if elf.build_id() == Some(id) => Ok(elf),
        Some(id) => Err(Missing::OtherBuildId {
            module: id.clone(),
            file: elf.build_id().map(<[u8]>::to_vec),
        }),
        None => {
            let meta = elf.metadata();
            let same = meta.len() == module.file_size
                && u64::try_from(meta.mtime()).is_ok_and(|t| t == module.mtime);
            if same { Ok(elf) } else { Err(Missing::OtherFile) }
        }
    }
}

fn load(dirs: &[PathBuf], module: &Module) -> Image {
    let mut files = Vec::new();
    let mut why = None;
    match open_own(module) {
        Ok(elf) => files.push(elf),
        Err(missing) => why = Some(missing),
    }
    if files.first().is_none_or(|elf| !elf.has_debug_info()) {
        let same_build = |path: PathBuf| {
            let found = ElfReader::open(&path).ok()?;
            (found.build_id() == module.build_id.as_deref()).then_some(found)
        };
        let linked = || separate::by_link(dirs, files.first()?);
        let by_id = separate::by_build_id(dirs, module).into_iter().find_map(same_build);
        if let Some(found) = by_id.or_else(linked) {
            files.insert(0, found);
        }
    }
    let mut image = Image {
        status: Status::Missing(Missing::NoSymbols),
        symbols: Symbols::default(),
        dwarf: None,
    };
    for mut elf in files {
        let mut partial = None;
        if image.dwarf.is_none() && elf.has_debug_info() {
            match Dwarf::read(&mut elf) {
                Ok(dwarf) => image.dwarf = Some(dwarf),
                Err(e) => partial = Some(e),
            }
        }
        if image.symbols.is_empty() {
            image.symbols = elf.symbols();
        }
        let useful = image.dwarf.is_some() || !image.symbols.is_empty();
        if useful && matches!(image.status, Status::Missing(_)) {
            let (file, lines) = (elf.path().to_owned(), image.dwarf.is_some());
            let names = if lines { Names::DebugInformation } else { elf.symbol_names() };
            image.status = Status::Found(Source { file, names, lines, partial });
        }
    }
    if let (Status::Missing(_), Some(why)) = (&image.status, why) {
        image.status = Status::Missing(why);
    }
    image
}
