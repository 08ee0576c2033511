//! Programs that are compiled for the tests, and what binutils' `addr2line` says of them: another
//! implementation, by other people, in another language.
#![allow(dead_code)] // Each test uses some of it.

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
use trace_symbolize::Module;
use trace_symbolize::Source;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;
use trace_symbolize::demangle;

/// Where modules stand in the memory of the process that the tests pretend to have traced.
pub const BIAS: u64 = 0x5555_0000_0000;

/// A program in Rust with functions inlined into each other.
pub const RUST: &str = "
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
pub fn outer(n: u64) -> u64 {
    deep::Cell(n as u32).get(n) + 1
}
pub fn main() {
    let n = std::env::args().count() as u64;
    println!(\"{} {:?}\", outer(n), std::fs::metadata(\"x\").is_ok());
}
";

/// One in C++.
pub const CPP: &str = "
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
pub struct Dir(pub PathBuf);

impl Dir {
    /// A new one.
    pub fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("symbolize-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
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
pub fn run(tool: &str, args: &[&str], dir: &Path) -> bool {
    match Command::new(tool).args(args).current_dir(dir).output() {
        Ok(out) if out.status.success() => true,
        Ok(out) => panic!("{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => {
            println!("skipped: {tool} does not run here: {e}");
            false
        }
    }
}

/// The compiler that built the tests.
pub fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

/// Compiles [`RUST`] with these options.
pub fn build_rust(dir: &Dir, name: &str, args: &[&str]) -> Option<PathBuf> {
    // The programs of other tests are compiled at the same time.
    let source = format!("{name}.rs");
    dir.write(&source, RUST);
    let mut all = vec!["--edition", "2024", "--crate-name", "program", "-o", name];
    all.extend(["-C", "link-arg=-Wl,--build-id"]);
    all.extend(args);
    all.push(&source);
    run(&rustc(), &all, &dir.0).then(|| dir.0.join(name))
}

/// Compiles a hundred copies of [`CPP`] with these options: one is small.
pub fn build_cpp(dir: &Dir, name: &str, args: &[&str]) -> Option<PathBuf> {
    dir.write("till.cpp", CPP);
    let mut copies = String::new();
    for i in 0..100 {
        let copy = CPP.replace("main", &format!("main{i}")).replace("tally", &format!("tally{i}"));
        copies += &copy.replace("shop", &format!("shop{i}"));
    }
    dir.write("tills.cpp", &copies);
    let mut all = vec!["-Wl,--build-id", "-o", name];
    all.extend(args);
    all.extend(["till.cpp", "tills.cpp"]);
    run("g++", &all, &dir.0).then(|| dir.0.join(name))
}

/// The build id of a module in hexadecimal.
pub fn id_of(module: &Module) -> String {
    module.build_id.as_ref().unwrap().iter().map(|b| format!("{b:02x}")).collect()
}

/// The module as a recorder would describe it.
pub fn module_of(path: &Path) -> Module {
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
pub fn addresses(path: &Path, count: usize) -> Vec<u64> {
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
pub type Frames = Vec<(Option<String>, Option<String>, Option<u32>)>;

/// What `addr2line -a -i -f`, or a tool like it, says of each address.
pub fn theirs(tool: &str, path: &Path, addresses: &[u64]) -> Option<Vec<Frames>> {
    let child = Command::new(tool)
        .args(["-a", "-i", "-f", "-e"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: {tool} does not run here: {e}");
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

/// What we say of an address of the file.
pub fn ours(symbolizer: &mut Symbolizer, address: u64) -> Frames {
    let found = symbolizer.resolve(Space::default(), address + BIAS);
    assert!(found.module.is_some());
    let text = |t: &Option<std::sync::Arc<str>>| t.as_ref().map(|t| t.to_string());
    let depth = found.frames.len();
    for (i, frame) in found.frames.iter().enumerate() {
        assert_eq!(frame.inlined, i + 1 < depth, "all but the last are inlined");
    }
    found.frames.iter().map(|f| (text(&f.function), text(&f.file), f.line)).collect()
}

/// Where `needle` stands in the program's symbols: address and size.
pub fn symbol(path: &Path, needle: &str) -> (u64, u64) {
    let data = fs::read(path).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let found = elf.symbols().find(|s| s.name().is_ok_and(|n| demangle(n) == needle));
    let found = found.unwrap_or_else(|| panic!("{needle} is not in {}", path.display()));
    (found.address(), found.size())
}

/// What we say of one address of a module.
pub fn functions(module: Module, address: u64, debug_dirs: Vec<PathBuf>) -> (Status, Frames) {
    let mut symbolizer = Symbolizer::with_debug_dirs(debug_dirs);
    let id = symbolizer.add_module(Space::default(), module);
    (symbolizer.status(id), ours(&mut symbolizer, address))
}

/// The source of what was found.
pub fn source(status: &Status) -> &Source {
    match status {
        Status::Found(source) => source,
        Status::Missing(why) => panic!("{why}"),
    }
}
