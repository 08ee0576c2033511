//! What hooks of blocking calls write: waits with the stack from which they were begun, wakes, what
//! descriptors are, who made a thread, and what a thread waited for when all ended.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use support::Capture;
use trace::Config;
use trace::block;
use trace::encode::op::Op;
use trace::encode::op::Step;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Timed;
use trace_decode::Value;

fn record(work: impl FnOnce()) -> Vec<u8> {
    let out = Capture::default();
    Config::new().start(out.clone()).unwrap();
    work();
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    bytes
}

fn each(bytes: &[u8], mut f: impl FnMut(&str, &Timed<'_>)) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Event(e) = item {
            let name = e.kind_name();
            f(std::str::from_utf8(name.bytes).unwrap(), &e);
        }
    }
}

fn number(e: &Timed<'_>, field: &str) -> u64 {
    match e.fields().find(|(name, _)| *name == field.as_bytes()) {
        Some((_, Value::U64(v) | Value::Stack(v) | Value::Nanos(v) | Value::Thread(v))) => v,
        other => panic!("{field}: {other:?}"),
    }
}

#[inline(never)]
fn waits_for(ms: u64) -> Duration {
    let began = Instant::now();
    let wait = block::begin(Op::FutexWait, 0xabcd, true).expect("recording");
    std::thread::sleep(Duration::from_millis(ms));
    assert!(wait.age() > 0);
    wait.end(0, 0);
    began.elapsed()
}

#[test]
fn waits_and_wakes_say_what_they_were() {
    let _alone = support::alone();
    assert!(block::begin(Op::FutexWait, 1, true).is_none(), "nothing is recorded yet");
    assert!(block::wake(Op::FutexWake, 1, true).is_none());
    let mut took = Duration::ZERO;
    let bytes = record(|| {
        took = waits_for(20);
        block::begin(Op::Read, 7, false).expect("recording").end(0, libc::EINTR as u32);
        block::begin(Op::Read, 8, false).expect("recording").end(4096, 0);
        block::begin(Op::Read, 9, true).expect("recording").forget();
        block::wake(Op::FutexWake, 0xabcd, true).expect("recording").end(3);
        block::wake(Op::FutexWake, 0xabce, false).expect("recording").end(4);
        block::descriptor(8, b"/a/file");
        block::descriptor(9, &[b'x'; 5000]);
        block::process(Step::Exec, 42, b"/bin/true");
        block::usage();
    });
    let (mut waits, mut others) = (Vec::new(), BTreeSet::new());
    each(&bytes, |kind, e| match kind {
        "Wait" => waits.push((
            [number(e, "op"), number(e, "object"), number(e, "result"), number(e, "error")],
            number(e, "began"),
            e.tables().stack(number(e, "stack")).map_or(0, |s| s.len()),
        )),
        "Wake" => {
            assert_eq!(number(e, "op"), 64);
            match number(e, "object") {
                0xabcd => {
                    assert_eq!(number(e, "woken"), 3);
                    assert!(e.tables().stack(number(e, "stack")).expect("a stack").len() > 2);
                    others.insert("wake");
                }
                object => {
                    let all = (object, number(e, "woken"), number(e, "stack"));
                    assert_eq!(all, (0xabce, 4, 0));
                    others.insert("wake without a stack");
                }
            }
        }
        "Descriptor" => {
            let text = e.fields().find_map(|(_, v)| match v {
                Value::Text(t) => Some((t.bytes.to_vec(), t.cut_from)),
                _ => None,
            });
            match number(e, "fd") {
                8 => assert_eq!(text, Some((b"/a/file".to_vec(), None))),
                9 => assert_eq!(text, Some((vec![b'x'; 512], Some(5000)))),
                fd => panic!("descriptor {fd}"),
            }
            others.insert(if text.unwrap().1.is_some() { "long" } else { "descriptor" });
        }
        "Process" => {
            assert_eq!((number(e, "step"), number(e, "pid")), (2, 42));
            others.insert("process");
        }
        "Usage" => {
            // It slept once, so it was switched out at least once.
            assert!(number(e, "voluntary") >= 1);
            others.insert("usage");
        }
        _ => {}
    });
    assert_eq!(others.len(), 6, "{others:?}");
    let called: Vec<[u64; 4]> = waits.iter().map(|w| w.0).collect();
    assert_eq!(called, [[1, 0xabcd, 0, 0], [16, 7, 0, 4], [16, 8, 4096, 0]]);
    assert!(waits[0].2 > 2 && waits[1].2 == 0, "{waits:?}");
    // The unit of `began` is at most 2 ns and at least 1.
    let ns = took.as_nanos() as u64;
    assert!((ns / 8..=ns * 2).contains(&waits[0].1), "{} ticks in {ns} ns", waits[0].1);
}

