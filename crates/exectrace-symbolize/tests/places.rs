//! Where names are found beside the program itself: debug files by build id and by link, packages
//! and files of split units, what several files have in common, packed tables, the kernel. The same
//! code gives the same answers wherever its debug information stands.

mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use object::Object;
use object::ObjectSymbol;
use programs::BIAS;
use programs::Dir;
use programs::Frames;
use programs::build_rust;
use programs::functions;
use programs::id_of;
use programs::module_of;
use programs::ours;
use programs::run;
use programs::source;
use programs::symbol;
use trace_symbolize::Missing;
use trace_symbolize::Module;
use trace_symbolize::Names;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;

const C: &str = "static inline __attribute__((always_inline)) int half(int n) {\n\
                 volatile int m = n;\n return m / 2;\n}\n\
                 __attribute__((noinline)) int work(int n) {\n return half(n) + half(n + 3);\n}\n\
                 int main(int argc, char **argv) {\n return work(argc);\n}\n";

fn build_c(dir: &Dir, name: &str, args: &[&str]) -> Option<PathBuf> {
    dir.write("small.c", C);
    let mut all = vec!["-O1", "-Wl,--build-id", "-o", name, "small.c"];
    all.extend(args);
    run("cc", &all, &dir.0).then(|| dir.0.join(name))
}

/// The frames of every byte of a function.
fn walk(module: Module, (address, size): (u64, u64), dirs: Vec<PathBuf>) -> (Status, Vec<Frames>) {
    let mut symbolizer = Symbolizer::with_debug_dirs(dirs);
    let id = symbolizer.add_module(Space::default(), module);
    let frames = (address..address + size).map(|at| ours(&mut symbolizer, at)).collect();
    (symbolizer.status(id), frames)
}

/// Puts a file where its build id leads to, in `debug`.
fn file_by_id(dir: &Dir, from: &Path, id: &str) {
    let tree = dir.0.join("debug/.build-id").join(&id[..2]);
    fs::create_dir_all(&tree).unwrap();
    fs::rename(from, tree.join(format!("{}.debug", &id[2..]))).unwrap();
}

#[test]
fn debug_files_are_found_by_build_id_and_by_link() {
    let dir = Dir::new("separate");
    let Some(program) = build_rust(&dir, "program", &["-g"]) else { return };
    let (address, _) = symbol(&program, "program::outer");
    let (_, want) = functions(module_of(&program), address, Vec::new());
    assert!(want[0].2.is_some());
    if !run("objcopy", &["--only-keep-debug", "program", "program.debug"], &dir.0) {
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
    file_by_id(&dir, &dir.0.join("program.debug"), &id_of(&module_of(&bare)));
    let debug = || vec![dir.0.join("debug")];
    let (status, frames) = functions(module_of(&bare), address, debug());
    assert!(source(&status).lines);
    assert_eq!(frames, want);
    let gone = Module { path: dir.0.join("gone"), ..module_of(&bare) };
    let (_, frames) = functions(gone.clone(), address, debug());
    assert_eq!(frames, want);
    // Or another one may stand in its place: that is said, and its names are not taken.
    let other = build_c(&dir, "other", &["-g"]);
    if let Some(other) = other {
        let changed = Module { path: other, ..module_of(&bare) };
        assert_eq!(functions(changed.clone(), address, debug()).1, want);
        let (status, frames) = functions(changed, address, Vec::new());
        assert!(matches!(status, Status::Missing(Missing::OtherBuildId { .. })), "{status:?}");
        assert_eq!(frames, []);
    }
    // Nowhere: said, not guessed.
    let (status, frames) = functions(gone, address, Vec::new());
    assert_eq!(status, Status::Missing(Missing::NotFound));
    assert_eq!(frames, []);
    let (status, _) = functions(module_of(&bare), address, Vec::new());
    assert!(matches!(status, Status::Found(_) | Status::Missing(Missing::NoSymbols)));
}

#[test]
fn without_a_build_id_the_link_is_checked_by_its_sum() {
    let dir = Dir::new("checksum");
    let Some(program) = build_c(&dir, "program", &["-g", "-Wl,--build-id=none"]) else { return };
    let work = symbol(&program, "work");
    let (_, want) = walk(module_of(&program), work, Vec::new());
    if !run("objcopy", &["--only-keep-debug", "program", "program.debug"], &dir.0) {
        return;
    }
    let strip = ["--strip-all", "--add-gnu-debuglink=program.debug", "program", "bare"];
    assert!(run("objcopy", &strip, &dir.0));
    let (bare, debug) = (dir.0.join("bare"), dir.0.join("program.debug"));
    assert_eq!(module_of(&bare).build_id, None);
    let (status, frames) = walk(module_of(&bare), work, Vec::new());
    assert_eq!((source(&status).file.as_path(), frames), (debug.as_path(), want));
    // One byte is enough.
    let mut bytes = fs::read(&debug).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&debug, bytes).unwrap();
    let (status, frames) = walk(module_of(&bare), work, Vec::new());
    assert_eq!(status, Status::Missing(Missing::NoSymbols));
    assert!(frames.iter().all(Vec::is_empty));
}

