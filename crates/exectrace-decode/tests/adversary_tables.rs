//! Traces that someone made to break the tables of a decoder, by name: ids that nothing defines, or
//! that refer to each other or to themselves. Each has an exact outcome: what decodes, what is a
//! placeholder, and what the validator finds.

use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::wire::BatchKind;
use trace::encode::wire::FLAG_LATE;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::validate::What;
use trace_testkit::Body;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::decode;
use trace_testkit::expect::dump;
use trace_testkit::expect::everything;
use trace_testkit::expect::session_of;

const HIT: u64 = 64;

/// A session with one site and one thread.
fn begin() -> TraceBuilder {
    let mut t = TraceBuilder::new(7);
    t.session(0, 1_000_000_000);
    t.definitions(|d| {
        d.string(1, "hit").thread(1, 101, "one").define(HIT, Class::Instant, 1, &[("n", ty::U64)]);
    });
    t
}

fn hit(t: &mut TraceBuilder) {
    hit_at(t, 10);
}

fn hit_at(t: &mut TraceBuilder, at: u64) {
    t.events(1, at, |e| {
        e.site(HIT, 0, &[Field::U64(1)]);
    });
}

/// `trouble` stands between two events that decode; the validator finds these sorts of problems and
/// no others, and no byte is damaged.
#[track_caller]
fn finds(problems: &[What], more: u64, trouble: impl FnOnce(&mut TraceBuilder)) -> Vec<u8> {
    let mut t = begin();
    hit(&mut t);
    trouble(&mut t);
    hit_at(&mut t, 30);
    t.end(5000);
    let v = everything(&t.bytes, 501);
    assert_eq!((v.events, v.damage, v.error), (2 + more, vec![], None));
    assert_eq!(v.problems, problems);
    t.bytes
}

fn defines(problems: &[What], write: impl FnOnce(&mut Body)) -> Session {
    session_of(&finds(problems, 0, |t| _ = t.definitions(write)))
}

fn last_line_of(bytes: &[u8], beginning: &str) -> String {
    let lines = dump(bytes);
    lines.into_iter().rfind(|l| l.trim_start().starts_with(beginning)).expect(beginning)
}

#[test]
fn id_0_is_none_whatever_defines_it() {
    let bytes = finds(&[], 1, |t| {
        t.definitions(|d| {
            d.string(0, "nothing").stack(0, &[1]).thread(0, 5, "nobody");
            d.define(70, Class::Instant, 0, &[("s", ty::STRING), ("stack", ty::STACK)]);
        });
        t.events(1, 20, |e| _ = e.site(70, 0, &[Field::U64(0), Field::U64(0)]));
    });
    assert_eq!(last_line_of(&bytes, "+0 site 70"), "  +0 site 70 - s=0 stack=0");
    let s = session_of(&bytes);
    assert!(s.thread(0).is_none() && s.threads().count() == 1);
}

#[test]
fn names_that_nothing_defines_are_placeholders() {
    let bytes = finds(&[What::Undefined], 1, |t| {
        t.definitions(|d| _ = d.define(70, Class::Instant, 123, &[]));
        t.events(1, 20, |e| _ = e.site(70, 0, &[]));
    });
    assert_eq!(last_line_of(&bytes, "+0 site 70"), "  +0 site 70 ?123");
    assert!(decode(&bytes, 64).events.iter().any(|e| e == "20 1/0 instant"));
}

#[test]
fn a_thread_that_nothing_defines() {
    let bytes = finds(&[What::Undefined], 1, |t| {
        t.events(9, 20, |e| _ = e.site(HIT, 0, &[Field::U64(3)]));
    });
    assert!(decode(&bytes, 64).events.iter().any(|e| e == "20 9/0 instant [hit] n=3"));
    assert!(session_of(&bytes).thread(9).is_none());
}

#[test]
fn a_stack_that_nothing_defines() {
    let bytes = finds(&[What::Undefined], 1, |t| {
        t.definitions(|d| _ = d.define(70, Class::Instant, 1, &[("stack", ty::STACK)]));
        t.events(1, 20, |e| _ = e.site(70, 0, &[Field::U64(u64::MAX)]));
    });
    let mut d = Decoder::new();
    d.push(&bytes);
    d.finish();
    let mut met = 0;
    while let Some(item) = d.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        if e.kind == 70 {
            assert_eq!(e.stack(), Some(u64::MAX));
            assert!(e.tables().stack(u64::MAX).is_none());
            met += 1;
        }
    }
    assert_eq!(met, 1);
}

