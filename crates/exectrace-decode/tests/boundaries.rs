//! Numbers at their edges: every form that a varint can have, in each place of an event where one
//! stands, and times that go beyond what 64 bits hold.

use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::validate::What;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::dump;
use trace_testkit::expect::everything;

/// Groups of seven bits, all but the last with the continuation bit.
fn groups(groups: &[u8]) -> Vec<u8> {
    let last = groups.len() - 1;
    groups.iter().enumerate().map(|(i, g)| if i < last { g | 0x80 } else { *g }).collect()
}

/// Every boundary form, and its value by the format's rule: at most ten bytes, the tenth at most 1.
fn forms() -> Vec<(Vec<u8>, Option<u64>)> {
    let mut forms = Vec::new();
    for n in 1..=9u32 {
        let n_bytes = n as usize;
        // The least and the largest number of n bytes, and that number with zero groups behind it.
        let least = if n == 1 { 0 } else { 1u64 << (7 * (n - 1)) };
        let largest = (1u64 << (7 * n)) - 1;
        let mut of_least = vec![0; n_bytes];
        of_least[n_bytes - 1] = u8::from(n > 1);
        forms.push((groups(&of_least), Some(least)));
        forms.push((groups(&vec![0x7f; n_bytes]), Some(largest)));
        for padded in n_bytes + 1..=10 {
            let mut with_zeros = vec![0x7f; n_bytes];
            with_zeros.resize(padded, 0);
            forms.push((groups(&with_zeros), Some(largest)));
        }
        forms.push((groups(&vec![0; n_bytes + 1]), Some(0)));
    }
    let ten = |first: u8, last: u8| {
        let mut all = vec![first; 9];
        all.push(last);
        groups(&all)
    };
    forms.push((ten(0x7f, 1), Some(u64::MAX)));
    forms.push((ten(0, 1), Some(1 << 63)));
    forms.push((ten(0x7f, 0), Some((1 << 63) - 1)));
    for last in [2, 3, 0x40, 0x7e, 0x7f] {
        forms.push((ten(0x7f, last), None));
        forms.push((ten(0, last), None));
    }
    // Eleven and more bytes, whatever they say.
    for n in [11, 12, 16, 63] {
        forms.push((groups(&vec![0; n]), None));
        forms.push((groups(&vec![0x7f; n]), None));
    }
    forms
}

const HIT: u64 = 64;

fn begin() -> TraceBuilder {
    let mut t = TraceBuilder::new(1);
    t.session(0, 1_000_000_000);
    t.definitions(|d| {
        d.string(1, "hit").define(HIT, Class::Instant, 1, &[("n", ty::U64)]);
        let all = [("n", ty::U64), ("i", ty::I64), ("l", ty::LIST), ("o", ty::BOOL)];
        d.define(65, Class::Instant, 1, &all);
        // As many varints as a fast step can do, and one more.
        for (kind, n) in [(66, 6), (67, 7)] {
            let fields: Vec<(&str, u64)> = ["a", "b", "c", "d", "e", "f", "g"]
                .into_iter()
                .take(n)
                .map(|name| (name, ty::U64))
                .collect();
            d.define(kind, Class::Instant, 1, &fields);
        }
    });
    t
}

