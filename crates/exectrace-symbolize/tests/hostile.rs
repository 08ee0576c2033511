//! Files made to do harm, byte by byte: small ones that ask for any time or any memory, and every
//! damage to an honest one. Nothing here is timed. That work is bounded is seen by what is said of
//! the file, and by that the tests come to an end.

mod programs;

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use programs::BIAS;
use programs::Dir;
use programs::Frames;
use programs::module_of;
use programs::ours;
use programs::run;
use programs::symbol;
use trace_symbolize::Missing;
use trace_symbolize::Module;
use trace_symbolize::Names;
use trace_symbolize::Source;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;

/// Where the code of the files made here stands, and how much of it.
const CODE: (u64, u64) = (0x1000, 0x1000);

/// What is said of a file whose work is more than it may be.
const TOO_MUCH: &str = "its debug information is larger than its size explains";

/// Builds ELF files.
#[derive(Default)]
struct Made {
    sections: Vec<(String, Vec<u8>)>,
}

fn leb(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// An abbreviation: its number, tag, whether it has children, its attributes with their forms.
fn abbreviation(code: u64, tag: u64, children: bool, attributes: &[(u64, u64)]) -> Vec<u8> {
    let mut out = [leb(code), leb(tag), vec![u8::from(children)]].concat();
    for (name, form) in attributes.iter().chain(&[(0, 0)]) {
        out.extend(leb(*name));
        out.extend(leb(*form));
    }
    out
}

/// A unit of version 4 with these entries.
fn unit(abbreviations_at: u32, entries: &[u8]) -> Vec<u8> {
    let mut out = (entries.len() as u32 + 7).to_le_bytes().to_vec();
    out.extend(4u16.to_le_bytes());
    out.extend(abbreviations_at.to_le_bytes());
    out.push(8);
    out.extend(entries);
    out
}

const DW_TAG_INLINED: u64 = 0x1d;
const DW_TAG_UNIT: u64 = 0x11;
const DW_TAG_SUBPROGRAM: u64 = 0x2e;
const DW_AT_NAME: u64 = 0x03;
const DW_AT_STMT_LIST: u64 = 0x10;
const DW_AT_LOW_PC: u64 = 0x11;
const DW_AT_HIGH_PC: u64 = 0x12;
const DW_AT_ABSTRACT_ORIGIN: u64 = 0x31;
const DW_AT_RANGES: u64 = 0x55;
const DW_FORM_ADDR: u64 = 0x01;
const DW_FORM_DATA8: u64 = 0x07;
const DW_FORM_STRING: u64 = 0x08;
const DW_FORM_REF4: u64 = 0x13;
const DW_FORM_INDIRECT: u64 = 0x16;
const DW_FORM_SEC_OFFSET: u64 = 0x17;
const DW_FORM_FLAG_PRESENT: u64 = 0x19;

/// The attributes of the code of all of the file, and how they are written.
const ALL_CODE: [(u64, u64); 2] = [(DW_AT_LOW_PC, DW_FORM_ADDR), (DW_AT_HIGH_PC, DW_FORM_DATA8)];

fn all_code() -> Vec<u8> {
    [CODE.0.to_le_bytes(), CODE.1.to_le_bytes()].concat()
}

impl Made {
    fn with(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.sections.push((name.to_owned(), bytes));
        self
    }

    /// The file: these sections, one of code, a build id, and a symbol `work` for all of the code.
    fn bytes(&self) -> Vec<u8> {
        // Name, type, flags, address, place in the file (or 0), length, link, entry size.
        let mut heads: Vec<[u64; 8]> = vec![[0; 8]];
        let (mut names, mut out) = (vec![0u8], vec![0u8; 64]);
        let mut add = |name: &str, what: [u64; 3], bytes: &[u8], link: u64, entry: u64| {
            let at = out.len() as u64;
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(8), 0);
            heads.push([
                names.len() as u64,
                what[0],
                what[1],
                what[2],
                at,
                bytes.len() as u64,
                link,
                entry,
            ]);
            names.extend(name.bytes().chain([0]));
        };
        let note = [4u32, 4, 3].map(u32::to_le_bytes).concat();
        add(
            ".note.gnu.build-id",
            [7, 2, 0],
            &[&note, &b"GNU\0\x01\x02\x03\x04"[..]].concat(),
            0,
            0,
        );
        add(".text", [8, 6, CODE.0], &[], 0, 0);
        add(".strtab", [3, 0, 0], b"\0work\0", 0, 0);
        let mut symbols = vec![0; 24];
        symbols.extend(1u32.to_le_bytes());
        symbols.extend([0x12, 0, 2, 0]);
        symbols.extend(all_code());
        add(".symtab", [2, 0, 0], &symbols, 3, 24);
        for (name, bytes) in &self.sections {
            add(name, [1, 0, 0], bytes, 0, 0);
        }
        add(".shstrtab", [3, 0, 0], &[], 0, 0);
        // No bytes, but a size, as where code was stripped.
        heads[2][5] = CODE.1;
        let last = heads.len() - 1;
        (heads[last][4], heads[last][5]) = (out.len() as u64, names.len() as u64);
        out.extend(&names);
        out.resize(out.len().next_multiple_of(8), 0);
        let table = out.len() as u64;
        for [name, what, flags, address, at, len, link, entry] in heads {
            out.extend([name as u32, what as u32].map(u32::to_le_bytes).concat());
            out.extend([flags, address, at, len].map(u64::to_le_bytes).concat());
            out.extend([link as u32, 0].map(u32::to_le_bytes).concat());
            out.extend([4, entry].map(u64::to_le_bytes).concat());
        }
        out[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        out[16..24].copy_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        out[40..48].copy_from_slice(&table.to_le_bytes());
        out[52..64].copy_from_slice(&[64, 0, 56, 0, 0, 0, 64, 0, last as u8 + 1, 0, last as u8, 0]);
        out
    }

    /// Writes it, asks for some addresses, and gives what is said of it and of the first address.
    fn ask(&self, dir: &Dir) -> (Status, Frames) {
        let path = dir.0.join("made");
        fs::write(&path, self.bytes()).unwrap();
        ask(module_of(&path))
    }
}

fn ask(module: Module) -> (Status, Frames) {
    let mut symbolizer = Symbolizer::new();
    let id = symbolizer.add_module(Space::default(), module);
    let first = ours(&mut symbolizer, CODE.0);
    for address in (CODE.0..CODE.0 + CODE.1).step_by(97) {
        ours(&mut symbolizer, address);
    }
    (symbolizer.status(id), first)
}

/// Asserts that this was said, and that the symbol was still found.
fn refused(asked: (Status, Frames), why: &str) {
    let (status, first) = asked;
    let Status::Found(Source { partial, .. }) = status else { panic!("{status:?}") };
    assert_eq!(partial.as_deref(), Some(why));
    assert_eq!(first, [(Some("work".to_owned()), None, None)]);
}

/// A unit with a function for all of the code, whose entries follow.
fn with_function(entries: &[u8]) -> Vec<u8> {
    unit(0, &[&[1], &all_code()[..], &[2], b"deep\0", &all_code(), entries, &[0, 0]].concat())
}

fn head_abbreviations() -> Vec<u8> {
    let function = [&[(DW_AT_NAME, DW_FORM_STRING)], &ALL_CODE[..]].concat();
    [
        abbreviation(1, DW_TAG_UNIT, true, &ALL_CODE),
        abbreviation(2, DW_TAG_SUBPROGRAM, true, &function),
    ]
    .concat()
}

#[test]
fn the_files_made_here_are_read() {
    let dir = Dir::new("hostile-honest");
    let info = with_function(&[]);
    let abbreviations = [head_abbreviations(), vec![0]].concat();
    let made = Made::default().with(".debug_info", info).with(".debug_abbrev", abbreviations);
    let (status, first) = made.ask(&dir);
    let Status::Found(source) = status else { panic!("{status:?}") };
    assert_eq!((source.names, source.partial), (Names::DebugInformation, None));
    assert_eq!(first, [(Some("deep".to_owned()), None, None)]);
}

#[test]
fn attributes_of_no_bytes_are_work_too() {
    let dir = Dir::new("hostile-flags");
    // 300,000 entries of one byte with 20,000 attributes each: 6 milliards.
    let flags = vec![(0x3f, DW_FORM_FLAG_PRESENT); 20_000];
    for tag in [DW_TAG_INLINED, DW_TAG_SUBPROGRAM, 0x34] {
        let parts = [head_abbreviations(), abbreviation(3, tag, false, &flags), vec![0]];
        let made = Made::default()
            .with(".debug_info", with_function(&vec![3; 300_000]))
            .with(".debug_abbrev", parts.concat());
        refused(made.ask(&dir), TOO_MUCH);
    }
}

#[test]
fn a_list_of_ranges_that_everybody_shares_is_read_no_thousand_times() {
    let dir = Dir::new("hostile-ranges");
    let mut ranges = Vec::new();
    for i in 0..20_000u64 {
        ranges.extend([CODE.0 + i % 0x800, CODE.0 + 0x800].map(u64::to_le_bytes).concat());
    }
    ranges.extend([0; 16]);
    let by_ranges = [(DW_AT_RANGES, DW_FORM_SEC_OFFSET)];
    for tag in [DW_TAG_INLINED, DW_TAG_SUBPROGRAM] {
        let abbreviations =
            [head_abbreviations(), abbreviation(3, tag, false, &by_ranges), vec![0]];
        let made = Made::default()
            .with(".debug_info", with_function(&[3, 0, 0, 0, 0].repeat(20_000)))
            .with(".debug_abbrev", abbreviations.concat())
            .with(".debug_ranges", ranges.clone());
        refused(made.ask(&dir), TOO_MUCH);
    }
    // And units instead of functions.
    let abbreviations = [abbreviation(1, DW_TAG_UNIT, false, &by_ranges), vec![0]].concat();
    let made = Made::default()
        .with(".debug_info", unit(0, &[1, 0, 0, 0, 0]).repeat(20_000))
        .with(".debug_abbrev", abbreviations)
        .with(".debug_ranges", ranges);
    refused(made.ask(&dir), TOO_MUCH);
}

#[test]
fn tables_that_overlap_are_not_read_for_every_unit() {
    let dir = Dir::new("hostile-tables");
    // Each unit begins one abbreviation further on in the same table.
    let one = abbreviation(0x4000, 0x34, false, &[]);
    let units: Vec<u8> = (0..20_000).flat_map(|i| unit(i * one.len() as u32, &[1])).collect();
    let mut table = Vec::new();
    for code in 0..60_000u64 {
        table.extend(abbreviation(0x4000 + code % 0x8000, 0x34, false, &[]));
    }
    table.push(0);
    let made = Made::default().with(".debug_info", units).with(".debug_abbrev", table);
    let (status, first) = made.ask(&dir);
    let Status::Found(source) = status else { panic!("{status:?}") };
    assert!(source.partial.is_some(), "{source:?}");
    assert_eq!(first, [(Some("work".to_owned()), None, None)]);
}

#[test]
fn units_that_all_cover_an_address_are_not_all_read_for_it() {
    let dir = Dir::new("hostile-units");
    let abbreviations = [
        abbreviation(
            1,
            DW_TAG_UNIT,
            true,
            &[&ALL_CODE[..], &[(DW_AT_STMT_LIST, DW_FORM_SEC_OFFSET)]].concat(),
        ),
        vec![0],
    ];
    // A program of a megabyte that advances lines and never ends a sequence.
    let mut lines = (1_000_000u32 + 24).to_le_bytes().to_vec();
    lines.extend([4, 0, 18, 0, 0, 0, 1, 1, 1, 0, 1, 13]);
    lines.extend([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    lines.extend([0, 0]);
    lines.extend(vec![0x20; 1_000_000 - 2]);
    let made = Made::default()
        .with(
            ".debug_info",
            unit(0, &[&[1], &all_code()[..], &[0, 0, 0, 0, 0]].concat()).repeat(30_000),
        )
        .with(".debug_abbrev", abbreviations.concat())
        .with(".debug_line", lines);
    let (status, first) = made.ask(&dir);
    assert!(matches!(status, Status::Found(_)));
    assert_eq!(first, [(Some("work".to_owned()), None, None)]);
}

#[test]
fn names_that_lead_in_a_circle_and_forms_that_lead_to_themselves() {
    let dir = Dir::new("hostile-circle");
    let origin = [&[(DW_AT_ABSTRACT_ORIGIN, DW_FORM_REF4)], &ALL_CODE[..]].concat();
    let abbreviations = [
        abbreviation(1, DW_TAG_UNIT, true, &ALL_CODE),
        abbreviation(2, DW_TAG_SUBPROGRAM, false, &origin),
        vec![0],
    ];
    // The function at 28 refers to itself.
    let entries = [&[1], &all_code()[..], &[2], &28u32.to_le_bytes(), &all_code(), &[0]].concat();
    let made = Made::default()
        .with(".debug_info", unit(0, &entries))
        .with(".debug_abbrev", abbreviations.concat());
    let (_, first) = made.ask(&dir);
    assert_eq!(first, [(Some("work".to_owned()), None, None)]);
    // A form that says that the form follows, again and again.
    let indirect = [(DW_AT_NAME, DW_FORM_INDIRECT)];
    let abbreviations =
        [head_abbreviations(), abbreviation(3, DW_TAG_SUBPROGRAM, false, &indirect), vec![0]];
    let made = Made::default()
        .with(
            ".debug_info",
            with_function(&[&[3], &vec![DW_FORM_INDIRECT as u8; 100_000][..]].concat()),
        )
        .with(".debug_abbrev", abbreviations.concat());
    assert!(matches!(made.ask(&dir).0, Status::Found(_)));
}

#[test]
fn a_name_of_megabytes_is_not_taken() {
    let dir = Dir::new("hostile-name");
    let name = [&vec![b'a'; 4 << 20][..], b"\0"].concat();
    let entries = [&[1], &all_code()[..], &[2], &name, &all_code(), &[0, 0]].concat();
    let made = Made::default()
        .with(".debug_info", unit(0, &entries))
        .with(".debug_abbrev", [head_abbreviations(), vec![0]].concat());
    let (_, first) = made.ask(&dir);
    assert!(first[0].0.as_ref().is_none_or(|name| name == "work"), "{} bytes", first.len());
}

#[test]
fn sections_that_grow_without_bound_are_refused() {
    let dir = Dir::new("hostile-growth");
    // The old form of compressed sections, with a declared size and no data worth the name.
    let packed =
        |size: u64, rest: usize| [&b"ZLIB"[..], &size.to_be_bytes(), &vec![0; rest]].concat();
    for (size, rest, want) in [
        (u64::MAX, 100, ".debug_info: 18446744073709551615 bytes are too many"),
        (1 << 30, 1 << 20, ".debug_info: 1073741824 bytes are too many"),
        (1 << 20, 100, ".debug_info: Invalid zlib compressed data"),
    ] {
        let made =
            Made::default().with(".zdebug_info", packed(size, rest)).with(".debug_info", vec![]);
        let made = Made { sections: made.sections.into_iter().rev().skip(1).collect() };
        let (status, first) = made.ask(&dir);
        let Status::Found(source) = status else { panic!("{status:?}") };
        let partial = source.partial.unwrap_or_default();
        // Where only the packed form is there, it is debug information like any other.
        assert!(partial.is_empty() || partial == want, "{partial}");
        assert_eq!(first, [(Some("work".to_owned()), None, None)]);
    }
}

#[test]
fn sizes_beyond_the_file_are_not_believed() {
    let dir = Dir::new("hostile-sizes");
    let honest = Made::default()
        .with(".debug_info", with_function(&[]))
        .with(".debug_abbrev", [head_abbreviations(), vec![0]].concat())
        .bytes();
    let path = dir.0.join("made");
    let table = u64::from_le_bytes(*honest[40..].first_chunk().unwrap()) as usize;
    let count = honest[60] as usize;
    let mut asked = 0;
    for section in 0..count {
        for field in [24, 32, 40, 56] {
            for value in [u64::MAX, 1 << 62, 1 << 40, honest.len() as u64, 1, 0] {
                let mut bytes = honest.clone();
                let at = table + 64 * section + field;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                fs::write(&path, bytes).unwrap();
                ask(Module { build_id: Some(vec![1, 2, 3, 4]), ..by_time(&path) });
                asked += 1;
            }
        }
    }
    assert_eq!(asked, count * 24);
}

/// A module that is known by size and time.
fn by_time(path: &Path) -> Module {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).unwrap();
    let (file_size, mtime) = (meta.len(), meta.mtime() as u64);
    Module {
        base: BIAS,
        size: 1 << 30,
        bias: BIAS,
        build_id: None,
        path: path.into(),
        file_size,
        mtime,
    }
}

#[test]
fn a_sparse_file_of_terabytes_costs_what_it_has() {
    let dir = Dir::new("hostile-sparse");
    let path = dir.0.join("made");
    let mut bytes = Made::default().bytes();
    let table = u64::from_le_bytes(*bytes[40..].first_chunk().unwrap()) as usize;
    // The symbols and the names are said to reach from here to the end.
    let size: u64 = 64 << 30;
    for section in [3, 4] {
        let at = table + 64 * section + 32;
        bytes[at..at + 8].copy_from_slice(&(size - (1 << 20)).to_le_bytes());
    }
    let file = File::create(&path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    if let Err(e) = file.set_len(size) {
        println!("skipped: no file of {size} bytes can be made here: {e}");
        return;
    }
    let (status, _) = ask(Module { build_id: Some(vec![1, 2, 3, 4]), ..by_time(&path) });
    assert!(matches!(status, Status::Found(_) | Status::Missing(_)));
}

/// A small library with debug information, and where its function stands.
fn honest(dir: &Dir) -> Option<(Vec<u8>, (u64, u64))> {
    let source = "static inline __attribute__((always_inline)) int half(int n) { return n / 2; }\n\
                  int work(int n) { return half(n) + half(n + 3); }\n";
    dir.write("small.c", source);
    let args = ["-g", "-O1", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=0x01020304", "-o"];
    let all = [&args[..], &["small.so", "small.c"]].concat();
    if !run("cc", &all, &dir.0) {
        return None;
    }
    let path = dir.0.join("small.so");
    Some((fs::read(&path).unwrap(), symbol(&path, "work")))
}

/// Asks for some addresses in and around a function; gives how many had a name.
fn look(path: &Path, (address, size): (u64, u64)) -> usize {
    let mut symbolizer = Symbolizer::new();
    let module =
        Module { build_id: Some(vec![1, 2, 3, 4]), path: path.into(), ..Module::default() };
    symbolizer.add_module(Space::default(), Module { base: 0, size: u64::MAX, ..module });
    let around = [0, 1, address - 1, address + size, u64::MAX - 1];
    let inside = (address..address + size).step_by(2);
    let mut named = |at| !symbolizer.resolve(Space::default(), at).frames.is_empty();
    around.into_iter().chain(inside).filter(|at| named(*at)).count()
}

#[test]
fn every_truncation_of_a_file() {
    let dir = Dir::new("hostile-cut");
    let Some((bytes, work)) = honest(&dir) else { return };
    let path = dir.0.join("cut.so");
    fs::write(&path, &bytes).unwrap();
    assert!(look(&path, work) > 5, "the whole file has names");
    let file = File::options().write(true).open(&path).unwrap();
    for len in (0..bytes.len() as u64).rev() {
        file.set_len(len).unwrap();
        assert_eq!(look(&path, work), 0, "its headers stand at the end, and {len} are left");
    }
}

#[test]
fn flips_of_any_bytes_of_a_file() {
    let dir = Dir::new("hostile-flips");
    let Some((bytes, work)) = honest(&dir) else { return };
    let path = dir.0.join("flipped.so");
    let seed = std::env::var("SYMBOLIZE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    println!("SYMBOLIZE_SEED={seed}");
    let (mut with_names, mut without) = (0, 0);
    for _ in 0..3_000 {
        let mut flipped = bytes.clone();
        for _ in 0..=random(6) {
            let at = random(flipped.len());
            flipped[at] = match random(4) {
                0 => 0xff,
                1 => 0,
                2 => flipped[at] ^ 1 << random(8),
                _ => random(256) as u8,
            };
        }
        fs::write(&path, flipped).unwrap();
        match look(&path, work) {
            0 => without += 1,
            _ => with_names += 1,
        }
    }
    println!("{with_names} with names, {without} without");
    assert!(with_names > 100 && without > 0);
}

#[test]
fn links_to_what_is_no_file_are_not_followed() {
    let dir = Dir::new("hostile-links");
    let pipe = dir.0.join("pipe");
    if !Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
        println!("skipped: mkfifo does not run here");
        return;
    }
    let link = [&b"pipe\0\0\0\0"[..], &[0; 4]].concat();
    let alt = [pipe.to_str().unwrap().as_bytes(), &[0, 1, 2, 3, 4]].concat();
    let info = with_function(&[]);
    let abbreviations = [head_abbreviations(), vec![0]].concat();
    // By the link to a debug file, by that to a common one, as package and as one's own path.
    let made = Made::default().with(".gnu_debuglink", link);
    assert_eq!(made.ask(&dir).1, [(Some("work".to_owned()), None, None)]);
    fs::rename(&pipe, dir.0.join("made.dwp")).unwrap();
    let made = Made::default()
        .with(".debug_info", info)
        .with(".debug_abbrev", abbreviations)
        .with(".gnu_debugaltlink", alt);
    assert_eq!(made.ask(&dir).1, [(Some("deep".to_owned()), None, None)]);
    let (status, _) =
        ask(Module { path: dir.0.join("made.dwp"), ..module_of(&dir.0.join("made")) });
    assert_eq!(status, Status::Missing(Missing::NotAFile));
    let devices = ["/dev/zero", "/dev/tty", "/proc/self/fd/0", "/proc/kmsg"].map(PathBuf::from);
    for path in devices {
        let (status, frames) = ask(Module { path, ..module_of(&dir.0.join("made")) });
        assert!(matches!(status, Status::Missing(_)), "{status:?}");
        assert_eq!(frames, []);
    }
}
