//! Strings to ids: the table of one epoch. For literals and names, of which there are few;
//! run-time texts stand in their events.

use crate::encode::field::Text;
use crate::encode::field::Writer;
use crate::encode::schema::Kind;
use crate::encode::schema::String;
use crate::encode::varint;
use crate::encode::wire::TEXT_BYTES_MAX;
use crate::intern::Definitions;
use crate::intern::Key;
use crate::intern::Keys;
use crate::intern::Table;
use crate::intern::fold;
use crate::intern::log::Segments;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// The strings of one table epoch.
#[derive(Debug)]
pub struct StringTable<'a> {
    keys: &'a Keys,
    table: Table<'a>,
}

impl<'a> StringTable<'a> {
    /// A table in zeroed memory, see [`Table::new`]; a string takes a word for each 8 bytes begun
    /// and one more.
    pub fn new(
        keys: &'a Keys,
        slots: &'a [AtomicU64],
        words: &'a [AtomicU64],
        entries_max: u32,
    ) -> StringTable<'a> {
        StringTable { keys, table: Table::new(slots, words, entries_max) }
    }

    /// The id of a string. Of a long one the first 1,024 bytes are kept, and its length. 0 where
    /// it can not be kept, which the caller counts. Lock-free, signal-safe.
    pub fn id<S: Segments>(&self, text: &[u8], to: &Definitions<'_, S>) -> u32 {
        let Ok(length) = u32::try_from(text.len()) else { return 0 };
        let kept = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
        let key = Kept { bytes: kept, length };
        // Words of text may differ in their last letter only, the highest byte: brought down first.
        let hash = Keys::finish(self.keys.sum(key.iter().map(fold)), length);
        self.table.id(&key, hash, |id| define(id, &key, to))
    }

    /// How many strings can be found.
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether no string can be found.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether a string was refused because a bound of the table is reached.
    pub fn is_full(&self) -> bool {
        self.table.is_full()
    }
}

struct Kept<'t> {
    bytes: &'t [u8],
    length: u32,
}

impl Kept<'_> {
    /// Words of eight bytes, the last one filled up with zeros; the length tells them apart.
    fn iter(&self) -> impl Iterator<Item = u64> {
        self.bytes.chunks(8).map(|part| {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(word)
        })
    }
}

impl Key for Kept<'_> {
    fn meta(&self) -> u32 {
        self.length
    }

    fn words(&self) -> usize {
        self.bytes.len().div_ceil(8)
    }

    unsafe fn equals(&self, words: &[AtomicU64]) -> bool {
        words.iter().zip(self.iter()).all(|(w, mine)| w.load(Relaxed) == mine)
    }

    fn store(&self, words: &[AtomicU64]) {
        words.iter().zip(self.iter()).for_each(|(w, mine)| w.store(mine, Relaxed));
    }
}

fn define<S: Segments>(id: u32, key: &Kept<'_>, to: &Definitions<'_, S>) -> bool {
    let cut = key.bytes.len() < key.length as usize;
    let cut_from = cut.then_some(u64::from(key.length));
    let mut len = varint::len(Kind::String as u64) + varint::len(id.into());
    len += varint::len((key.bytes.len() as u64) << 1 | u64::from(cut)) + key.bytes.len();
    len += cut_from.map_or(0, varint::len);
    let write = |bytes: &mut [u8]| {
        let mut w = Writer::new(bytes);
        let text = Text { bytes: key.bytes, cut_from };
        String::put(&mut w, id.into(), text).is_some() && w.len() == len
    };
    to.insert(len, write).is_some()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::buf::test_arena::TestArena;
    use crate::encode::field::Reader;
    use crate::intern::log::Cursor;
    use crate::intern::log::Log;
    use std::collections::HashMap;

    static KEYS: Keys = Keys::new(99);

    #[test]
    fn the_table_agrees_with_a_map_and_with_the_log() {
        let a = TestArena::new(3, 0xaa);
        let log = Log::default();
        let to = Definitions { log: &log, segments: &a, segments_max: 3 };
        let zeroed = |n| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (slots, words) = (zeroed(2048), zeroed(20_000));
        let t = StringTable::new(&KEYS, &slots, &words, 1000);
        let mut naive: HashMap<Vec<u8>, u32> = HashMap::new();
        let long = vec![b'x'; 5000];
        let fixed: [&[u8]; 9] = [
            b"",
            b"\0",
            b"\0\0",
            b"abcdefgh",
            b"abcdefgh\0",
            b"\xff\xfe",
            &long[..1024],
            &long[..1025],
            &long,
        ];
        let names = if cfg!(miri) { 20 } else { 200 };
        let numbered = (0..3 * names).map(|i| format!("name {}", i % names).into_bytes());
        for text in fixed.iter().map(|t| t.to_vec()).chain(numbered) {
            let id = t.id(&text, &to);
            assert_ne!(id, 0);
            assert_eq!(*naive.entry(text).or_insert(id), id);
        }
        assert_eq!(naive.len(), 9 + names);
        assert_eq!(t.len() as usize, 9 + names);
        let mut records = 0;
        Cursor::default().scan(&log, &a, |record| {
            let mut r = Reader::new(record);
            assert_eq!(r.varint(), Some(Kind::String as u64));
            let s = String::read(&mut r).expect("a string");
            assert!(r.rest().is_empty());
            let (text, _) = naive.iter().find(|(_, id)| u64::from(**id) == s.id).unwrap();
            assert_eq!(s.text.bytes, &text[..text.len().min(1024)]);
            assert_eq!(s.text.cut_from, (text.len() > 1024).then_some(text.len() as u64));
            records += 1;
        });
        assert_eq!(records, 9 + names);
    }

    #[test]
    fn without_room_in_the_log_there_is_no_id() {
        let a = TestArena::new(1, 0);
        let log = Log::default();
        let (slots, words) = ([const { AtomicU64::new(0) }; 8], [const { AtomicU64::new(0) }; 64]);
        let t = StringTable::new(&KEYS, &slots, &words, 4);
        let none = Definitions { log: &log, segments: &a, segments_max: 0 };
        assert_eq!(t.id(b"name", &none), 0);
        assert!(t.is_empty());
        let some = Definitions { segments_max: 1, ..none };
        assert_eq!(t.id(b"name", &some), 1);
    }
}
