//! Builds the preloaded library by a cargo of its own and puts it inside the command: `cargo
//! install` installs no shared libraries.
//!
//! It is another build of the recorder: its thread-local words are addressed as in an executable,
//! panics unwind (a cancelled thread unwinds through it), and it always is a release build.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for path in
        ["src", "build.rs", "Cargo.lock", "crates/exectrace-hooks", "crates/exectrace-preload"]
    {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let to = out.join("libexectrace_preload.so");
    if let Err(why) = build(&root, &out, &to) {
        println!("cargo::warning=`exectrace record` will not work: {why}");
        fs::write(&to, b"").expect("the output folder can be written to");
    }
}

fn build(root: &Path, out: &Path, to: &Path) -> Result<(), String> {
    let manifest = root.join("crates/exectrace-preload/Cargo.toml");
    if !manifest.exists() {
        return Err(format!("{} is not there", manifest.display()));
    }
    let target = env::var("TARGET").map_err(|e| e.to_string())?;
    let folder = out.join("preload");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--offline", "--quiet", "--target", &target]);
    cargo.arg("--manifest-path").arg(&manifest).arg("--target-dir").arg(&folder);
    // What is set for the build of the command is not meant for this one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_ENCODED")
            || name.starts_with("CARGO_PROFILE")
            || name == "RUSTFLAGS"
        {
            cargo.env_remove(&*name);
        }
    }
    let flags = ["--cfg", "exectrace_preload", "-Cforce-frame-pointers=yes", "-Cpanic=unwind"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let done = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(said.lines().find(|l| l.starts_with("error")).unwrap_or("cargo failed").into());
    }
    let built = folder.join(target).join("release/libexectrace_preload.so");
    fs::copy(&built, to).map(drop).map_err(|e| format!("{}: {e}", built.display()))
}
