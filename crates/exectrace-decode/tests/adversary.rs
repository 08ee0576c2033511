//! Traces that someone made to break a decoder, by name: each gives a clear refusal or a partial
//! result with the damage named, and what is before and after the trouble decodes.

use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::wire::FLAG_LATE;
use trace::encode::wire::Header;
use trace_decode::ErrorKind;
use trace_decode::validate::What;
use trace_testkit::Body;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::Verdict;
use trace_testkit::expect::decode;
use trace_testkit::expect::everything;
use trace_testkit::sealed;

const HIT: u64 = 64;
const SPAN: u64 = 65;

fn begin(session: u64) -> TraceBuilder {
    let mut t = TraceBuilder::new(session);
    t.session(0, 1_000_000_000);
    t.control(|c| {
        c.clock(0, 0, 0);
    });
    t.definitions(|d| {
        d.string(1, "hit").string(2, "span").thread(1, 101, "one").thread(2, 102, "two");
        d.define(HIT, Class::Instant, 1, &[("n", ty::U64)]).define(SPAN, Class::Span, 2, &[]);
    });
    t
}

/// Three events of thread 1.
fn before(t: &mut TraceBuilder) {
    t.events(1, 10, |e| {
        e.site(HIT, 0, &[Field::U64(1)]).site(SPAN, 1, &[]).timed(1, schema::SpanEnd::put);
    });
}

/// Two more.
fn after(t: &mut TraceBuilder) {
    t.events(1, 5000, |e| {
        e.site(HIT, 0, &[Field::U64(2)]).site(HIT, 9, &[Field::U64(3)]);
    });
    t.end(6000);
}

/// A trace with trouble in its middle.
fn amid(trouble: impl FnOnce(&mut TraceBuilder)) -> Verdict {
    let mut t = begin(7);
    before(&mut t);
    trouble(&mut t);
    after(&mut t);
    let v = everything(&t.bytes, 777);
    assert_eq!(v, everything(&t.bytes, usize::MAX), "pieces make no difference");
    v
}

/// The trouble is damage of these sorts and nothing else is lost; `more` events of it decode.
#[track_caller]
fn damages(words: &[&str], more: u64, trouble: impl FnOnce(&mut TraceBuilder)) -> Verdict {
    let v = amid(trouble);
    assert_eq!((v.events, v.error), (5 + more, None), "{v:?}");
    assert_eq!(v.damage, words);
    assert_eq!(v.sessions, (1, 1));
    v
}

fn bytes_of(write: impl FnOnce(&mut Body)) -> Vec<u8> {
    let mut b = Body::default();
    write(&mut b);
    b.bytes
}

/// Ends a closure that gives nothing.
fn ok<T>(_: &mut T) {}

/// The varint of a number.
fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

#[test]
fn nothing_wrong() {
    assert_eq!(damages(&[], 0, |_| {}).problems, []);
}

#[test]
fn other_files_are_refused() {
    let go = b"go 1.22 trace\0\0\0\x01\x02";
    let json = b"{\"traceEvents\": []}";
    let elf = b"\x7fELF\x02\x01\x01\0";
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0";
    let swapped = b"\xf1\x54\x58\xeb\0\0\0\0";
    for bytes in [&go[..], json, elf, gzip, swapped, &[0; 5000], b"\xef\xbb\xbf", b"x"] {
        let got = decode(bytes, 3);
        let error = got.error.expect("it is no trace");
        assert_eq!(error.kind(), ErrorKind::NotATrace);
        let text = error.to_string();
        let want = "not an exectrace trace: expected magic EB 58 54 F1 at offset 0, found ";
        assert!(text.starts_with(want), "{text}");
        assert!(text.contains(&format!("{:02X}", bytes[0])), "{text}");
        assert!(got.events.is_empty());
    }
}

#[test]
fn a_large_other_file_is_refused_early() {
    let mut d = trace_decode::Decoder::new();
    let piece = [b'x'; 1 << 16];
    let refused = (1..100).find(|_| {
        d.push(&piece);
        d.next_item().is_err()
    });
    assert_eq!(refused, Some(17));
}