#[test]
fn compressed_sections_are_read() {
    let dir = Dir::new("compressed");
    let Some(program) = build_rust(&dir, "program", &["-g"]) else { return };
    let (address, _) = symbol(&program, "program::outer");
    let (_, want) = functions(module_of(&program), address, Vec::new());
    for how in ["zlib", "zlib-gnu", "zstd"] {
        let option = format!("--compress-debug-sections={how}");
        let mut tool = Command::new("objcopy");
        let tried = tool.args([&option, "program", how]).current_dir(&dir.0).output();
        if !tried.is_ok_and(|out| out.status.success()) {
            println!("skipped: no objcopy that can do {how} runs here");
            continue;
        }
        let packed = dir.0.join(how);
        assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&program).unwrap().len());
        let (status, frames) = functions(module_of(&packed), address, Vec::new());
        assert!(source(&status).lines);
        assert_eq!(frames, want, "{how}");
    }
}

#[test]
fn units_that_were_split_off_are_found() {
    let dir = Dir::new("split");
    let Some(whole) = build_c(&dir, "whole", &["-g"]) else { return };
    let work = symbol(&whole, "work");
    let (_, want) = walk(module_of(&whole), work, Vec::new());
    assert!(want.iter().any(|frames| frames.len() == 2), "{want:?}");
    for version in ["4", "5"] {
        let name = format!("split{version}");
        let option = format!("-gdwarf-{version}");
        let split = build_c(&dir, &name, &["-g", "-gsplit-dwarf", &option]).unwrap();
        let dwo = dir.0.join(format!("{name}-small.dwo"));
        assert!(dwo.is_file(), "{}", dwo.display());
        assert_eq!(symbol(&split, "work"), work);
        let (status, frames) = walk(module_of(&split), work, Vec::new());
        assert_eq!((source(&status).partial.clone(), &frames), (None, &want), "{name}");
        // Moved, it is found by its name in a directory that one names.
        let moved = dir.0.join("moved");
        fs::create_dir_all(&moved).unwrap();
        fs::rename(&dwo, moved.join(dwo.file_name().unwrap())).unwrap();
        let (status, frames) = walk(module_of(&split), work, vec![moved]);
        assert_eq!((source(&status).partial.clone(), &frames), (None, &want), "{name}");
        // Gone: said; lines are still known, and the function by its symbol.
        let (status, frames) = walk(module_of(&split), work, Vec::new());
        let partial = source(&status).partial.as_deref().unwrap();
        assert!(partial.ends_with("-small.dwo, which was split off, is not there"), "{partial}");
        for (frames, want) in frames.iter().zip(&want) {
            let function = want.last().unwrap().0.clone();
            assert_eq!(frames, &[(function, want[0].1.clone(), want[0].2)]);
        }
        // Another unit's half is none of ours.
        let other = build_c(&dir, "other", &["-g", "-gsplit-dwarf", &option, "-DX=1"]).unwrap();
        assert!(other.is_file());
        fs::rename(dir.0.join("other-small.dwo"), &dwo).unwrap();
        let (status, _) = walk(module_of(&split), work, Vec::new());
        assert!(source(&status).partial.is_some());
    }
}

