//! The symbol table: the function that covers an address.

use std::ops::Range;

use crate::content::Content;

/// How far to look back for a symbol that covers an address. Symbols nest where assembly has
/// labels inside of functions; a few suffice.
const NESTED_MAX: usize = 16;

/// Symbols at one address that are looked at: linkers fold functions of the same code into one.
const SAME_MAX: usize = 64;

/// Longest name.
const NAME_BYTES_MAX: usize = 64 << 10;

/// The names of symbols, read when they are asked for.
#[derive(Clone, Debug)]
pub struct Strings {
    content: Content,
    range: Range<u64>,
}

impl Strings {
    /// Names that stand in a part of a file, each ended by a zero.
    pub fn new(content: &Content, range: Range<u64>) -> Self {
        Strings { content: content.clone(), range }
    }

    /// The name at an offset; `None` where there is none, or it is no text.
    pub fn get(&self, offset: u32) -> Option<String> {
        let at = self.range.start.checked_add(offset.into())?;
        let name = self.content.text_at(at, self.range.end, NAME_BYTES_MAX)?;
        String::from_utf8(name).ok().filter(|name| !name.is_empty())
    }
}

/// A function's symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its address in the file.
    pub address: u64,
    /// Where it ends; where the table does not say, the end of its section.
    pub end: u64,
    /// Whether the table says its size.
    pub sized: bool,
    /// Offset of its name in the string table.
    pub name: u32,
    /// Which of two at one address is the better name: the lower.
    pub rank: u8,
}

/// Symbols by address.
#[derive(Debug, Default)]
pub struct Symbols {
    list: Vec<Symbol>,
    names: Option<Strings>,
}

impl Symbols {
    /// Symbols whose names stand in `names`.
    pub fn new(mut list: Vec<Symbol>, names: Strings) -> Self {
        list.sort_unstable_by_key(|s| (s.address, u8::MAX - s.rank, s.name));
        list.dedup();
        list.shrink_to_fit();
        // A symbol without a size ends at the latest where the next one begins.
        let mut next = u64::MAX;
        for i in (0..list.len()).rev() {
            if list.get(i + 1).is_some_and(|s| s.address != list[i].address) {
                next = list[i + 1].address;
            }
            if !list[i].sized {
                list[i].end = list[i].end.min(next);
            }
        }
        Symbols { list, names: Some(names) }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names of the symbol that covers the address, the best first; more than one where symbols
    /// stand at one address.
    pub fn covering(&self, address: u64) -> impl Iterator<Item = String> {
        let above = self.list.partition_point(|s| s.address <= address);
        let mut below = (above.saturating_sub(NESTED_MAX)..above).rev();
        let found = below.find(|&i| address < self.list[i].end);
        let (from, at) = found.map_or((0, 0), |i| (i + 1, self.list[i].address));
        let same = self.list[..from].iter().rev().take_while(move |s| s.address == at);
        same.take(SAME_MAX).filter_map(|s| self.name(s))
    }

    fn name(&self, symbol: &Symbol) -> Option<String> {
        let mut name = self.names.as_ref()?.get(symbol.name)?;
        // Version of a dynamic symbol: `memcpy@@GLIBC_2.14`.
        name.truncate(name.find('@').unwrap_or(name.len()));
        Some(name).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(list: &[(u64, u64, u32, u8)]) -> Symbols {
        let symbol = |&(address, size, name, rank): &(u64, u64, u32, u8)| Symbol {
            address,
            end: if size == 0 { 50 } else { address + size },
            sized: size != 0,
            name,
            rank,
        };
        let names = Content::memory(&b"\0aaa\0bbb\0ccc\0"[..]);
        let names = Strings::new(&names, 0..names.len());
        Symbols::new(list.iter().map(symbol).collect(), names)
    }

    #[test]
    fn only_what_covers_the_address() {
        // a: 10..20, b: 30..40 with c inside 32..34.
        let s = symbols(&[(30, 10, 5, 0), (10, 10, 1, 0), (32, 2, 9, 0)]);
        let at = |a: u64| s.covering(a).collect::<Vec<_>>();
        assert_eq!(at(9), [""; 0]);
        assert_eq!(at(10), ["aaa"]);
        assert_eq!(at(19), ["aaa"]);
        assert_eq!(at(20), [""; 0]);
        assert_eq!(at(31), ["bbb"]);
        assert_eq!(at(33), ["ccc"]);
        assert_eq!(at(34), ["bbb"]);
        assert_eq!(at(40), [""; 0]);
        assert_eq!(at(u64::MAX), [""; 0]);
    }

    #[test]
    fn two_names_of_one_address_stand_in_the_order_of_their_rank() {
        let s = symbols(&[(10, 10, 9, 2), (10, 10, 1, 0), (10, 10, 5, 1)]);
        assert_eq!(s.covering(15).collect::<Vec<_>>(), ["aaa", "bbb", "ccc"]);
    }

    #[test]
    fn a_symbol_without_size_reaches_to_the_next_one_or_the_end_of_its_section() {
        let s = symbols(&[(10, 0, 1, 0), (20, 0, 5, 0)]);
        assert_eq!(s.covering(19).collect::<Vec<_>>(), ["aaa"]);
        assert_eq!(s.covering(20).collect::<Vec<_>>(), ["bbb"]);
        assert_eq!(s.covering(49).collect::<Vec<_>>(), ["bbb"]);
        assert_eq!(s.covering(50).count(), 0);
        assert_eq!(symbols(&[(10, 5, 400, 0)]).covering(10).count(), 0);
        assert_eq!(symbols(&[]).covering(10).count(), 0);
    }
}
