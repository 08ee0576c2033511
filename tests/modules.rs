//! Libraries that come and go while a session runs, the next one at the addresses of the one
//! before: a stack is ascribed to the library that it was captured in, or to none.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::ffi::c_void;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use support::Capture;
use trace::Config;
use trace::StackKind;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Value;

/// Two libraries that differ in one number; `None`, with the reason printed, without a compiler.
fn libraries(dir: &Path) -> Option<[PathBuf; 2]> {
    std::fs::create_dir_all(dir).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/through.c");
    let built = ["first", "second"].map(|name| {
        let object = dir.join(format!("{name}.so"));
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]);
        cc.args(["-shared", "-fPIC"]).arg(format!("-DID={}", name.len()));
        match cc.arg("-o").arg(&object).arg(&source).status() {
            Ok(status) => assert!(status.success(), "cc refused through.c"),
            Err(e) => {
                println!("skipped: no C compiler: {e}");
                return None;
            }
        }
        Some(object)
    });
    let [first, second] = built;
    Some([first?, second?])
}

/// A loaded library.
struct Loaded {
    handle: *mut c_void,
    through: *mut c_void,
}

impl Loaded {
    fn open(path: &Path) -> Loaded {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a library of ours, without constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: the handle is open, the name ends in a zero.
        let through = unsafe { libc::dlsym(handle, c"through".as_ptr()) };
        assert!(!through.is_null());
        Loaded { handle, through }
    }

    /// Emits the event `n` in a callback from the library.
    fn call(&self, n: u64) {
        type Through = extern "C" fn(extern "C" fn(u64), u64) -> u64;
        // SAFETY: the C function's type; the library is loaded.
        let through: Through = unsafe { std::mem::transmute(self.through) };
        assert!(through(emits, n) > n);
    }

    fn close(self) {
        // SAFETY: the handle is open, and nothing of the library is in use.
        assert_eq!(unsafe { libc::dlclose(self.handle) }, 0);
    }
}

extern "C" fn emits(n: u64) {
    trace::instant!("called", n = n);
    black_box(());
}

/// The epoch of the running session.
fn epoch() -> u32 {
    trace::registry::mapping().expect("a session").front().epoch.load(Relaxed)
}

/// What the trace says of the callbacks.
struct Said {
    /// By the number of the event: its epoch, and the path of the module that the frame in the
    /// library is ascribed to.
    paths: BTreeMap<u64, (u32, Option<Vec<u8>>)>,
    /// How often it says that a module was unloaded.
    notes: usize,
}

/// `places`: where the function of the library stood, by the number of the event.
fn said(bytes: &[u8], places: &BTreeMap<u64, u64>) -> Said {
    let mut frames = BTreeMap::new();
    let mut said = Said { paths: BTreeMap::new(), notes: 0 };
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        match item {
            Item::Event(e) if e.name().is_some_and(|n| n.bytes == b"called") => {
                let Some((_, Value::U64(n))) = e.fields().next() else { panic!("no number") };
                let stack = e.tables().stack(e.stack().unwrap()).expect("a definition");
                let in_it = |a: &u64| (places[&n]..places[&n] + 64).contains(a);
                let frame = stack.frames().find(in_it).expect("a frame in the library");
                assert!(frames.insert(n, (e.tables().epoch(), frame)).is_none());
            }
            Item::SessionEnd(s) => {
                // A module may be defined after the event.
                for (n, (epoch, frame)) in &frames {
                    let module = s.tables(*epoch).unwrap().module_of(*frame);
                    said.paths.insert(*n, (*epoch, module.map(|m| m.path.to_vec())));
                }
                said.notes += s.notes().filter(|n| n.0 == b"modules").count();
            }
            _ => {}
        }
    }
    said
}

