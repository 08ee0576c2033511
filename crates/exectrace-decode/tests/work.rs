//! Inputs that are many of one thing: twice as many are twice the work, counted in instructions by
//! callgrind, so that no clock and no other load has a part in it. Skipped where there is no
//! valgrind.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;

use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::FLAG_LATE;
use trace::encode::wire::Header;
use trace_decode::Decoder;
use trace_decode::Scan;
use trace_decode::Validate;
use trace_testkit::Body;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::sealed;

fn begin() -> TraceBuilder {
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| {
        d.string(1, "hit").define(64, Class::Instant, 1, &[("n", ty::U64)]);
        d.define(65, Class::Span, 1, &[]).thread(1, 1, "one");
    });
    t
}

fn batches(n: usize, mut each: impl FnMut(&mut TraceBuilder, u32)) -> Vec<u8> {
    let mut t = begin();
    (1..=n as u32).for_each(|i| each(&mut t, i));
    t.bytes
}

/// Structural events, as many in a batch as fit.
fn structural(kind: u8, n: usize, mut each: impl FnMut(&mut Body, u64)) -> Vec<u8> {
    let (mut t, mut b) = (begin(), Body::default());
    for i in 1..=n as u64 {
        each(&mut b, i);
        if b.bytes.len() > BATCH_BYTES_MAX - 3000 {
            t.batch(kind, 0, 0, &std::mem::take(&mut b));
        }
    }
    t.batch(kind, 0, 0, &b);
    t.bytes
}

fn control(n: usize, each: impl FnMut(&mut Body, u64)) -> Vec<u8> {
    structural(4, n, each)
}

fn definitions(n: usize, each: impl FnMut(&mut Body, u64)) -> Vec<u8> {
    structural(2, n, each)
}

/// Every reader that keeps tables or accounts, in pieces.
fn readers(bytes: &[u8]) -> usize {
    let (mut decoder, mut scan, mut validate) = (Decoder::new(), Scan::new(), Validate::new());
    let mut items = 0;
    for piece in bytes.chunks(1000).map(Some).chain([None]) {
        match piece {
            Some(piece) => {
                decoder.push(piece);
                scan.push(piece);
                validate.push(piece).expect("a trace");
            }
            None => {
                decoder.finish();
                scan.finish();
                validate.finish().expect("a trace");
            }
        }
        while decoder.next_item().expect("a trace").is_some() {
            items += 1;
        }
        while scan.next_item().expect("a trace").is_some() {
            items += 1;
        }
    }
    items
}