/// As docs/format.md has it: no good batch, but the right magic, is damage and no other file.
#[test]
fn what_begins_with_the_magic_is_a_trace() {
    let good = sealed(begin(7).next, &[9; 40]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let version_0 = sealed(Header { version: 0, ..begin(7).next }, &[]);
    let noise = [&with(70, 0)[..], &[b'x'; 2 << 20]].concat();
    for (bytes, word) in [
        (with(7, 1), "length"),
        (with(70, 0), "crc"),
        (version_0, "version"),
        (good[..80].to_vec(), "truncated"),
        (good[..3].to_vec(), "truncated"),
        (noise, "crc"),
    ] {
        let v = everything(&bytes, 1000);
        assert_eq!((v.error, v.damage, v.events), (None, vec![word], 0));
    }
    // All of it is of a later version, as far as can be told.
    let later = [&with(10, 2)[..], &[b'x'; 100]].concat();
    for bytes in [&later[..], &later[..64], &later[..80]] {
        assert_eq!(everything(bytes, 10).error, Some(ErrorKind::Version { found: 2 }));
    }
    // A batch of ours behind it makes it damage.
    let v = everything(&[&later[..], &good].concat(), 10);
    assert_eq!((v.error, v.damage), (None, vec!["crc"]));
}

#[test]
fn later_version_first() {
    let mut t = begin(7);
    t.bytes.clear();
    t.next.version = 2;
    t.control(|_| {});
    let error = decode(&t.bytes, 64).error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Version { found: 2 });
    assert!(error.to_string().contains("format version 2 at offset 0"), "{error}");
    assert!(error.to_string().contains("supports version 1"), "{error}");
}

#[test]
fn later_version_with_a_header_of_another_form() {
    let mut bytes = begin(7).bytes;
    bytes.truncate(200);
    bytes[10] = 3;
    assert_eq!(everything(&bytes, 64).error, Some(ErrorKind::Version { found: 3 }));
}

#[test]
fn later_version_after_a_session() {
    let mut t = begin(7);
    before(&mut t);
    after(&mut t);
    t.next.version = 9;
    t.control(|_| {});
    let got = decode(&t.bytes, 64);
    assert_eq!(got.events.len(), 5);
    assert_eq!(got.error.unwrap().kind(), ErrorKind::Version { found: 9 });
    assert_eq!(got.others.last().unwrap(), "end events=5: 5 events");
}

#[test]
fn version_0() {
    damages(&["version"], 0, |t| {
        t.next.version = 0;
        t.control(|_| {});
        t.next.version = 1;
    });
}

#[test]
fn impossible_batch_lengths() {
    for length in [0, 63, 65_537, 1 << 31, u32::MAX] {
        damages(&["length"], 0, |t| {
            let mut batch = sealed(t.next, &[]);
            batch[4..8].copy_from_slice(&length.to_le_bytes());
            t.bytes.extend(batch);
        });
    }
}

#[test]
fn batch_longer_than_the_input() {
    let mut t = begin(7);
    before(&mut t);
    let mut batch = sealed(t.next, &[]);
    batch[4..8].copy_from_slice(&65_536u32.to_le_bytes());
    t.bytes.extend(batch);
    let v = everything(&t.bytes, 100);
    assert_eq!((v.events, v.damage, v.error), (3, vec!["truncated"], None));
    assert!(v.problems.contains(&What::Session));
}

#[test]
fn batch_that_swallows_the_next_ones() {
    damages(&["crc"], 0, |t| {
        let mut batch = sealed(t.next, &[]);
        batch[4..8].copy_from_slice(&100u32.to_le_bytes());
        t.bytes.extend(batch);
    });
}

#[test]
fn magic_after_magic() {
    damages(&["crc"], 0, |t| {
        // Each looks like a batch of 64 bytes and overlaps with the next.
        for _ in 0..500 {
            t.bytes.extend([0xeb, 0x58, 0x54, 0xf1, 64, 0, 0, 0, 3, 0, 1, 0]);
        }
    });
}

#[test]
fn string_of_2_to_the_62() {
    let text = [&[3, 9][..], &varint(1 << 63), b"abc"].concat();
    damages(&["event"], 0, |t| {
        t.definitions(|d| ok(d.string(8, "kept").raw(&text)));
    });
}

#[test]
fn lists_of_2_to_the_60() {
    let huge = varint(1 << 60);
    let stack = [&[4, 9, 0][..], &huge, &[0; 9]].concat();
    let site = [&[5, 99, 1, 0, 0, 0, 0, 0][..], &huge, &[0; 9]].concat();
    let late = [&[10, 1, 1][..], &huge].concat();
    let state = [&[32, 0][..], &huge, &[0; 9]].concat();
    for raw in [&stack, &site] {
        damages(&["event"], 0, |t| {
            t.definitions(|d| ok(d.raw(raw)));
        });
    }
    damages(&["event"], 0, |t| {
        t.control(|c| ok(c.raw(&late)));
    });
    damages(&["event"], 1, |t| {
        t.events(1, 20, |e| ok(e.site(HIT, 0, &[Field::U64(0)]).raw(&state)));
    });
}

