//! Builds the program `peer` once for each peer, since each wants other features and flags.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use crate::peers::Peer;

/// Frame pointers for every peer, as the repository itself is built.
const FLAGS: &str = "-C force-frame-pointers=yes";

/// Where cargo puts what it builds for `compare` itself.
fn target() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(here, PathBuf::from)
}

/// Builds one peer; gives the program, or why there is none.
pub fn build(peer: &Peer) -> Result<PathBuf, String> {
    let flags = format!("{FLAGS} {}", peer.flags);
    let target = target().join(if peer.flags.is_empty() { "peers" } else { "peers-v3" });
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--locked", "--quiet", "--bin", "peer", "--features"])
        .arg(peer.feature)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", flags.trim())
        .env("CFLAGS", "-fno-omit-frame-pointer")
        .env("CXXFLAGS", "-fno-omit-frame-pointer")
        .stdin(Stdio::null());
    let done = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let line = said.lines().find(|l| l.contains("error")).unwrap_or("cargo failed").trim();
        eprintln!("{said}");
        return Err(format!("does not build: {line}"));
    }
    let built = target.join("release/peer");
    let kept = target.join(format!("peer-{}", peer.feature));
    // A copy beside it first: the old one may be running still.
    let copy = target.join(format!("peer-{}.{}", peer.feature, std::process::id()));
    std::fs::copy(&built, &copy).map_err(|e| format!("{}: {e}", built.display()))?;
    std::fs::rename(&copy, &kept).map_err(|e| format!("{}: {e}", kept.display()))?;
    Ok(kept)
}
