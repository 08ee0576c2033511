//! Texts made to be harmful, given to the recorder wherever a program can give it text: they stand
//! in the trace byte for byte, and nothing that is written for people has them as they are.

mod support;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use support::Capture;
use trace::Config;
use trace::encode::wire::TEXT_BYTES_MAX;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Value;
use trace_decode::raw::Dump;
use trace_testkit::hostile;

/// Every line for people is harmless; gives how many there are.
fn assert_inert(bytes: &[u8]) -> usize {
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    let mut lines = 0;
    while let Some(line) = dump.next_line().unwrap() {
        assert_eq!(hostile::unsafe_char(line), None, "{line:?}");
        lines += 1;
    }
    for p in support::problems(bytes) {
        assert_eq!(hostile::unsafe_char(&p.to_string()), None);
    }
    lines
}

fn session(bytes: &[u8]) -> Session {
    trace_testkit::expect::session_of(bytes)
}

/// Fields of events and texts of logs.
#[test]
fn texts_come_out_as_they_went_in() {
    let _alone = support::alone();
    let _watch = support::watch("texts_come_out_as_they_went_in", 60);
    let texts = hostile::texts();
    let out = Capture::default();
    Config::new().stacks([]).start(out.clone()).unwrap();
    for text in &texts {
        trace::instant!("field", text = text);
        trace::log!("\u{1b}[31m\u{202e}\"\n", "{}", text);
    }
    assert_eq!(trace::stop().unwrap().lost, 0);
    let bytes = out.take();
    support::assert_valid(&bytes);
    // Each text's bytes, and the length before it was cut.
    type Kept = (Vec<u8>, Option<u64>);
    let mut seen: BTreeMap<&str, Vec<Kept>> = BTreeMap::new();
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        let Some(name) = e.name() else { continue };
        let kind = match name.bytes {
            b"field" => "field",
            name => {
                assert_eq!(name, "\u{1b}[31m\u{202e}\"\n".as_bytes());
                "log"
            }
        };
        let Some((_, Value::Text(t))) = e.fields().next() else { panic!("no text") };
        seen.entry(kind).or_default().push((t.bytes.to_vec(), t.cut_from));
    }
    assert!(texts.len() > 250);
    for (kind, max) in [("field", TEXT_BYTES_MAX), ("log", 32 << 10)] {
        let want = texts.iter().map(|text| {
            let kept = &text.as_bytes()[..text.floor_char_boundary(max)];
            (kept.to_vec(), (kept.len() < text.len()).then_some(text.len() as u64))
        });
        assert_eq!(seen[kind], want.collect::<Vec<_>>(), "{kind}");
    }
    assert!(assert_inert(&bytes) > 2 * texts.len());
}

/// Names of threads, which the kernel keeps up to fifteen bytes of, whatever they are.
#[test]
fn names_of_threads_are_bytes() {
    let _alone = support::alone();
    let _watch = support::watch("names_of_threads_are_bytes", 60);
    let mut names: Vec<Vec<u8>> = Vec::new();
    for text in hostile::strings() {
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len()).min(15);
        if end > 0 {
            names.push(text[..end].to_vec());
        }
    }
    let out = Capture::default();
    Config::new().start(out.clone()).unwrap();
    for name in &names {
        let name = CString::new(name.clone()).unwrap();
        let named = std::thread::spawn(move || {
            // SAFETY: a string that ends with zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            trace::emit_probe(1);
        });
        named.join().unwrap();
    }
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let s = session(&bytes);
    let mut held: Vec<Vec<u8>> = s.threads().map(|t| t.name.to_vec()).collect();
    for name in &names {
        let at = held.iter().position(|h| h == name);
        held.swap_remove(at.unwrap_or_else(|| panic!("{:?}", name.escape_ascii().to_string())));
    }
    assert!(names.len() > 250);
    assert_inert(&bytes);
}

/// Names that a file may have: no slash, no zero byte.
const FILES: [&[u8]; 6] = [
    b"\x1b[31m red \x1b]0;title\x07",
    b"two\nlines\r\t\x7f",
    b"\xff\xfe\x80 no text \xc2",
    "\u{202e}gnp.\u{2066}exe\u{feff}\u{e0041}".as_bytes(),
    b"<script>\"'`$(touch x);=1+1",
    b"batch 0 offset=0 length=64 (deleted)",
];

/// The program itself and a library lie in folders with such names.
#[test]
fn paths_are_bytes() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    if let Some(name) = support::scenario() {
        let _watch = support::watch("paths_are_bytes", 60);
        return from_a_hostile_path(&name);
    }
    let mut tried = 0;
    for (n, name) in FILES.iter().enumerate() {
        let dir = folder.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(&dir).unwrap();
        let program = dir.join(OsStr::from_bytes(name));
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let usual = support::child("paths_are_bytes", &n.to_string());
        let mut child = Command::new(&program);
        // The harness wants its arguments as text.
        child.arg0("program").args(usual.get_args());
        child.envs(usual.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let out = child.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("1 passed"), "{name:?}: {out:?}");
        std::fs::remove_dir_all(&dir).unwrap();
        tried += 1;
    }
    assert_eq!(tried, FILES.len());
}

fn from_a_hostile_path(number: &str) {
    let name = FILES[number.parse::<usize>().unwrap()];
    let program = std::env::current_exe().unwrap();
    let program = program.as_os_str().as_bytes();
    assert!(program.ends_with(name));
    // A library of the same name beside it, where there is a compiler.
    let object = [program, b".so"].concat();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/c/through.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-DID=1", "-o"]).arg(OsStr::from_bytes(&object)).arg(source);
    let built = cc.status().is_ok_and(|s| s.success());
    if built {
        let path = CString::new(object.clone()).unwrap();
        // SAFETY: a library of ours, without constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
    } else {
        println!("skipped: no C compiler, so no library");
    }
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    trace::log!(here, "a stack of the program");
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let s = session(&bytes);
    assert_eq!(&*s.info().unwrap().program, name);
    let tables = s.epochs().next().unwrap();
    let module = |path: &[u8]| tables.modules().any(|m| *m.path == *path && m.file_size > 0);
    assert!(module(program));
    assert!(!built || module(&object));
    assert_inert(&bytes);
}