#[test]
fn varints_that_are_none() {
    let eleven = [&[64][..], &[0x80; 10], &[0]].concat();
    let too_large = [&[64, 0][..], &[0xff; 9], &[2]].concat();
    let cut = [64, 0, 0x80, 0x80];
    for raw in [&eleven[..], &too_large, &cut] {
        damages(&["event"], 1, |t| {
            t.events(2, 20, |e| ok(e.site(HIT, 0, &[Field::U64(0)]).raw(raw)));
        });
    }
}

#[test]
fn varints_with_padding_are_accepted() {
    let mut t = begin(7);
    // Kind 64, value 5 and delta 1, each with zero groups behind.
    t.events(1, 0, |e| ok(e.raw(&[0xc0, 0x80, 0, 0x85, 0x80, 0x80, 0, 0x81, 0])));
    assert_eq!(decode(&t.bytes, 64).events, ["1 1/0 instant [hit] n=5"]);
    everything(&t.bytes, 64);
}

#[test]
fn what_nothing_defines_is_no_name() {
    let v = damages(&[], 3, |t| {
        t.definitions(|d| {
            d.define(70, Class::Instant, 999, &[("s", ty::STRING), ("stack", ty::STACK)]);
        });
        t.events(55, 20, |e| {
            e.site(70, 0, &[Field::U64(12), Field::U64(13)]);
            e.timed(1, |w, d| schema::ThreadCreate::put(w, d, 77, 78));
            e.timed(1, |w, d| schema::TaskSwitch::put(w, d, 79));
        });
    });
    assert!(v.problems.contains(&What::Undefined));
}

#[test]
fn the_first_definition_counts() {
    let mut t = begin(7);
    t.definitions(|d| {
        d.string(1, "other").define(HIT, Class::Instant, 2, &[("a", ty::TEXT), ("b", ty::TEXT)]);
    });
    before(&mut t);
    let got = decode(&t.bytes, 64).events;
    assert_eq!(got[0], "10 1/0 instant [hit] n=1");
    assert_eq!(got.len(), 3);
    assert!(everything(&t.bytes, 64).problems.contains(&What::Definition));
}

#[test]
fn use_before_definition_ends_the_batch() {
    damages(&["kind"], 1, |t| {
        t.events(2, 20, |e| {
            e.site(HIT, 0, &[Field::U64(0)]).site(90, 0, &[]).site(HIT, 0, &[Field::U64(0)]);
        });
        t.control(|c| ok(c.generation_end(1, 100, &[])));
        t.definitions(|d| ok(d.define(90, Class::Instant, 1, &[])));
    });
}

#[test]
fn ids_of_another_epoch_are_unknown() {
    damages(&["kind"], 0, |t| {
        t.next.epoch = 2;
        t.events(2, 20, |e| ok(e.site(HIT, 0, &[Field::U64(0)])));
        t.next.epoch = 1;
    });
}

#[test]
fn kinds_far_apart() {
    let far = [128, 16_383, 16_384, 1 << 32, u64::MAX];
    damages(&[], 5, |t| {
        t.definitions(|d| {
            for kind in far {
                d.define(kind, Class::Instant, 1, &[("n", ty::U64)]);
            }
        });
        t.events(2, 20, |e| {
            for kind in far {
                e.site(kind, 1, &[Field::U64(kind)]);
            }
        });
    });
}

