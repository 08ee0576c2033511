//! Small traces cut after every byte and with every bit flipped, by the raw text form: what is lost
//! is the batch that was hit, line by line, and the damage is named as docs/format.md has it.

use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::HEADER_BYTES;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::raw::Dump;
use trace_decode::validate::What;
use trace_testkit::sample;

/// A batch as the whole trace has it.
struct Group {
    offset: usize,
    length: usize,
    /// Its own line from its offset on: the number before it depends on what stands before.
    head: String,
    events: Vec<String>,
    /// Whether later batches need what it defines.
    defines: bool,
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    let mut lines = Vec::new();
    while let Some(line) = dump.next_line().expect("a trace") {
        lines.push(line.to_owned());
    }
    lines
}

fn number(line: &str, name: &str) -> usize {
    let from = line.find(name).expect(name) + name.len();
    line[from..].split(' ').next().unwrap().parse().expect("a number")
}

fn groups(bytes: &[u8]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in lines(bytes) {
        assert!(!line.starts_with("damage"), "{line}");
        if line.starts_with("batch ") {
            groups.push(Group {
                offset: number(&line, " offset="),
                length: number(&line, " length="),
                head: line[line.find(" offset=").unwrap()..].to_owned(),
                defines: line.contains("kind=session") || line.contains("kind=definitions"),
                events: Vec::new(),
            });
        } else {
            groups.last_mut().expect("a batch").events.push(line);
        }
    }
    assert_eq!(groups.iter().map(|g| g.length).sum::<usize>(), bytes.len());
    groups
}

/// The lines of these batches, numbered from 0.
fn shown<'g>(groups: impl Iterator<Item = &'g Group>, from: usize) -> Vec<String> {
    let one = |(n, g): (usize, &Group)| {
        let head = format!("batch {}{}", from + n, g.head);
        std::iter::once(head).chain(g.events.iter().cloned()).collect::<Vec<_>>()
    };
    groups.enumerate().flat_map(one).collect()
}

/// Timed events that the decoder gives out, and the words of the damage.
fn decoded(bytes: &[u8]) -> (usize, Vec<&'static str>) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    let (mut events, mut words) = (0, Vec::new());
    while let Some(item) = decoder.next_item().expect("a trace") {
        match item {
            Item::Event(e) => {
                assert!(e.fields().count() < 100);
                events += 1;
            }
            Item::Damage(d) => words.push(d.kind.word()),
            _ => {}
        }
    }
    (events, words)
}

fn timed<'g>(groups: impl Iterator<Item = &'g Group>) -> usize {
    groups.flat_map(|g| &g.events).filter(|e| e.starts_with("  +")).count()
}

#[test]
fn every_cut_of_every_sample() {
    let (mut cuts, mut samples) = (0, 0);
    for (name, t) in sample::all() {
        let groups = groups(&t.bytes);
        for cut in 1..t.bytes.len() {
            let whole = groups.iter().take_while(|g| g.offset + g.length <= cut).count();
            let mut want = shown(groups[..whole].iter(), 0);
            let at = groups[whole].offset;
            let is_cut = cut > at;
            if is_cut {
                want.push(format!("damage offset={at} length={} truncated", cut - at));
            }
            let part = &t.bytes[..cut];
            assert_eq!(lines(part), want, "{name} cut at {cut}");
            let words = if is_cut { vec!["truncated"] } else { vec![] };
            assert_eq!(decoded(part), (timed(groups[..whole].iter()), words), "{name} at {cut}");
            let mut v = Validate::new();
            v.push(part).and_then(|()| v.finish()).expect("a trace");
            assert_eq!(v.count(What::Damage), u64::from(is_cut), "{name} cut at {cut}");
            cuts += 1;
        }
        samples += 1;
    }
    assert!(samples >= 12 && cuts > 10_000, "{samples} samples, {cuts} cuts");
    println!("{samples} samples, {cuts} cuts");
}

/// What the format calls the damage, where this bit of a batch's header or body is flipped.
fn word(g: &Group, flipped: &[u8], bit: usize) -> &'static str {
    match bit / 8 - g.offset {
        0..4 => "magic",
        4..8 => {
            let length = flipped[g.offset + 4..].first_chunk().unwrap();
            let length = u32::from_le_bytes(*length) as usize;
            match length {
                0..HEADER_BYTES => "length",
                l if l > BATCH_BYTES_MAX => "length",
                l if g.offset + l > flipped.len() => "truncated",
                _ => "crc",
            }
        }
        _ => "crc",
    }
}

#[test]
fn every_bit_of_every_sample() {
    let (mut bits, mut samples) = (0, 0);
    for (name, t) in sample::all().into_iter().filter(|(_, t)| t.bytes.len() < 700) {
        let groups = groups(&t.bytes);
        let mut flipped = t.bytes.clone();
        for bit in 0..flipped.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let hit = groups.iter().rposition(|g| g.offset <= bit / 8).unwrap();
            let g = &groups[hit];
            let word = word(g, &flipped, bit);
            let damage = format!("damage offset={} length={} {word}", g.offset, g.length);
            let mut want = shown(groups[..hit].iter(), 0);
            want.push(damage);
            want.extend(shown(groups[hit + 1..].iter(), hit));
            let got = lines(&flipped);
            if g.defines {
                // What was not defined ends its batch; the batches themselves are all there.
                let heads = |l: &[String]| -> Vec<String> {
                    l.iter().filter(|l| l.starts_with("batch ")).cloned().collect()
                };
                assert_eq!(heads(&got), heads(&want), "{name}, bit {bit}");
                assert!(got.contains(&want[shown(groups[..hit].iter(), 0).len()]));
            } else {
                assert_eq!(got, want, "{name}, bit {bit}");
            }
            flipped[bit / 8] ^= 1 << (bit % 8);
            bits += 1;
        }
        samples += 1;
    }
    assert!(samples >= 6 && bits > 20_000, "{samples} samples, {bits} bits");
    println!("{samples} samples, {bits} bits");
}
