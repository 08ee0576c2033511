//! The command `exectrace`, run in a folder of the test's own, and whether it can record here.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// An empty folder of this test's own.
pub fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The command with these arguments, not yet run.
pub fn exectrace(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    command.args(args).current_dir(folder);
    command
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether buffers can be made here; says so where not.
pub fn can_record(folder: &Path) -> bool {
    let doctor = exectrace(folder, &["doctor", "--json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    if said["good"] != true {
        println!("skipped: {}", text(&doctor.stdout));
    }
    said["good"] == true
}
