//! An arena in ordinary memory, for unit tests.

use crate::buf::Arena;
use crate::buf::BUFFER_BYTES;
use crate::buf::Buffers;
use crate::buf::Head;
use crate::buf::pool::Pool;
use crate::intern::log::Segments;

#[repr(C, align(64))]
struct Block([u8; BUFFER_BYTES as usize]);

/// Buffers, and a pool that segments are taken from.
pub(crate) struct TestArena {
    /// One address from which all others are made, as in a mapping.
    blocks: *mut [Block],
    pub(crate) pool: Pool,
}

// SAFETY: the contents are reached through atomics, or by the owner rules of buf#1 and buf#2.
unsafe impl Sync for TestArena {}

impl TestArena {
    /// An arena of `count` buffers, all in the pool, each filled with `dirt` behind its head.
    pub(crate) fn new(count: u32, dirt: u8) -> TestArena {
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..count {
            blocks.push(Block([dirt; BUFFER_BYTES as usize]));
            blocks.iter_mut().next_back().unwrap().0[..64].fill(0);
        }
        let blocks = Box::into_raw(blocks.into_boxed_slice());
        let arena = TestArena { blocks, pool: Pool::default() };
        for i in (0..count).rev() {
            arena.pool.push(&arena, i);
        }
        arena
    }
}

impl Drop for TestArena {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and whoever borrowed from it is gone.
        drop(unsafe { Box::from_raw(self.blocks) });
    }
}

impl Arena for TestArena {
    fn head(&self, index: u32) -> &Head {
        let p = self.start(index);
        // SAFETY: any bytes are a valid `Head`; a block is aligned to 64 and lives with `self`.
        unsafe { &*p.cast::<Head>() }
    }

    fn len(&self) -> u32 {
        self.blocks.len() as u32
    }
}

// SAFETY: each block is BUFFER_BYTES of its own, aligned to 64, and `head` refers to its start.
unsafe impl Buffers for TestArena {
    fn start(&self, index: u32) -> *mut u8 {
        assert!(index < self.len());
        // SAFETY: the index was just checked.
        unsafe { self.blocks.cast::<Block>().add(index as usize).cast::<u8>() }
    }
}

impl Segments for TestArena {
    fn take(&self) -> Option<u32> {
        self.pool.pop(self, 0)
    }

    fn give_back(&self, index: u32) {
        self.pool.push(self, index);
    }
}
