//! What bytes mean: integers, fields, the event table, the batch header.
//!
//! `encode` imports nothing of ours and cannot allocate or block. Recorder and decoder both stand
//! on it, so that they cannot disagree.

pub mod crc;
pub mod field;
pub mod op;
pub mod schema;
pub mod varint;
pub mod wire;
