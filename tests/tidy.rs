//! The rules of the house that a compiler does not check: floors, words, homes of packages, unsafe
//! code, length of lines and functions.
//!
//! 1. Each check counts what it looked at, and fails when that is nothing.
//! 2. Each rule is first tried on a text that breaks it (`the_rules_find_what_they_look_for`).
//! 3. An exception stands in a list here, with its reason; one that is no longer needed fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

mod tidy {
    pub mod source;
}

use tidy::source::Source;

/// The modules of the library from the ground up. A module names modules of earlier rows only.
const FLOORS: [(&str, &[&str]); 16] = [
    ("ground: pure", &["encode", "sync"]),
    ("ground: the door to the system; its CRC is a twin of encode's", &["sys"]),
    ("stores: memory and time", &["buf", "clock"]),
    ("stores: the definition log, in segments of buf", &["intern"]),
    ("stores: the shared memory", &["mapping"]),
    ("tables: ids for repeated things", &["site", "stacktab", "stringtab"]),
    ("tables: all of them, at one address", &["tables"]),
    ("threads: who traces, the gate", &["registry"]),
    ("threads: another copy that owns the recording", &["owner"]),
    ("hot path", &["emit"]),
    ("control: what the kernel saw of threads", &["coverage", "kernel"]),
    ("control: what happens to full buffers", &["controller"]),
    ("control: start and stop", &["session"]),
    ("porch: what a program touches", &["annotate"]),
    ("porch: what hooks of blocking calls say", &["block"]),
    ("porch: what other copies in the process say", &["copies"]),
];
/// Files that may name anything of the library.
const ROOF: &str = "src/lib.rs";
/// Macros run in other crates, so they name what the roof exports.
const MACROS: &str = "src/annotate/macros.rs";

/// Files that may name one module above them all the same.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("src/buf/test_arena.rs", "intern", "compiled for tests only, those of buf and of intern")];

/// Outside packages of the library, and the places that may name them.
const HOMES: [(&str, &[&str]); 2] =
    [("libc", &["src/sys/"]), ("loom", &["src/sync/", "src/registry/gate/"])];

/// Who may use unsafe code, and what for.
const UNSAFE: [(&str, &str); 46] = [
    ("src/annotate/log.rs", "puts a text that is formatted already into a buffer"),
    ("src/annotate/mod.rs", "puts fields into a buffer"),
    ("src/annotate/span.rs", "puts fields into a buffer; sites that are never freed"),
    ("src/annotate/task.rs", "puts fields into a buffer"),
    ("src/annotate/thread.rs", "puts fields into a buffer"),
    ("src/annotate/value.rs", "puts values into a buffer"),
    ("src/block.rs", "puts fields into a buffer"),
    ("src/buf/mod.rs", "what a mapping promises of its buffers"),
    ("src/buf/test_arena.rs", "keeps that promise in tests"),
    ("src/clock/aarch64.rs", "reads the counter"),
    ("src/clock/mod.rs", "asks for the clock"),
    ("src/clock/x86_64.rs", "reads the counter"),
    ("src/copies.rs", "what other copies in the process lend"),
    ("src/controller.rs", "copies what a stopped thread published"),
    ("src/emit.rs", "writes into the thread's own buffer"),
    ("src/encode/varint.rs", "writes and reads eight bytes at once"),
    ("src/intern/mod.rs", "compares a key with words that were written once"),
    ("src/intern/body.rs", "the bytes of a segment"),
    ("src/intern/log.rs", "the bytes of an entry"),
    ("src/mapping/mod.rs", "places in the shared memory"),
    ("src/owner.rs", "calls the copy that owns the recording"),
    ("src/registry/gate/loom_tests.rs", "threads of a model share a cell"),
    ("src/registry/local.rs", "the thread's own record"),
    ("src/registry/mod.rs", "hooks of thread end and of fork"),
    ("src/session/outside.rs", "gives a mapping back that nothing refers to"),
    ("src/session/lock.rs", "the cell behind a lock that a forked child may take"),
    ("src/session/mod.rs", "the bytes of a batch that is the holder's"),
    ("src/session/writing.rs", "the writer on its way to its thread"),
    ("src/stacktab/capture.rs", "reads frames of the own stack"),
    ("src/stacktab/mod.rs", "compares a stack with words that were written once"),
    ("src/stacktab/modules.rs", "what the loader says of modules"),
    ("src/stringtab.rs", "compares a text with words that were written once"),
    ("src/sync/model.rs", "reads words that were written once, as plain ones"),
    ("src/sync/real.rs", "reads words that were written once, as plain ones"),
    ("src/tables.rs", "the memory of the tables"),
    ("src/sys/tls.rs", "the thread pointer"),
    ("src/sys/arch/", "registers and instructions of the machine"),
    ("src/sys/errno.rs", "calls the system"),
    ("src/sys/", "calls the system"),
    ("tests/", "tests of all these, signal handlers, forked children"),
    ("benches/", "measures what is unsafe"),
    ("crates/exectrace-kernel/", "calls the system, and reads memory that the kernel writes"),
    ("crates/exectrace-hooks/", "stands in for functions of the C library"),
    ("crates/exectrace-preload/", "runs before the program, in it"),
    ("crates/exectrace-unwind/", "reads the own stack and the tables of loaded modules"),
    ("crates/", "nothing: the roots forbid it, and the compiler holds them to it"),
];

