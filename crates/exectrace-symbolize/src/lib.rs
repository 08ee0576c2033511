//! Addresses to functions, files and lines, offline and by build id.
//!
//! This crate knows modules and addresses, no traces: a caller tells where modules stood in the
//! memory of a process ([`Module`]), and asks what stands at an address ([`Symbolizer::resolve`]).
//! The answer comes from the module's own file or from its separate debug file.
//!
//! ```
//! use trace_symbolize::Missing;
//! use trace_symbolize::Module;
//! use trace_symbolize::Space;
//! use trace_symbolize::Status;
//! use trace_symbolize::Symbolizer;
//!
//! let mut symbolizer = Symbolizer::new();
//! let lib = Module { base: 0x7000, size: 0x1000, path: "/nowhere/lib.so".into(), file_size: 9,
//!     mtime: 1, ..Module::default() };
//! let lib = symbolizer.add_module(Space::default(), lib);
//! let found = symbolizer.resolve_return(Space::default(), 0x7123);
//! assert_eq!(found.module, Some(lib));
//! assert!(found.frames.is_empty());
//! assert_eq!(symbolizer.status(lib), Status::Missing(Missing::NotFound));
//! ```
//!
//! What it costs: the first address of a module opens its files and reads where their units are,
//! tens of milliseconds for a debug build of some 50 MB; the first address of a unit reads that
//! unit, a millisecond; each further address some microseconds, and one that was asked for before a
//! third of one. Memory is bounded for all files together (`docs/performance.md`), but for 24 bytes
//! for each symbol and 32 for each stretch of code of a unit.
//!
//! What goes wrong is no error of a call: addresses without a name have no frames, and
//! [`Symbolizer::status`] and [`Symbolizer::modules`] say why. Calls do not panic, whatever the
//! files hold; a reader of their format that did would cost its file's names only, with the
//! program's panic hook called.
//!
//! Where names are looked for, the first that fits: the module's own file; for its debug
//! information `.build-id/xx/yyyy.debug` in each directory of debug files, there also the module's
//! own name with and without `.debug`; what a `debuginfod` client of this user has fetched
//! (`DEBUGINFOD_CACHE_PATH`, `XDG_CACHE_HOME`, `HOME`; nothing is fetched from here); the file of
//! its debug link beside it, in `.debug`, and in the directories. Of the debug file then its split
//! units and packages, and what it has in common with others. Beside these the packed symbols in
//! `.gnu_debugdata`, and last the symbols of the dynamic linker.
//!
//! Invariants:
//! 1. A file MUST be the one that was loaded: its build id is the module's, or, where the module
//!    has none, its size and its time of change are. Otherwise names would be plausible and wrong.
//! 2. No file makes it panic, wait, recurse, or take time and memory beyond its size: files are as
//!    untrusted as the trace that names them. What cannot be read is a [`Missing`] with the reason.
//! 3. Unknown is `None`, never a neighbour's name.
#![forbid(unsafe_code)]

mod content;
mod demangle;
mod dwarf;
mod elf;
mod embedded;
mod image;
mod module;
mod recent;
mod separate;
mod symbolizer;
mod symbols;

pub use demangle::demangle;
pub use module::Missing;
pub use module::Module;
pub use module::ModuleId;
pub use module::Names;
pub use module::Report;
pub use module::Source;
pub use module::Space;
pub use module::Status;
pub use symbolizer::Frame;
pub use symbolizer::Resolved;
pub use symbolizer::Symbolizer;
