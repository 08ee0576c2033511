//! Builds the programs under `tests/names`: they have a real `main`, and names of their own for the
//! recorder.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The program `bin` of `tests/names/renamed`; `None`, with the reason printed, where cargo cannot
/// build without a network.
pub fn program(bin: &str) -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    Some(BUILT.get_or_init(build).as_ref()?.join(bin))
}

/// Builds a copy, so that nothing is written among the sources; gives the folder of the programs.
fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let from = root.join("tests/names/renamed");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("renamed");
    let manifest = std::fs::read_to_string(from.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("../../..", root.to_str().unwrap());
    put(&to.join("Cargo.toml"), manifest.as_bytes());
    for file in ["src/main.rs", "src/bin/exits.rs", "src/bin/main_ends.rs"] {
        put(&to.join(file), &std::fs::read(from.join(file)).unwrap());
    }
    // The versions that this build has.
    put(&to.join("Cargo.lock"), &std::fs::read(root.join("Cargo.lock")).unwrap());
    let target = to.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--offline", "--bins", "--quiet", "--target-dir"]).arg(&target);
    let out = build.current_dir(&to).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    if ["--offline", "failed to download", "no matching package"].iter().any(|t| text.contains(t)) {
        println!("skipped: cargo needs a network: {text}");
        return None;
    }
    assert!(out.status.success(), "{text}");
    Some(target.join("debug"))
}

/// Writes a file unless it is so already, which would make cargo build again.
fn put(path: &Path, bytes: &[u8]) {
    if std::fs::read(path).is_ok_and(|now| now == bytes) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
