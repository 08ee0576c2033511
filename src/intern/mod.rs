//! Bytes to ids, append-only: what the tables of strings and stacks are made of.
#[cfg(not(loom))]
mod body;
pub mod log;