/// Loads, calls and unloads the two in turn, `calls` times each. `within` runs amid the calls, with
/// the number of the round; `between` once the library is gone, with the epoch of before. Gives the
/// epochs in which a stack is ascribed to the wrong library, and how often the trace warns.
fn rounds(
    test: &str,
    rounds: u64,
    calls: u64,
    within: impl Fn(u64),
    between: impl Fn(u32),
) -> (BTreeSet<u32>, usize) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-modules"));
    let Some(libraries) = libraries(&dir) else { return Default::default() };
    let out = Capture::default();
    let config = Config::new().generation(Duration::from_millis(20)).stacks([StackKind::Instant]);
    config.start(out.clone()).unwrap();
    let mut places = BTreeMap::new();
    for round in 0..rounds {
        let library = Loaded::open(&libraries[round as usize % 2]);
        let now = epoch();
        for n in round * calls..(round + 1) * calls {
            places.insert(n, library.through.addr() as u64);
            library.call(n);
            if n % calls == calls / 2 {
                within(round);
            }
        }
        library.close();
        between(now);
    }
    assert_eq!(trace::stop().unwrap().lost, 0);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let distinct: BTreeSet<u64> = places.values().copied().collect();
    let s = said(&bytes, &places);
    assert_eq!(s.paths.len() as u64, rounds * calls);
    let path = |n: u64| libraries[(n / calls) as usize % 2].as_os_str().as_bytes();
    assert!(distinct.len() < rounds as usize / 2, "addresses are not used again: {distinct:x?}");
    let is_wrong = |n: u64, said: &Option<Vec<u8>>| said.as_ref().is_some_and(|p| p != path(n));
    let wrong: Vec<u32> =
        s.paths.iter().filter(|(n, said)| is_wrong(**n, &said.1)).map(|(_, said)| said.0).collect();
    let known = s.paths.values().filter(|said| said.1.is_some()).count();
    println!(
        "{test}: {rounds} libraries at {} addresses; of {} stacks {known} are ascribed, {} wrongly",
        distinct.len(),
        s.paths.len(),
        wrong.len()
    );
    assert!(known > 0 && s.notes > 0, "{known} known, {} notes", s.notes);
    std::fs::remove_dir_all(&dir).unwrap();
    (wrong.into_iter().collect(), s.notes)
}

fn tick_for(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        trace::instant!("tick");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The recorder, which looks every 10 ms, sees each library come and go.
#[test]
fn libraries_in_turn_at_one_address() {
    let _alone = support::alone();
    let _watch = support::watch("libraries_in_turn_at_one_address", 60);
    let within = |_| tick_for(Duration::from_millis(40));
    let (wrong, _) = rounds("in_turn", 8, 3, within, |before| {
        while epoch() == before {
            tick_for(Duration::from_millis(1));
        }
    });
    assert_eq!(wrong, BTreeSet::new());
}

/// One came and went between two looks, and when the recorder looks, another one stands there: the
/// first one's stack is of a module that the trace does not know.
#[test]
fn a_library_that_came_and_went_unseen() {
    let _alone = support::alone();
    let _watch = support::watch("a_library_that_came_and_went_unseen", 60);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("unseen-modules");
    let Some([first, second]) = libraries(&dir) else { return };
    let mut unseen = 0;
    for _ in 0..10 {
        let out = Capture::default();
        let config = Config::new().stacks([StackKind::Instant]);
        config.generation(Duration::from_millis(10)).start(out.clone()).unwrap();
        tick_for(Duration::from_millis(20));
        let (before, mut places) = (epoch(), BTreeMap::new());
        let gone = Loaded::open(&first);
        places.insert(1, gone.through.addr() as u64);
        gone.call(1);
        gone.close();
        let stays = Loaded::open(&second);
        places.insert(2, stays.through.addr() as u64);
        while epoch() == before {
            tick_for(Duration::from_millis(1));
        }
        stays.call(2);
        tick_for(Duration::from_millis(20));
        trace::stop().unwrap();
        stays.close();
        let bytes = out.take();
        support::assert_valid(&bytes);
        let s = said(&bytes, &places);
        assert_eq!(places[&1], places[&2], "the address is not used again");
        assert_eq!(s.paths[&2].1.as_deref(), Some(second.as_os_str().as_bytes()));
        let taken_for = s.paths[&1].1.as_deref();
        assert!(taken_for.is_none_or(|p| p == first.as_os_str().as_bytes()));
        unseen += u32::from(taken_for.is_none());
        assert!(s.notes > 0);
    }
    assert!(unseen > 0, "the recorder saw each of them");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Faster than the recorder looks: of most it sees nothing, of some that they came. What was loaded
/// in the place of one that it knew may be taken for that one; then the trace has a warning for
/// that epoch, which ends at once. What it knew nothing of is ascribed to nothing.
#[test]
fn libraries_in_turn_without_a_pause() {
    let _alone = support::alone();
    let _watch = support::watch("libraries_in_turn_without_a_pause", 60);
    let within = |round| {
        if round % 5 == 0 {
            tick_for(Duration::from_micros(round * 701 % 15_000));
        }
    };
    let (wrong, notes) = rounds("without_a_pause", 300, 2, within, |_| ());
    assert!(wrong.len() <= notes, "wrong in the epochs {wrong:?}, {notes} warnings");
}
