//! What the library does when the loader has put it in place, before the program's `main`, in a
//! forked child, and at the end.
//!
//! 1. The program's environment is as if nobody recorded before anything else of it runs.
//! 2. Nothing is printed, whatever fails: the folder says it.

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::c_char;
use std::ffi::c_void;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

use trace::Config;
use trace::block;
use trace_hooks::Options;

use crate::young;

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

/// What forked children need again.
struct Asked {
    dir: &'static Path,
    config: Config,
    options: Options,
}

static ASKED: AtomicPtr<Asked> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn begin() {
    let found = take_variables();
    let Some(dir) = found.dir else { return };
    ignore(found.ignored.unwrap_or_default());
    trace_hooks::resolve_all();
    let quiet = block::silent();
    let dir = Path::new(OsStr::from_bytes(dir));
    let text = found.options.unwrap_or(b"");
    let options = std::str::from_utf8(text).map_err(|e| e.to_string());
    let options = match options.and_then(|t| Options::parse(t).map_err(|e| e.to_string())) {
        Ok(options) => options,
        Err(e) => return refuse(dir, &e),
    };
    trace_hooks::set(&options);
    let mut config = Config::new();
    if options.memory_bytes != 0 {
        config = config.memory_bytes(options.memory_bytes);
    }
    if options.depth != 0 {
        config = config.stack_depth(options.depth);
    }
    if options.follow {
        follow(&found);
    }
    let asked: &'static Asked = Box::leak(Box::new(Asked { dir, config, options }));
    ASKED.store(std::ptr::from_ref(asked).cast_mut(), Relaxed);
    let begun = start(asked);
    drop(quiet);
    if begun {
        block::begins(0, 0, 0);
        // After the recorder's own handler, and those of the allocator that was used meanwhile.
        // SAFETY: a function for the life of the process.
        unsafe { libc::pthread_atfork(Some(announce_child), None, Some(begin_in_child)) };
    }
}

/// Has programs that the process becomes or starts recorded too.
fn follow(found: &Found) {
    // SAFETY: all numbers and null pointers, for which zero is a value.
    let mut about: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own = begin as extern "C" fn() as *const c_void;
    // SAFETY: an address of this library, a writable place.
    if unsafe { libc::dladdr(own, &raw mut about) } == 0 || about.dli_fname.is_null() {
        return;
    }
    // SAFETY: the loader's name of this library, which is never unloaded.
    let library = unsafe { CStr::from_ptr(about.dli_fname) };
    let kept = |name: &str, value: &[u8]| {
        let text = [name.as_bytes(), b"=", value].concat();
        CString::new(text).map(|text| &*Box::leak(text.into_boxed_c_str()))
    };
    let folder = kept("EXECTRACE_PRELOAD_DIR", found.dir.unwrap_or_default());
    let options = kept("EXECTRACE_PRELOAD_OPTIONS", found.options.unwrap_or_default());
    if let (Ok(folder), Ok(options)) = (folder, options) {
        let what = trace_hooks::Follow { library, folder, options };
        trace_hooks::follow(Box::leak(Box::new(what)));
    }
}

fn start(asked: &Asked) -> bool {
    if is_abandoned(asked.dir) {
        return false;
    }
    match trace::outside::begin_outside(&asked.config, asked.dir) {
        Ok(()) => {
            trace_hooks::modules_are_known();
            trace_hooks::when_modules_change(if asked.options.tables {
                modules_changed
            } else {
                trace::copies::look
            });
            trace::copies::own();
            if asked.options.tables {
                trace_unwind::begin(begin as extern "C" fn() as usize);
            }
            true
        }
        Err(e) => {
            refuse(asked.dir, &e.to_string());
            false
        }
    }
}

/// Whether the command that made the folder has been killed: it kept a file there locked. What a
/// process puts into the folder then would stay there, and fill the memory of the machine.
fn is_abandoned(dir: &Path) -> bool {
    let Ok(owner) = std::fs::File::open(dir.join("owner")) else { return !dir.exists() };
    let wanted = libc::LOCK_SH | libc::LOCK_NB;
    // SAFETY: a descriptor that is open until `owner` goes.
    unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&owner), wanted) == 0 }
}

fn modules_changed() {
    trace_unwind::look();
    trace::copies::look();
}