/// Kinds of three bytes and more, of which the first two alone name another kind.
#[test]
fn a_long_kind_is_not_the_short_one_that_it_begins_like() {
    let far = [HIT, 1 << 14 | HIT, 1 << 21 | HIT, 1 << 40 | HIT];
    let mut t = begin(7);
    t.definitions(|d| {
        for kind in &far[1..] {
            d.define(*kind, Class::Instant, 1, &[("n", ty::U64)]);
        }
    });
    t.events(2, 20, |e| {
        for kind in far {
            e.site(kind, 1, &[Field::U64(5)]);
        }
        // As long without need: 64 with a group of zeros.
        e.raw(&[0xc0, 0x80, 0x00, 5, 1]);
    });
    t.end(100);
    let (mut d, mut kinds) = (trace_decode::Decoder::new(), Vec::new());
    d.push(&t.bytes);
    d.finish();
    while let Some(item) = d.next_item().unwrap() {
        if let trace_decode::Item::Event(e) = item {
            assert_eq!(e.site().map(|s| s.kind), Some(e.kind));
            assert_eq!(e.fields().next().map(|f| f.1), Some(trace_decode::Value::U64(5)));
            kinds.push(e.kind);
        }
    }
    assert_eq!(kinds, [far[0], far[1], far[2], far[3], HIT]);
    let (mut scan, mut counts) = (trace_decode::Scan::new(), Vec::new());
    scan.push(&t.bytes);
    scan.finish();
    while let Some(item) = scan.next_item().unwrap() {
        if let trace_decode::ScanItem::Batch(b) = item
            && b.is_events()
        {
            counts.extend_from_slice(b.counts);
        }
    }
    assert_eq!(counts, [(far[0], 2), (far[1], 1), (far[2], 1), (far[3], 1)]);
}

#[test]
fn sites_below_the_first_dynamic_kind_are_none() {
    let v = damages(&["kind"], 1, |t| {
        t.definitions(|d| {
            d.define(33, Class::Instant, 1, &[("n", ty::TEXT)]).define(40, Class::Span, 1, &[]);
        });
        t.events(2, 20, |e| ok(e.timed(1, schema::SpanEnd::put).site(40, 0, &[])));
    });
    assert!(v.problems.contains(&What::Definition));
}

#[test]
fn field_of_a_later_shape() {
    damages(&["kind"], 1, |t| {
        t.definitions(|d| {
            d.define(71, Class::Instant, 1, &[("new", 9 << 3 | 6)]);
        });
        t.events(2, 20, |e| {
            e.site(HIT, 0, &[Field::U64(0)]).site(71, 0, &[Field::U64(1)]);
        });
    });
}

fn schema_of(d: &mut Body, kind: u64, phase: u64, fields: &[(&str, u64)]) {
    d.put(|w| schema::Schema::put(w, kind, "Later".into(), phase, "".into(), fields));
}

#[test]
fn kinds_of_a_later_version_are_stepped_over() {
    let mut t = begin(7);
    t.definitions(|d| {
        schema_of(d, 60, 1, &[("a", ty::TEXT), ("b", 30 << 3)]);
        schema_of(d, 61, 0, &[("a", ty::LIST)]);
        d.raw(&[61, 2, 0, 0]).string(9, "after it");
    });
    t.events(1, 10, |e| {
        e.raw(&[60, 2, b'x', 7, 1]).site(HIT, 1, &[Field::U64(1)]);
    });
    t.end(20);
    let got = decode(&t.bytes, 64);
    assert_eq!(got.events, ["11 1/0 Later a=x b=7", "12 1/0 instant [hit] n=1"]);
    assert_eq!(everything(&t.bytes, 64).damage, [""; 0]);
}

#[test]
fn kinds_that_nothing_describes_end_the_batch() {
    damages(&["kind"], 1, |t| {
        t.events(2, 20, |e| {
            e.site(HIT, 0, &[Field::U64(0)]).raw(&[62, 0]).site(HIT, 0, &[Field::U64(0)]);
        });
    });
    damages(&["kind"], 0, |t| {
        t.control(|c| ok(c.raw(&[63, 1, 2])));
    });
}

#[test]
fn a_schema_does_not_redefine_our_kinds() {
    let v = damages(&[], 1, |t| {
        t.definitions(|d| {
            schema_of(d, 33, 1, &[("a", ty::TEXT)]);
            schema_of(d, 3, 1, &[]);
        });
        t.events(2, 20, |e| ok(e.timed(1, schema::SpanEnd::put)));
    });
    assert!(v.problems.contains(&What::Definition));
}

#[test]
fn events_in_batches_of_the_wrong_kind() {
    let text = bytes_of(|d| ok(d.string(77, "x")));
    damages(&["kind"], 0, |t| {
        t.events(2, 20, |e| ok(e.raw(&text)));
    });
    damages(&["event"], 0, |t| {
        t.control(|c| ok(c.timed(1, schema::SpanEnd::put)));
    });
}

#[test]
fn batches_of_a_later_kind_are_skipped() {
    for kind in [0, 5, 255] {
        damages(&[], 0, |t| {
            t.batch(kind, 0, 0, Body::default().raw(&[0xff; 100]));
        });
    }
}

