//! A program whose main thread ends by itself while another one goes on: no `main` of Rust's, which
//! a forced unwinding would not get through.
#![no_main]

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::time::Duration;

unsafe extern "C-unwind" {
    fn pthread_exit(value: *mut c_void) -> !;
}

fn goes_on(ends_by_exit: bool) {
    // Long after the main thread has ended.
    std::thread::sleep(Duration::from_millis(100));
    for n in 0..1000 {
        xt::instant!("after the main thread", n = n);
    }
    if ends_by_exit {
        std::process::exit(3);
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn main(arguments: c_int, _values: *const *const c_char) -> c_int {
    if !xt::init_from_env().unwrap() {
        return 1;
    }
    for n in 0..1000 {
        xt::instant!("main thread", n = n);
    }
    // The name of the program alone, or something behind it.
    let ends_by_exit = arguments > 1;
    drop(std::thread::spawn(move || goes_on(ends_by_exit)));
    // SAFETY: nothing on this stack has a destructor.
    unsafe { pthread_exit(std::ptr::null_mut()) }
}