/// Inputs by name: how many things the smaller of two has, and how they are made. Each is read by a
/// function of its own, so that callgrind tells them apart.
macro_rules! inputs {
    ($($name:ident: $n:literal, $make:expr;)*) => {
        $(mod $name {
            #[inline(never)]
            pub fn counted(bytes: &[u8]) {
                let items = super::readers(bytes);
                assert!(super::black_box(items) > 2, stringify!($name));
            }
        })*

        fn read_all(times: usize) {
            $({
                let make: fn(usize) -> Vec<u8> = $make;
                $name::counted(&black_box(make($n * times)));
            })*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

inputs! {
    generations: 2000, |n| control(n, |c, i| _ = c.generation_end(i, i, &[]));
    generations_with_late_threads: 30, |n| {
        control(n, |c, i| _ = c.generation_end(i, i, &(0..300).collect::<Vec<_>>()))
    };
    clock_snapshots: 2000, |n| control(n, |c, i| _ = c.clock(i * 10, i * 9, i));
    losses: 2000, |n| control(n, |c, i| _ = c.put(|w| schema::Loss::put(w, i, 1, i)));
    names_of_one_thread: 2000, |n| {
        control(n, |c, i| _ = c.put(|w| schema::ThreadName::put(w, 1, i, "a name".into())))
    };
    threads_without_a_number: 2000, |n| control(n, |c, i| {
        c.put(|w| schema::ThreadState::put(w, 0, i, "a name".into(), 0, 0, 0, &[]));
    });
    strings: 2000, |n| definitions(n, |d, i| _ = d.string(i, "a string"));
    one_string_again_and_again: 2000, |n| definitions(n, |d, _| _ = d.string(1, "again"));
    stacks: 2000, |n| definitions(n, |d, i| _ = d.stack(i, &[i, 5]));
    sites: 2000, |n| definitions(n, |d, i| _ = d.define(63 + i, Class::Instant, 0, &[]));
    sites_far_apart: 2000, |n| {
        definitions(n, |d, i| _ = d.define(i << 20, Class::Instant, 0, &[]))
    };
    modules_over_each_other: 2000, |n| definitions(n, |d, i| {
        let none = Text { bytes: &[], cut_from: None };
        d.put(|w| schema::Module::put(w, i, u64::MAX, 0, none, none, 0, 0));
    });
    threads: 1000, |n| batches(n, |t, i| _ = t.events(i, 9, |e| _ = hit(e)));
    threads_backwards_in_time: 1000, |n| {
        batches(n, |t, i| _ = t.events(i, 1 << 20 >> (i % 20), |e| _ = hit(e)))
    };
    epochs: 500, |n| batches(n, |t, i| {
        t.next.epoch = i;
        t.definitions(|d| _ = d.string(1, "x")).events(1, 0, |_| {});
    });
    sessions: 500, |n| batches(n, |t, i| {
        t.next.session = u64::from(i);
        t.control(|_| {}).control(|_| {});
    });
    two_sessions_by_turns: 1000, |n| batches(n, |t, i| {
        t.next.session = u64::from(i % 2 + 1);
        t.control(|c| _ = c.clock(1, 1, 1));
    });
    late_batches_that_nobody_waits_for: 1000, |n| batches(n, |t, i| {
        t.next.flags = FLAG_LATE;
        t.events(1, u64::from(1_000_000 - i), |e| _ = hit(e));
    });
    sequences_against_their_order: 1000, |n| {
        let mut t = begin();
        for sequence in (0..n as u32).rev() {
            let header = Header { kind: 3, thread: 1, sequence, ..t.next };
            t.bytes.extend(sealed(header, &[64, 1, 1]));
        }
        t.bytes
    };
    gaps_that_are_filled: 1000, |n| {
        let mut t = begin();
        for sequence in (0..n as u32).map(|i| i * 2).chain((0..n as u32).map(|i| i * 2 + 1)) {
            let header = Header { kind: 3, thread: 1, sequence, flags: FLAG_LATE, ..t.next };
            t.bytes.extend(sealed(header, &[]));
        }
        t.bytes
    };
    open_spans: 20_000, |n| batches(n / 500, |t, _| {
        t.events(1, 0, |e| _ = (0..500).fold(e, |e, _| e.site(65, 0, &[])));
    });
    ends_of_the_outermost_of_many_spans: 300, |n| {
        let mut t = begin();
        t.events(1, 0, |e| _ = (0..4096).fold(e, |e, _| e.site(65, 0, &[])));
        t.events(1, 0, |e| {
            for _ in 0..n {
                e.timed(0, |w, d| schema::SpanEndAt::put(w, d, 0)).site(65, 0, &[]);
            }
        });
        t.bytes
    };
    magics_that_claim_much: 1000, |n| {
        let mut bytes = begin().bytes;
        for _ in 0..n {
            bytes.extend([0xeb, 0x58, 0x54, 0xf1, 0, 4, 0, 0, 3, 0, 1, 0]);
        }
        bytes
    };
}

fn hit(e: &mut Body) -> &mut Body {
    e.site(64, 1, &[Field::U64(5)])
}

/// Set, to how many times the numbers above, in a process that callgrind runs.
const TIMES: &str = "EXECTRACE_TEST_TIMES";

/// Instructions of each input, by its name.
fn counted(times: usize) -> BTreeMap<String, u64> {
    let file = format!("work-{}-{times}", std::process::id());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--compress-strings=no", "--toggle-collect=*counted*"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(std::env::current_exe().unwrap()).args([TEST, "--exact"]);
    let out = command.env(TIMES, times.to_string()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut all = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // Of each call: the function, how often, and behind the line what all of it cost.
        let Some(called) = line.strip_prefix("cfn=") else { continue };
        let Some(name) = called.split_once("work::").and_then(|c| c.1.strip_suffix("::counted"))
        else {
            continue;
        };
        let cost = lines.nth(1).expect("what the call cost");
        let cost: u64 = cost.split(' ').nth(1).expect("a number").parse().unwrap();
        assert!(all.insert(name.to_owned(), cost).is_none(), "{name} is called once");
    }
    all
}

const TEST: &str = "twice_the_input_is_twice_the_work";

#[test]
#[cfg_attr(debug_assertions, ignore = "minutes where nothing is optimised: ci/work runs it")]
fn twice_the_input_is_twice_the_work() {
    if let Ok(times) = std::env::var(TIMES) {
        return read_all(times.parse().expect("a number"));
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: there is no valgrind");
        return;
    }
    let (once, twice) = (counted(1), counted(2));
    assert!(NAMES.len() > 20);
    for name in NAMES {
        let (one, two) = (once[*name], twice[*name]);
        let ratio = two as f64 / one as f64;
        println!("{ratio:.2} {name}: {one} and {two} instructions");
        // What a reader needs to begin makes it less than two, a search by halves a little more.
        assert!(ratio > 1.2 && ratio < 2.3, "{name}: {ratio}");
    }
}