fn signed(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

/// The event that `before`, the form and `after` make, and what the raw text form says of it.
type Place = (&'static str, Vec<u8>, Vec<u8>, fn(u64) -> String);

fn places() -> Vec<Place> {
    let hit = |v| format!("  +1 site 64 \"hit\" n={v}");
    let mut places: Vec<Place> = vec![
        ("a field", vec![64], vec![1], hit),
        ("a delta", vec![64, 9], vec![], |v| format!("  +{v} site 64 \"hit\" n=9")),
        ("a signed field", vec![65, 1], vec![0, 1, 2], |v| {
            format!("  +2 site 65 \"hit\" n=1 i={} l=[] o=true", signed(v))
        }),
        ("an element", vec![65, 1, 2, 2, 2], vec![0, 2], |v| {
            let second = 1u64.wrapping_add(signed(v) as u64);
            format!("  +2 site 65 \"hit\" n=1 i=1 l=[1,{second}] o=false")
        }),
        ("the last of six", vec![66, 1, 2, 3, 4, 5], vec![1], |v| {
            format!("  +1 site 66 \"hit\" a=1 b=2 c=3 d=4 e=5 f={v}")
        }),
        ("amid seven", vec![67, 1, 2, 3], vec![5, 6, 7, 1], |v| {
            format!("  +1 site 67 \"hit\" a=1 b=2 c=3 d={v} e=5 f=6 g=7")
        }),
        ("of a static kind", vec![34], vec![1], |v| format!("  +1 SpanEndAt depth={v}")),
    ];
    // The same between two others, which the fast step takes.
    places.push(("a first field", vec![67], vec![2, 3, 4, 5, 6, 7, 0x81, 0], |v| {
        format!("  +1 site 67 \"hit\" a={v} b=2 c=3 d=4 e=5 f=6 g=7")
    }));
    places
}

#[test]
fn every_form_in_every_place() {
    let forms = forms();
    let mut checked = 0;
    for (place, before, after, line) in places() {
        for (form, value) in &forms {
            // At the end of the batch, and with more behind than a word.
            for more in [0, 5] {
                let mut t = begin();
                let event = [&before[..], form, &after].concat();
                t.events(1, 0, |e| {
                    e.site(HIT, 0, &[Field::U64(1)]).raw(&event);
                    for _ in 0..more {
                        e.site(HIT, 0, &[Field::U64(7)]);
                    }
                });
                let lines = dump(&t.bytes);
                let at = lines.iter().rposition(|l| l.ends_with(" n=1")).unwrap();
                let got = &lines[at + 1..];
                match value {
                    Some(v) => {
                        assert_eq!(got[0], line(*v), "{place}: {form:x?}");
                        assert_eq!(got.len(), 1 + more, "{place}: {form:x?}");
                    }
                    None => {
                        assert!(got[0].starts_with("damage "), "{place}: {form:x?}: {got:?}");
                        assert!(got[0].ends_with(" event"), "{place}: {form:x?}: {got:?}");
                        assert_eq!(got.len(), 1);
                    }
                }
                let v = everything(&t.bytes, 4096);
                let events = if value.is_some() { 2 + more as u64 } else { 1 };
                assert_eq!(v.events, events, "{place}: {form:x?}");
                checked += 1;
            }
        }
    }
    assert!(forms.len() > 70 && checked > 1000, "{} forms, {checked} events", forms.len());
}

/// A kind with zero groups behind is that kind; one that does not fit is none.
#[test]
fn every_form_of_a_kind() {
    let mut known = 0;
    for (form, value) in forms() {
        let mut t = begin();
        t.events(1, 0, |e| {
            e.raw(&[&form[..], &[5, 6]].concat());
        });
        let v = everything(&t.bytes, 4096);
        let want = match value {
            None => vec!["event"],
            Some(_) => vec!["kind"],
        };
        assert_eq!((v.events, v.damage), (0, want), "{form:x?}");
    }
    for padded in 1..=10 {
        let mut kind = vec![0x40];
        kind.resize(padded, 0);
        let mut t = begin();
        t.events(1, 0, |e| {
            e.raw(&[&groups(&kind)[..], &[5, 6]].concat()).site(HIT, 1, &[Field::U64(2)]);
        });
        let v = everything(&t.bytes, 4096);
        assert_eq!((v.events, v.damage), (2, vec![]), "{padded} bytes");
        known += 1;
    }
    assert_eq!(known, 10);
}

/// The ticks of the events, and problems of time that the validator found.
fn ticks(first: u64, deltas: &[u64]) -> (Vec<u64>, u64) {
    let mut t = begin();
    t.events(1, first, |e| {
        for delta in deltas {
            e.site(HIT, *delta, &[Field::U64(0)]);
        }
    });
    let mut d = Decoder::new();
    d.push(&t.bytes);
    d.finish();
    let mut ticks = Vec::new();
    while let Some(item) = d.next_item().unwrap() {
        if let Item::Event(e) = item {
            ticks.push(e.ticks);
        }
    }
    let mut v = Validate::new();
    v.push(&t.bytes).and_then(|()| v.finish()).unwrap();
    (ticks, v.count(What::Time))
}

/// A time beyond 64 bits is the last one that there is, and the validator says so.
#[test]
fn times_that_do_not_fit() {
    const MAX: u64 = u64::MAX;
    assert_eq!(ticks(5, &[0, 1, 2]), (vec![5, 6, 8], 0));
    assert_eq!(ticks(MAX - 2, &[0, 1, 1]), (vec![MAX - 2, MAX - 1, MAX], 0));
    assert_eq!(ticks(MAX, &[0]), (vec![MAX], 0));
    for (first, deltas) in [
        (MAX, vec![1]),
        (MAX - 2, vec![1, 2]),
        (1, vec![MAX]),
        (0, vec![MAX, MAX]),
        (1 << 63, vec![1 << 63, 0]),
        (3, vec![1, MAX - 3]),
    ] {
        let (got, wrong) = ticks(first, &deltas);
        let mut exact = u128::from(first);
        let want: Vec<u64> = deltas
            .iter()
            .map(|d| {
                exact += u128::from(*d);
                u64::try_from(exact).unwrap_or(MAX)
            })
            .collect();
        assert_eq!(got, want);
        assert!(wrong > 0, "{first} and {deltas:?}");
    }
}

/// Nothing tells how long a tick is: no rate, no snapshot or one, or two at the same tick. Times
/// are in order, and nothing is divided by zero.
#[test]
fn sessions_too_short_for_a_clock() {
    for (rate, snapshots) in [(0, 0), (0, 1), (0, 2), (u64::MAX, 0), (1, 1), (u64::MAX, 2)] {
        for events in [0, 1, 3] {
            let mut t = TraceBuilder::new(1);
            t.session(100, rate);
            t.definitions(|d| {
                d.string(1, "hit").define(HIT, Class::Instant, 1, &[("n", ty::U64)]);
            });
            t.control(|c| {
                for _ in 0..snapshots {
                    c.put(|w| schema::ClockSnapshot::put(w, 100, 7, 7, 7, 0));
                }
            });
            if events > 0 {
                t.events(1, 100, |e| {
                    for _ in 0..events {
                        e.site(HIT, 0, &[Field::U64(0)]);
                    }
                });
            }
            t.end(100);
            let v = everything(&t.bytes, 4096);
            assert_eq!((v.events, v.damage, v.sessions), (events, vec![], (1, 1)));
            let s = trace_testkit::expect::session_of(&t.bytes);
            assert_eq!((s.duration_ns(), s.clock().is_known()), (0, rate > 0));
        }
    }
}
