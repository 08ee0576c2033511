//! Segments in the memory of a mapping.

use core::slice;

use crate::buf::BUFFER_BYTES;
use crate::buf::Buffers;
use crate::buf::HEAD_BYTES;
use crate::intern::log::Body;
use crate::intern::log::ENTRY_BYTES;
use crate::intern::log::entries_max;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

impl<B: Buffers> Body for B {
    fn entry(&self, index: u32, n: u32) -> &AtomicU64 {
        let n = n.min(entries_max(BUFFER_BYTES) - 1);
        let offset = BUFFER_BYTES - ENTRY_BYTES * (n + 1);
        // SAFETY: `offset` is behind the head and at least 8 below the buffer's end.
        let p = unsafe { self.start(index).add(offset as usize) };
        // SAFETY: a buffer is aligned to 64 and `offset` to 8; the bytes of a segment from here to
        // its end are only reached as atomics once it is linked (`fill` stays below, by the room
        // check in `Log::reserve`).
        unsafe { &*p.cast::<AtomicU64>() }
    }

    fn copy(&self, index: u32, offset: u32, len: u32, into: &mut Vec<u8>) {
        debug_assert!(offset.is_multiple_of(8) && offset >= HEAD_BYTES);
        into.clear();
        let end = offset.saturating_add(len);
        if end > BUFFER_BYTES {
            return;
        }
        // Read as atomics, so that a foreign process that writes meanwhile spoils the bytes only.
        for at in (offset & !7..end).step_by(8) {
            // SAFETY: `at` is below `end`, so inside the buffer.
            let p = unsafe { self.start(index).add(at as usize) };
            // SAFETY: aligned to 8 and, since a buffer's size is a multiple of 8, eight bytes long.
            let word = unsafe { &*p.cast::<AtomicU64>() };
            into.extend_from_slice(&word.load(Relaxed).to_ne_bytes());
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
        // SAFETY: the caller says that the bytes lie inside the segment.
        let p = unsafe { self.start(index).add(offset as usize) };
        // SAFETY: the caller says that nobody else reads or writes them.
        write(unsafe { slice::from_raw_parts_mut(p, len as usize) })
    }

    unsafe fn wipe(&self, index: u32) {
        // SAFETY: a buffer is longer than its head.
        let p = unsafe { self.start(index).add(HEAD_BYTES as usize) };
        // SAFETY: the caller owns the buffer; the head, into which a slow `Pool::pop` may still
        // look, is not touched.
        unsafe { p.write_bytes(0, (BUFFER_BYTES - HEAD_BYTES) as usize) };
    }
}