/// Thread 2 was made by 3 and 3 by 2, thread 4 by itself: a reader that followed that would not
/// come back.
#[test]
fn threads_that_made_each_other() {
    let s = defines(&[], |d| {
        for (number, creator) in [(2, 3), (3, 2), (4, 4), (5, u64::MAX)] {
            d.put(|w| schema::Thread::put(w, number, 1, creator, "".into(), "".into(), 0, 0));
        }
    });
    let creators: Vec<u64> = (2..6).map(|n| s.thread(n).unwrap().creator).collect();
    assert_eq!(creators, [3, 2, 4, u64::MAX]);
}

#[test]
fn tasks_that_are_their_own_parents() {
    let bytes = finds(&[], 4, |t| {
        let fields = [("task", ty::TASK), ("parent", ty::TASK)];
        t.definitions(|d| _ = d.define(70, Class::Task, 1, &fields));
        t.events(1, 20, |e| {
            e.site(70, 0, &[Field::U64(2), Field::U64(3)]);
            e.site(70, 0, &[Field::U64(3), Field::U64(2)]);
            e.site(70, 0, &[Field::U64(4), Field::U64(4)]);
            e.timed(0, |w, d| schema::TaskSwitch::put(w, d, 4));
        });
        t.control(|c| {
            for (task, parent) in [(5, 6), (6, 5), (7, 7)] {
                c.put(|w| schema::TaskState::put(w, task, parent, 70, 0));
            }
        });
    });
    let tasks = decode(&bytes, 64).events;
    assert_eq!(tasks.iter().filter(|e| e.contains("task=Task(4) parent=Task(4)")).count(), 1);
}

#[test]
fn a_site_that_is_named_by_itself() {
    // Its name, module and file are the string whose id is its own kind.
    let s = defines(&[], |d| {
        d.string(70, "seventy");
        d.put(|w| schema::Site::put(w, 70, 1, 0, 70, 70, 70, 70, &[("seventy", ty::STRING)]));
    });
    let tables = s.tables(1).unwrap();
    assert_eq!(tables.string(tables.site(70).unwrap().name).unwrap().bytes, b"seventy");
}

#[test]
fn definitions_that_stand_twice() {
    let s = defines(&[What::Definition], |d| {
        d.string(5, "first").string(5, "second").stack(5, &[1]).stack(5, &[2]);
        d.define(70, Class::Instant, 5, &[]).define(70, Class::Span, 1, &[("n", ty::U64)]);
    });
    let tables = s.tables(1).unwrap();
    assert_eq!(tables.string(5).unwrap().bytes, b"first");
    assert_eq!(tables.stack(5).unwrap().frames().collect::<Vec<_>>(), [1]);
    let site = tables.site(70).unwrap();
    assert_eq!((site.class(), site.name, site.fields().count()), (Some(Class::Instant), 5, 0));
    assert_eq!(tables.repeated(), 3);
}

#[test]
fn a_thread_that_is_defined_again() {
    let s = defines(&[], |d| {
        d.thread(2, 5, "first").thread(2, 6, "second").thread(u64::MAX, 7, "far");
    });
    // Its number is what it is known by; the newest kernel number, the name that it had.
    assert_eq!((s.thread(2).unwrap().tid, &*s.thread(2).unwrap().name), (6, &b"first"[..]));
    assert_eq!(s.threads().map(|t| t.number).collect::<Vec<_>>(), [1, 2, u64::MAX]);
}

