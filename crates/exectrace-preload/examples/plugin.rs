//! A plug-in that links the library, for the tests of recording: a program that knows nothing of it
//! loads it, calls it from several threads, and unloads it. Built and loaded by `tests/copies.rs`.

/// Does some work of this number.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_work(n: u64) {
    let _span = trace::span!("plugged", n = n);
    trace::instant!("in plug-in", n = n, text = "lent");
}