#[test]
fn rust_with_split_units_and_a_package() {
    let dir = Dir::new("split-rust");
    let Some(whole) = build_rust(&dir, "whole", &["-O", "-g"]) else { return };
    let outer = symbol(&whole, "program::outer");
    let (_, want) = walk(module_of(&whole), outer, Vec::new());
    let shape = |all: &[Frames]| -> Vec<Vec<(Option<String>, Option<u32>)>> {
        all.iter().map(|f| f.iter().map(|f| (f.0.clone(), f.2)).collect()).collect()
    };
    for how in ["unpacked", "packed"] {
        let option = format!("split-debuginfo={how}");
        let split = build_rust(&dir, how, &["-O", "-g", "-C", &option]).unwrap();
        assert_eq!(dir.0.join(format!("{how}.dwp")).is_file(), how == "packed");
        let outer = symbol(&split, "program::outer");
        let (status, frames) = walk(module_of(&split), outer, Vec::new());
        assert_eq!((source(&status).lines, &source(&status).partial), (true, &None));
        assert_eq!(shape(&frames), shape(&want), "{how}");
    }
}

#[test]
fn what_files_have_in_common_is_found() {
    let dir = Dir::new("dwz");
    let build = |name: &str| build_c(&dir, name, &["-g", "-gdwarf-4"]);
    let (Some(one), Some(_)) = (build("one"), build("two")) else { return };
    let work = symbol(&one, "work");
    let (_, want) = walk(module_of(&one), work, Vec::new());
    if !run("dwz", &["-m", "common", "one", "two"], &dir.0) {
        return;
    }
    let (status, frames) = walk(module_of(&one), work, Vec::new());
    assert_eq!((source(&status).partial.clone(), &frames), (None, &want));
    // Found by its build id as well, and not taken where it has another one.
    let id = id_of(&module_of(&dir.0.join("common")));
    file_by_id(&dir, &dir.0.join("common"), &id);
    let (status, frames) = walk(module_of(&one), work, vec![dir.0.join("debug")]);
    assert_eq!((source(&status).partial.clone(), &frames), (None, &want));
    let (status, _) = walk(module_of(&one), work, Vec::new());
    let missing = "common, which it refers to, is not there".to_owned();
    assert_eq!(source(&status).partial, Some(missing.clone()));
    fs::copy(dir.0.join("two"), dir.0.join("common")).unwrap();
    let (status, _) = walk(module_of(&one), work, Vec::new());
    assert_eq!(source(&status).partial, Some(missing));
}

#[test]
fn packed_symbols_are_unpacked() {
    let dir = Dir::new("mini");
    let Some(program) = build_c(&dir, "program", &[]) else { return };
    let work = symbol(&program, "work");
    let steps: [(&str, &[&str]); 4] = [
        ("objcopy", &["--only-keep-debug", "program", "table"]),
        ("xz", &["-9", "table"]),
        ("strip", &["-o", "bare", "program"]),
        ("objcopy", &["--add-section", ".gnu_debugdata=table.xz", "bare", "mini"]),
    ];
    if !steps.iter().all(|(tool, args)| run(tool, args, &dir.0)) {
        return;
    }
    let (status, frames) = walk(module_of(&dir.0.join("mini")), work, Vec::new());
    assert_eq!((source(&status).names, source(&status).lines), (Names::MiniDebug, false));
    let want: Frames = vec![(Some("work".to_owned()), None, None)];
    assert!(frames.iter().all(|frames| *frames == want), "{frames:?}");
    let (_, frames) = walk(module_of(&dir.0.join("bare")), work, Vec::new());
    assert!(frames.iter().all(Vec::is_empty), "{frames:?}");
}

