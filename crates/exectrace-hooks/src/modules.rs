//! Modules that the program loads while it runs: said in the trace soon after they have come.
//!
//! `dlopen` and `dlsym` look at who calls them, so the hooks jump on to libc's and leave no frame.
//! What there is to do is done before the jump, of the next of these calls, or at the end of the
//! process: after a `dlopen` nearly always comes a `dlsym`. Modules that libc loads by itself (for
//! names, for character sets) are said then too.

use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use trace::block;
use trace::registry;
use trace::stacktab::modules::Module;
use trace::sys::loader;

use crate::real;

/// Some may have come since the last look.
static STALE: AtomicBool = AtomicBool::new(false);
/// How often the loader had added some, and removed some, at the last look.
static SEEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Those that the trace has, by a hash. What finds no place in it is said again.
const KNOWN_MAX: usize = 2048;
static KNOWN: [AtomicU64; KNOWN_MAX] = [const { AtomicU64::new(0) }; KNOWN_MAX];
const PROBES: usize = 16;

/// Whether it was not said yet; it counts as said from here on.
fn is_new(module: &Module) -> bool {
    let mut hash = module.base ^ module.size.rotate_left(20) ^ module.bias.rotate_left(40);
    for byte in &module.path {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let hash = hash.max(1);
    for i in 0..PROBES {
        let place = &KNOWN[(hash as usize).wrapping_add(i) % KNOWN_MAX];
        match place.compare_exchange(0, hash, Relaxed, Relaxed) {
            Ok(_) => return true,
            Err(there) if there == hash => return false,
            Err(_) => {}
        }
    }
    true
}

/// The trace has those that are loaded now; a session has just begun.
pub fn modules_are_known() {
    STALE.store(false, Relaxed);
    KNOWN.iter().filter(|k| k.load(Relaxed) != 0).for_each(|k| k.store(0, Relaxed));
    let _quiet = block::silent();
    see();
    trace::stacktab::modules::for_each(|module| {
        is_new(module);
    });
}

/// Whether some came or went since the last look.
fn see() -> bool {
    let now = loader::counters();
    let changed = |(seen, now): (&AtomicU64, u64)| seen.swap(now, Relaxed) != now;
    SEEN.iter().zip([now.adds, now.subs]).map(changed).fold(false, |a, b| a | b)
}

/// What is called besides when some came or went.
static CHANGED: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has `changed` called whenever modules were seen to have come or gone, in a place where it may
/// take the loader's lock.
pub fn when_modules_change(changed: fn()) {
    CHANGED.store(changed as *mut (), Relaxed);
}

fn tell_changed() {
    let changed = CHANGED.load(Relaxed);
    if !changed.is_null() {
        // SAFETY: stored by `when_modules_change` from a function of this type.
        (unsafe { std::mem::transmute::<*mut (), fn()>(changed) })();
    }
}

/// Says which modules have come, if some may have. Allocates, and takes the loader's lock.
pub fn look() {
    if !STALE.load(Relaxed) || !registry::has_session() {
        return;
    }
    let Some(m) = registry::mapping().filter(|m| !registry::is_vfork_child(m)) else { return };
    if STALE.swap(false, Relaxed) {
        let _errno = trace::sys::Errno::save();
        let _quiet = block::silent();
        if see() {
            tell_changed();
            trace::outside::define_new_modules(m, m.front().epoch.load(Relaxed), is_new);
        }
    }
}

/// libc's functions behind the jumps, in the order of `define_jumps`.
static REAL: [AtomicPtr<c_void>; 3] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 3];

/// What a jump does first; gives where it goes on.
pub extern "C-unwind" fn before(which: usize) -> *mut c_void {
    look();
    if which < 2 {
        STALE.store(true, Relaxed);
    }
    match REAL[which].load(Relaxed) {
        at if at.is_null() => find(which),
        at => at,
    }
}

/// By `dlvsym`, which has no hook.
#[cold]
fn find(which: usize) -> *mut c_void {
    let name = [c"dlopen", c"dlmopen", c"dlsym"][which];
    for version in [c"GLIBC_2.34", c"GLIBC_2.17", c"GLIBC_2.2.5", c"GLIBC_2.3.4"] {
        // SAFETY: two strings that end in a zero.
        let at = unsafe { libc::dlvsym(libc::RTLD_NEXT, name.as_ptr(), version.as_ptr()) };
        if !at.is_null() {
            REAL[which].store(at, Relaxed);
            return at;
        }
    }
    refuse as *const () as *mut c_void
}

/// Stands for what this libc does not have.
extern "C" fn refuse() -> *mut c_void {
    std::ptr::null_mut()
}

/// What goes is said before it goes; that it is gone, after.
///
/// # Safety
/// - As `dlclose`.
pub unsafe fn dlclose(handle: *mut c_void) -> c_int {
    look();
    // SAFETY: the caller's promise.
    let r = unsafe { real::dlclose(handle) };
    STALE.store(true, Relaxed);
    let _errno = trace::sys::Errno::save();
    look();
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_new_once() {
        let module = |base: u64, path: &str| Module {
            base,
            size: 4096,
            path: path.as_bytes().to_vec(),
            ..Module::default()
        };
        assert!(is_new(&module(0x7000, "/a")));
        assert!(!is_new(&module(0x7000, "/a")));
        assert!(is_new(&module(0x7000, "/b")), "another one at the same place");
        assert!(is_new(&module(0x9000, "/a")), "the same one elsewhere");
        let all = (0..200).map(|i| module(0x10_0000 * i, "/c"));
        assert_eq!(all.filter(is_new).count(), 200);
    }

    #[test]
    fn libc_has_what_is_jumped_to() {
        for which in 0..3 {
            let at = find(which);
            assert!(!at.is_null() && at != refuse as *const () as *mut c_void, "{which}");
        }
    }
}