#[test]
fn odd_headers() {
    damages(&[], 4, |t| {
        t.next.generation = u32::MAX;
        t.next.flags = u32::MAX;
        for (thread, lane) in [(u32::MAX, 255), (0, 0), (0, 1), (2, 2)] {
            t.events_of(thread, lane, 20, |e| ok(e.site(HIT, 0, &[Field::U64(0)])));
        }
    });
    damages(&[], 0, |t| ok(t.events(2, 20, |_| {})));
}

#[test]
fn spliced_batch_of_another_session() {
    let mut other = begin(8);
    before(&mut other);
    let foreign = other.bytes[*other.offsets.last().unwrap()..].to_vec();
    damages(&["session"], 0, |t| t.bytes.extend(&foreign));
    // Two of them are a session whose first batch is missing.
    let v = amid(|t| t.bytes.extend([&foreign[..], &foreign].concat()));
    assert_eq!(v.sessions, (3, 1));
}

#[test]
fn session_without_its_first_batch() {
    let mut t = begin(7);
    before(&mut t);
    after(&mut t);
    let v = everything(&t.bytes[t.offsets[1]..], 64);
    assert_eq!((v.events, v.damage, v.sessions), (5, vec![], (1, 1)));
    assert!(v.problems.contains(&What::Session));
}

