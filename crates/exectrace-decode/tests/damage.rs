//! Whatever happens to the bytes of a trace: what is before and after the damage decodes, the
//! damage is named, nothing panics.

use trace_decode::ErrorKind;
use trace_testkit::expect::Verdict;
use trace_testkit::expect::decode;
use trace_testkit::expect::everything;
use trace_testkit::expect::merged;
use trace_testkit::sample;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }
}

#[test]
fn whole() {
    let t = sample::small();
    let v = everything(&t.bytes, usize::MAX);
    let want = Verdict { events: 20, sessions: (1, 1), ..Verdict::default() };
    assert_eq!(v, want);
}

#[test]
fn empty() {
    assert_eq!(everything(&[], 1).error, Some(ErrorKind::Empty));
}

/// The batches before a cut decode as they do alone; of the cut one nothing does.
#[test]
fn cut_at_every_byte() {
    let t = sample::small();
    let whole = decode(&t.bytes, usize::MAX).events;
    let mut checked = 0;
    for cut in 1..t.bytes.len() {
        let v = everything(&t.bytes[..cut], usize::MAX);
        assert_eq!(v.error, None, "cut at {cut}");
        let at_batch = t.offsets.contains(&cut);
        let damage: &[&str] = if at_batch { &[] } else { &["truncated"] };
        assert_eq!(v.damage, damage, "cut at {cut}");
        let batches = t.offsets.iter().filter(|o| **o < cut).count() - usize::from(!at_batch);
        // In the sample's order: session, clock, definitions, 8 events, 3, clock, 7, 2, clock, end.
        let events = [0, 0, 0, 0, 8, 11, 11, 18, 20, 20, 20][batches];
        assert_eq!(v.events, events, "cut at {cut}");
        let got = decode(&t.bytes[..cut], usize::MAX).events;
        if events == 11 {
            assert_eq!(got, whole[..11], "cut at {cut}");
        }
        assert!(got.iter().all(|e| whole.contains(e)), "cut at {cut}");
        checked += 1;
    }
    assert_eq!(checked, t.bytes.len() - 1);
}

/// Each flip costs the batch that it is in, and that batch only.
#[test]
fn every_bit_flipped() {
    let t = sample::small();
    let ends = t.offsets.iter().skip(1).copied().chain([t.bytes.len()]);
    let batches: Vec<(usize, usize)> = t.offsets.iter().copied().zip(ends).collect();
    let events_of = [0, 0, 0, 8, 3, 0, 7, 2, 0, 0];
    let definitions = 2;
    let mut flipped = t.bytes.clone();
    let mut checked = 0;
    for bit in 0..t.bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        // The merge sees all of them; the other readers a part, they take the same batches.
        let look = if bit % 29 == 0 { everything } else { merged };
        let v = look(&flipped, usize::MAX);
        assert_eq!(v.error, None, "bit {bit}");
        let hit = batches.iter().position(|b| (b.0..b.1).contains(&(bit / 8))).unwrap();
        let lost: u64 = events_of[hit];
        if hit == definitions {
            // Without its sites a batch is readable up to the first event of one.
            assert_eq!((v.events, v.damage.len()), (3, 5), "bit {bit}: {v:?}");
        } else {
            assert_eq!((v.events, v.damage.len()), (20 - lost, 1), "bit {bit}: {v:?}");
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
        checked += 1;
    }
    assert!(checked > 8_000);
}

#[test]
fn random_bytes_are_no_trace() {
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    for len in [1, 3, 4, 63, 64, 65, 1000, 70_000] {
        let bytes: Vec<u8> = (0..len).map(|_| r.next() as u8).collect();
        assert_eq!(everything(&bytes, usize::MAX).error, Some(ErrorKind::NotATrace), "{len} bytes");
    }
}

#[test]
fn noise_between_batches_costs_nothing_but_itself() {
    let t = sample::small();
    let mut r = Random(42);
    let mut checked = 0;
    for at in t.offsets.iter().copied().chain([t.bytes.len()]) {
        for len in [1, 4, 63, 64, 5000] {
            let mut bytes = t.bytes[..at].to_vec();
            // The last four bytes look like the beginning of a batch.
            bytes.extend((0..len).map(|_| r.next() as u8 | 1));
            bytes.extend([0xeb, 0x58, 0x54, 0xf1]);
            bytes.extend(&t.bytes[at..]);
            let v = everything(&bytes, 1000);
            assert_eq!((v.events, v.damage.len(), v.error), (20, 1, None), "{len} bytes at {at}");
            checked += 1;
        }
    }
    assert!(checked > 40);
}

#[test]
fn concatenated_traces_are_sessions() {
    let t = sample::small();
    let twice = [&t.bytes[..], &t.bytes[..]].concat();
    let v = everything(&twice, 999);
    let want = Verdict { events: 40, sessions: (2, 2), ..Verdict::default() };
    assert_eq!(v, want);
    // Where the first one was cut, too.
    let cut = t.bytes.len() - 30;
    let v = everything(&[&t.bytes[..cut], &t.bytes[..]].concat(), 999);
    assert_eq!((v.events, v.sessions, v.damage), (40, (2, 1), vec!["crc"]));
}

/// Mutations of all sorts, as a fuzzer makes them but always the same: whatever comes out, the
/// readers agree and no byte is unaccounted for.
#[test]
fn mutations() {
    let sources = [sample::small(), sample::hostile(), sample::many_batches(6)];
    let mut r = Random(0x1234_5678_9abc_def1);
    let (mut damaged, mut resealed) = (0, 0);
    for round in 0..900 {
        let t = &sources[round % sources.len()];
        let mut bytes = t.bytes.clone();
        for _ in 0..1 + r.below(4) {
            mutate(&mut bytes, &mut r);
        }
        if r.below(3) > 0 {
            // With right CRCs the mutation reaches the events.
            sample::reseal(&mut bytes, &t.offsets);
            resealed += 1;
        }
        let v = everything(&bytes, 1 + r.below(2000));
        damaged += u64::from(!v.damage.is_empty());
    }
    assert!(damaged > 400 && resealed > 400, "{damaged} damaged, {resealed} resealed");
}

fn mutate(bytes: &mut Vec<u8>, r: &mut Random) {
    let at = r.below(bytes.len());
    match r.below(6) {
        0 => bytes[at] ^= 1 << r.below(8),
        1 => bytes[at] = r.next() as u8,
        2 => bytes[at] = [0, 0x7f, 0x80, 0xff][r.below(4)],
        3 => {
            let end = (at + 8).min(bytes.len());
            let edge = [u64::MAX, 1 << 60, 1 << 32, 0][r.below(4)].to_le_bytes();
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
        4 => {
            let from = r.below(bytes.len());
            let len = r.below(200).min(bytes.len() - from.max(at));
            bytes.copy_within(from..from + len, at);
        }
        _ => bytes.truncate(bytes.len() - r.below(bytes.len() / 4)),
    }
}

#[test]
fn a_trace_survives_the_form_that_the_fuzzer_has() {
    let t = sample::many_batches(4);
    let v = everything(&sample::sealed_from(&sample::unsealed(&t)), 100);
    assert_eq!((v.events, v.damage, v.error), (80, vec![], None));
}
