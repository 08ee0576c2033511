//! The macros: what they evaluate and when, what they accept, and under which names they work.

mod names;
mod support;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::process::Command;

use support::Capture;
use trace::encode::schema::Cause;
use trace_decode::Decoder;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Value;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

/// An event of a site, in words: class, name, fields.
fn told(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        let (Some(name), Event::Site(_)) = (e.name(), e.event()) else { continue };
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let mut line = format!("{} {}", text(e.kind_name().bytes), text(name.bytes));
        for (name, value) in e.fields() {
            let value = match value {
                Value::Text(t) => format!("'{}'", text(t.bytes)),
                Value::U64(v) => format!("{v}"),
                Value::I64(v) => format!("{v:+}"),
                Value::F64(v) => format!("{v:?}"),
                Value::Bool(v) => format!("{v}"),
                Value::Task(v) => format!("#{v}"),
                Value::Stack(_) => continue,
                other => panic!("{other:?}"),
            };
            line += &format!(" {}={value}", text(name));
        }
        lines.push(line);
    }
    lines
}

/// Records what `body` does; gives its events and what was lost.
fn record(body: impl FnOnce()) -> (Vec<String>, trace::Summary) {
    let capture = Capture::default();
    trace::start(capture.clone()).unwrap();
    body();
    let summary = trace::stop().unwrap();
    let bytes = capture.take();
    support::assert_valid(&bytes);
    (told(&bytes), summary)
}

thread_local! {
    static EVALUATED: Cell<u64> = const { Cell::new(0) };
}

/// Counts that it was evaluated.
fn seen<T>(value: T) -> T {
    EVALUATED.set(EVALUATED.get() + 1);
    value
}

/// Every place in each macro where an expression may stand, each evaluated by `seen`.
fn everywhere() -> u64 {
    EVALUATED.set(0);
    let off = trace::Task::OFF;
    trace::instant!("i", a = seen(1), b = seen("x"));
    trace::counter!("c", seen(2));
    trace::log!(l, "{} {:>1$}", seen(3), seen(4));
    trace::log!(task: seen(&off), l, "{}", seen(5));
    {
        let _a = trace::span!("s", a = seen(6), b = seen(7));
        let _b = trace::span!(task: seen(&off), "s", a = seen(8));
    }
    let _t = trace::task!("t", a = seen(9));
    let _u = trace::task!(parent: seen(&off), "t", a = seen(10));
    EVALUATED.get()
}

#[test]
fn arguments_are_evaluated_once_and_only_while_recording() {
    alone("arguments_are_evaluated_once_and_only_while_recording", 20, || {
        assert_eq!(everywhere(), 0);
        let (lines, summary) = record(|| {
            // The first time a place is defined, later it is known.
            for _ in 0..3 {
                assert_eq!(everywhere(), 14);
            }
        });
        assert_eq!((lines.len(), summary.lost), (24, 0));
        assert_eq!(everywhere(), 0);
    });
}

/// Panics while it is formatted.
struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("beginning")?;
        panic!("while it is formatted")
    }
}

/// Says that it failed.
struct Fails;

impl fmt::Display for Fails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half")?;
        Err(fmt::Error)
    }
}

#[test]
fn a_panic_while_formatting_is_counted_and_goes_no_further() {
    alone("a_panic_while_formatting_is_counted_and_goes_no_further", 20, || {
        std::panic::set_hook(Box::new(|_| {}));
        let capture = Capture::default();
        trace::start(capture.clone()).unwrap();
        for n in 0..1000 {
            trace::log!(bad, "text {Bomb} of many bytes");
            trace::log!(good, "after {n}");
        }
        // The first event of a thread, whose only one it is.
        std::thread::spawn(|| trace::log!(bad, "{Bomb}")).join().unwrap();
        trace::log!(fails, "{Fails} and {}", "rest");
        let summary = trace::stop().unwrap();
        assert_eq!(summary.lost, 1001);
        assert_eq!(summary.lost_by_cause, [("panicked", 1001)]);
        let bytes = capture.take();
        support::assert_valid(&bytes);
        assert_eq!(support::contents(&bytes).cause(Cause::Panicked), 1001);
        let lines = told(&bytes);
        assert_eq!(lines.len(), 1001);
        assert_eq!(lines[999], "log good text='after 999'");
        assert_eq!(lines[1000], "log fails text='half'");
        assert!(!std::thread::panicking());
    });
}

