//! Builds the preloaded library by a cargo run of its own: with its `cfg`, with frame pointers, and
//! in a target directory of its own, since the flags differ from those of the build around it.
//!
//! Included by the tests of this crate and by the build script of the command.

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// What the library's code is built with.
pub const FLAGS: [&str; 3] = ["--cfg", "exectrace_preload", "-Cforce-frame-pointers=yes"];

/// Builds the library of the workspace at `root` below `target`; gives its path, or what cargo
/// printed.
pub fn build(root: &Path, target: &Path) -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo says to build scripts and tests is of the build around this one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO_") && text != "CARGO_HOME";
        if of_cargo || text.starts_with("RUSTFLAGS") || text == "CARGO" || text == "RUSTC" {
            command.env_remove(&name);
        }
    }
    command.current_dir(root);
    command.args(["build", "--release", "--offline", "--locked", "--quiet"]);
    command.args(["--package", "exectrace-preload", "--target-dir"]).arg(target);
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    command.env("CARGO_PROFILE_RELEASE_PANIC", "unwind");
    command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    let output = command.output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let library = target.join("release/libexectrace_preload.so");
    if library.is_file() { Ok(library) } else { Err(format!("{library:?} was not built")) }
}
