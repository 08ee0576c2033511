//! A library that comes and goes: events are emitted from frames inside it, and then it is
//! unloaded.

use std::ffi::CString;
use std::ffi::c_int;
use std::ffi::c_void;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::ledger::Ledger;
use super::random::Rng;
use super::work::emit_one;

static PATH: OnceLock<Option<CString>> = OnceLock::new();

/// Compiles the library, where there is a compiler.
pub fn prepare() {
    PATH.get_or_init(|| {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/c/plugin.c");
        let name = format!("plugin-{}.so", std::process::id());
        let object = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]);
        cc.args(["-shared", "-fPIC", "-o"]).arg(&object).arg(&source);
        match cc.status() {
            Ok(status) => assert!(status.success(), "cc refused plugin.c"),
            Err(e) => {
                println!("no library comes and goes: no C compiler: {e}");
                return None;
            }
        }
        Some(CString::new(object.to_str().unwrap()).unwrap())
    });
}

/// Removes the library's file.
pub fn clean_up() {
    if let Some(Some(path)) = PATH.get() {
        let _ = std::fs::remove_file(path.to_str().unwrap());
    }
}

type Call = extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_int);

struct Visit<'a>(&'a Ledger, u64);

extern "C" fn emits(arg: *mut c_void) {
    // SAFETY: what `visit` gave.
    let Visit(l, what) = unsafe { &*arg.cast::<Visit<'_>>() };
    emit_one(l, false, *what);
}

/// Loads the library, emits from inside it, unloads it.
pub fn visit(l: &Ledger, rng: &mut Rng) {
    let Some(Some(path)) = PATH.get() else { return };
    // SAFETY: a library of ours, without constructors.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: the handle is open and the name ends in a zero.
    let found = unsafe { libc::dlsym(library, c"call".as_ptr()) };
    assert!(!found.is_null());
    // SAFETY: the C function's type.
    let call: Call = unsafe { std::mem::transmute(found) };
    for what in 0..1 + rng.below(4) {
        let visit = Visit(l, what);
        call(emits, (&raw const visit).cast_mut().cast(), rng.below(30) as c_int);
    }
    // SAFETY: nothing of the library runs or is kept.
    unsafe { libc::dlclose(library) };
}