/// A wake that is written from under so many calls.
#[inline(never)]
fn wakes_from(depth: u32, object: u64) -> u32 {
    if depth > 0 {
        return wakes_from(depth - 1, object) + std::hint::black_box(1);
    }
    let wake = block::wake(Op::FutexWake, object, true).expect("recording");
    let wait = block::begin(Op::Read, object, false).expect("recording");
    wake.end(1);
    wait.end(0, 0);
    0
}

/// What a wake sets going must not seem to be there before it, by the time that its own stack takes
/// the first time.
#[test]
fn a_wake_begins_before_what_follows_it() {
    let _alone = support::alone();
    let bytes = record(|| (1..=40).for_each(|n| assert_eq!(wakes_from(n, n.into()), n)));
    let mut wakes = BTreeSet::new();
    let mut pairs = 0;
    each(&bytes, |kind, e| {
        let began = |e: &Timed<'_>| e.ticks - number(e, "began");
        match kind {
            "Wake" => assert!(wakes.insert((number(e, "object"), began(e)))),
            "Wait" => {
                let (object, wait) = (number(e, "object"), began(e));
                let of = wakes.range((object, 0)..(object + 1, 0)).next().expect("its wake");
                assert!(of.1 <= wait, "{object}: the wake {} ticks after it", of.1 - wait);
                pairs += 1;
            }
            _ => {}
        }
    });
    assert_eq!(pairs, 40);
}

#[test]
fn a_thread_knows_who_made_it_and_what_it_runs() {
    let _alone = support::alone();
    let entry = waits_for as fn(u64) -> Duration as usize as u64;
    let mut made = (0, 0);
    let bytes = record(|| {
        made = block::makes_thread();
        let (number, creator) = made;
        let run = move || {
            block::begins(number, creator, entry);
            assert!(block::is_known());
        };
        std::thread::spawn(run).join().unwrap();
    });
    assert!(made.0 != 0 && made.1 != 0);
    let mut created = 0;
    each(&bytes, |kind, e| {
        if kind == "ThreadCreate" {
            assert_eq!(number(e, "thread"), u64::from(made.0));
            created += 1;
        }
    });
    assert_eq!(created, 1);
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    let mut found = 0;
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::SessionEnd(s) = item {
            let t = s.thread(made.0.into()).expect("the thread");
            assert_eq!((t.creator, t.entry), (made.1.into(), entry));
            found += 1;
        }
    }
    assert_eq!(found, 1);
}

/// A wake in a handler that interrupts an event stands in the side lane; a wait there is nothing.
#[test]
fn inside_an_event_a_wait_is_not_recorded() {
    let _alone = support::alone();
    let bytes = record(|| {
        trace::emit_probe(1);
        let r = trace::registry::mapping().unwrap();
        let (_, record) = trace::registry::live(r).next().expect("this thread");
        // As a handler finds it amid an event: the thread is inside the section.
        let here = 0u64;
        let busy = std::ptr::from_ref(&here).addr() as u64 + 4096;
        record.busy.store(busy, std::sync::atomic::Ordering::Relaxed);
        assert!(block::begin(Op::Read, 3, true).is_none());
        block::wake(Op::FutexWake, 5, true).expect("recording").end(1);
        record.busy.store(0, std::sync::atomic::Ordering::Relaxed);
    });
    let (mut waits, mut wakes) = (0, 0);
    each(&bytes, |kind, _| {
        waits += u32::from(kind == "Wait");
        wakes += u32::from(kind == "Wake");
    });
    assert_eq!((waits, wakes), (0, 1));
}
