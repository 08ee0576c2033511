//! New table epochs in mid-session: when the tables are full, and when a module was unloaded. The
//! account stays exact, ids mean what their epoch says, and spans that were open keep their names.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Overflow;
use trace::StackKind;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Timed;
use trace_decode::Value;

/// The epoch of the running session.
fn epoch() -> u32 {
    trace::registry::mapping().expect("a session").front().epoch.load(Relaxed)
}

fn events(bytes: &[u8], mut each: impl FnMut(&Timed<'_>)) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Event(e) = item {
            each(&e);
        }
    }
}

/// Two places that call the same function, chosen by the bits of a number: as many stacks as
/// numbers.
#[inline(never)]
fn branch(bits: u64, left: u32) {
    if left == 0 {
        trace::instant!("leaf", bits = bits);
        return;
    }
    if bits >> (left - 1) & 1 == 0 {
        branch(bits, left - 1);
        black_box(());
    } else {
        branch(bits, left - 1);
        black_box(1);
    }
    black_box(left);
}

const THREADS: u64 = 4;
const DEPTH: u32 = 11;
/// More than a thread of the test can emit.
const EACH: u64 = 1 << 40;

/// Small tables, four threads with more stacks than fit, until five epochs have passed. Each holds
/// spans open all the while, and begins and ends others.
#[test]
fn full_tables_open_the_next_epoch() {
    let _alone = support::alone();
    let _watch = support::watch("full_tables_open_the_next_epoch", 120);
    let out = Capture::default();
    Config::new()
        .memory_bytes(4 << 20)
        .stacks([StackKind::Instant])
        .overflow(Overflow::Wait { at_most: Duration::from_secs(60) })
        .start(out.clone())
        .unwrap();
    let first = epoch();
    let attempted: BTreeMap<u32, Attempted> = std::thread::scope(|s| {
        let workers = (0..THREADS).map(|t| s.spawn(move || (support::tid(), work(t, first))));
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let summary = trace::stop().unwrap();
    let bytes = out.take();
    support::assert_exact(&bytes, &attempted);
    let mut stacks: BTreeMap<u64, BTreeSet<Vec<u64>>> = BTreeMap::new();
    let mut epochs = BTreeSet::new();
    let mut ended: BTreeMap<(u32, String), u32> = BTreeMap::new();
    let (mut leaves, mut none) = (0u64, 0u64);
    events(&bytes, |e| {
        epochs.insert(e.tables().epoch());
        let name = e.name().map(|n| String::from_utf8(n.bytes.to_vec()).unwrap());
        none += u64::from(e.stack() == Some(0));
        match name.as_deref() {
            Some("leaf") => {
                leaves += 1;
                let Some((_, Value::U64(bits))) = e.fields().next() else { panic!("no number") };
                let id = e.stack().expect("a stack or none");
                if id != 0 {
                    let stack = e.tables().stack(id).expect("defined in its epoch");
                    // Without the innermost one, where the cold half was called or the hot one.
                    let frames = stack.frames().skip(1).collect();
                    stacks.entry(bits).or_default().insert(frames);
                }
            }
            Some(name) if e.ended_span().is_some() => {
                *ended.entry((e.thread, name.to_owned())).or_default() += 1;
            }
            _ if e.kind_name().bytes.starts_with(b"SpanEnd") => panic!("a span without a name"),
            _ => {}
        }
    });
    assert!(epochs.len() >= 5, "{} epochs", epochs.len());
    assert_eq!(epochs.first(), Some(&first));
    assert_eq!(support::contents(&bytes).cause(trace::encode::schema::Cause::StackTable), none);
    assert_eq!(summary.lost, 0);
    assert!(leaves > none, "{none} of {leaves} leaves without a stack");
    // Over all epochs a number has the one stack that its bits say, and no two have the same.
    assert!(stacks.len() > 500, "{} numbers have a stack", stacks.len());
    let all: BTreeSet<&Vec<u64>> = stacks.values().flatten().collect();
    assert!(stacks.values().all(|s| s.len() == 1), "a number has several stacks");
    assert_eq!(all.len(), stacks.len());
    for name in ["outermost", "outer"] {
        let threads = ended.iter().filter(|((_, n), count)| n == name && **count == 1).count();
        assert_eq!(threads as u64, THREADS, "{name} ended once on each thread, by its name");
    }
    assert!(ended.iter().any(|((_, n), count)| n == "inner" && *count > 10));
}

/// Emits until five epochs have passed; counts probes, the events that are checked one by one.
fn work(thread: u64, first: u32) -> Attempted {
    let mut attempted = Attempted::default();
    let _outermost = trace::span!("outermost", thread = thread);
    let _outer = trace::span!("outer");
    for n in 0..EACH {
        for bits in 0..1 << DEPTH {
            branch(bits, DEPTH);
        }
        let _inner = trace::span!("inner", n = n);
        attempted.probe(thread * EACH + n);
        if epoch() - first >= 5 && n >= 20 {
            break;
        }
    }
    attempted
}

/// A library that programs do not have loaded, and that every glibc brings.
const LIBRARIES: [&CStr; 3] = [c"libBrokenLocale.so.1", c"libthread_db.so.1", c"libanl.so.1"];

/// Loads a library and unloads it; false where that did not change what is loaded.
fn load_and_unload() -> Option<()> {
    for name in LIBRARIES {
        // SAFETY: a library of the C library's own, whose constructors do nothing.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            continue;
        }
        // The recorder has to see it come, as it does every 10 ms while there is something to do.
        emit_for(Duration::from_millis(60));
        // SAFETY: the handle was just given, and nothing of the library is in use.
        if unsafe { libc::dlclose(handle) } == 0 {
            return Some(());
        }
    }
    None
}

fn emit_for(time: Duration) {
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        trace::instant!("tick");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// An address of before may name what was loaded in its place: ids of stacks begin anew.
#[test]
fn an_unloaded_module_opens_the_next_epoch() {
    let _alone = support::alone();
    let _watch = support::watch("an_unloaded_module_opens_the_next_epoch", 60);
    let out = Capture::default();
    Config::new().generation(Duration::from_millis(5)).start(out.clone()).unwrap();
    let first = epoch();
    let span = trace::span!("over the change");
    emit_for(Duration::from_millis(30));
    let unchanged = epoch();
    let Some(()) = load_and_unload() else {
        drop(span);
        trace::stop().unwrap();
        println!("skipped: none of {LIBRARIES:?} can be loaded and unloaded here");
        return;
    };
    while epoch() == first {
        emit_for(Duration::from_millis(5));
    }
    trace::instant!("after");
    drop(span);
    trace::stop().unwrap();
    assert_eq!(unchanged, first, "without a reason there is no new epoch");
    let bytes = out.take();
    support::assert_valid(&bytes);
    let mut named = 0;
    events(&bytes, |e| {
        let name = e.name().map(|n| n.bytes.to_vec());
        match name.as_deref() {
            Some(b"over the change") if e.ended_span().is_some() => {
                assert!(e.duration_ns().is_some());
                named += 1;
            }
            Some(b"after") => {
                assert!(e.tables().epoch() > first);
                named += 1;
            }
            _ => {}
        }
    });
    assert_eq!(named, 2);
    let (mut notes, mut modules) = (0, BTreeMap::new());
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::SessionEnd(s) = item {
            notes += s.notes().filter(|n| n.0 == b"modules").count();
            for tables in s.epochs() {
                modules.insert(tables.epoch(), tables.modules().count());
            }
        }
    }
    assert_eq!(notes, 1);
    assert!(modules.len() >= 2 && modules.values().all(|n| *n > 1), "{modules:?}");
    assert!(modules[&first] > *modules.last_key_value().unwrap().1, "{modules:?}");
}