/// Modules over each other, of no length, and beyond the last address.
#[test]
fn modules_of_every_shape() {
    const MAX: u64 = u64::MAX;
    let all: [(u64, u64); 8] = [
        (0x1000, 0x9000),
        (0x2000, 0x1000),
        (0x3000, 0),
        (0x5000, MAX),
        (0x6000, 0x10),
        (MAX - 5, 100),
        (MAX, 1),
        (0, 0),
    ];
    let s = defines(&[], |d| {
        let none = Text { bytes: &[], cut_from: None };
        for (base, size) in all {
            d.put(|w| schema::Module::put(w, base, size, MAX, none, none, 0, 0));
        }
    });
    let tables = s.tables(1).unwrap();
    let base = |addr| tables.module_of(addr).map(|m| m.base);
    assert_eq!(tables.modules().count(), 8);
    assert_eq!([base(0), base(0xfff)], [None, None]);
    assert_eq!([base(0x1000), base(0x1fff)], [Some(0x1000), Some(0x1000)]);
    // The nearest one below an address answers for it, alone.
    assert_eq!([base(0x2fff), base(0x3000), base(0x4fff)], [Some(0x2000), None, None]);
    assert_eq!([base(0x5000), base(0x600f), base(0x6010)], [Some(0x5000), Some(0x6000), None]);
    assert_eq!([base(MAX - 6), base(MAX - 5), base(MAX - 1)], [None, Some(MAX - 5), Some(MAX - 5)]);
    assert_eq!(base(MAX), Some(MAX));
}

#[test]
fn a_module_at_an_address_that_has_one() {
    let s = defines(&[], |d| {
        let none = Text { bytes: &[], cut_from: None };
        d.put(|w| schema::Module::put(w, 0x4000, 0x100, 0, none, "first".into(), 0, 0));
        d.put(|w| schema::Module::put(w, 0x4000, 0x900, 0, none, "second".into(), 0, 0));
    });
    let tables = s.tables(1).unwrap();
    assert_eq!(&*tables.module_of(0x4000).unwrap().path, b"first");
    assert!(tables.module_of(0x4100).is_none());
}

/// What `State` and the snapshots list may be no site: a static kind, one that nothing defines, 0.
#[test]
fn open_spans_of_no_site() {
    let kinds = [0, 33, 63, HIT, 999, u64::MAX];
    let bytes = finds(&[], 1 + 6, |t| {
        t.events(1, 20, |e| {
            e.timed(0, |w, d| schema::State::put(w, d, u64::MAX, &kinds, 0));
            for _ in kinds {
                e.timed(0, schema::SpanEnd::put);
            }
        });
        t.control(|c| {
            c.put(|w| schema::ThreadState::put(w, 1, 1, "".into(), 0, 99, u64::MAX, &kinds));
        });
    });
    let ends = decode(&bytes, 64).events.into_iter().filter(|e| e.contains("SpanEnd"));
    // Only one of them has a name, that of the site HIT.
    let named: Vec<bool> = ends.map(|e| e.contains("[hit]")).collect();
    assert_eq!(named, [false, false, true, false, false, false]);
}

#[test]
fn fields_that_a_class_must_have_are_missing() {
    for (class, fields) in [
        (Class::Counter, vec![("n", ty::U64)]),
        (Class::Log, vec![("message", ty::TEXT)]),
        (Class::Task, vec![("task", ty::TASK)]),
        (Class::Task, vec![]),
    ] {
        let s = defines(&[What::Definition], |d| _ = d.define(70, class, 1, &fields));
        assert_eq!(s.tables(1).unwrap().site(70).unwrap().fields().count(), fields.len());
    }
}

#[test]
fn a_site_of_ten_thousand_fields() {
    let fields = vec![("", ty::U64); 10_000];
    let bytes = finds(&[], 1, |t| {
        t.definitions(|d| _ = d.define(70, Class::Instant, 1, &fields));
        t.events(1, 20, |e| _ = e.site(70, 0, &vec![Field::U64(3); 10_000]));
    });
    let line = last_line_of(&bytes, "+0 site 70");
    assert_eq!(line.matches(" =3").count(), 10_000);
}

#[test]
fn a_field_that_is_called_stack_and_is_none() {
    let fields = [("stack", ty::STACK), ("stack", ty::U64), ("s", ty::STACK)];
    let bytes = finds(&[What::Undefined], 1, |t| {
        t.definitions(|d| _ = d.define(70, Class::Instant, 1, &fields).stack(4, &[1]));
        t.events(1, 20, |e| _ = e.site(70, 0, &[Field::U64(4), Field::U64(5), Field::U64(6)]));
    });
    let mut d = Decoder::new();
    d.push(&bytes);
    d.finish();
    let mut stacks = Vec::new();
    while let Some(item) = d.next_item().unwrap() {
        if let Item::Event(e) = item {
            stacks.extend(e.stack());
        }
    }
    // The first field of that type, whatever it is called.
    assert_eq!(stacks, [4]);
}

