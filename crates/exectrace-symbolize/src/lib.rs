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
//! Invariants:
//! 1. A file MUST be the one that was loaded: its build id is the module's, or, where the module
//!    has none, its size and its time of change are. Otherwise names would be plausible and wrong.
//! 2. No file makes it panic or recurse without bound: files are as untrusted as the trace that
//!    names them. What cannot be read is a [`Missing`] with the reason.
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
