//! The stacks of a trace as functions: what the symbolizer says, remembered for each stack.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::value::RawValue;
use trace::encode::schema::STACK_GUESSED;
use trace::encode::schema::STACK_LOST;
use trace::encode::schema::STACK_TABLES;
use trace::encode::schema::STACK_TRUNCATED;
use trace_decode::Tables;
use trace_decode::tables::Site;
use trace_symbolize::Module;
use trace_symbolize::ModuleId;
use trace_symbolize::Report;
use trace_symbolize::Resolved;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;

use crate::args::Symbols;
use crate::failure::Failure;
use crate::json;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;

/// Stacks remembered; then it begins anew. Most programs have some thousand.
const CACHED_MAX: usize = 1 << 16;

/// A function of a stack.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub function: Option<Arc<str>>,
    /// Its source file.
    pub file: Option<Arc<str>>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether it is inlined into the one that follows.
    pub inlined: bool,
    /// The address as it stands in the trace.
    pub address: u64,
    /// The address as it stands in the file of the module, where the function has no name.
    pub in_file: Option<u64>,
    /// The file of the module with the address.
    pub module: Option<Arc<str>>,
}

impl Serialize for Call {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("function", &self.function.as_deref())?;
        map.serialize_entry("file", &self.file.as_deref())?;
        map.serialize_entry("line", &self.line)?;
        if self.inlined {
            map.serialize_entry("inlined", &true)?;
        }
        if self.function.is_none() {
            map.serialize_entry("addr", &format!("{:#x}", self.address))?;
            map.serialize_entry("module", &self.module.as_deref())?;
        }
        map.end()
    }
}

/// A stack, innermost call first.
#[derive(Debug)]
pub struct Stack {
    /// Its calls.
    pub calls: Vec<Call>,
    /// Whether there were more.
    pub truncated: bool,
    /// Whether there are more that the walk did not find.
    pub lost: bool,
    /// How it was walked, and where the walk ended.
    pub walk: Vec<&'static str>,
    /// The calls as JSON.
    pub json: Box<RawValue>,
}

/// What is known of the names of a module.
#[derive(Clone, Debug)]
pub struct Named {
    /// Where they come from.
    pub status: Status,
    /// Distinct addresses of it that stand in stacks.
    pub addresses: u64,
    /// How many of these have the name of a function.
    pub named: u64,
}

impl Stack {
    /// The calls that lie within the program, or all.
    pub fn shown(&self, all_frames: bool) -> &[Call] {
        &self.calls[..if all_frames { self.calls.len() } else { inside(&self.calls) }]
    }
}

/// The stacks of a trace.
pub struct Stacks {
    symbolizer: Option<Symbolizer>,
    all_frames: bool,
    /// Modules of each space that were told to the symbolizer.
    told: HashMap<Space, usize>,
    paths: HashMap<ModuleId, Arc<str>>,
    known: HashMap<(Space, u64, u64), Rc<Stack>>,
}

/// The address space of a table epoch of the `session`th session.
pub fn space(session: usize, tables: &Tables) -> Space {
    Space((session as u64) << 32 | u64::from(tables.epoch()))
}