/// A module of the program's own with the name of the library.
mod trace_of_the_programs_own {
    pub mod trace {
        pub fn span() -> &'static str {
            "the program's own"
        }
    }

    pub fn emit() {
        ::trace::instant!("beside", own = trace::span());
        let _span = ::trace::span!("beside");
        let task = ::trace::task!("beside");
        ::trace::log!(task: task, beside, "{}", trace::span());
        ::trace::counter!("beside", 1);
    }
}

/// Nothing but what is named in full.
#[no_implicit_prelude]
mod bare {
    pub fn emit() {
        ::trace::instant!("bare", n = 1u8);
        let task = ::trace::task!("bare");
        let _child = ::trace::task!(parent: task, "child");
        let _span = ::trace::span!(task: task, "bare");
        ::trace::log!(task: task, bare, "text");
        ::trace::log!(bare, "text");
    }
}

/// Names that the macros might use for their own things.
mod shadows {
    #![allow(non_upper_case_globals, non_snake_case, dead_code)]

    pub const SITE: u32 = 1;
    pub const values: u32 = 2;
    pub const task: u32 = 3;
    #[derive(Debug)]
    pub struct None;
    pub fn Some() -> u32 {
        4
    }

    pub fn emit() {
        ::trace::instant!("shadow", site = SITE, values = values, task = task, some = Some());
        ::trace::counter!("shadow", SITE);
        let _span = ::trace::span!("shadow", site = SITE);
        let t = ::trace::task!("shadow", site = SITE);
        let _span = ::trace::span!(task: t, "shadow", site = SITE, task = task);
        ::trace::log!(shadow, "{} {SITE} {:?}", SITE, None);
    }
}

#[test]
fn names_of_the_programs_own_stay_its_own() {
    alone("names_of_the_programs_own_stay_its_own", 20, || {
        let (lines, _) = record(|| {
            trace_of_the_programs_own::emit();
            bare::emit();
            shadows::emit();
        });
        let expect = [
            "instant beside own='the program's own'",
            "span beside",
            "task beside task=#1 parent=#0",
            "log beside task=#1 text='the program's own'",
            "counter beside value=+1",
            "instant bare n=1",
            "task bare task=#2 parent=#0",
            "task child task=#3 parent=#2",
            "span bare task=#2",
            "log bare task=#2 text='text'",
            "log bare text='text'",
            "instant shadow site=1 values=2 task=3 some=4",
            "counter shadow value=1",
            "span shadow site=1",
            "task shadow task=#4 parent=#0 site=1",
            "span shadow task=#4 site=1 task=3",
            "log shadow text='1 1 None'",
        ];
        assert_eq!(lines, expect);
    });
}

/// The events of `body` are these.
#[track_caller]
fn assert_told(body: impl FnOnce(), expect: &[&str]) {
    let (lines, _) = record(body);
    for (line, expect) in lines.iter().zip(expect) {
        assert_eq!(line, expect);
    }
    assert_eq!(lines.len(), expect.len());
}

#[test]
#[rustfmt::skip] // The commas at the ends are what is tested.
fn every_type_of_argument() {
    let s = String::from("string");
    let some: &str = &s;
    let body = || {
        trace::instant!("none");
        trace::instant!("none",);
        trace::instant!("unsigned", a = 1u8, b = 2u16, c = 3u32, d = u64::MAX, e = 5usize,);
        trace::instant!("signed", a = -1i8, b = -2i16, c = -3i32, d = i64::MIN, e = 5isize);
        trace::instant!("others", a = 1.5f32, b = f64::MAX, c = true, d = false);
        trace::instant!("texts", a = "literal", b = s, c = &s, d = some, e = &some, f = &&some);
        trace::instant!("cow", a = Cow::Borrowed("b"), b = Cow::<str>::Owned(s.clone()));
        // Values that live no longer than the macro.
        trace::instant!("temporary", a = &7.to_string(), b = 8.to_string().as_str(),);
        trace::instant!("blocks", a = { let x = 1u32; x + 1 },
            b = if s.is_empty() { 1 } else { 2 });
        trace::instant!("still there", s = s);
        trace::instant!("many", a=1u8, b=2u8, c=3u8, d=4u8, e=5u8, f=6u8, g=7u8, h=8u8,
            i=9u8, j=10u8, k=11u8, l=12u8, m=13u8, n=14u8, o=15u8, p=16u8);
        trace::counter!("counter", 1.25,);
        trace::counter!("counter", s.len());
    };
    alone("every_type_of_argument", 20, || assert_told(body, &[
        "instant none",
        "instant none",
        "instant unsigned a=1 b=2 c=3 d=18446744073709551615 e=5",
        "instant signed a=-1 b=-2 c=-3 d=-9223372036854775808 e=+5",
        "instant others a=1.5 b=1.7976931348623157e308 c=true d=false",
        "instant texts a='literal' b='string' c='string' d='string' e='string' f='string'",
        "instant cow a='b' b='string'",
        "instant temporary a='7' b='8'",
        "instant blocks a=2 b=+2",
        "instant still there s='string'",
        "instant many a=1 b=2 c=3 d=4 e=5 f=6 g=7 h=8 i=9 j=10 k=11 l=12 m=13 n=14 o=15 p=16",
        "counter counter value=1.25",
        "counter counter value=6",
    ]));
}

