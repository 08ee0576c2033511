//! Threads with a number and threads without one.

use trace::encode::schema;
use trace_decode::Session;
use trace_decode::Validate;
use trace_testkit::Body;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::everything;
use trace_testkit::expect::session_of;

fn state(c: &mut Body, thread: u64, tid: u64, name: &str) {
    c.put(|w| schema::ThreadState::put(w, thread, tid, name.into(), 0, 1, 0, &[]));
}

fn unregistered(s: &Session) -> Vec<(u64, String)> {
    s.unregistered().map(|u| (u.tid, String::from_utf8(u.name.to_vec()).unwrap())).collect()
}

#[test]
fn what_has_no_number_is_no_thread_of_the_session() {
    let mut t = TraceBuilder::new(1);
    t.session(0, 1);
    t.control(|c| {
        state(c, 0, 900, "idle");
        state(c, 0, 901, "late");
        state(c, 3, 903, "third");
        c.put(|w| schema::ThreadName::put(w, 0, 0, "nobody".into()));
    });
    t.definitions(|d| {
        d.thread(0, 904, "none").thread(4, 901, "fourth");
    });
    t.control(|c| state(c, 0, 900, "still idle"));
    t.end(10);
    let s = session_of(&t.bytes);
    let numbers: Vec<(u64, u64)> = s.threads().map(|t| (t.number, t.tid)).collect();
    assert_eq!(numbers, [(3, 903), (4, 901)]);
    assert_eq!(s.thread(0), None);
    assert_eq!(unregistered(&s), [(900, "still idle".into())]);
    assert_eq!(everything(&t.bytes, 100).problems, []);
}

/// Who creates a thread writes before the thread is known, and perhaps it never is.
#[test]
fn a_thread_that_was_created_may_stay_unknown() {
    let mut t = TraceBuilder::new(1);
    t.session(0, 1);
    t.definitions(|d| _ = d.thread(1, 901, "main"));
    t.events(1, 0, |e| {
        e.timed(1, |w, d| schema::ThreadCreate::put(w, d, 2, 0));
        e.timed(1, |w, d| schema::ThreadCreate::put(w, d, 3, 0));
    });
    t.definitions(|d| _ = d.thread(2, 902, "second"));
    t.events(2, 0, |e| _ = e.timed(1, schema::ThreadStart::put));
    t.end(10);
    let mut v = Validate::new();
    v.push(&t.bytes).unwrap();
    v.finish().unwrap();
    assert_eq!((v.problems(), v.events()), (&[][..], 3));
}

#[test]
fn they_are_bounded() {
    let mut t = TraceBuilder::new(1);
    t.session(0, 1);
    for part in 0..20 {
        t.control(|c| (0..1000).for_each(|n| state(c, 0, part * 1000 + n, "")));
    }
    t.control(|c| state(c, 0, 7, "seven"));
    let s = session_of(&t.bytes);
    let found = unregistered(&s);
    assert_eq!(found.len(), 4096);
    assert_eq!(found[7], (7, "seven".into()));
    assert_eq!(s.threads().count(), 0);
}
