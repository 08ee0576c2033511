//! The answers on real programs, compiled here, beside those of binutils' `addr2line -i`: another
//! implementation, by other people, in another language.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use object::Object;
use object::ObjectSection;
use object::ObjectSymbol;
use trace_symbolize::Missing;
use trace_symbolize::Module;
use trace_symbolize::Names;
use trace_symbolize::Source;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;
use trace_symbolize::demangle;

/// Where the module stands in the memory of the process that the tests pretend to have traced.
const BIAS: u64 = 0x5555_0000_0000;

const RUST: &str = "
mod deep {
    pub struct Cell<T>(pub T);
    impl<T: Copy + Into<u64>> Cell<T> {
        #[inline(always)]
        pub fn get(&self, k: u64) -> u64 {
            let scale = |x: u64| std::hint::black_box(x) * std::hint::black_box(k);
            scale(self.0.into()) + 1
        }
    }
}
#[inline(never)]
fn outer(n: u64) -> u64 {
    deep::Cell(n as u32).get(n) + 1
}
fn main() {
    let n = std::env::args().count() as u64;
    println!(\"{} {:?}\", outer(n), std::fs::metadata(\"x\").is_ok());
}
";

const CPP: &str = "
#include <string>
namespace shop { struct Till {
    __attribute__((always_inline)) inline int add(int a) { volatile int b = a; return b + total; }
    int total; }; }
static __attribute__((noinline)) int tally(shop::Till *t, int n) {
    int s = 0;
    for (int i = 0; i < n; i++)
        s += t->add(i);
    return s;
}
int main(int argc, char **argv) {
    shop::Till t{argc};
    std::string name(argv[0]);
    return tally(&t, (int)name.size());
}
";

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("symbolize-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool; `false`, with the reason printed, where there is none.
fn run(tool: &str, args: &[&str], dir: &Path) -> bool {
    match Command::new(tool).args(args).current_dir(dir).output() {
        Ok(out) if out.status.success() => true,
        Ok(out) => panic!("{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => {
            println!("skipped: {tool} does not run here: {e}");
            false
        }
    }
}

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

fn build_rust(dir: &Dir, name: &str, args: &[&str]) -> Option<PathBuf> {
    dir.write("program.rs", RUST);
    let mut all = vec!["--edition", "2024", "-C", "link-arg=-Wl,--build-id", "-o", name];
    all.extend(args);
    all.push("program.rs");
    run(&rustc(), &all, &dir.0).then(|| dir.0.join(name))
}

/// The module as a recorder would describe it.
fn module_of(path: &Path) -> Module {
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let meta = fs::metadata(path).unwrap();
    Module {
        base: BIAS,
        size: 1 << 30,
        bias: BIAS,
        build_id: elf.build_id().unwrap().map(<[u8]>::to_vec),
        path: path.to_owned(),
        file_size: meta.len(),
        mtime: meta.mtime() as u64,
    }
}

/// Up to `count` addresses of code in the file, spread over it, with the first and last bytes of
/// functions among them.
fn addresses(path: &Path, count: usize) -> Vec<u64> {
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let text = elf.section_by_name(".text").unwrap();
    let (start, size) = (text.address(), text.size());
    let mut out: BTreeSet<u64> =
        (0..count as u64 / 2).map(|i| start + size * i / (count as u64 / 2)).collect();
    let functions = elf.symbols().filter(|s| s.kind() == object::SymbolKind::Text && s.size() > 0);
    let all: Vec<_> = functions.map(|s| (s.address(), s.address() + s.size() - 1)).collect();
    let step = (all.len() * 4 / count).max(1);
    out.extend(all.iter().step_by(step).flat_map(|(first, last)| [*first, *last]));
    let inside = |a: &u64| *a >= start && *a < start + size;
    out.into_iter().filter(inside).collect()
}

/// One frame as text: `function at file:line`.
type Frames = Vec<(Option<String>, Option<String>, Option<u32>)>;

/// What `addr2line -a -i -f` says of each address.
fn theirs(path: &Path, addresses: &[u64]) -> Option<Vec<Frames>> {
    let child = Command::new("addr2line")
        .args(["-a", "-i", "-f", "-e"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: addr2line (binutils) does not run here: {e}");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    let text: String = addresses.iter().map(|a| format!("{a:#x}\n")).collect();
    let feeder = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut out: Vec<Frames> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            out.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        let function = (line != "??").then(|| line.to_owned());
        let file = (file != "??").then(|| file.to_owned());
        out.last_mut().unwrap().push((function, file, number.parse().ok().filter(|n| *n != 0)));
    }
    assert_eq!(out.len(), addresses.len());
    Some(out)
}

fn ours(symbolizer: &mut Symbolizer, address: u64) -> Frames {
    let found = symbolizer.resolve(Space::default(), address + BIAS);
    assert!(found.module.is_some());
    let text = |t: &Option<std::sync::Arc<str>>| t.as_ref().map(|t| t.to_string());
    let depth = found.frames.len();
    for (i, frame) in found.frames.iter().enumerate() {
        assert_eq!(frame.inlined, i + 1 < depth, "all but the last are inlined");
    }
    found.frames.iter().map(|f| (text(&f.function), text(&f.file), f.line)).collect()
}

/// Compares file and line of every frame, and calls `names` for the functions of the others; gives
/// how many addresses had inlined frames.
fn compare(path: &Path, names: impl Fn(&Frames, &Frames)) -> Option<usize> {
    let addresses = addresses(path, 2_000);
    assert!(addresses.len() > 100, "{} addresses", addresses.len());
    let theirs = theirs(path, &addresses)?;
    let mut symbolizer = Symbolizer::new();
    let id = symbolizer.add_module(Space::default(), module_of(path));
    let source = Source {
        file: path.to_owned(),
        names: Names::DebugInformation,
        lines: true,
        partial: None,
    };
    assert_eq!(symbolizer.status(id), Status::Found(source));
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let functions: Vec<_> = elf.symbols().map(|s| s.address()..s.address() + s.size()).collect();
    let (mut compared, mut inlined, mut padding) = (0, 0, 0);
    for (address, theirs) in addresses.into_iter().zip(theirs) {
        // Without debug information binutils names the translation unit's file and, in the padding
        // after a function, the function before it. Here both are unknown.
        if theirs[0].2.is_none() {
            continue;
        }
        let ours = ours(&mut symbolizer, address);
        // Padding has lines, but belongs to no function; binutils names the one before it.
        let inside = |range: &std::ops::Range<u64>| range.contains(&address);
        if ours.len() == 1 && ours[0].0.is_none() && !functions.iter().any(inside) {
            padding += 1;
            continue;
        }
        let places = |f: &Frames| f.iter().map(|f| (f.1.clone(), f.2)).collect::<Vec<_>>();
        assert_eq!(places(&ours), places(&theirs), "{address:#x}");
        names(&ours, &theirs);
        compared += 1;
        inlined += usize::from(ours.len() > 1);
    }
    println!("{}: {compared} agree, {inlined} inlined, {padding} padding", path.display());
    assert!(compared > 100 && padding < compared / 4);
    Some(inlined)
}

fn same_names(ours: &Frames, theirs: &Frames) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours.0, theirs.0.as_deref().map(demangle));
    }
}

#[test]
fn rust_with_debug_information() {
    let dir = Dir::new("rust-full");
    let Some(program) = build_rust(&dir, "program", &["-O", "-g"]) else { return };
    if let Some(inlined) = compare(&program, same_names) {
        assert!(inlined > 100, "only {inlined} addresses were inlined");
    }
}

#[test]
fn rust_with_line_tables_only() {
    let dir = Dir::new("rust-lines");
    let args = &["-O", "-C", "debuginfo=line-tables-only"];
    let Some(program) = build_rust(&dir, "program", args) else { return };
    let names = |ours: &Frames, theirs: &Frames| {
        // Binutils gives the symbol's name to the innermost frame, inlined or not.
        for (ours, theirs) in ours.iter().zip(theirs).skip(1).rev().skip(1) {
            assert_eq!(ours.0, theirs.0.as_deref().map(demangle));
        }
    };
    if let Some(inlined) = compare(&program, names) {
        assert!(inlined > 100, "only {inlined} addresses were inlined");
    }
}

#[test]
fn cpp_with_debug_information() {
    let dir = Dir::new("cpp");
    dir.write("till.cpp", CPP);
    // Whole programs of this compiler are small: a hundred copies make enough addresses.
    let copies: String = (0..100)
        .map(|i| {
            CPP.replace("main", &format!("main{i}"))
                .replace("tally", &format!("tally{i}"))
                .replace("shop", &format!("shop{i}"))
        })
        .collect();
    dir.write("tills.cpp", &copies);
    let args = ["-O2", "-g", "-Wl,--build-id", "-o", "till", "till.cpp", "tills.cpp"];
    if run("g++", &args, &dir.0)
        && let Some(inlined) = compare(&dir.0.join("till"), same_names)
    {
        assert!(inlined > 50, "only {inlined} addresses were inlined");
    }
}

/// Where `needle` stands in the program's symbols: address and size.
fn symbol(path: &Path, needle: &str) -> (u64, u64) {
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let found = elf.symbols().find(|s| s.name().is_ok_and(|n| demangle(n) == needle));
    let found = found.unwrap_or_else(|| panic!("{needle} is not in {}", path.display()));
    (found.address(), found.size())
}

fn functions(module: Module, address: u64, debug_dirs: Vec<PathBuf>) -> (Status, Frames) {
    let mut symbolizer = Symbolizer::with_debug_dirs(debug_dirs);
    let id = symbolizer.add_module(Space::default(), module);
    (symbolizer.status(id), ours(&mut symbolizer, address))
}

fn source(status: &Status) -> &Source {
    match status {
        Status::Found(source) => source,
        Status::Missing(why) => panic!("{why}"),
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
fn debug_files_are_found_by_build_id_and_by_link() {
    let dir = Dir::new("separate");
    let Some(program) = build_rust(&dir, "program", &["-g"]) else { return };
    let (address, _) = symbol(&program, "program::outer");
    let (_, want) = functions(module_of(&program), address, Vec::new());
    assert!(want[0].2.is_some());
    let keep = ["--only-keep-debug", "program", "program.debug"];
    if !run("objcopy", &keep, &dir.0) {
        return;
    }
    let strip = ["--strip-all", "--add-gnu-debuglink=program.debug", "program", "bare"];
    assert!(run("objcopy", &strip, &dir.0));
    let bare = dir.0.join("bare");
    // By the link, beside the program.
    let (status, frames) = functions(module_of(&bare), address, Vec::new());
    assert_eq!(source(&status).file, dir.0.join("program.debug"));
    assert_eq!(frames, want);
    // By build id; the program itself may be gone.
    let id: String =
        module_of(&bare).build_id.unwrap().iter().map(|b| format!("{b:02x}")).collect();
    let tree = dir.0.join("debug/.build-id").join(&id[..2]);
    fs::create_dir_all(&tree).unwrap();
    fs::rename(dir.0.join("program.debug"), tree.join(format!("{}.debug", &id[2..]))).unwrap();
    let (status, frames) = functions(module_of(&bare), address, vec![dir.0.join("debug")]);
    assert!(source(&status).lines);
    assert_eq!(frames, want);
    let gone = Module { path: dir.0.join("gone"), ..module_of(&bare) };
    let (_, frames) = functions(gone.clone(), address, vec![dir.0.join("debug")]);
    assert_eq!(frames, want);
    // Nowhere: said, not guessed.
    let (status, frames) = functions(gone, address, Vec::new());
    assert_eq!(status, Status::Missing(Missing::NotFound));
    assert_eq!(frames, []);
    let (status, _) = functions(module_of(&bare), address, Vec::new());
    assert!(matches!(status, Status::Found(_) | Status::Missing(Missing::NoSymbols)));
}

#[test]
fn compressed_sections_are_read() {
    let dir = Dir::new("compressed");
    let Some(program) = build_rust(&dir, "program", &["-g"]) else { return };
    let (address, _) = symbol(&program, "program::outer");
    let (_, want) = functions(module_of(&program), address, Vec::new());
    for how in ["zlib", "zlib-gnu"] {
        let option = format!("--compress-debug-sections={how}");
        if !run("objcopy", &[&option, "program", how], &dir.0) {
            return;
        }
        let packed = dir.0.join(how);
        assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&program).unwrap().len());
        let (status, frames) = functions(module_of(&packed), address, Vec::new());
        assert!(source(&status).lines);
        assert_eq!(frames, want, "{how}");
    }
}
