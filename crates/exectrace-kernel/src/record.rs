//! Records as they stand in a ring: bytes to what they say.
//!
//! 1. No bytes make this panic or read beyond them; what is not known or does not fit is nothing.

/// Something that the kernel saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// When, by the monotonic clock, in nanoseconds.
    pub mono_ns: u64,
    /// On which CPU.
    pub cpu: u32,
    /// What.
    pub what: What,
}

/// What the kernel saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The thread got the CPU.
    In,
    /// The thread lost the CPU.
    Out {
        /// It could have gone on; otherwise it waits for something.
        preempted: bool,
    },
    /// The thread ran in code of its own: addresses, innermost first.
    Sample {
        /// At most as many as were asked for.
        frames: Box<[u64]>,
    },
    /// The thread has ended.
    Exit,
}

/// A record of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Something that the kernel saw.
    Seen(Record),
    /// So many were lost, since the ring was full.
    Lost(u64),
    /// Nothing that is used here.
    Other,
}

/// `PERF_RECORD_*`.
const LOST: u32 = 2;
const EXIT: u32 = 4;
const SAMPLE: u32 = 9;
const SWITCH: u32 = 14;

/// `PERF_RECORD_MISC_SWITCH_OUT` and `PERF_RECORD_MISC_SWITCH_OUT_PREEMPT`.
const MISC_OUT: u16 = 1 << 13;
const MISC_PREEMPTED: u16 = 1 << 14;

/// Addresses from here on say of which kind the ones behind them are.
const CONTEXT_MARKS: u64 = u64::MAX - 4095;

/// Bytes of the header that each record has: type, misc, length.
pub const HEADER_BYTES: usize = 8;
/// Bytes that stand at the end of each record but a sample: pid, tid, time.
const ID_BYTES: usize = 16;

/// The length of the record whose header this is.
pub fn length(header: [u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_ne_bytes([header[6], header[7]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads a whole record, header included, of the ring of this CPU.
pub fn read(bytes: &[u8], cpu: u32) -> Read {
    parse(bytes, cpu).unwrap_or(Read::Other)
}

fn parse(bytes: &[u8], cpu: u32) -> Option<Read> {
    let kind = u32_at(bytes, 0)?;
    let misc = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let id_at = bytes.len().checked_sub(ID_BYTES).filter(|at| *at >= HEADER_BYTES);
    let seen = |at: usize, what: What| {
        let (pid, tid) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
        let mono_ns = u64_at(bytes, at + 8)?;
        Some(Read::Seen(Record { pid, tid, mono_ns, cpu, what }))
    };
    match kind {
        SWITCH if misc & MISC_OUT == 0 => seen(id_at?, What::In),
        SWITCH => seen(id_at?, What::Out { preempted: misc & MISC_PREEMPTED != 0 }),
        SAMPLE => {
            let at = HEADER_BYTES + ID_BYTES;
            let count = usize::try_from(u64_at(bytes, at)?).ok()?;
            let chain = bytes.get(at + 8..)?.chunks_exact(8);
            let addresses = chain.take(count).filter_map(|c| u64_at(c, 0));
            let frames = addresses.filter(|a| *a < CONTEXT_MARKS && *a != 0).collect();
            seen(HEADER_BYTES, What::Sample { frames })
        }
        // Here the id is of whoever ends; the body says the same.
        EXIT => seen(id_at?, What::Exit),
        LOST => Some(Read::Lost(u64_at(bytes, HEADER_BYTES + 8)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the manual page `perf_event_open(2)` lays it out.
    fn made(kind: u32, misc: u16, body: &[u64]) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend((8 + 8 * body.len() as u16).to_ne_bytes());
        body.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    fn pair(low: u32, high: u32) -> u64 {
        u64::from_ne_bytes([low.to_ne_bytes(), high.to_ne_bytes()].concat().try_into().unwrap())
    }

    fn seen(what: What) -> Read {
        Read::Seen(Record { pid: 7, tid: 9, mono_ns: 1234, cpu: 3, what })
    }

    #[test]
    fn records_say_what_the_manual_says() {
        let id = [pair(7, 9), 1234];
        assert_eq!(read(&made(14, 0, &id), 3), seen(What::In));
        assert_eq!(read(&made(14, 1 << 13, &id), 3), seen(What::Out { preempted: false }));
        let preempted = made(14, 1 << 13 | 1 << 14, &id);
        assert_eq!(read(&preempted, 3), seen(What::Out { preempted: true }));
        let exit = made(4, 0, &[pair(7, 1), pair(9, 1), 1200, pair(7, 9), 1234]);
        assert_eq!(read(&exit, 3), seen(What::Exit));
        assert_eq!(read(&made(2, 0, &[5, 41, pair(7, 9), 1234]), 3), Read::Lost(41));
        // A mark for "of the user" stands before the addresses.
        let chain = [pair(7, 9), 1234, 3, -512i64 as u64, 0x1000, 0x2000];
        let frames = [0x1000, 0x2000].into();
        assert_eq!(read(&made(9, 2, &chain), 3), seen(What::Sample { frames }));
        assert_eq!(read(&made(3, 0, &id), 3), Read::Other);
    }

    #[test]
    fn bytes_that_make_no_sense_are_nothing() {
        let chain = made(9, 0, &[pair(7, 9), 1234, u64::MAX, 0x1000]);
        assert_eq!(read(&chain, 3), seen(What::Sample { frames: [0x1000].into() }));
        let mut looked = 0;
        for kind in [2, 4, 9, 14] {
            let whole = made(kind, 0, &[1, 2, 3, 4, 5]);
            for cut in 0..24 {
                let read = read(&whole[..cut.min(whole.len())], 0);
                looked += u32::from(read == Read::Other);
            }
        }
        assert!(looked > 60, "{looked}");
    }
}
