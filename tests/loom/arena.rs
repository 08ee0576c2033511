//! An arena of constructed objects, whose cells loom watches.

use loom::cell::UnsafeCell;

use trace::buf::Arena;
use trace::buf::HEAD_BYTES;
use trace::buf::Head;
use trace::buf::pool::Pool;
use trace::buf::queue::Queue;
use trace::intern::log::Body;
use trace::intern::log::Log;
use trace::intern::log::Segments;
use trace::intern::log::entries_max;
use trace::sync::AtomicU64;

struct Buffer {
    head: Head,
    entries: Vec<AtomicU64>,
    words: Vec<UnsafeCell<u64>>,
}

/// A small mapping: some buffers, their pool, a queue and a log.
pub(crate) struct Model {
    buffers: Vec<Buffer>,
    segment_bytes: u32,
    pub(crate) pool: Pool,
    pub(crate) queue: Queue,
    pub(crate) log: Log,
}

impl Model {
    /// `buffers` buffers, all free, buffer 0 on top, each with room for `records` records of 8
    /// bytes and as many entries.
    pub(crate) fn new(buffers: u32, records: u32) -> Model {
        let segment_bytes = HEAD_BYTES + 16 * records;
        let buffer = |_| Buffer {
            head: Head::default(),
            entries: (0..records).map(|_| AtomicU64::new(0)).collect(),
            words: (0..records).map(|_| UnsafeCell::new(0)).collect(),
        };
        let m = Model {
            buffers: (0..buffers).map(buffer).collect(),
            segment_bytes,
            pool: Pool::default(),
            queue: Queue::default(),
            log: Log::default(),
        };
        for i in (0..buffers).rev() {
            m.pool.push(&m, i);
        }
        m
    }

    /// Writes a word of a buffer; loom fails if anybody else uses it at the same time.
    pub(crate) fn write(&self, index: u32, word: usize, value: u64) {
        // SAFETY: loom checks that the access is exclusive.
        self.buffers[index as usize].words[word].with_mut(|p| unsafe { *p = value });
    }

    /// Reads a word of a buffer; loom fails if the write does not happen before.
    pub(crate) fn read(&self, index: u32, word: usize) -> u64 {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.buffers[index as usize].words[word].with(|p| unsafe { *p })
    }
}

impl Arena for Model {
    fn head(&self, index: u32) -> &Head {
        &self.buffers[index as usize].head
    }

    fn len(&self) -> u32 {
        self.buffers.len() as u32
    }
}

fn word_of(offset: u32) -> usize {
    ((offset - HEAD_BYTES) / 8) as usize
}

impl Body for Model {
    fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    fn entry(&self, index: u32, n: u32) -> &AtomicU64 {
        assert!(n < entries_max(self.segment_bytes));
        &self.buffers[index as usize].entries[n as usize]
    }

    fn copy(&self, index: u32, offset: u32, len: u32, into: &mut Vec<u8>) {
        into.clear();
        for word in 0..len.div_ceil(8) as usize {
            into.extend_from_slice(&self.read(index, word_of(offset) + word).to_ne_bytes());
        }
        into.truncate(len as usize);
    }

    unsafe fn fill(
        &self,
        index: u32,
        offset: u32,
        len: u32,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let mut bytes = vec![0; len.next_multiple_of(8) as usize];
        let done = write(&mut bytes[..len as usize]);
        for (i, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.write(index, word_of(offset) + i, u64::from_ne_bytes(*word));
        }
        done
    }

    unsafe fn wipe(&self, index: u32) {
        let buffer = &self.buffers[index as usize];
        for word in 0..buffer.words.len() {
            self.write(index, word, 0);
        }
        for entry in &buffer.entries {
            entry.store(0, trace::sync::Ordering::Relaxed);
        }
    }
}

impl Segments for Model {
    fn take(&self) -> Option<u32> {
        self.pool.pop(self, 0)
    }

    fn give_back(&self, index: u32) {
        self.pool.push(self, index);
    }
}
