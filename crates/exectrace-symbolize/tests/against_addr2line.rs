//! The answers on real programs, compiled here, beside those of binutils' `addr2line -i -f`: every
//! frame of thousands of addresses, by function, file and line.
//!
//! Names are compared as the linker has them, both made readable by us; what we make of them is
//! compared with `c++filt`, which is what `addr2line -C` does, in a test of its own.

mod programs;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use object::Object;
use object::ObjectSymbol;
use programs::BIAS;
use programs::Dir;
use programs::Frames;
use programs::addresses;
use programs::build_cpp;
use programs::build_rust;
use programs::functions;
use programs::module_of;
use programs::ours;
use programs::run;
use programs::source;
use programs::symbol;
use programs::theirs;
use trace_symbolize::Module;
use trace_symbolize::Names;
use trace_symbolize::Source;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;
use trace_symbolize::demangle;

/// Whether two names are of one function.
type Same<'s> = &'s dyn Fn(&str, &str) -> bool;

/// A program, and how to compare it.
struct Case<'c> {
    /// What binutils reads.
    whole: &'c Path,
    /// What we read.
    module: Module,
    /// Where we shall find the names of that.
    from: &'c Path,
    /// Whether by LLVM's tool and not by that of binutils.
    llvm: bool,
    /// How many addresses.
    count: usize,
    /// Compares the names of the functions at an address.
    names: fn(&Frames, &Frames, Same<'_>),
}

impl<'c> Case<'c> {
    fn of(path: &'c Path) -> Self {
        let names = same_names;
        let module = module_of(path);
        Case { whole: path, module, from: path, llvm: false, count: 1_000, names }
    }

    /// Compares file and line of every frame, and the names of functions; gives how many addresses
    /// had inlined frames.
    fn inlined(self) -> Option<usize> {
        let addresses = addresses(self.whole, self.count);
        assert!(addresses.len() > 100, "{} addresses", addresses.len());
        let tool = if self.llvm { "llvm-addr2line" } else { "addr2line" };
        let theirs = theirs(tool, self.whole, &addresses)?;
        let mut symbolizer = Symbolizer::new();
        let id = symbolizer.add_module(Space::default(), self.module);
        let (file, names) = (self.from.to_owned(), Names::DebugInformation);
        let source = Source { file, names, lines: true, partial: None };
        assert_eq!(symbolizer.status(id), Status::Found(source.clone()));
        let data = fs::read(self.whole).unwrap();
        let elf = object::File::parse(&*data).unwrap();
        // Linkers fold functions of the same code: each of their names is right.
        let places = elf.symbols().filter_map(|s| Some((demangle(s.name().ok()?), s.address())));
        let places: HashMap<String, u64> = places.collect();
        let same =
            |a: &str, b: &str| a == b || places.get(a).is_some_and(|a| places.get(b) == Some(a));
        let covered: Vec<_> = elf.symbols().map(|s| s.address()..s.address() + s.size()).collect();
        let (mut compared, mut inlined, mut padding) = (0, 0, 0);
        for (address, theirs) in addresses.into_iter().zip(theirs) {
            // Without debug information binutils names the translation unit's file and, in the
            // padding after a function, the function before it. Here both are unknown.
            if theirs[0].2.is_none() {
                continue;
            }
            let ours = ours(&mut symbolizer, address);
            // Padding has lines, but belongs to no function; binutils names the one before it.
            let inside = |range: &std::ops::Range<u64>| range.contains(&address);
            if ours.len() == 1 && ours[0].0.is_none() && !covered.iter().any(inside) {
                padding += 1;
                continue;
            }
            let places = |f: &Frames| f.iter().map(|f| (f.1.clone(), f.2)).collect::<Vec<_>>();
            assert_eq!(places(&ours), places(&theirs), "{address:#x} of {}", self.whole.display());
            (self.names)(&ours, &theirs, &same);
            compared += 1;
            inlined += usize::from(ours.len() > 1);
        }
        let name = self.from.file_name().unwrap().display();
        println!("{name}: {compared} agree, {inlined} inlined, {padding} padding");
        assert!(compared > 100 && padding < compared / 4);
        assert_eq!(symbolizer.status(id), Status::Found(source), "and nothing was broken");
        Some(inlined)
    }
}