#[test]
#[rustfmt::skip] // The commas at the ends are what is tested.
fn every_form_of_logs_spans_and_tasks() {
    let s = String::from("string");
    let body = || {
        trace::log!(category, "plain");
        trace::log!(category, "plain",);
        trace::log!("a string", "{} {s} {:?} {0}", 1, "x",);
        drop(trace::span!("span",));
        drop(trace::span!("span", a = &s.to_uppercase(),));
        drop(trace::task!("task",));
        let task = trace::task!("task", a = &s.to_uppercase(),);
        drop(trace::task!(parent: task, "child",));
        drop(trace::task!(parent: &task, "child", a = 1u8,));
        drop(trace::span!(task: task, "span", a = 1u8,));
        trace::log!(task: task, category, "{}", s,);
        trace::log!(task: &task, "a string", "text");
        assert_eq!(trace::span("closure", || s.len()), 6);
        let arm = if trace::is_enabled() { trace::span!("arm") } else { trace::Span::OFF };
        drop(arm);
        match s.len() {
            6 => trace::instant!("arm of a match", a = 1u8),
            _ => drop(s),
        }
        let _named = trace::task!("keyword", r#type = 1u8);
        trace::log!(r#type, "raw");
    };
    alone("every_form_of_logs_spans_and_tasks", 20, || assert_told(body, &[
        "log category text='plain'",
        "log category text='plain'",
        "log a string text='1 string \"x\" 1'",
        "span span",
        "span span a='STRING'",
        "task task task=#1 parent=#0",
        "task task task=#2 parent=#0 a='STRING'",
        "task child task=#3 parent=#2",
        "task child task=#4 parent=#2 a=1",
        "span span task=#2 a=1",
        "log category task=#2 text='string'",
        "log a string task=#2 text='text'",
        "span closure",
        "span arm",
        "instant arm of a match a=1",
        "task keyword task=#5 parent=#0 type=1",
        "log type text='raw'",
    ]));
}

const fn is_send<T: Send>() {}
const fn is_sync<T: Sync>() {}
const _: () = is_send::<trace::Task>();
const _: () = is_sync::<trace::Task>();
const _: () = is_send::<trace::Batch>();
const _: () = is_send::<trace::Config>();

/// A span's end during unwinding, a stop in a destructor during unwinding.
#[test]
fn spans_end_while_a_panic_unwinds() {
    struct Stops(Option<trace::Summary>);
    impl Drop for Stops {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            trace::instant!("in a destructor");
            self.0 = Some(trace::stop().unwrap());
            STOPPED.set(self.0.as_ref().unwrap().events);
        }
    }
    thread_local! {
        static STOPPED: Cell<u64> = const { Cell::new(0) };
    }
    alone("spans_end_while_a_panic_unwinds", 20, || {
        std::panic::set_hook(Box::new(|_| {}));
        let capture = Capture::default();
        trace::start(capture.clone()).unwrap();
        for n in 0..1000 {
            let unwound = std::panic::catch_unwind(|| {
                let _outer = trace::span!("outer", n = n);
                let _inner = trace::span!("inner");
                panic!("on purpose");
            });
            assert!(unwound.is_err());
        }
        let unwound = std::panic::catch_unwind(|| {
            let _span = trace::span!("outlives its session");
            let _stops = Stops(None);
            panic!("on purpose");
        });
        assert!(unwound.is_err());
        let bytes = capture.take();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!((c.kind("span"), c.kind("SpanEnd"), c.kind("instant")), (2001, 2000, 1));
        assert_eq!((c.events, c.lost()), (STOPPED.get(), 0));
    });
}

/// The package under another name, in a program where each warning is an error.
#[test]
fn renamed_in_cargo_toml() {
    let Some(program) = names::program("renamed") else { return };
    let out = Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    // Start of the thread; instant, counter; two tasks and their ends; a switch and back; three
    // spans and their ends; three logs.
    assert!(out.status.success(), "{out:?}");
    assert_eq!(text, "events 18 value 7\n");
}