/// A crate of the workspace may depend on these of ours.
const STAIR: [(&str, &[&str]); 11] = [
    ("exectrace", &[]),
    ("exectrace-symbolize", &[]),
    ("exectrace-kernel", &[]),
    ("exectrace-decode", &["exectrace"]),
    ("exectrace-testkit", &["exectrace", "exectrace-decode"]),
    ("exectrace-analyze", &["exectrace", "exectrace-decode"]),
    ("exectrace-hooks", &["exectrace"]),
    ("exectrace-unwind", &["exectrace"]),
    ("exectrace-preload", &["exectrace", "exectrace-hooks", "exectrace-unwind"]),
    ("exectrace-record", &["exectrace", "exectrace-kernel"]),
    (
        "exectrace-cli",
        &[
            "exectrace",
            "exectrace-decode",
            "exectrace-analyze",
            "exectrace-symbolize",
            "exectrace-record",
        ],
    ),
];
/// What the recorder may bring into a program.
const RECORDER_NEEDS: [&str; 1] = ["libc"];

/// Words that the glossary rules out, where they are another's words.
const OTHERS_WORDS: [(&str, &str, &str); 1] =
    [("crates/exectrace-decode/src/text.rs", "chunk", "utf8_chunks of the standard library")];
/// Names of the standard library that have such words in them.
const OTHERS_NAMES: [&str; 1] = ["first_chunk"];

const LINE_CHARS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
/// A test may be a list of cases.
const TEST_LINES_MAX: usize = 110;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 5] = ["util", "utils", "common", "helpers", "misc"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below these places of the repository with this extension, as (path, text).
fn files(places: &[&str], extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = places.iter().map(|p| root().join(p)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n == "target") {
                continue;
            }
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == extension) {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Every Rust file of the repository.
fn rust() -> Vec<(String, String)> {
    files(&["src", "crates", "tests", "examples", "benches", "build.rs"], "rs")
}

/// Fails with all breaches, or when nothing was looked at.
fn report(looked_at: usize, breaches: &[String]) {
    assert!(looked_at > 0, "nothing was looked at");
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&module))
}

/// The module of the library that a file belongs to.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap();
    inside.split(['/', '.']).next().unwrap()
}