fn same_names(ours: &Frames, theirs: &Frames, same: Same<'_>) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        let theirs = theirs.0.as_deref().map(demangle);
        match (&ours.0, &theirs) {
            (Some(ours), Some(theirs)) => assert!(same(ours, theirs), "{ours} or {theirs}"),
            _ => assert_eq!(ours.0, theirs),
        }
    }
}

#[test]
fn rust_optimised_and_not_at_a_fixed_address_and_not() {
    let dir = Dir::new("rust-full");
    let cases: [(&str, &[&str]); 5] = [
        ("o3", &["-O", "-g"]),
        ("o0", &["-g"]),
        ("o2-fixed", &["-C", "opt-level=2", "-g", "-C", "relocation-model=static"]),
        ("os-dwarf5", &["-C", "opt-level=s", "-g", "-C", "dwarf-version=5"]),
        ("fat", &["-O", "-g", "-C", "lto=fat"]),
    ];
    for (name, args) in cases {
        let Some(program) = build_rust(&dir, name, args) else { return };
        let mut case = Case::of(&program);
        case.count = 2_000;
        // In version 5, binutils counts the files of LLVM's line tables from the wrong number.
        case.llvm = name.ends_with("dwarf5");
        if let Some(inlined) = case.inlined() {
            let least = if name == "o0" { 1 } else { 100 };
            assert!(inlined >= least, "{name}: only {inlined} addresses were inlined");
        }
    }
}

#[test]
fn rust_with_line_tables_only() {
    let dir = Dir::new("rust-lines");
    let args = &["-O", "-C", "debuginfo=line-tables-only"];
    let Some(program) = build_rust(&dir, "program", args) else { return };
    let names = |ours: &Frames, theirs: &Frames, _: Same<'_>| {
        // Binutils gives the symbol's name to the innermost frame, inlined or not.
        for (ours, theirs) in ours.iter().zip(theirs).skip(1).rev().skip(1) {
            assert_eq!(ours.0, theirs.0.as_deref().map(demangle));
        }
    };
    if let Some(inlined) = (Case { names, ..Case::of(&program) }).inlined() {
        assert!(inlined > 100, "only {inlined} addresses were inlined");
    }
}

#[test]
fn cpp_in_every_version_of_the_format() {
    let dir = Dir::new("cpp");
    let cases: [(&str, &[&str]); 5] = [
        ("v5", &["-O2", "-g", "-gdwarf-5"]),
        ("v4-fixed", &["-O3", "-g", "-gdwarf-4", "-no-pie"]),
        ("v3", &["-Os", "-g", "-gdwarf-3", "-gstrict-dwarf"]),
        ("v2", &["-O1", "-g", "-gdwarf-2", "-gstrict-dwarf"]),
        ("unoptimised", &["-O0", "-g"]),
    ];
    for (name, args) in cases {
        let Some(program) = build_cpp(&dir, name, args) else { return };
        let mut case = Case::of(&program);
        // Here binutils gives lines of a header to the file of the unit, which has not so many.
        case.llvm = name == "unoptimised";
        if let Some(inlined) = case.inlined() {
            // What it is told to inline always is, when it inlines at all.
            assert!(inlined > 50 || name == "unoptimised", "{name}: {inlined} were inlined");
        }
    }
}

#[test]
fn stripped_with_a_debug_file() {
    let dir = Dir::new("stripped");
    let Some(program) = build_rust(&dir, "program", &["-O", "-g"]) else { return };
    if !run("objcopy", &["--only-keep-debug", "program", "program.debug"], &dir.0) {
        return;
    }
    let strip = ["--strip-all", "--add-gnu-debuglink=program.debug", "program", "bare"];
    assert!(run("objcopy", &strip, &dir.0));
    let (bare, debug) = (dir.0.join("bare"), dir.0.join("program.debug"));
    let case = Case { module: module_of(&bare), from: &debug, ..Case::of(&program) };
    if let Some(inlined) = case.inlined() {
        assert!(inlined > 100, "only {inlined} addresses were inlined");
    }
}