impl Stacks {
    /// Stacks with names, unless they are refused; `all_frames` keeps the recorder's own.
    pub fn new(options: &Symbols, all_frames: bool) -> Stacks {
        let named = || Symbolizer::with_debug_dirs(options.debug_dir.clone());
        Stacks {
            symbolizer: (!options.no_symbols).then(named),
            all_frames,
            told: HashMap::new(),
            paths: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// The stack with this id, of an event of `site`; `None` where the trace does not define it.
    pub fn get(
        &mut self,
        session: usize,
        tables: &Tables,
        id: u64,
        site: Option<&Site>,
    ) -> Option<Rc<Stack>> {
        let space = space(session, tables);
        let key = (space, id, site.map_or(0, |s| s.kind));
        if let Some(known) = self.known.get(&key) {
            return Some(Rc::clone(known));
        }
        let stack = tables.stack(id)?;
        self.tell(space, tables);
        let mut calls = Vec::new();
        for address in stack.frames() {
            self.push_calls(space, tables, address, &mut calls);
        }
        if !self.all_frames {
            let file = site.and_then(|s| tables.string(s.file)).map(|file| json::text(file));
            let place = file.as_deref().zip(site.map(|s| s.line));
            calls.drain(..recorder_calls(&calls, place));
        }
        let json = json::raw(&calls);
        let (truncated, lost) = (stack.is_truncated(), stack.flags & STACK_LOST != 0);
        let stack = Rc::new(Stack { calls, truncated, lost, walk: walk(stack.flags), json });
        if self.known.len() >= CACHED_MAX {
            self.known.clear();
        }
        self.known.insert(key, Rc::clone(&stack));
        Some(stack)
    }

    /// The function that begins at an address.
    pub fn function(&mut self, session: usize, tables: &Tables, entry: u64) -> Option<Arc<str>> {
        let space = space(session, tables);
        self.tell(space, tables);
        let found = self.symbolizer.as_mut()?.resolve(space, entry);
        found.frames.last()?.function.clone()
    }

    /// What is known of every module that an address was asked of: where names come from, and how
    /// many addresses had one.
    pub fn reports(&self) -> Vec<Report<'_>> {
        self.symbolizer.iter().flat_map(Symbolizer::modules).collect()
    }

    /// Of each module of these tables where names come from, and how many of its addresses in
    /// stacks have one; beside them, how many addresses in stacks lie in no module. Every address
    /// is looked up.
    pub fn modules(&mut self, session: usize, tables: &Tables) -> (Vec<Named>, u64) {
        let space = space(session, tables);
        let Some(symbolizer) = &mut self.symbolizer else { return (Vec::new(), 0) };
        let add = |m| symbolizer.add_module(space, module(m));
        let ids: Vec<ModuleId> = tables.modules().map(add).collect();
        let mut addresses = BTreeSet::new();
        for (_, stack) in tables.stacks() {
            addresses.extend(stack.frames());
        }
        let (mut counts, mut outside) = (HashMap::<ModuleId, (u64, u64)>::new(), 0);
        for address in addresses {
            let found = symbolizer.resolve_return(space, address);
            let Some(id) = found.module else {
                outside += 1;
                continue;
            };
            let (all, named) = counts.entry(id).or_default();
            *all += 1;
            *named += u64::from(found.frames.iter().any(|f| f.function.is_some()));
        }
        let of = |id: ModuleId| {
            let (addresses, named) = counts.get(&id).copied().unwrap_or_default();
            Named { status: symbolizer.status(id), addresses, named }
        };
        (ids.into_iter().map(of).collect(), outside)
    }

    /// Tells the symbolizer of the modules that were defined since the last time.
    fn tell(&mut self, space: Space, tables: &Tables) {
        let Some(symbolizer) = &mut self.symbolizer else { return };
        let count = tables.modules().count();
        let told = self.told.entry(space).or_insert(0);
        if *told != count {
            *told = count;
            for m in tables.modules() {
                symbolizer.add_module(space, module(m));
            }
        }
    }

    fn push_calls(&mut self, space: Space, tables: &Tables, address: u64, out: &mut Vec<Call>) {
        let found = match &mut self.symbolizer {
            Some(symbolizer) => symbolizer.resolve_return(space, address),
            None => Rc::new(Resolved::default()),
        };
        for frame in &found.frames {
            out.push(Call {
                function: frame.function.clone(),
                file: frame.file.clone(),
                line: frame.line,
                inlined: frame.inlined,
                address,
                in_file: None,
                module: None,
            });
        }
        if found.frames.last().is_none_or(|f| f.function.is_none()) {
            let module = self.path(found.module).or_else(|| path_in(tables, address));
            let around = tables.module_of(address.wrapping_sub(1));
            let in_file = around.map(|m| address.wrapping_sub(m.bias));
            match out.last_mut().filter(|_| !found.frames.is_empty()) {
                Some(last) => (last.module, last.in_file) = (module, in_file),
                None => out.push(Call {
                    function: None,
                    file: None,
                    line: None,
                    inlined: false,
                    address,
                    in_file,
                    module,
                }),
            }
        }
    }

    fn path(&mut self, id: Option<ModuleId>) -> Option<Arc<str>> {
        let id = id?;
        if let Some(known) = self.paths.get(&id) {
            return Some(Arc::clone(known));
        }
        let module = self.symbolizer.as_ref()?.module(id)?;
        let path: Arc<str> = Arc::from(json::lossy(module.path.as_os_str().as_bytes()));
        self.paths.insert(id, Arc::clone(&path));
        Some(path)
    }
}

fn path_in(tables: &Tables, address: u64) -> Option<Arc<str>> {
    let module = tables.module_of(address.wrapping_sub(1))?;
    Some(Arc::from(json::lossy(&module.path)))
}

/// A module as the symbolizer wants it.
fn module(m: &trace_decode::tables::Module) -> Module {
    Module {
        base: m.base,
        size: m.size,
        bias: m.bias,
        build_id: (!m.build_id.is_empty()).then(|| m.build_id.to_vec()),
        path: PathBuf::from(OsStr::from_bytes(&m.path)),
        file_size: m.file_size,
        mtime: m.mtime,
    }
}

/// How many of the innermost calls are the recorder's own. The program's first one stands at the
/// source file and line that the site names, or at least in that file. Without a site, or in code
/// without lines, the recorder's functions are known by the name of its crate, and with them what
/// is inlined into them.
fn recorder_calls(calls: &[Call], site: Option<(&str, u64)>) -> usize {
    if let Some((file, line)) = site {
        let in_file = |c: &Call| c.file.as_deref().is_some_and(|f| is_same_file(f, file));
        let at_line = |c: &Call| in_file(c) && c.line.map(u64::from) == Some(line);
        if let Some(first) = calls.iter().position(at_line).or(calls.iter().position(in_file)) {
            return first;
        }
    }
    let own = |call: &Call| {
        let name = call.function.as_deref().unwrap_or_default();
        name.starts_with("trace::") || name.starts_with("<trace::")
    };
    let mut hidden = 0;
    for function in calls.split_inclusive(|c| !c.inlined) {
        if !function.last().is_some_and(own) {
            return hidden + function.iter().take_while(|c| own(c)).count();
        }
        hidden += function.len();
    }
    hidden
}

/// Whether the path that debug information has of a file is that which its own source gives: the
/// second one may be relative to where it was compiled.
fn is_same_file(whole: &str, given: &str) -> bool {
    let rest = whole.strip_suffix(given);
    !given.is_empty() && rest.is_some_and(|r| r.is_empty() || r.ends_with('/'))
}

/// What the flags of a stack say, in words.
fn walk(flags: u64) -> Vec<&'static str> {
    let by_pointers = flags & (STACK_TABLES | STACK_GUESSED) == 0;
    let words = [
        (by_pointers, "frame pointers"),
        (flags & STACK_TABLES != 0, "tables"),
        (flags & STACK_GUESSED != 0, "guesses"),
        (flags & STACK_TRUNCATED != 0, "cut"),
        (flags & STACK_LOST != 0, "lost"),
    ];
    words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
}

