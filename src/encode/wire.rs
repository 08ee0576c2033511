//! The batch header, magic, version and limits.
//!
//! A trace is a sequence of batches and nothing else. A batch is a header of 64 bytes and a body;
//! all integers in the header are little-endian at fixed offsets.

/// First bytes of every batch. Not text, and with bytes that no UTF-8 has.
pub const MAGIC: [u8; 4] = [0xEB, 0x58, 0x54, 0xF1];

/// Version of the format. A reader refuses a greater one.
pub const VERSION: u16 = 1;

/// Size of the batch header.
pub const HEADER_BYTES: usize = 64;

/// Longest batch, header included. 64 KiB: large enough that a hand-over is rare (every 16,000
/// events), small enough that thousands of threads fit into the default memory bound.
pub const BATCH_BYTES_MAX: usize = 64 << 10;

/// Longest text that stands in an event, in bytes; a longer one is cut and says so.
pub const TEXT_BYTES_MAX: usize = 1 << 10;

/// Longest text of a log message, in bytes; a longer one is cut and says so.
pub const LOG_BYTES_MAX: usize = 32 << 10;

/// Most frames of a stack.
pub const FRAMES_MAX: usize = 128;

/// Most open spans of a thread that a `State` or `ThreadState` event lists.
pub const SPANS_MAX: usize = 32;

/// The first dynamic kind: kinds below are in the event table, kinds from here on are sites.
/// 64, so that 64 static kinds and 64 sites take one byte.
pub const KIND_DYNAMIC: u64 = 64;

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BatchKind {
    /// Begins a session: one `Session` event, then the schema of all static kinds.
    Session = 1,
    /// Strings, stacks, sites, threads, modules.
    Definitions = 2,
    /// Timed events of one lane of one thread.
    Events = 3,
    /// Clock snapshots, losses, thread states, ends of generations, the end of the session.
    Control = 4,
}

impl BatchKind {
    /// The kind with this number.
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::Session,
            2 => Self::Definitions,
            3 => Self::Events,
            4 => Self::Control,
            _ => return None,
        })
    }
}

/// Header flag: the batch belongs to a generation whose end was already written.
pub const FLAG_LATE: u32 = 1;
/// Header flag: the batch is a copied prefix of a buffer whose thread did not let go of it.
pub const FLAG_PREFIX: u32 = 2;
/// Header flag: a checkpoint begins with this batch.
pub const FLAG_CHECKPOINT: u32 = 4;

/// Lane of ordinary events.
pub const LANE_MAIN: u8 = 0;
/// Lane of nested events (from a handler or an allocator inside an event).
pub const LANE_SIDE: u8 = 1;
/// Lane of what the kernel saw of the thread: written by whoever drains, not by the thread.
pub const LANE_KERNEL: u8 = 2;

/// Offsets of the header's fields, in bytes. `docs/format.md` prints this list.
pub const HEADER_FIELDS: &[(&str, usize, usize, &str)] = &[
    ("magic", 0, 4, "`EB 58 54 F1`"),
    ("length", 4, 4, "bytes of the batch, header included; 64 to 65,536"),
    ("kind", 8, 1, "1 session, 2 definitions, 3 events, 4 control; others are skipped"),
    ("lane", 9, 1, "0 main, 1 side, 2 kernel"),
    ("version", 10, 2, "1"),
    ("crc", 12, 4, "CRC-32C of the whole batch, these four bytes taken as zero"),
    ("session", 16, 8, "random, never 0; the same in all batches of a session"),
    ("epoch", 24, 4, "table epoch whose ids the batch uses"),
    ("generation", 28, 4, "generation in which it was begun"),
    ("thread", 32, 4, "number of the thread; 0 in batches that are no thread's"),
    ("sequence", 36, 4, "counts from 0 in each (thread, lane), and over all batches of thread 0"),
    ("first_ticks", 40, 8, "scaled ticks to which the first event's delta is added"),
    ("last_ticks", 48, 8, "not below the time of the last event; 0 where not known"),
    ("count", 56, 4, "events in the body"),
    ("flags", 60, 4, "bit 0 late, bit 1 prefix, bit 2 checkpoint"),
];

/// The decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each field stands in HEADER_FIELDS.
pub struct Header {
    pub length: u32,
    pub kind: u8,
    pub lane: u8,
    pub version: u16,
    pub crc: u32,
    pub session: u64,
    pub epoch: u32,
    pub generation: u32,
    pub thread: u32,
    pub sequence: u32,
    pub first_ticks: u64,
    pub last_ticks: u64,
    pub count: u32,
    pub flags: u32,
}

impl Header {
    /// The 64 bytes of the header, with `crc` as it stands in `self`.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &self.length.to_le_bytes());
        put(8, &[self.kind, self.lane]);
        put(10, &self.version.to_le_bytes());
        put(12, &self.crc.to_le_bytes());
        put(16, &self.session.to_le_bytes());
        put(24, &self.epoch.to_le_bytes());
        put(28, &self.generation.to_le_bytes());
        put(32, &self.thread.to_le_bytes());
        put(36, &self.sequence.to_le_bytes());
        put(40, &self.first_ticks.to_le_bytes());
        put(48, &self.last_ticks.to_le_bytes());
        put(56, &self.count.to_le_bytes());
        put(60, &self.flags.to_le_bytes());
        b
    }

    /// Reads a header; `None` where the magic is another. Checks nothing else.
    pub fn from_bytes(b: &[u8; HEADER_BYTES]) -> Option<Header> {
        if b[..4] != MAGIC {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(Header {
            length: u32_at(4),
            kind: b[8],
            lane: b[9],
            version: u16::from_le_bytes([b[10], b[11]]),
            crc: u32_at(12),
            session: u64_at(16),
            epoch: u32_at(24),
            generation: u32_at(28),
            thread: u32_at(32),
            sequence: u32_at(36),
            first_ticks: u64_at(40),
            last_ticks: u64_at(48),
            count: u32_at(56),
            flags: u32_at(60),
        })
    }
}

/// Offset of the CRC in the header.
pub const CRC_AT: usize = 12;

const _: () = assert!(HEADER_BYTES < BATCH_BYTES_MAX);
const _: () = assert!(LOG_BYTES_MAX + TEXT_BYTES_MAX < BATCH_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trip_and_its_table_has_no_gap() {
        let h = Header {
            length: 65_536,
            kind: 3,
            lane: 1,
            version: VERSION,
            crc: 0xdead_beef,
            session: 0x0102_0304_0506_0708,
            epoch: 7,
            generation: 9,
            thread: 11,
            sequence: 13,
            first_ticks: u64::MAX - 1,
            last_ticks: u64::MAX,
            count: 17,
            flags: FLAG_LATE | FLAG_PREFIX,
        };
        assert_eq!(Header::from_bytes(&h.to_bytes()), Some(h));
        let mut at = 0;
        for (name, offset, size, _) in HEADER_FIELDS {
            assert_eq!(*offset, at, "{name}");
            at += size;
        }
        assert_eq!(at, HEADER_BYTES);
        let mut bad = h.to_bytes();
        bad[0] ^= 1;
        assert_eq!(Header::from_bytes(&bad), None);
    }
}