/// Names of the library's modules that this file may not name. Adds to `seen` what it names.
fn floor_breaches(path: &str, text: &str, seen: &mut usize) -> Vec<String> {
    let source = Source::new(text);
    let own = module_of(path);
    let Some(floor) = floor_of(own) else {
        return vec![format!("{path}: the module {own} stands on no floor")];
    };
    let mut breaches = Vec::new();
    for (line, name, of_macro) in source.crate_names() {
        *seen += 1;
        match floor_of(name) {
            _ if of_macro && path == MACROS => {}
            _ if name == own => {}
            Some(other) if other < floor => {}
            _ if EXCEPTIONS.iter().any(|(p, n, _)| (*p, *n) == (path, name)) => {}
            Some(_) => breaches.push(format!("{path}:{line}: {own} names {name}, not below it")),
            None if name.is_empty() => {
                breaches.push(format!("{path}:{line}: a grouped use; one line for each name"));
            }
            None => breaches.push(format!("{path}:{line}: {name} is no module: name its home")),
        }
    }
    // Comments may point at what the roof exports, but not at modules above.
    for (line, name) in source.crate_names_in_comments() {
        if floor_of(name).is_some_and(|other| other >= floor) && name != own {
            breaches.push(format!("{path}:{line}: {own} speaks of {name}, which is above it"));
        }
    }
    breaches
}

#[test]
fn a_module_names_lower_floors_only() {
    let mut breaches = Vec::new();
    let (mut seen, mut modules) = (0, BTreeSet::new());
    for (path, text) in files(&["src"], "rs") {
        if path != ROOF {
            modules.insert(module_of(&path).to_owned());
            breaches.extend(floor_breaches(&path, &text, &mut seen));
        }
    }
    for (floor, names) in FLOORS {
        for name in names.iter().filter(|n| !modules.contains(**n)) {
            breaches.push(format!("floor {floor:?} has {name}, which is not there"));
        }
    }
    report(seen, &breaches);
}

/// Outside packages that are named away from home.
fn home_breaches(path: &str, text: &str, seen: &mut usize) -> Vec<String> {
    // Unit tests compare with the system's own answers.
    let source = Source::new(text.split("#[cfg(test)]\nmod ").next().unwrap());
    let mut breaches = Vec::new();
    for (package, homes) in HOMES {
        for line in source.lines_with_path(package) {
            *seen += 1;
            if !homes.iter().any(|h| path.starts_with(h)) {
                breaches.push(format!("{path}:{line}: {package} lives in {}", homes.join(", ")));
            }
        }
    }
    breaches
}

#[test]
fn each_outside_package_has_one_home() {
    let mut seen = 0;
    let sources = files(&["src"], "rs");
    let breaches: Vec<_> =
        sources.iter().flat_map(|(path, text)| home_breaches(path, text, &mut seen)).collect();
    report(seen, &breaches);
}

#[test]
fn unsafe_code_stands_where_it_is_named() {
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for (path, text) in rust() {
        if Source::new(&text).code_words().any(|(_, word)| word == "unsafe") {
            match UNSAFE.iter().find(|(place, _)| path.starts_with(place)) {
                Some((place, _)) => _ = used.insert(*place),
                None => breaches.push(format!("{path}: unsafe code, and no reason in this list")),
            }
        }
    }
    for (place, _) in UNSAFE.iter().filter(|(p, _)| p.starts_with("src/") && !used.contains(p)) {
        breaches.push(format!("{place} has no unsafe code any more: take it off the list"));
    }
    for (path, text) in files(&["crates"], "rs") {
        let is_root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
        let stands_in = ["hooks", "kernel", "preload", "unwind"]
            .iter()
            .any(|c| path.contains(&format!("exectrace-{c}/")));
        if is_root && !stands_in && !text.contains("#![forbid(unsafe_code)]") {
            breaches.push(format!("{path}: a member crate forbids unsafe code"));
        }
    }
    report(used.len(), &breaches);
}

/// Names of the packages in one section of a manifest.
fn needs(manifest: &str, section: &str) -> Vec<String> {
    let body = manifest.split_once(&format!("[{section}]\n")).map_or("", |(_, rest)| rest);
    let body = body.split("\n[").next().unwrap_or("");
    let names =
        body.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(['=', '.']));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