#[test]
fn two_ends() {
    let mut t = begin();
    hit(&mut t);
    t.end(100).end(50);
    let v = everything(&t.bytes, 64);
    assert_eq!((v.events, v.sessions), (1, (1, 1)));
    assert_eq!(v.problems, [What::Session]);
    assert_eq!(session_of(&t.bytes).end().unwrap().at, 50);
}

#[test]
fn events_behind_the_end() {
    let mut t = begin();
    hit(&mut t);
    t.end(100);
    hit(&mut t);
    let v = everything(&t.bytes, 64);
    assert_eq!((v.events, v.sessions), (2, (1, 1)));
    assert_eq!(v.problems, [What::End, What::Session]);
}

#[test]
fn a_session_that_begins_twice() {
    let mut t = begin();
    hit(&mut t);
    t.session(0, 1);
    hit(&mut t);
    let v = everything(&t.bytes, 64);
    // The tables of the first one are not those of the second, whatever its number.
    assert_eq!((v.events, v.sessions, v.damage), (1, (2, 0), vec!["kind"]));
}

#[test]
fn a_session_event_amid_others() {
    let bytes = finds(&[What::Session], 0, |t| {
        t.control(|c| {
            c.put(|w| {
                let other = "other".into();
                schema::Session::put(w, 9, other, 60, 1, 9, 77, 1, other, other, 9)
            });
        });
    });
    assert_eq!(&*session_of(&bytes).info().unwrap().program, b"by hand");
}

#[test]
fn losses_of_anybody_for_anything() {
    let s = defines(&[What::End], |d| {
        for (thread, cause) in [(0, 0), (5, 31), (5, 32), (u64::MAX, u64::MAX), (1, 1)] {
            d.put(|w| schema::Loss::put(w, thread, cause, u64::MAX));
        }
        d.put(|w| schema::Loss::put(w, 1, 1, 3));
    });
    // The newest counts, sums stop at the last number, and unknown causes have no name.
    assert_eq!(s.losses().count(), 5);
    assert_eq!(s.lost(), u64::MAX);
    let named: Vec<bool> = s.losses().map(|l| l.cause_name().is_some()).collect();
    assert_eq!(named, [false, true, false, true, false]);
    assert_eq!(s.losses().find(|l| l.thread == 1).unwrap().count, 3);
}

#[test]
fn late_where_nobody_is_late() {
    finds(&[], 2, |t| {
        t.next.flags = FLAG_LATE;
        t.events(1, 5, |e| _ = e.site(HIT, 0, &[Field::U64(0)]));
        t.next.flags = u32::MAX;
        t.events(1, 5, |e| _ = e.site(HIT, 0, &[Field::U64(0)]));
    });
}

#[test]
fn a_generation_that_waits_for_who_never_comes() {
    let mut t = begin();
    hit(&mut t);
    t.control(|c| _ = c.generation_end(1, 1000, &[5, u64::MAX, 0]));
    hit(&mut t);
    let v = everything(&t.bytes, 64);
    assert_eq!((v.events, v.damage), (2, vec![]));
    assert_eq!(v.problems, [What::Session]);
}

#[test]
fn a_body_of_zeros_and_one_of_ones() {
    for (byte, word) in [(0, "kind"), (0xff, "event")] {
        for kind in [BatchKind::Definitions, BatchKind::Events, BatchKind::Control] {
            let mut t = begin();
            t.batch(kind as u8, 1, 0, Body::default().raw(&[byte; 500]));
            let v = everything(&t.bytes, 64);
            assert_eq!((v.events, v.damage), (0, vec![word]), "{kind:?} of {byte:x}");
        }
    }
}

#[test]
fn a_schema_that_describes_itself_and_each_other() {
    let s = defines(&[], |d| {
        let fields = [("kind", ty::KIND), ("fields", ty::FIELDS)];
        for kind in [60, 61] {
            let name = "kind".into();
            d.put(|w| schema::Schema::put(w, kind, name, 0, name, &fields));
        }
        // Events of these kinds name each other's.
        d.raw(&[60, 61, 0]).raw(&[61, 60, 1, 2, b'x', 60]);
    });
    assert_eq!(s.schema(60).unwrap().fields().count(), 2);
    assert!(s.schema(62).is_none() && s.schema(64).is_none() && s.schema(u64::MAX).is_none());
}
