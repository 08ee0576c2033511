//! Rule D: no batch that the drainer took needs a definition that a scan made then does not have.

use loom::sync::Arc;
use loom::thread;

use super::Misuse;
use super::arena::Model;
use super::check;
use trace::intern::Definitions;
use trace::intern::Key;
use trace::intern::Table;
use trace::intern::log::Cursor;
use trace::sync::AtomicU64;
use trace::sync::Mutant;
use trace::sync::Ordering::Relaxed;

struct One(u64);

impl Key for One {
    fn meta(&self) -> u32 {
        1
    }
    fn words(&self) -> usize {
        1
    }
    unsafe fn equals(&self, words: &[AtomicU64]) -> bool {
        words[0].load(Relaxed) == self.0
    }
    fn store(&self, words: &[AtomicU64]) {
        words[0].store(self.0, Relaxed);
    }
}

const KEY: u64 = 77;

struct World {
    m: Model,
    slots: Vec<AtomicU64>,
    words: Vec<AtomicU64>,
}

/// Interns the key and pushes a batch that uses its id.
fn emit(w: &World, table: &Table<'_>, batch: u32) {
    let to = Definitions { log: &w.m.log, segments: &w.m, segments_max: 1 };
    let id = table.id(&One(KEY), 5 << 32 | 5, |id| {
        let word = u64::from(id) << 32 | KEY;
        let write = |bytes: &mut [u8]| {
            bytes.copy_from_slice(&word.to_ne_bytes());
            true
        };
        to.insert(8, write).is_some()
    });
    assert_ne!(id, 0, "there is room for two");
    w.m.write(batch, 0, id.into());
    w.m.queue.push(&w.m, batch);
}

fn drain(w: &World, cursor: &mut Cursor, defined: &mut Vec<u64>, misuse: Misuse) -> u32 {
    let mut scan = || {
        cursor.scan(&w.m.log, &w.m, |record| {
            let word = u64::from_ne_bytes(record.try_into().expect("a whole record"));
            assert_eq!(word as u32 as u64, KEY);
            defined.push(word >> 32);
        })
    };
    if misuse == Misuse::ScanFirst {
        scan();
    }
    let batches: Vec<u32> = w.m.queue.take_all(&w.m).collect();
    if misuse != Misuse::ScanFirst {
        scan();
    }
    for batch in &batches {
        let id = w.m.read(*batch, 0);
        assert!(defined.contains(&id), "batch {batch} needs {id}, defined are {defined:?}");
    }
    batches.len() as u32
}

/// Two threads use the same new key; the drainer looks in between and at the end.
fn run(misuse: Misuse) {
    let zeroed = |n| (0..n).map(|_| AtomicU64::new(0)).collect();
    let m = Model::new(3, 3);
    let batches = [m.pool.pop(&m, 0).unwrap(), m.pool.pop(&m, 0).unwrap()];
    // The segment is there, so that the model is about the order of things and not about links.
    let unused = Definitions { log: &m.log, segments: &m, segments_max: 1 };
    assert!(
        unused
            .insert(8, |bytes| {
                bytes.copy_from_slice(&(99 << 32 | KEY).to_ne_bytes());
                true
            })
            .is_some()
    );
    let w = Arc::new(World { m, slots: zeroed(2), words: zeroed(8) });
    let table = {
        // SAFETY: the vectors are not changed and live in `w`, which every thread that has the
        // table holds for as long.
        let w: &'static World = unsafe { &*(&*w as *const World) };
        std::sync::Arc::new(Table::new(&w.slots, &w.words, 4))
    };
    let threads = batches.map(|batch| {
        let (w, table) = (Arc::clone(&w), std::sync::Arc::clone(&table));
        thread::spawn(move || emit(&w, &table, batch))
    });
    let (mut cursor, mut defined) = (Cursor::default(), Vec::new());
    let mut taken = drain(&w, &mut cursor, &mut defined, misuse);
    for t in threads {
        t.join().unwrap();
    }
    taken += drain(&w, &mut cursor, &mut defined, misuse);
    assert_eq!(taken, 2);
}

#[test]
fn no_batch_needs_what_stands_later() {
    let mutants = [
        Mutant::TableFindableFirst,
        Mutant::TableFindableOrder,
        Mutant::TableFindOrder,
        Mutant::QueueTakeOrder,
    ];
    check("rule D", 2, &mutants, &[Misuse::ScanFirst], run);
}