fn refuse(dir: &Path, reason: &str) {
    let file = dir.join(format!("refused.{}", std::process::id()));
    let _ = std::fs::write(file, reason);
}

/// What is asked for, where children are recorded now.
fn follows() -> Option<&'static Asked> {
    // SAFETY: null, or leaked by `begin`.
    let asked = unsafe { ASKED.load(Relaxed).as_ref() };
    asked.filter(|asked| asked.options.follow && !trace_hooks::is_confined())
}

extern "C" fn announce_child() {
    if let Some(asked) = follows() {
        young::announce(asked.dir);
    }
}

/// A forked child records into a file of its own.
extern "C" fn begin_in_child() {
    let Some(asked) = follows() else { return };
    trace_hooks::forget_parent();
    trace_unwind::forget_parent();
    let quiet = block::silent();
    let begun = start(asked);
    young::is_there(asked.dir);
    drop(quiet);
    if begun {
        block::begins(0, 0, 0);
    }
}

/// The process exits: its last thread's account.
extern "C" fn end() {
    trace_hooks::look_at_modules();
    trace_hooks::thread_ends();
}

#[derive(Default)]
struct Found {
    dir: Option<&'static [u8]>,
    options: Option<&'static [u8]>,
    ignored: Option<&'static [u8]>,
}

/// Ignores signals that were ignored when the command began, and with which it could not start the
/// program. Programs that this one becomes or starts find them as this one has them by then.
fn ignore(numbers: &[u8]) {
    let numbers = std::str::from_utf8(numbers).unwrap_or_default().split(',');
    for signal in numbers.filter_map(|number| number.parse().ok()) {
        // SAFETY: no handler, and nothing of the program has run.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Takes our variables out of the environment and puts the program's own `LD_PRELOAD` back.
fn take_variables() -> Found {
    const FORMER: &[u8] = b"EXECTRACE_PRELOAD_FORMER=";
    const OWN: &[u8] = b"LD_PRELOAD=";
    let mut found = Found::default();
    // SAFETY: the constructors run one after the other, and no thread of the program runs yet.
    let from = unsafe { environ };
    if from.is_null() || !has_dir(from) {
        return found;
    }
    let (mut read, mut write) = (from, from);
    loop {
        // SAFETY: below the null that ends the list.
        let entry = unsafe { *read };
        let mut keep = entry;
        if !entry.is_null() {
            // SAFETY: an entry of the environment, which stays for the life of the process.
            let text: &'static [u8] = unsafe { CStr::from_ptr(entry) }.to_bytes();
            if let Some(dir) = text.strip_prefix(b"EXECTRACE_PRELOAD_DIR=") {
                (found.dir, keep) = (Some(dir), std::ptr::null_mut());
            } else if let Some(options) = text.strip_prefix(b"EXECTRACE_PRELOAD_OPTIONS=") {
                (found.options, keep) = (Some(options), std::ptr::null_mut());
            } else if let Some(ignored) = text.strip_prefix(b"EXECTRACE_PRELOAD_IGNORED=") {
                (found.ignored, keep) = (Some(ignored), std::ptr::null_mut());
            } else if text.starts_with(FORMER) {
                // The name's end becomes the other name, in place.
                keep = entry.wrapping_add(FORMER.len() - OWN.len());
                // SAFETY: the kernel put these bytes on the stack of the process, writable.
                unsafe { std::ptr::copy_nonoverlapping(OWN.as_ptr(), keep.cast(), OWN.len()) };
            } else if text.starts_with(OWN) {
                keep = std::ptr::null_mut();
            }
        }
        if !keep.is_null() || entry.is_null() {
            // SAFETY: at or below what was read.
            unsafe { *write = keep };
            write = write.wrapping_add(1);
        }
        if entry.is_null() {
            return found;
        }
        read = read.wrapping_add(1);
    }
}

/// Whether the list has our first variable: else all of it is the program's own.
fn has_dir(mut at: *mut *mut c_char) -> bool {
    loop {
        // SAFETY: below the null that ends the list.
        let entry = unsafe { *at };
        if entry.is_null() {
            return false;
        }
        // SAFETY: an entry of the environment.
        if unsafe { CStr::from_ptr(entry) }.to_bytes().starts_with(b"EXECTRACE_PRELOAD_DIR=") {
            return true;
        }
        at = at.wrapping_add(1);
    }
}
