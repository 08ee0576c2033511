//! The ring of one CPU: what the kernel has written since the last look.
//!
//! The kernel counts up `head` and never overtakes `tail`, which is the reader's; both count for
//! ever, modulo the ring's size. What lies between them is the reader's until it moves `tail`.

use crate::record;
use crate::record::HEADER_BYTES;
use crate::record::Read;
use crate::sys::Mapped;

/// The ring of one CPU.
#[derive(Debug)]
pub struct Ring {
    mapped: Mapped,
    cpu: u32,
    bytes: Vec<u8>,
    is_full: bool,
}

/// A ring with less room than this cannot be told from a full one: a sample of 128 frames.
const ROOM_BYTES: u64 = 2048;

impl Ring {
    /// Of this CPU.
    pub fn new(mapped: Mapped, cpu: u32) -> Ring {
        Ring { mapped, cpu, bytes: Vec::new(), is_full: false }
    }

    /// Gives out what has come, oldest first, and makes room.
    pub fn read(&mut self, mut each: impl FnMut(Read)) {
        let (head, tail) = (self.mapped.head(), self.mapped.tail());
        let size = self.mapped.size() as u64;
        // Never more than the ring: the kernel does not overtake.
        let filled = head.wrapping_sub(tail).min(size);
        self.bytes.resize(filled as usize, 0);
        self.mapped.copy(tail, &mut self.bytes);
        self.mapped.free_up_to(head);
        each_record(&self.bytes, self.cpu, &mut each);
        self.is_full = size - filled < ROOM_BYTES;
    }

    /// Whether it was full at the last look: the kernel may have lost records since, and says so
    /// only in front of the next record, which may never come.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

/// Takes the records of a stretch of the ring apart. One whose length cannot be ends it.
fn each_record(bytes: &[u8], cpu: u32, each: &mut impl FnMut(Read)) {
    let mut rest = bytes;
    while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
        let length = record::length(*header);
        let Some((one, behind)) = rest.split_at_checked(length).filter(|_| length >= HEADER_BYTES)
        else {
            return each(Read::Lost(1));
        };
        each(record::read(one, cpu));
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_cannot_be_ends_the_stretch_and_says_so() {
        let lost = |count: u64| {
            let mut bytes = 2u32.to_ne_bytes().to_vec();
            bytes.extend(0u16.to_ne_bytes());
            bytes.extend(40u16.to_ne_bytes());
            [1, count, 3, 4].iter().for_each(|w: &u64| bytes.extend(w.to_ne_bytes()));
            bytes
        };
        let all = |bytes: &[u8]| {
            let mut found = Vec::new();
            each_record(bytes, 0, &mut |r| found.push(r));
            found
        };
        let two = [lost(5), lost(6)].concat();
        assert_eq!(all(&two), [Read::Lost(5), Read::Lost(6)]);
        for length in [0u16, 7, 41, u16::MAX] {
            let mut broken = two.clone();
            broken[46..48].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(all(&broken), [Read::Lost(5), Read::Lost(1)], "{length}");
        }
        assert_eq!(all(&two[..79]), [Read::Lost(5), Read::Lost(1)]);
        assert_eq!(all(&[]), []);
    }
}
