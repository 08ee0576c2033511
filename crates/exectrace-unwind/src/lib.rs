//! Stacks of code that keeps no frame pointers: a walk by the unwind tables (`.eh_frame`) that
//! every program and library carries for C++ exceptions and debuggers.
//!
//! The preloaded library of `exectrace record` turns it on for its process. Where a stack is
//! captured, the walk is given registers and the bounds of the thread's stack; it goes through the
//! library's own frames by frame pointers, which they have, and through everything else by the
//! rule that the tables state for each return address. A rule is worked out once, where an address
//! is first seen, and kept in 64 bits; frames that the last walk on the stack had are not walked
//! again. Code without tables (what a just-in-time compiler made) is gone through by frame
//! pointers; the stack's flags say so.
//!
//! 1. A walk allocates nothing, takes no lock, makes no system call, and uses under 2 KiB of stack:
//!    it runs inside any call of the program, in signal handlers and in allocators.
//! 2. A walk reads the thread's own stack between the bounds that it was given, always upwards, and
//!    tables that stay where they are while it reads; whatever stands there, it ends.
//! 3. Modules are looked at where the program loads or drops one, never in a walk.

mod last;
mod modules;
mod rule;
mod rules;
mod tables;
mod walk;

pub use modules::forget_parent;
pub use modules::look;
pub use walk::walk;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Where the library that this stands in has its code: its frames are not the program's.
static OWN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Whether this address lies in the own library's code.
#[inline(always)]
fn is_own(address: usize) -> bool {
    let (start, len) = (OWN[0].load(Relaxed), OWN[1].load(Relaxed));
    address.wrapping_sub(start) < len
}

/// Has all stacks from here on walked by unwind tables. `own` is an address of the library's code:
/// frames of the module around it are left out of stacks.
///
/// Allocates; takes the loader's lock.
pub fn begin(own: usize) {
    modules::find_own(own);
    look();
    trace::stacktab::capture::set_unwind(walk);
}
