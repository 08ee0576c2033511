//! A fuzzer for every run: 100,000 inputs from a fixed seed, each a small trace that was changed,
//! two of three with right lengths and CRCs again so that the change reaches the events. Every
//! reader takes each of them to its end. `EXECTRACE_MUTATIONS` says how many others to try, and
//! `EXECTRACE_SEED` from where.

use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::raw::Dump;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::everything;
use trace_testkit::hostile;
use trace_testkit::sample;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
}

/// Numbers at which something changes: of bytes, lengths, kinds, ids and times.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x3f,
    0x40,
    0x7f,
    0x80,
    0x3fff,
    0x4000,
    0xffff,
    0x1_0000,
    u32::MAX as u64,
    1 << 40,
    1 << 62,
    u64::MAX - 1,
    u64::MAX,
];

fn mutate(bytes: &mut Vec<u8>, offsets: &[usize], other: &[u8], r: &mut Random) {
    let at = r.below(bytes.len());
    match r.below(9) {
        0 => bytes[at] ^= 1 << r.below(8),
        1 => bytes[at] = r.next() as u8,
        2 => bytes[at] = [0, 0x3f, 0x40, 0x7f, 0x80, 0xff][r.below(6)],
        3 => {
            // A varint of an edge in the place of what stands there.
            let mut varint = [0; 10];
            let n = trace::encode::varint::write(&mut varint, EDGES[r.below(16)]).unwrap();
            let end = (at + n).min(bytes.len());
            bytes[at..end].copy_from_slice(&varint[..end - at]);
        }
        4 => {
            // A field of a header.
            let header = offsets[r.below(offsets.len())] + r.below(64) / 4 * 4;
            let end = (header + 8).min(bytes.len());
            if header < end {
                let edge = EDGES[r.below(16)].to_le_bytes();
                bytes[header..end].copy_from_slice(&edge[..end - header]);
            }
        }
        5 => {
            let from = r.below(bytes.len());
            let len = r.below(100).min(bytes.len() - from.max(at));
            bytes.copy_within(from..from + len, at);
        }
        6 => {
            let from = r.below(other.len());
            let len = r.below(100).min(other.len() - from).min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&other[from..from + len]);
        }
        7 => bytes.truncate(1.max(bytes.len() - r.below(bytes.len() / 3))),
        // A whole batch again, or without its neighbours.
        _ => {
            let (a, b) = (r.below(offsets.len()), r.below(offsets.len()));
            let (from, to) = (offsets[a].min(bytes.len()), offsets[b].min(bytes.len()));
            let part = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.extend(part);
        }
    }
}

/// Takes the input to its end in every reader; gives how many events each of three saw.
fn read(bytes: &[u8], piece: usize) -> [u64; 3] {
    let mut counts = [0; 3];
    let mut decoder = Decoder::new();
    'input: for piece in bytes.chunks(piece).map(Some).chain([None]) {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        loop {
            match decoder.next_item() {
                Ok(Some(Item::Event(e))) => {
                    counts[0] += 1;
                    let values = e.fields().count();
                    let site = e.site().map_or(0, |s| s.fields().count());
                    assert!(values <= bytes.len() && site <= bytes.len());
                    let _ = (e.name(), e.stack(), e.duration_ns(), e.kind_name());
                }
                Ok(Some(Item::Damage(d))) => {
                    assert!(d.len > 0 && d.offset + d.len <= bytes.len() as u64);
                }
                Ok(Some(Item::Control(c))) => _ = c.event(),
                Ok(Some(Item::SessionEnd(s))) => {
                    let _ = (s.duration_ns(), s.lost(), s.unregistered().count());
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => break 'input,
            }
        }
    }
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    while let Ok(Some(line)) = dump.next_line() {
        counts[1] += u64::from(line.starts_with("  +"));
        assert_eq!(hostile::unsafe_char(line), None, "{line}");
    }
    let mut v = Validate::new();
    let _ = v.push(bytes).and_then(|()| v.finish());
    counts[2] = v.events();
    counts
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().expect(name))
}

/// What was tried: inputs, those with right CRCs, and events by reader.
#[derive(Default)]
struct Tried {
    inputs: u64,
    sealed: u64,
    events: [u64; 3],
}

fn work(seed: u64, inputs: impl Iterator<Item = u64>) -> Tried {
    let small = |(_, t): &(_, TraceBuilder)| t.bytes.len() < 700;
    let sources: Vec<TraceBuilder> =
        sample::all().into_iter().filter(small).map(|(_, t)| t).collect();
    assert!(sources.len() >= 6);
    let mut tried = Tried::default();
    for input in inputs {
        // Each input of its own, so that one can be repeated without those before it.
        let mut r = Random(seed.wrapping_mul(0x1_0000_0001).wrapping_add(input));
        let source = &sources[r.below(sources.len())];
        let other = &sources[r.below(sources.len())].bytes;
        let mut bytes = source.bytes.clone();
        for _ in 0..1 + r.below(4) {
            mutate(&mut bytes, &source.offsets, other, &mut r);
        }
        if r.below(3) > 0 {
            sample::reseal(&mut bytes, &source.offsets);
            tried.sealed += 1;
        }
        let piece = 1 + r.below(bytes.len() + 100);
        let run = std::panic::AssertUnwindSafe(|| {
            // In some of them the readers are held to agree in all that they say.
            if input % 64 == 0 {
                everything(&bytes, piece);
            }
            read(&bytes, piece)
        });
        let Ok(counts) = std::panic::catch_unwind(run) else {
            let name = format!("mutation-{seed}-{input}.trace");
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&path, &bytes).expect("the folder of test outputs");
            panic!("input {input} of seed {seed}, in pieces of {piece}: {}", path.display());
        };
        tried.events.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        tried.inputs += 1;
    }
    tried
}

#[test]
fn a_hundred_thousand_changed_traces() {
    let (inputs, seed) = (number("EXECTRACE_MUTATIONS", 100_000), number("EXECTRACE_SEED", 1));
    println!("EXECTRACE_SEED={seed} EXECTRACE_MUTATIONS={inputs}");
    let (half, rest) = std::thread::scope(|s| {
        let half = s.spawn(|| work(seed, (0..inputs).step_by(2)));
        let rest = work(seed, (1..inputs).step_by(2));
        (half.join().expect("no input makes a reader panic"), rest)
    });
    assert_eq!(half.inputs + rest.inputs, inputs);
    let sealed = half.sealed + rest.sealed;
    let events: Vec<u64> = half.events.iter().zip(rest.events).map(|(a, b)| a + b).collect();
    assert!(sealed > inputs / 2 && events.iter().all(|n| *n > inputs / 2), "{events:?}");
    println!("{inputs} inputs, {sealed} sealed, {events:?} events decoded, dumped, validated");
}