/// Prints the calls of a stack, a line each, behind so many blanks; without `all_frames` those that
/// lie within the program.
pub fn print_calls(
    stack: &Stack,
    all_frames: bool,
    blanks: usize,
    out: &mut Out,
) -> Result<(), Failure> {
    for call in stack.shown(all_frames) {
        let mut line = format!("{:blanks$}at ", "");
        push_call(&mut line, call);
        line.push('\n');
        out.styled(Style::Dim, &line)?;
    }
    if stack.truncated {
        out.styled(Style::Dim, &format!("{:blanks$}and more\n", ""))?;
    }
    if stack.lost {
        out.styled(Style::Dim, &format!("{:blanks$}and more that were not found\n", ""))?;
    }
    Ok(())
}

/// Sources of the standard library without the number of the compiler that built it.
fn short_path(file: &str) -> &str {
    let inside = file.strip_prefix("/rustc/").and_then(|rest| rest.split_once('/'));
    inside.map_or(file, |(_, path)| path)
}

/// How many of the calls lie within the program: behind them stands what the standard library
/// runs threads by, and marks with this function for readers of stacks.
fn inside(calls: &[Call]) -> usize {
    let is_mark = |c: &Call| {
        c.function.as_deref().is_some_and(|f| f.contains("__rust_begin_short_backtrace"))
    };
    // What it was given may be inlined into it: the library's part of that, and the program's.
    let is_glue = |c: &&Call| {
        let name = c.function.as_deref().unwrap_or_default();
        c.inlined && (name.starts_with("core::ops::function::") || name.starts_with("std::"))
    };
    let Some(mark) = calls.iter().position(is_mark) else { return calls.len() };
    mark - calls[..mark].iter().rev().take_while(is_glue).count()
}