#[test]
fn crates_depend_downwards() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    let mut manifests = files(&["crates"], "toml");
    // Deeper ones are workspaces of their own, for tools that only tests use.
    manifests.retain(|(path, _)| path.split('/').count() == 3);
    manifests.push(("Cargo.toml".into(), fs::read_to_string(root().join("Cargo.toml")).unwrap()));
    for (path, text) in manifests {
        let name =
            path.strip_prefix("crates/").map_or("exectrace", |p| p.split('/').next().unwrap());
        let Some((_, below)) = STAIR.iter().find(|(n, _)| *n == name) else {
            breaches.push(format!("{path}: {name} stands on no stair"));
            continue;
        };
        for need in needs(&text, "dependencies") {
            seen += 1;
            if need.starts_with("exectrace") && !below.contains(&need.as_str()) {
                breaches.push(format!("{path}: {name} depends on {need}"));
            }
            if name == "exectrace" && !RECORDER_NEEDS.contains(&need.as_str()) {
                breaches.push(format!("{path}: the recorder brings {need} into every program"));
            }
        }
    }
    report(seen, &breaches);
}

/// What is wrong with the form of a Rust file.
fn form_breaches(path: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push(format!("{path}:1: a file opens with what it is (//!)"));
    }
    for (n, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", n + 1);
        if line.chars().count() > LINE_CHARS_MAX {
            breaches.push(format!("{at}: longer than {LINE_CHARS_MAX} characters"));
        }
        if line.contains('\t') || line.ends_with(' ') {
            breaches.push(format!("{at}: a tab, or a blank at the end"));
        }
    }
    let stem = Path::new(path).file_stem().unwrap().to_str().unwrap();
    if EMPTY_NAMES.contains(&stem) {
        breaches.push(format!("{path}: {stem} does not say what is in it"));
    }
    let is_test = path.starts_with("tests/") || path.contains("/tests/");
    let lines_max = if is_test { TEST_LINES_MAX } else { FUNCTION_LINES_MAX };
    for (line, name, lines) in Source::new(text).functions() {
        if lines > lines_max {
            breaches.push(format!("{path}:{line}: {name} has {lines} lines"));
        }
    }
    breaches
}

#[test]
fn files_have_their_form() {
    let sources = rust();
    let functions: usize = sources.iter().map(|(_, t)| Source::new(t).functions().len()).sum();
    assert!(functions > sources.len(), "the functions were not seen");
    let breaches: Vec<_> = sources.iter().flat_map(|(p, t)| form_breaches(p, t)).collect();
    report(sources.len(), &breaches);
}

/// Words for work that is not done, put together so that this file does not have them.
fn unfinished() -> [String; 3] {
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")].map(str::to_owned)
}

