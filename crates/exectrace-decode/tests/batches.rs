//! Batches from pieces and from memory are the same ones, and a reader holds no more than one.

use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_decode::batch::BatchReader;
use trace_decode::batch::Batches;
use trace_decode::batch::Next;
use trace_testkit::sample;

/// Offset and length of each batch, and of each damaged range with its word.
type Found = (u64, u64, &'static str);

fn found(next: Next<'_>) -> Found {
    match next {
        Next::Batch(b) => {
            assert_eq!(b.bytes.len(), b.header.length as usize);
            assert_eq!(b.body().len() + 64, b.bytes.len());
            (b.offset, u64::from(b.header.length), "")
        }
        Next::Damage(d) => (d.offset, d.len, d.kind.word()),
    }
}

fn in_memory(bytes: &[u8]) -> Vec<Found> {
    Batches::new(bytes).map(|next| found(next.expect("it is a trace"))).collect()
}

fn in_pieces(bytes: &[u8], piece: usize) -> Vec<Found> {
    let (mut reader, mut all) = (BatchReader::new(), Vec::new());
    for piece in bytes.chunks(piece).map(Some).chain([None]) {
        match piece {
            Some(piece) => reader.push(piece),
            None => reader.finish(),
        }
        while let Some(next) = reader.next_batch().expect("it is a trace") {
            all.push(found(next));
        }
        assert!(reader.held_bytes() <= 4 * (65_536 + piece.map_or(0, <[u8]>::len)));
    }
    all
}

#[test]
fn pieces_and_memory_agree() {
    let t = sample::many_batches(5);
    let whole: Vec<u64> = t.offsets.iter().map(|o| *o as u64).collect();
    assert_eq!(in_memory(&t.bytes).iter().map(|f| f.0).collect::<Vec<_>>(), whole);
    let mut damaged = t.bytes.clone();
    for at in [5, t.offsets[2] + 70, t.offsets[4] + 5, t.offsets[5]] {
        damaged[at] ^= 0x40;
    }
    damaged.extend([0xeb, 0x58, 0x54]);
    let want = in_memory(&damaged);
    let words: Vec<&str> = want.iter().map(|f| f.2).filter(|w| !w.is_empty()).collect();
    // A length that reaches beyond the input looks like a cut one. The fifth batch and the sixth,
    // whose magic is hit, are one range.
    assert_eq!(words, ["truncated", "crc", "truncated", "truncated"]);
    assert_eq!(want.iter().map(|f| f.1).sum::<u64>(), damaged.len() as u64);
    for piece in [1, 3, 64, 65, 1000, 1 << 20] {
        assert_eq!(in_pieces(&damaged, piece), want, "pieces of {piece}");
        assert_eq!(in_pieces(&t.bytes, piece), in_memory(&t.bytes));
    }
}

#[test]
fn a_scan_counts_by_kind() {
    let t = sample::small();
    let mut scan = Scan::new();
    scan.push(&t.bytes);
    scan.finish();
    let mut by_kind = std::collections::BTreeMap::new();
    let (mut last, mut batches) = (0, 0);
    while let Some(item) = scan.next_item().unwrap() {
        match item {
            ScanItem::Batch(b) if b.is_events() => {
                b.counts.iter().for_each(|(kind, n)| *by_kind.entry(*kind).or_insert(0) += n);
                assert!(b.counts.is_sorted());
                assert_eq!(b.last_ticks, b.header.last_ticks);
                assert!(b.tables.is_some_and(|t| t.site(64).is_some()));
                last = b.last_ticks.max(last);
                batches += 1;
            }
            ScanItem::SessionEnd(s) => {
                assert_eq!((s.totals().events, s.totals().batches), (20, 10));
                assert_eq!((s.duration_ns(), s.lost(), s.totals().generations), (2000, 0, 2));
                assert_eq!(s.clock().start_wall_ns(), Some(1_700_000_000_000_000_000));
                assert_eq!(s.thread(2).unwrap().tid, 102);
                assert_eq!(s.notes().next().unwrap(), (&b"kernel"[..], &b"none"[..]));
            }
            _ => {}
        }
    }
    // As the builder of the sample has them.
    let want = [
        (16, 2),
        (17, 1),
        (18, 1),
        (32, 1),
        (33, 2),
        (34, 1),
        (35, 1),
        (36, 1),
        (64, 3),
        (65, 3),
        (66, 2),
        (67, 1),
        (68, 1),
    ];
    assert_eq!(by_kind.into_iter().collect::<Vec<_>>(), want);
    assert_eq!((last, batches), (2106, 4));
}