fn push_call(line: &mut String, call: &Call) {
    match &call.function {
        Some(function) => push_safe(function.as_bytes(), line),
        None => {
            let _ = write!(line, "{:#x}", call.address);
            if let Some(module) = &call.module {
                line.push_str(" in ");
                push_safe(module.as_bytes(), line);
            }
        }
    }
    if let Some(file) = &call.file {
        line.push_str(" (");
        push_safe(short_path(file).as_bytes(), line);
        if let Some(number) = call.line {
            let _ = write!(line, ":{number}");
        }
        line.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &str, file: &str, line: u32, inlined: bool) -> Call {
        let text = |t: &str| (!t.is_empty()).then(|| Arc::from(t));
        let line = (line != 0).then_some(line);
        let (in_file, module) = (None, None);
        Call {
            function: text(function),
            file: text(file),
            line,
            inlined,
            address: 1,
            in_file,
            module,
        }
    }

    #[test]
    fn the_programs_first_call_is_where_the_site_is() {
        let calls = [
            call("emit", "/r/src/emit.rs", 5, true),
            call("trace::log", "/r/src/log.rs", 6, false),
            call("helper", "/p/src/main.rs", 70, true),
            call("work", "/p/src/main.rs", 80, false),
            call("main", "/p/src/main.rs", 90, false),
        ];
        assert_eq!(recorder_calls(&calls, Some(("src/main.rs", 80))), 3);
        assert_eq!(recorder_calls(&calls, Some(("src/main.rs", 81))), 2);
        assert_eq!(recorder_calls(&calls, Some(("/p/src/main.rs", 90))), 4);
        // Neither a part of a name nor an unknown file is the file.
        assert_eq!(recorder_calls(&calls, Some(("rc/main.rs", 80))), 2);
        assert_eq!(recorder_calls(&calls, Some(("", 80))), 2);
        assert_eq!(recorder_calls(&calls, None), 2);
    }

    #[test]
    fn without_lines_the_recorder_is_known_by_its_name() {
        let calls = [
            call("trace::emit::emit", "", 0, false),
            call("<trace::Span as core::ops::Drop>::drop", "", 0, false),
            call("trace::span", "", 0, true),
            call("prog::main", "", 0, false),
            call("trace::thread::main", "", 0, false),
        ];
        assert_eq!(recorder_calls(&calls, Some(("src/main.rs", 1))), 3);
        assert_eq!(recorder_calls(&calls[..2], None), 2);
        assert_eq!(recorder_calls(&calls[3..], None), 0);
        assert_eq!(recorder_calls(&[], None), 0);
        let unknown = [call("", "", 0, false), call("trace::span", "", 0, false)];
        assert_eq!(recorder_calls(&unknown, None), 0);
    }
}
