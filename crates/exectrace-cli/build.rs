//! Builds the preloaded library by a cargo of its own and puts it inside the command: `cargo
//! install` installs no shared libraries.

#[path = "../exectrace-preload/build-support/nested.rs"]
mod nested;

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    // Of this run, not of the build of this script: another copy of the repository may share its
    // target directory, and then also the script.
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where"));
    let root = own.join("../..");
    let crates = ["hooks", "unwind", "preload"].map(|name| format!("crates/exectrace-{name}"));
    let crates = crates.iter().map(String::as_str);
    for path in ["src", "build.rs", "Cargo.lock"].into_iter().chain(crates) {
        println!("cargo::rerun-if-changed=../../{path}");
    }
    let to = out.join("libexectrace_preload.so");
    let built = nested::build(&root, &out.join("preload"));
    let done = built.and_then(|path| fs::copy(path, &to).map_err(|e| e.to_string()));
    if let Err(why) = done {
        println!("cargo::warning=`exectrace record` will not work: {}", why.replace('\n', " "));
        fs::write(&to, b"").expect("the output folder can be written to");
    }
}
