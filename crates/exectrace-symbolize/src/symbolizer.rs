//! From an address in memory to functions: finds the module, reads its file once, remembers.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use crate::content::Pages;
use crate::demangle::demangle;
use crate::dwarf::DwarfFrame;
use crate::dwarf::Memory;
use crate::image::Image;
use crate::image::Library;
use crate::module::Missing;
use crate::module::Module;
use crate::module::ModuleId;
use crate::module::Report;
use crate::module::Space;
use crate::module::Status;
use crate::recent::Recent;
use crate::separate;
use crate::separate::Places;

/// Memory of the addresses that are remembered, about: some 300,000.
const ADDRESSES_COST_MAX: usize = 96 << 20;

/// Memory of the texts of their frames, which most have in common.
const TEXTS_COST_MAX: usize = 32 << 20;

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

/// How to know a file: modules that agree share an image. Size and time count where there is no
/// build id.
type Identity = (PathBuf, Option<Vec<u8>>, Option<(u64, u64)>);

struct Entry {
    module: Module,
    image: Option<Rc<Image>>,
    asked: u64,
    resolved: u64,
}

/// Resolves addresses. Files are opened when an address of theirs is first asked for.
pub struct Symbolizer {
    library: Library,
    modules: Vec<Entry>,
    by_base: BTreeMap<(Space, u64), ModuleId>,
    images: HashMap<Identity, Rc<Image>>,
    /// Spaces of which addresses are known.
    asked: HashSet<Space>,
    known: Recent<(Space, u64), Rc<Resolved>>,
    texts: Recent<Arc<str>, Arc<str>>,
    demangled: Recent<Rc<str>, Arc<str>>,
}

impl Default for Symbolizer {
    fn default() -> Self {
        Symbolizer::new()
    }
}

impl Symbolizer {
    /// Looks for debug files where systems keep them, `/usr/lib/debug`, and where a `debuginfod`
    /// client of this user has put what it fetched.
    pub fn new() -> Self {
        Symbolizer::with_debug_dirs(Vec::new())
    }

    /// Looks for debug files, and for files of the right build id, in `dirs` first.
    pub fn with_debug_dirs(mut dirs: Vec<PathBuf>) -> Self {
        dirs.push(PathBuf::from("/usr/lib/debug"));
        Symbolizer {
            library: Library {
                places: Places { dirs, fetched: separate::fetched() },
                pages: Pages::new(),
                memory: Memory::new(),
            },
            asked: HashSet::new(),
            modules: Vec::new(),
            by_base: BTreeMap::new(),
            images: HashMap::new(),
            known: Recent::new(ADDRESSES_COST_MAX),
            texts: Recent::new(TEXTS_COST_MAX),
            demangled: Recent::new(TEXTS_COST_MAX),
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
        if self.asked.remove(&space) {
            self.known.retain(|(s, _)| *s != space);
        }
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
            status: e.image.as_ref().map(|image| image.status()),
            asked: e.asked,
            resolved: e.resolved,
        })
    }

    /// Whether a module's addresses can be resolved. Reads its file.
    pub fn status(&mut self, id: ModuleId) -> Status {
        match self.image(id) {
            Some(image) => image.status(),
            None => Status::Missing(Missing::NoPath),
        }
    }

    /// The functions at an address of code: where a function begins, or where a program stands.
    /// Opens the files of the module at its first address.
    pub fn resolve(&mut self, space: Space, address: u64) -> Rc<Resolved> {
        if let Some(known) = self.known.get(&(space, address)) {
            return known;
        }
        self.asked.insert(space);
        let found = Rc::new(self.look_up(space, address));
        let cost = 128 + size_of_val(&found.frames[..]);
        self.known.put((space, address), Rc::clone(&found), cost);
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
        let known = image.frames(address);
        let count = known.len();
        let frame = |(i, frame): (usize, DwarfFrame)| Frame {
            function: frame.function.map(|name| self.name(name)),
            file: frame.file.map(|file| self.text(&file)),
            line: frame.line,
            inlined: i + 1 < count,
        };
        known.into_iter().enumerate().map(frame).collect()
    }

    fn name(&mut self, mangled: Rc<str>) -> Arc<str> {
        if let Some(known) = self.demangled.get(&*mangled) {
            return known;
        }
        let name = self.text(&demangle(&mangled));
        let cost = 96 + mangled.len();
        self.demangled.put(mangled, Arc::clone(&name), cost);
        name
    }

    /// Every text is kept once: frames repeat a few thousand names.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known;
        }
        let text: Arc<str> = Arc::from(text);
        self.texts.put(Arc::clone(&text), Arc::clone(&text), 96 + text.len());
        text
    }

    fn image(&mut self, id: ModuleId) -> Option<Rc<Image>> {
        let entry = self.modules.get_mut(id.0 as usize)?;
        if entry.image.is_none() {
            let m = &entry.module;
            let by_time = m.build_id.is_none().then_some((m.file_size, m.mtime));
            let identity = (m.path.clone(), m.build_id.clone(), by_time);
            let library = &self.library;
            let open = || Rc::new(Image::open(m, library));
            entry.image = Some(Rc::clone(self.images.entry(identity).or_insert_with(open)));
        }
        entry.image.clone()
    }
}
