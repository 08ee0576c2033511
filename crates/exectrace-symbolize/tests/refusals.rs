//! What is refused: files that are not the module's, paths that name no file, and addresses that
//! lie in no module. Files made to do harm are in `hostile.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use object::Object;
use trace_symbolize::Missing;
use trace_symbolize::Module;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("refusals-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn status_of(module: Module) -> Status {
    let mut symbolizer = Symbolizer::new();
    let id = symbolizer.add_module(Space::default(), module.clone());
    let found = symbolizer.resolve(Space::default(), module.base);
    let status = symbolizer.status(id);
    if matches!(status, Status::Missing(_)) {
        assert_eq!(found.module, Some(id));
        assert_eq!(found.frames, []);
    }
    status
}

fn missing(module: Module) -> Missing {
    match status_of(module) {
        Status::Missing(why) => why,
        Status::Found(source) => panic!("found {source:?}"),
    }
}

/// This test's own program, as a module that is known by size and time.
fn own() -> Module {
    let path = std::env::current_exe().unwrap();
    by_size_and_time(&path)
}

fn by_size_and_time(path: &Path) -> Module {
    let meta = fs::metadata(path).unwrap();
    Module {
        base: 0x1000,
        size: 1 << 32,
        path: path.to_owned(),
        file_size: meta.len(),
        mtime: meta.mtime() as u64,
        ..Module::default()
    }
}

fn own_build_id() -> Option<Vec<u8>> {
    let data = fs::read(own().path).unwrap();
    object::File::parse(&*data).unwrap().build_id().unwrap().map(<[u8]>::to_vec)
}

#[test]
fn only_the_file_that_was_loaded() {
    assert!(matches!(status_of(own()), Status::Found(_)));
    let Module { file_size, mtime, .. } = own();
    assert_eq!(missing(Module { file_size: file_size + 1, ..own() }), Missing::OtherFile);
    assert_eq!(missing(Module { mtime: mtime + 1, ..own() }), Missing::OtherFile);
    assert_eq!(missing(Module { file_size: 0, mtime: 0, ..own() }), Missing::NoIdentity);
    let wrong = vec![1, 2, 0xab];
    let why = missing(Module { build_id: Some(wrong.clone()), ..own() });
    assert_eq!(why, Missing::OtherBuildId { module: wrong, file: own_build_id() });
    assert!(why.to_string().ends_with("expected 0102ab"), "{why}");
    if let Some(id) = own_build_id() {
        // A build id that agrees is enough, whatever size and time say.
        let module = Module { build_id: Some(id), file_size: 1, mtime: 1, ..own() };
        assert!(matches!(status_of(module), Status::Found(_)));
    }
}

#[test]
fn what_is_no_file_of_a_program() {
    let dir = Dir::new("files");
    let at = |path: &str| missing(Module { path: path.into(), ..own() });
    assert_eq!(at("linux-vdso.so.1"), Missing::NoPath);
    assert_eq!(at(""), Missing::NoPath);
    assert_eq!(at("/a\0b"), Missing::NoPath);
    assert_eq!(at("/nowhere/lib.so (deleted)"), Missing::NotFound);
    assert_eq!(at("/"), Missing::NotAFile);
    assert_eq!(at("/dev/zero"), Missing::NotAFile);
    // To open a pipe without a writer would wait for ever.
    let pipe = dir.0.join("pipe");
    if Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
        assert_eq!(at(pipe.to_str().unwrap()), Missing::NotAFile);
    }
    for (name, bytes) in [("text", &b"#!/bin/sh\n"[..]), ("short", b"\x7fELF"), ("empty", b"")] {
        let path = dir.0.join(name);
        fs::write(&path, bytes).unwrap();
        let why = missing(Module { file_size: 1, ..by_size_and_time(&path) });
        assert!(matches!(why, Missing::NotElf(_)), "{name}: {why}");
    }
}

#[test]
fn addresses_outside_of_modules_are_unknown() {
    let mut symbolizer = Symbolizer::new();
    let a = Module { base: 0x1000, size: 0x1000, path: "/a".into(), ..Module::default() };
    // A module that lies in a hole of another one.
    let b = Module { base: 0x1800, size: 0x100, path: "/b".into(), ..Module::default() };
    let space = Space::default();
    let a = symbolizer.add_module(space, a);
    let b = symbolizer.add_module(space, b);
    let mut at = |space, address| symbolizer.resolve(space, address).module;
    assert_eq!(at(space, 0xfff), None);
    assert_eq!(at(space, 0x1000), Some(a));
    assert_eq!(at(space, 0x1800), Some(b));
    assert_eq!(at(space, 0x1900), Some(a));
    assert_eq!(at(space, 0x2000), None);
    assert_eq!(at(space, u64::MAX), None);
    assert_eq!(at(Space(1), 0x1000), None);
    assert_eq!(symbolizer.resolve_return(space, 0).module, None);
}

/// Asks for every address of the first page and a half; gives how many had a name.
fn walk(path: &Path) -> usize {
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_module(Space::default(), Module { base: 0, ..by_size_and_time(path) });
    let mut named = |address| !symbolizer.resolve(Space::default(), address).frames.is_empty();
    (0xf00..0x1200).filter(|address| named(*address)).count()
}

#[test]
fn a_nest_of_inlined_functions_without_bound_is_refused() {
    let dir = Dir::new("nest");
    let source = |depth: u32| {
        let mut text = String::from(".text\n.globl work\n.type work,@function\nwork: nop\nnop\n");
        text += "end: .size work, .-work\n";
        text += ".section .debug_abbrev,\"\",@progbits\n";
        text += ".byte 1,0x11,1, 0x11,1, 0x12,7, 0,0\n"; // unit: low_pc addr, high_pc data8
        text += ".byte 2,0x2e,1, 0x3,8, 0x11,1, 0x12,7, 0,0\n"; // subprogram: name, the same
        text += ".byte 3,0x1d,1, 0x11,1, 0x12,7, 0,0, 0\n"; // inlined subroutine
        text += ".section .debug_info,\"\",@progbits\n.long 2f-1f\n1: .short 4\n.long 0\n.byte 8\n";
        text += ".byte 1\n.quad work, 2\n.byte 2\n.asciz \"deep\"\n.quad work, 2\n";
        text += &format!(".rept {depth}\n.byte 3\n.quad work, 2\n.endr\n");
        text += &format!(".rept {}\n.byte 0\n.endr\n2:\n", depth + 2);
        text
    };
    let mut lines = Vec::new();
    for depth in [200, 300, 200_000] {
        fs::write(dir.0.join("nest.s"), source(depth)).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-nostdlib", "-Wl,--build-id=none", "-o", "nest.so", "nest.s"])
            .current_dir(&dir.0)
            .status();
        if !built.is_ok_and(|s| s.success()) {
            println!("skipped: no assembler runs here");
            return;
        }
        let path = dir.0.join("nest.so");
        let Status::Found(source) = status_of(by_size_and_time(&path)) else { panic!("{depth}") };
        lines.push((source.lines, source.partial));
        assert!(walk(&path) > 0, "the symbol is still there");
    }
    let too_many = "debug information: too many functions inlined at one address".to_owned();
    assert_eq!(lines, [(true, None), (true, Some(too_many.clone())), (true, Some(too_many))]);
}
