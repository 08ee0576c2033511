//! The only door to atomics, cells and threads, with a twin for loom.
//!
//! Everything that two threads touch comes from here, so that the same code runs on the machine
//! and under loom's exploration (`RUSTFLAGS="--cfg loom"`).
//!
//! 1. Modules outside this one MUST NOT name `core::sync`, `std::sync::atomic`, `std::thread` or
//!    `loom`. Otherwise a model would run beside the code that it is to check.
//! 2. A handshake of the form "store mine, then look at yours" MUST use [`fence`] with `SeqCst`,
//!    not `SeqCst` accesses. Otherwise loom does not model it.
//! 3. A [`Mutant`] is planted under loom only, and in builds with `--cfg mutant="..."`: elsewhere
//!    [`planted`] is the constant `false`.

pub mod door;

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub use model::*;

#[cfg(not(loom))]
mod real;
#[cfg(not(loom))]
pub use real::*;

pub use core::sync::atomic::Ordering;

/// A fault that a model plants to see that it would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is explained where it is planted.
pub enum Mutant {
    PoolTag,
    PoolPushOrder,
    QueueTakeOrder,
    QueueLookFirst,
    QueueProducerFence,
    QueueConsumerFence,
    QueueOrder,
    LogCommitFirst,
    LogCommitOrder,
    LogScanOrder,
    LogScanUpward,
    LogClose,
    TableFindableFirst,
    TableFindableOrder,
    TableFindOrder,
    DoorInnerFence,
    DoorOuterFence,
}

/// `order`, or `Relaxed` where this fault is planted.
#[inline(always)]
pub fn order(order: Ordering, fault: Mutant) -> Ordering {
    if planted(fault) { Ordering::Relaxed } else { order }
}
