//! Records an unmodified program: puts the recorder into it by preloading, and drains it from
//! outside, so that the program gets no thread, no descriptor and no file of the recorder's.
//!
//! [`prepare`] checks the program and makes a private folder on a tmpfs; [`Prepared::record`]
//! starts the program, drains the mapping of every process of its tree into a trace of its own, and
//! says how the program ended. [`divide`] makes two processes of the command beforehand, so that it
//! can end while processes of the program are recorded on.
//!
//! 1. The program is never harmed by what goes wrong here: a trace that cannot be written ends, the
//!    program runs on.
//! 2. What stands in a mapping is the word of a stranger.

#![forbid(unsafe_code)]

mod behind;
mod check;
mod cost;
mod drains;
mod folder;
mod front;
mod library;
mod memory;
mod run;
mod scheduling;
mod signals;

pub use behind::Behind;
pub use check::Refused;
pub use check::program;
pub use drains::Traced;
pub use folder::can_hold_buffers;
pub use front::Front;
pub use front::Part;
pub use front::Waited;
pub use front::divide;
pub use run::Ended;
pub use run::Options;
pub use run::Prepared;
pub use run::Recorded;
pub use run::prepare;
pub use scheduling::can_watch;
pub use scheduling::may_watch;
