//! A process-wide execution tracer for Rust programs.
//!
//! A program turns it on, every thread writes what it does into a buffer of its own, and the trace
//! goes to any writer, or to whoever reads it:
//!
//! ```
//! let path = std::env::temp_dir().join("lib-doc.trace");
//! trace::start(std::fs::File::create(&path).unwrap()).unwrap();
//! {
//!     let _span = trace::span!("load", shard = 3);
//!     trace::log!(db, "read {} rows", 512);
//! }
//! let summary = trace::stop().unwrap();
//! assert!(summary.events >= 3 && summary.lost == 0);
//! # std::fs::remove_file(path).unwrap();
//! ```
//!
//! The command `exectrace` (package `exectrace-cli`) reads the file: `exectrace stat`, `events`,
//! `threads`, `dump`. `docs/format.md` describes its bytes.
//!
//! # What it costs
//!
//! Off: one relaxed load and one predicted branch at each place; arguments are not evaluated. On:
//! an event is about one and a half times a bare read of the cycle counter, a span twice that.
//! Memory is bounded ([`Config::memory_bytes`]); events beyond the bound are counted, and the count
//! stands in the trace ([`Overflow`]).
//!
//! # In libraries, in applications
//!
//! A library emits ([`span!`], [`instant!`], [`log!`], [`task!`], [`counter!`]) and never starts a
//! session. An application calls [`start`] and [`stop`], or [`init_from_env`] once in `main`.
//!
//! Beside a module of your own called `trace`, write `::trace::span!`, or rename the package in
//! Cargo.toml: `xt = { package = "exectrace", .. }`; the macros work under any name.
//!
//! # What it never does
//!
//! It does not panic, abort, block a thread beyond a stated bound, or change `errno`. Events are
//! safe in signal handlers, in allocators, while unwinding, in destructors of thread-locals, and
//! after `fork`, where the child is off until it starts a session of its own.

#[cfg(not(target_os = "linux"))]
compile_error!("exectrace records on Linux");

pub mod encode;

#[doc(hidden)]
pub mod buf;
#[doc(hidden)]
pub mod intern;
#[doc(hidden)]
pub mod sync;

/// Under loom only the gate, which stands on nothing else.
#[cfg(loom)]
#[doc(hidden)]
pub mod registry {
    pub mod gate;
}

macro_rules! runtime { ($($(#[$attr:meta])* $vis:vis mod $name:ident;)*) => { $(
    // Loom checks the protocols below this line by models of their own.
    #[cfg(not(loom))]
    $(#[$attr])*
    $vis mod $name;
)* } }

runtime! {
    mod annotate;
    #[doc(hidden)]
    pub mod block;
    #[doc(hidden)]
    pub mod clock;
    mod controller;
    #[doc(hidden)]
    pub mod copies;
    #[doc(hidden)]
    pub mod coverage;
    mod emit;
    #[doc(hidden)]
    pub mod kernel;
    #[doc(hidden)]
    pub mod mapping;
    mod owner;
    #[doc(hidden)]
    pub mod registry;
    mod session;
    mod site;
    #[doc(hidden)]
    pub mod stacktab;
    #[doc(hidden)]
    pub mod stringtab;
    #[doc(hidden)]
    pub mod sys;
    mod tables;
}

#[cfg(not(loom))]
pub use annotate::emit_probe;
#[cfg(not(loom))]
pub use annotate::span::Span;
#[cfg(not(loom))]
pub use annotate::span::span;
#[cfg(not(loom))]
pub use annotate::task::Entered;
#[cfg(not(loom))]
pub use annotate::task::Task;
#[cfg(not(loom))]
pub use annotate::task::current_task;
#[cfg(not(loom))]
pub use annotate::thread;
#[cfg(not(loom))]
#[doc(hidden)]
pub use emit::Outcome;
#[cfg(not(loom))]
pub use session::*;

/// What the macros call. Not for programs.
#[cfg(not(loom))]
#[doc(hidden)]
pub mod __private {
    pub use crate::annotate::log::log;
    pub use crate::annotate::mark;
    pub use crate::annotate::plain;
    pub use crate::annotate::task::begin_task;
    pub use crate::annotate::task::begin_task_told;
    pub use crate::annotate::value::Arg;
    pub use crate::annotate::value::TaskId;
    pub use crate::encode::schema::Class;
    pub use crate::site::Meta;
    pub use crate::site::Site;
}

#[cfg(doctest)]
#[doc = include_str!("../docs/format.md")]
mod format_md {}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme_md {}