/// Feeds lines to a tool and gives the lines that it says.
fn through(tool: &str, lines: &BTreeSet<String>) -> Option<Vec<String>> {
    let child = Command::new(tool).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: {tool} does not run here: {e}");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let feeder = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// The names of functions in a program's symbol table that begin so.
fn mangled(path: &Path, prefix: &str) -> BTreeSet<String> {
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let functions = elf.symbols().filter(|s| s.kind() == object::SymbolKind::Text);
    let names = functions.filter_map(|s| s.name().ok().map(str::to_owned));
    names.filter(|name| name.starts_with(prefix) && !name.contains(['@', '.'])).collect()
}

/// The name without what binutils writes and we do not: the numbers of crates, `core[3e4c0b9c]`,
/// and the types of constants, `<10: usize>`.
fn plain(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find('[') {
        let (before, bracket) = rest.split_at(at + 1);
        let len = bracket.bytes().take_while(u8::is_ascii_hexdigit).count();
        let of_crate = before[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if of_crate && len > 0 && bracket[len..].starts_with(']') {
            out.push_str(&before[..at]);
            rest = &bracket[len + 1..];
        } else {
            out.push_str(before);
            rest = bracket;
        }
    }
    (out + rest).replace(": usize>", ">")
}

#[test]
fn names_are_those_of_cxxfilt() {
    let dir = Dir::new("names");
    let rust = build_rust(&dir, "rust", &["-O", "-g"]);
    let cpp = build_cpp(&dir, "cpp", &["-O0"]);
    for (path, prefix) in [(rust, "_R"), (cpp, "_Z")] {
        let Some(path) = path else { continue };
        let mut names = mangled(&path, prefix);
        // Of constructors that are templates or stand within one, the library that we use takes
        // the first parameter for a result.
        let maker = |n: &str| ["C1", "C2", "D1", "D2"].iter().any(|m| n.contains(m));
        let inside = |n: &str| n.starts_with("_ZZ") || n.contains("C1I") || n.contains("C2I");
        names.retain(|n| prefix == "_R" || !maker(n) || !inside(n));
        assert!(names.len() > 100, "{} names", names.len());
        let Some(theirs) = through("c++filt", &names) else { return };
        assert_eq!(theirs.len(), names.len());
        let differ = names.iter().zip(&theirs).filter(|(n, t)| plain(&demangle(n)) != plain(t));
        let differ: Vec<_> = differ.map(|(name, t)| (demangle(name), t)).collect();
        let some = &differ[..differ.len().min(5)];
        assert!(differ.is_empty(), "{} of {}: {some:#?}", differ.len(), names.len());
    }
}

#[test]
fn a_short_name_of_line_tables_becomes_the_whole_one() {
    let dir = Dir::new("short");
    let args = &["-O", "-C", "debuginfo=line-tables-only"];
    let Some(program) = build_rust(&dir, "program", args) else { return };
    let (address, size) = symbol(&program, "program::outer");
    let (_, first) = functions(module_of(&program), address, Vec::new());
    assert_eq!(first.last().unwrap().0.as_deref(), Some("program::outer"));
    // The same by any address in it, among them those of what is inlined.
    let mut seen = BTreeSet::new();
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_module(Space::default(), module_of(&program));
    for address in address..address + size {
        let frames = ours(&mut symbolizer, address);
        assert_eq!(frames.last().unwrap().0.as_deref(), Some("program::outer"), "{address:#x}");
        seen.extend(frames.into_iter().map(|f| f.0.unwrap()));
    }
    assert!(seen.contains("get<u32>"), "{seen:?}");
}

#[test]
fn a_call_at_the_end_of_a_function_returns_beyond_it() {
    let dir = Dir::new("return");
    let Some(program) = build_rust(&dir, "program", &["-C", "strip=debuginfo"]) else { return };
    let (address, size) = symbol(&program, "program::outer");
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_module(Space::default(), module_of(&program));
    let beyond = address + size + BIAS;
    let returned = symbolizer.resolve_return(Space::default(), beyond);
    assert_eq!(returned.frames[0].function.as_deref(), Some("program::outer"));
    let exact = symbolizer.resolve(Space::default(), beyond);
    assert_ne!(exact.frames.first().and_then(|f| f.function.as_deref()), Some("program::outer"));
}

#[test]
fn addresses_that_were_used_again_are_of_the_module_of_their_space() {
    let dir = Dir::new("again");
    let build = |name: &str| -> Option<PathBuf> {
        dir.write(&format!("{name}.c"), &format!("int {name}(int n) {{ return n + 1; }}\n"));
        let (so, c) = (format!("{name}.so"), format!("{name}.c"));
        let args = ["-g", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id", "-o", &so, &c];
        run("cc", &args, &dir.0).then(|| dir.0.join(so))
    };
    let (Some(first), Some(second)) = (build("first"), build("second")) else { return };
    let (address, _) = symbol(&first, "first");
    assert_eq!(address, symbol(&second, "second").0);
    let mut symbolizer = Symbolizer::new();
    let name = |symbolizer: &mut Symbolizer, space| {
        let found = symbolizer.resolve(Space(space), address + BIAS);
        found.frames.last().and_then(|f| f.function.as_deref().map(str::to_owned))
    };
    symbolizer.add_module(Space(1), module_of(&first));
    assert_eq!(name(&mut symbolizer, 1).as_deref(), Some("first"));
    assert_eq!(name(&mut symbolizer, 2), None);
    symbolizer.add_module(Space(2), module_of(&second));
    assert_eq!(name(&mut symbolizer, 2).as_deref(), Some("second"));
    assert_eq!(name(&mut symbolizer, 1).as_deref(), Some("first"));
    // In the same space, the later one takes the place of the earlier one, which is known by then.
    symbolizer.add_module(Space(1), module_of(&second));
    assert_eq!(name(&mut symbolizer, 1).as_deref(), Some("second"));
}

#[test]
fn the_symbol_table_answers_without_debug_information() {
    let dir = Dir::new("symtab");
    let Some(program) = build_rust(&dir, "program", &["-C", "strip=debuginfo"]) else { return };
    let (address, size) = symbol(&program, "program::outer");
    let name = Some("program::outer".to_owned());
    for at in [address, address + size - 1] {
        let (status, frames) = functions(module_of(&program), at, Vec::new());
        assert!(!source(&status).lines);
        assert_eq!(source(&status).names, Names::SymbolTable);
        assert_eq!(frames, [(name.clone(), None, None)]);
    }
}

#[test]
fn a_stripped_library_has_the_names_it_exports_and_no_others() {
    let dir = Dir::new("dynsym");
    let text = "int exported(int n) { return n + 1; }\n\
                static __attribute__((noinline)) int hidden(int n) { return n * n; }\n\
                int other(int n) { return hidden(n) + hidden(n + 1); }\n";
    dir.write("lib.c", text);
    let args = ["-O1", "-g", "-shared", "-fPIC", "-Wl,--build-id", "-o", "lib.so", "lib.c"];
    if !run("cc", &args, &dir.0) || !run("strip", &["-o", "bare.so", "lib.so"], &dir.0) {
        return;
    }
    let (whole, bare) = (dir.0.join("lib.so"), dir.0.join("bare.so"));
    let (exported, size) = symbol(&whole, "exported");
    let (hidden, _) = symbol(&whole, "hidden");
    let mut symbolizer = Symbolizer::new();
    let id = symbolizer.add_module(Space::default(), module_of(&bare));
    let report = |s: &Symbolizer| {
        let r = s.modules().next().unwrap();
        (r.id, r.status, r.asked, r.resolved)
    };
    assert_eq!(report(&symbolizer), (id, None, 0, 0));
    let name = Some("exported".to_owned());
    assert_eq!(ours(&mut symbolizer, exported), [(name.clone(), None, None)]);
    assert_eq!(ours(&mut symbolizer, exported + size - 1), [(name.clone(), None, None)]);
    assert_eq!(ours(&mut symbolizer, exported), [(name, None, None)]);
    assert_eq!(ours(&mut symbolizer, hidden), [], "the neighbour has another name");
    let (id_now, status, asked, resolved) = report(&symbolizer);
    let source = status.as_ref().map(source).unwrap();
    assert_eq!((source.names, source.lines), (Names::DynamicSymbols, false));
    assert_eq!((id_now, asked, resolved), (id, 3, 2));
}