#[test]
fn clocks_that_stand_jump_or_go_back() {
    let edges = [0, 1, 5000, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    let mut checked = 0;
    for a in edges {
        for b in edges {
            let v = amid(|t| {
                t.control(|c| ok(c.clock(a, b, a).clock(b, a, b).clock(a, a, a)));
                t.events(2, a, |e| {
                    e.site(HIT, b, &[Field::U64(0)]).site(HIT, u64::MAX, &[Field::U64(0)]);
                });
            });
            assert_eq!((v.events, v.damage.len(), v.error), (7, 0, None));
            checked += 1;
        }
    }
    assert_eq!(checked, 36);
}

#[test]
fn generations_that_end_anywhere() {
    let many: Vec<u64> = (0..5000).collect();
    for at in [0, 11, u64::MAX] {
        damages(&[], 0, |t| {
            t.control(|c| {
                c.generation_end(u64::MAX, at, &[]).generation_end(0, at, &many);
            });
        });
    }
}

#[test]
fn late_batches_come_out_in_order_where_they_may() {
    let mut t = begin(7);
    t.events(1, 10, |e| ok(e.site(HIT, 0, &[Field::U64(1)])));
    t.control(|c| ok(c.generation_end(1, 100, &[2])));
    t.events(1, 110, |e| ok(e.site(HIT, 0, &[Field::U64(3)])));
    t.next.flags = FLAG_LATE;
    t.events(2, 5, |e| ok(e.site(HIT, 0, &[Field::U64(0)])));
    t.control(|c| ok(c.generation_end(2, 200, &[])));
    t.next.flags = FLAG_LATE;
    t.events(2, 150, |e| ok(e.site(HIT, 0, &[Field::U64(4)])));
    t.end(300);
    let want = [
        "5 2/0 instant [hit] n=0",
        "10 1/0 instant [hit] n=1",
        "110 1/0 instant [hit] n=3",
        "150 2/0 instant [hit] n=4",
    ];
    assert_eq!(decode(&t.bytes, 64).events, want);
    assert_eq!(everything(&t.bytes, 64).late, 0);
}

#[test]
fn a_batch_behind_its_generation_is_flagged() {
    let mut t = begin(7);
    t.events(1, 10, |e| ok(e.site(HIT, 90, &[Field::U64(1)])));
    t.control(|c| ok(c.generation_end(1, 200, &[])));
    t.events(2, 50, |e| ok(e.site(HIT, 0, &[Field::U64(2)])));
    t.end(300);
    assert_eq!(
        decode(&t.bytes, 64).events,
        ["100 1/0 instant [hit] n=1", "50 2/0 instant [hit] n=2 late"]
    );
}

#[test]
fn wrong_counts_are_found() {
    let v = damages(&[], 1, |t| {
        let mut b = Body::default();
        b.site(HIT, 0, &[Field::U64(0)]);
        b.count = 9;
        t.batch(3, 2, 0, &b);
    });
    assert_eq!(v.problems, [What::Count, What::End]);
}

#[test]
fn missing_and_repeated_batches_are_found() {
    let mut t = begin(7);
    before(&mut t);
    before(&mut t);
    after(&mut t);
    let (from, to) = (t.offsets[3], t.offsets[4]);
    let missing = [&t.bytes[..from], &t.bytes[to..]].concat();
    let v = everything(&missing, 64);
    assert_eq!(v.events, 5);
    assert!(v.problems.contains(&What::Sequence) && v.problems.contains(&What::End), "{v:?}");
    let repeated = [&t.bytes[..to], &t.bytes[from..]].concat();
    let v = everything(&repeated, 64);
    assert_eq!(v.events, 11);
    assert!(v.problems.contains(&What::Sequence), "{v:?}");
}

#[test]
fn times_that_go_back_are_found() {
    let v = damages(&[], 2, |t| {
        t.events(2, 900, |e| ok(e.site(HIT, 0, &[Field::U64(0)])));
        t.events(2, 100, |e| ok(e.site(HIT, 0, &[Field::U64(0)])));
    });
    assert_eq!(v.problems, [What::Time]);
}

#[test]
fn spans_that_never_began_or_never_end() {
    damages(&[], 30_000, |t| {
        t.events(2, 20, |e| {
            for _ in 0..10_000 {
                e.timed(0, schema::SpanEnd::put);
            }
        });
        t.events(2, 30, |e| {
            for _ in 0..20_000 {
                e.site(SPAN, 0, &[]);
            }
        });
    });
    let v = damages(&[], 3, |t| {
        t.events(2, 20, |e| {
            e.timed(0, schema::ThreadStart::put);
            e.timed(0, |w, d| schema::SpanEndAt::put(w, d, u64::MAX));
            e.timed(0, |w, d| schema::State::put(w, d, 0, &[u64::MAX; 40], u64::MAX));
        });
    });
    assert!(v.problems.contains(&What::Spans));
}

#[test]
fn text_of_every_sort() {
    let cut = Text { bytes: b"\xff\xfe", cut_from: Some(u64::MAX) };
    damages(&[], 1, |t| {
        t.definitions(|d| {
            d.put(|w| schema::String::put(w, 5, cut));
            d.define(72, Class::Log, 5, &[("text", ty::TEXT), ("\u{202e}\n\"\\", ty::TEXT)]);
        });
        t.events(2, 20, |e| {
            e.site(72, 0, &[Field::Cut(b"\x1b]0;x\x07\xc2\x9b", 0), Field::Text("\u{2028}")]);
        });
    });
}

/// What a scan says of memory: time and the five numbers.
fn memory_of(bytes: &[u8]) -> Vec<(u64, [u64; 5])> {
    let (mut scan, mut found) = (trace_decode::Scan::new(), Vec::new());
    scan.push(bytes);
    scan.finish();
    while let Some(item) = scan.next_item().unwrap() {
        if let trace_decode::ScanItem::Batch(b) = item {
            found.extend(b.memory.iter().map(|(ticks, m)| {
                (*ticks, [m.resident, m.shared, m.peak, m.minor_faults, m.major_faults])
            }));
        }
    }
    found
}

#[test]
fn memory_is_found_among_other_events_whatever_it_says() {
    let mut t = begin(7);
    let kind = schema::Kind::Memory as u8;
    t.events_of(1, 2, 20, |e| {
        e.timed(3, |w, d| schema::SwitchIn::put(w, d, u64::MAX));
        e.timed(2, |w, d| schema::Memory::put(w, d, u64::MAX, u64::MAX, 0, 5, u64::MAX));
        e.timed(u64::MAX, |w, d| schema::SwitchOut::put(w, d, 1));
        // Short and padded, behind the end of time.
        e.raw(&[kind, 1, 2, 3, 0x84, 0, 5, 9]);
    });
    t.events(1, 40, |e| {
        e.timed(1, schema::SpanEnd::put);
    });
    t.end(100);
    let max = u64::MAX;
    let want = [(25, [max, max, 0, 5, max]), (max, [1, 2, 3, 4, 5])];
    assert_eq!(memory_of(&t.bytes), want);
    // Up to what is damaged, and nothing twice.
    let mut t = begin(7);
    t.events_of(1, 2, 20, |e| {
        e.timed(2, |w, d| schema::Memory::put(w, d, 1, 2, 3, 4, 5));
        e.raw(&[kind, 1, 2, 3]);
    });
    t.end(100);
    assert_eq!(memory_of(&t.bytes), [(22, [1, 2, 3, 4, 5])]);
}
