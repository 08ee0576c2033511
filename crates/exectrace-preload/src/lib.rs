//! The library that `exectrace record` loads into a program: the hooks, and what it does before the
//! program's `main`.
//!
//! Without `--cfg exectrace_preload` it is empty and harmless, so that an ordinary build of the
//! workspace has it too; `build-support/nested.rs` is the way to build it.
//!
//! Its environment, all of which is gone from the program's own environment before `main`:
//!
//! - `EXECTRACE_PRELOAD_DIR`: the folder on a tmpfs into which the mapping goes. Without it nothing
//!   is recorded. A process that cannot be recorded leaves a file `refused.PID` there, which says
//!   why; a child that is about to begin has a file `young-PARENT-NUMBER` there until then, a
//!   process that is about to become another program one named `young-PID`.
//! - `EXECTRACE_PRELOAD_OPTIONS`: see `trace_hooks::Options`.
//! - `EXECTRACE_PRELOAD_IGNORED`: numbers of signals that the program finds ignored, comma
//!   separated.
//! - `EXECTRACE_PRELOAD_FORMER`: the program's own `LD_PRELOAD`, where it had one.

#[cfg(exectrace_preload)]
mod begin;
#[cfg(exectrace_preload)]
mod young;

#[cfg(exectrace_preload)]
trace_hooks::hooks!();