#[test]
fn nothing_is_left_for_later() {
    let mut all = rust();
    for extension in ["md", "toml", "py", "c"] {
        all.extend(files(&["src", "crates", "tests", "docs", "benches"], extension));
    }
    all.extend(files(&["README.md", "ARCHITECTURE.md", "GLOSSARY.md", "CHANGELOG.md"], "md"));
    let mut breaches = Vec::new();
    for (path, text) in &all {
        for (n, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if words.any(|w| unfinished().iter().any(|u| u == w)) {
                breaches.push(format!("{path}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    report(all.len(), &breaches);
}

/// The words that the glossary sets as code in its last column.
fn ruled_out(glossary: &str) -> BTreeSet<String> {
    let rows = glossary.lines().filter(|l| l.starts_with("| "));
    let last = rows.filter_map(|l| l.trim_end_matches([' ', '|']).rsplit_once('|'));
    last.flat_map(|(_, not)| not.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn word_breaches(path: &str, text: &str, words: &BTreeSet<String>) -> Vec<String> {
    let mut breaches = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let own = OTHERS_NAMES.iter().fold(line.to_owned(), |l, name| l.replace(name, ""));
        for word in tidy::source::words(&own) {
            let other = OTHERS_WORDS.iter().any(|(p, w, _)| *p == path && *w == word);
            if words.contains(&word) && !other {
                breaches.push(format!("{path}:{}: {word}; the glossary has another word", n + 1));
            }
        }
    }
    breaches
}

#[test]
fn words_are_those_of_the_glossary() {
    let words = ruled_out(&fs::read_to_string(root().join("GLOSSARY.md")).unwrap());
    assert!(words.len() >= 5, "the glossary was not understood: {words:?}");
    let sources = files(&["src", "crates"], "rs");
    let breaches: Vec<_> = sources.iter().flat_map(|(p, t)| word_breaches(p, t, &words)).collect();
    for (path, word, _) in OTHERS_WORDS {
        let text = fs::read_to_string(root().join(path)).unwrap();
        assert!(text.contains(word), "{path} has no {word} any more: take it off the list");
    }
    report(sources.len(), &breaches);
}

#[test]
fn design_notes_say_what_was_decided() {
    let notes = files(&["docs/design"], "md");
    let mut breaches = Vec::new();
    for (path, text) in &notes {
        for part in ["Context", "Choice", "Consequences"] {
            let begins = [format!("\n## {part}\n"), format!("\n**{part}.** ")];
            if !begins.iter().any(|b| text.contains(b)) {
                breaches.push(format!("{path}: does not say its {part}"));
            }
        }
        if !text.contains("\nStatus: ") {
            breaches.push(format!("{path}: does not say its status"));
        }
    }
    report(notes.len(), &breaches);
}

#[test]
fn documents_point_at_files_that_are_there() {
    let documents = ["README.md", "ARCHITECTURE.md", "GLOSSARY.md", "CHANGELOG.md", "docs"];
    let (mut seen, mut breaches) = (0, Vec::new());
    for (path, text) in files(&documents, "md") {
        for place in text.split('`').skip(1).step_by(2) {
            let starts = ["src/", "crates/", "docs/", "tests/", "ci/", ".ci/", "examples/"];
            let one = !place.contains(['*', '{', ' ', '<', '\n', 'N']);
            if one && starts.iter().any(|s| place.starts_with(s)) {
                seen += 1;
                // Tests are named with their file.
                if !root().join(place.split("::").next().unwrap()).exists() {
                    breaches.push(format!("{path}: {place} is not there"));
                }
            }
        }
    }
    report(seen, &breaches);
}

/// Where a file has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let begins = |l: &&str| l.starts_with(&format!("fn {name}("));
    let Some(at) = lines.iter().position(begins) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|l| l.starts_with("#["));
    attributes.into_iter().any(|l| *l == "#[test]")
}

/// What is wrong with the tables of faults. Adds to `seen` the tests that they name.
fn fault_breaches(
    text: &str,
    source: impl Fn(&str) -> Option<String>,
    seen: &mut usize,
) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut numbers = BTreeSet::new();
    for row in text.lines().filter(|l| l.starts_with("| F")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, _, _, shown] = cells[..] else {
            breaches.push(format!("not four columns: {row}"));
            continue;
        };
        if !numbers.insert(number) {
            breaches.push(format!("{number} stands there twice"));
        }
        let tests = shown.split('`').skip(1).step_by(2).filter_map(|t| t.split_once("::"));
        let mut named = 0;
        for (file, name) in tests {
            (named, *seen) = (named + 1, *seen + 1);
            if !source(file).is_some_and(|s| has_test(&s, name)) {
                breaches.push(format!("{number}: {file} has no test {name}"));
            }
        }
        if named == 0 && !shown.starts_with("Cannot arise: ") {
            breaches.push(format!("{number}: neither a test nor why it cannot arise"));
        }
    }
    breaches
}

#[test]
fn faults_name_tests_that_are_there() {
    let text = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let mut seen = 0;
    let source = |file: &str| fs::read_to_string(root().join(file)).ok();
    let breaches = fault_breaches(&text, source, &mut seen);
    report(seen, &breaches);
}

#[test]
fn the_rules_find_what_they_look_for() {
    let floors = |path: &str, text: &str| floor_breaches(path, text, &mut 0).len();
    assert_eq!(floors("src/buf/pool.rs", "use crate::encode::wire;\nuse crate::buf::Head;"), 0);
    assert_eq!(floors("src/buf/pool.rs", "use crate::emit::Emission;"), 1);
    assert_eq!(floors("src/encode/crc.rs", "use crate::sync::AtomicU32;"), 1);
    assert_eq!(floors("src/emit.rs", "use crate::{buf, clock};"), 1);
    assert_eq!(floors("src/emit.rs", "let s = \"crate::session\";"), 0);
    assert_eq!(floors("src/emit.rs", "//! Needs [`start`](crate::start).\n// crate::session"), 1);
    assert_eq!(floors("src/nowhere.rs", ""), 1);
    assert_eq!(floors("src/annotate/macros.rs", "$crate::is_enabled()"), 0);
    assert_eq!(floors("src/emit.rs", "$crate::is_enabled()"), 1);

    let homes = |path: &str, text: &str| home_breaches(path, text, &mut 0).len();
    assert_eq!(homes("src/sys/time.rs", "libc::time()"), 0);
    assert_eq!(homes("src/emit.rs", "// libc::time\nlet x = libc::time();"), 1);
    assert_eq!(homes("src/emit.rs", "#[cfg(test)]\nmod tests { libc::time() }"), 0);
    assert_eq!(homes("src/buf/pool.rs", "#[cfg(loom)] use loom::cell::Cell;"), 1);

    let manifest =
        "[package]\nn = 1\n[dependencies]\nlibc = \"1\"\n# x\nb.path = \"c\"\n\n[lints]\nw = 1";
    assert_eq!(needs(manifest, "dependencies"), ["libc", "b"]);

    let form = |text: &str| form_breaches("src/x.rs", text).len();
    assert_eq!(form("//! What it is.\nfn f() {}\n"), 0);
    assert_eq!(form("fn f() {}\n"), 1);
    assert_eq!(form(&format!("//! {}\n", "x".repeat(97))), 1);
    assert_eq!(form("//! x\nfn f() { \n}\n"), 1);
    let long = format!("//! x\n    pub fn f(\n{}    ) {{\n    }}\n", "        a: u8,\n".repeat(69));
    assert_eq!(form(&long), 1);
    assert_eq!(form_breaches("src/helpers.rs", "//! x\n").len(), 1);

    let source = |file: &str| (file == "a.rs").then(|| "#[test]\nfn f() {}\nfn g() {}".to_owned());
    let faults = |rows: &str| fault_breaches(rows, source, &mut 0).len();
    assert_eq!(faults("| F1 | x | y | `a.rs::f` |\n| F2 | x | y | Cannot arise: z |"), 0);
    assert_eq!(faults("| F1 | x | y | `a.rs::g` |\n| F2 | x | y | `b.rs::f` |"), 2);
    assert_eq!(faults("| F1 | x | y | `a.rs::f` |\n| F1 | x | y | `a.rs::f` |"), 1);
    assert_eq!(faults("| F1 | x | y | by luck |\n| F2 | x | `a.rs::f` |"), 2);

    let words =
        ruled_out("| word | is | not |\n|---|---|---|\n| batch | events | `chunk`, page |\n");
    assert_eq!(words, BTreeSet::from(["chunk".to_owned()]));
    let said = |text: &str| word_breaches("src/x.rs", text, &words).len();
    assert_eq!(said("for chunk in v.chunks(8)"), 1);
    assert_eq!(said("struct FirstChunk; let chunk_len = 1; // A Chunk."), 3);
    assert_eq!(said("v.chunks_exact(8)"), 0);
}
