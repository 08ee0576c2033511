//! Bytes of an exectrace trace to ordered, typed, validated events.
//!
//! Sans-I/O: everything here is fed with bytes and asked for what they say; nothing opens a file.
//! No input makes it panic, and none makes it use more memory than 64 bytes for each byte of input
//! and 1 MiB, or the bound on held bytes that the caller names.
//!
//! - [`Decoder`]: all events, typed, in the order of time over all threads.
//! - [`Scan`]: counts of events by kind at the speed of a bare decode, in the memory of the tables
//!   without stacks.
//! - [`raw`]: every batch and event as a line of text, in the order of the input.
//! - [`validate`]: a second opinion on what was decoded.
//!
//! ```
//! use trace_decode::Decoder;
//! use trace_decode::Item;
//!
//! fn names(mut input: impl std::io::Read) -> Result<Vec<String>, Box<dyn std::error::Error>> {
//!     let mut decoder = Decoder::new();
//!     let mut names = Vec::new();
//!     let mut piece = vec![0; 1 << 16];
//!     loop {
//!         match input.read(&mut piece)? {
//!             0 => decoder.finish(),
//!             n => decoder.push(&piece[..n]),
//!         }
//!         let mut ended = false;
//!         while let Some(item) = decoder.next_item()? {
//!             match item {
//!                 Item::Event(e) => names.push(format!("{} ns: kind {}", e.ts_ns, e.kind)),
//!                 Item::Damage(d) => eprintln!("{d}"),
//!                 Item::SessionEnd(s) => ended = s.end().is_some(),
//!                 _ => {}
//!             }
//!         }
//!         if ended {
//!             return Ok(names);
//!         }
//!     }
//! }
//!
//! let error = names(&b"hello"[..]).unwrap_err();
//! assert!(error.to_string().starts_with("not an exectrace trace: expected magic EB 58 54 F1"));
//! ```
#![forbid(unsafe_code)]

mod ahead;
pub mod batch;
pub mod clock;
pub mod decoder;
pub mod error;
pub mod event;
mod merge;
pub mod open;
pub mod raw;
pub mod scan;
mod shape;
mod source;
mod structural;
pub mod tables;
pub mod text;
mod tournament;
pub mod validate;

pub use crate::decoder::Control;
pub use crate::decoder::Decoder;
pub use crate::decoder::Item;
pub use crate::decoder::Options;
pub use crate::decoder::Stamp;
pub use crate::decoder::Timed;
pub use crate::error::Damage;
pub use crate::error::DamageKind;
pub use crate::error::Error;
pub use crate::error::ErrorKind;
pub use crate::event::Event;
pub use crate::event::Structural;
pub use crate::event::Value;
pub use crate::scan::Scan;
pub use crate::scan::ScanItem;
pub use crate::tables::Session;
pub use crate::tables::Tables;
pub use crate::validate::Validate;