/// The kernel's module in this process: where it is, and its bytes.
fn vdso() -> Option<(u64, Vec<u8>)> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    let mut bytes = vec![0; (number(end) - number(start)) as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, number(start)).ok()?;
    Some((number(start), bytes))
}

#[test]
fn the_kernels_module_is_that_of_the_same_kernel() {
    let Some((base, bytes)) = vdso() else {
        println!("skipped: this kernel brings no module");
        return;
    };
    let elf = object::File::parse(&*bytes).unwrap();
    let build_id = elf.build_id().unwrap().map(<[u8]>::to_vec);
    // Of several names at one address, any is right.
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for symbol in elf.dynamic_symbols().filter(|s| s.size() > 0 && s.is_definition()) {
        names.entry(symbol.address()).or_default().push(symbol.name().unwrap().to_owned());
    }
    names.retain(|_, names| {
        names.iter().any(|name| name.contains("clock") || name.contains("time"))
    });
    assert!(!names.is_empty());
    let module = Module {
        base: BIAS + base,
        size: bytes.len() as u64,
        bias: BIAS + base,
        build_id,
        path: "[vdso]".into(),
        ..Module::default()
    };
    let mut symbolizer = Symbolizer::new();
    let id = symbolizer.add_module(Space::default(), module.clone());
    for (address, names) in &names {
        let found = symbolizer.resolve(Space::default(), module.bias + address);
        let name = found.frames[0].function.as_deref().unwrap();
        assert!(names.iter().any(|n| n == name), "{name} is none of {names:?}");
    }
    let Status::Found(source) = symbolizer.status(id) else { panic!() };
    assert_eq!((source.file, source.names), ("[vdso]".into(), Names::DynamicSymbols));
    let other = Module { build_id: Some(vec![1, 2, 3]), ..module.clone() };
    let id = symbolizer.add_module(Space(1), other);
    assert_eq!(symbolizer.status(id), Status::Missing(Missing::OtherKernel));
    let unknown = Module { build_id: None, ..module };
    let id = symbolizer.add_module(Space(2), unknown);
    assert_eq!(symbolizer.status(id), Status::Missing(Missing::NoPath));
}

/// What the next test asks a process with another environment.
#[test]
#[ignore = "run by the_files_that_were_fetched_are_looked_at"]
fn asked_about_fetched_files() {
    let Ok(path) = std::env::var("SYMBOLIZE_ASKS") else { return };
    let bare = PathBuf::from(path);
    let program = bare.with_file_name("program");
    let work = symbol(&program, "work");
    let (_, want) = walk(module_of(&program), work, Vec::new());
    let (status, frames) = walk(module_of(&bare), work, Vec::new());
    assert_eq!((source(&status).lines, frames), (true, want));
}

#[test]
fn the_files_that_were_fetched_are_looked_at() {
    let dir = Dir::new("fetched");
    let Some(program) = build_c(&dir, "program", &["-g"]) else { return };
    if !run("objcopy", &["--only-keep-debug", "program", "debuginfo"], &dir.0)
        || !run("strip", &["-o", "bare", "program"], &dir.0)
    {
        return;
    }
    let place = dir.0.join("cache").join(id_of(&module_of(&program)));
    fs::create_dir_all(&place).unwrap();
    fs::rename(dir.0.join("debuginfo"), place.join("debuginfo")).unwrap();
    let ask = |cache: &Path| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "asked_about_fetched_files", "--ignored"])
            .env("SYMBOLIZE_ASKS", dir.0.join("bare"))
            .env("DEBUGINFOD_CACHE_PATH", cache)
            .output()
            .unwrap()
    };
    let out = ask(&dir.0.join("cache"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(!ask(&dir.0.join("elsewhere")).status.success(), "it looked");
}
