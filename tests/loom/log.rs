//! The definition log: every record once, whole, and after those that it names.

use loom::sync::Arc;
use loom::thread;

use super::Misuse;
use super::arena::Model;
use super::check;
use trace::buf::Arena;
use trace::intern::log::Cursor;
use trace::sync::Mutant;

/// Appends a record of one word.
fn add(m: &Model, word: u64) {
    let write = |to: &mut [u8]| {
        to.copy_from_slice(&word.to_ne_bytes());
        true
    };
    m.log.insert(m, m.len(), 8, write).expect("there is room");
}

/// Adds to `seen` what a scan hands out; a word names the word before it.
fn scan(cursor: &mut Cursor, m: &Model, seen: &mut Vec<u64>) {
    cursor.scan(&m.log, m, |record| {
        let word = u64::from_ne_bytes(record.try_into().expect("a whole record"));
        let before = word - 1;
        assert!(word % 10 == 0 || seen.contains(&before), "{word} came before {before}");
        assert!(!seen.contains(&word), "{word} came twice");
        seen.push(word);
    });
}

/// Two writers, whose records fill more than one segment, and a scan at any time.
fn writers(counts: [u64; 2], records: u32) {
    let m = Arc::new(Model::new(4, records));
    let other = {
        let m = Arc::clone(&m);
        thread::spawn(move || (0..counts[1]).for_each(|i| add(&m, 20 + i)))
    };
    let writer = (counts[0] != 0).then(|| {
        let m = Arc::clone(&m);
        thread::spawn(move || (0..counts[0]).for_each(|i| add(&m, 10 + i)))
    });
    let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
    scan(&mut cursor, &m, &mut seen);
    other.join().unwrap();
    writer.map(|w| w.join().unwrap());
    scan(&mut cursor, &m, &mut seen);
    seen.sort();
    let all = |from, count| from..from + count;
    let expected: Vec<u64> = all(10, counts[0]).chain(all(20, counts[1])).collect();
    assert_eq!(seen, expected);
    assert_eq!((cursor.holes(), cursor.damaged()), (0, 0));
    let segments = m.log.segments(&*m).count() as u32;
    assert_eq!(segments + m.pool.free(), m.len(), "no buffer is lost in the race to link one");
}

#[test]
fn one_writer_is_scanned_at_any_time() {
    let mutants = [
        Mutant::LogCommitFirst,
        Mutant::LogCommitOrder,
        Mutant::LogScanOrder,
        Mutant::LogScanUpward,
    ];
    check("log 2", 3, &mutants, &[], |_| writers([0, 2], 2));
}

#[test]
fn one_writer_goes_on_to_the_next_segment() {
    check("log 3 in segments of 2", 3, &[Mutant::LogClose], &[], |_| writers([0, 3], 2));
}

#[test]
fn two_writers_need_a_segment_at_the_same_time() {
    check("log 1+1", 2, &[Mutant::LogCommitFirst], &[], |_: Misuse| writers([1, 1], 1));
}
