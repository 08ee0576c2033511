//! What `exectrace record` refuses, in one line before anything runs, and what goes wrong later,
//! which never harms the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

mod recording;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

fn record(folder: &Path, args: &[&str]) -> Command {
    let mut command = exectrace(folder, &["record"]);
    command.args(args);
    command
}

/// Nothing ran, and one line has all of these words.
fn refused(mut command: Command, words: &[&str]) {
    let out = command.output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
    assert!(out.stdout.is_empty(), "{words:?}: {}", text(&out.stdout));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(words.iter().all(|w| said.contains(w)), "{words:?}: {said}");
}

/// A C program of `tests/programs`, compiled; `None` where there is no compiler for it.
fn compiled(folder: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let program = folder.join(name.trim_end_matches(".c"));
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).args(flags);
    match cc.output() {
        Ok(out) if out.status.success() => Some(program),
        Ok(out) => {
            println!("skipped: {}", text(&out.stderr));
            None
        }
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            None
        }
    }
}

#[test]
fn programs_that_cannot_be_recorded() {
    let folder = folder("refusals-programs");
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let make = |name: &str, bytes: &[u8], mode: u32| {
        fs::write(folder.join(name), bytes).unwrap();
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.join(name), mode).unwrap();
    };
    make("plain", b"text", 0o644);
    make("setuid", &own, 0o4755);
    make("setgid", &own, 0o2755);
    let mut other = own.clone();
    other[18] = 8; // MIPS
    make("other", &other, 0o755);
    make("script", b"#!./setuid\n", 0o755);
    make("orphan", b"#!/no/such/interpreter\n", 0o755);
    for (program, words) in [
        ("no-such-program-here", &["no-such-program-here: no such program"][..]),
        ("./missing", &["./missing: no such program"]),
        ("./plain", &["./plain: not executable"]),
        ("/", &["/: not executable"]),
        ("./setuid", &["./setuid", "another user's rights"]),
        ("./setgid", &["./setgid", "another user's rights"]),
        ("./script", &["./setuid", "another user's rights"]),
        ("./other", &["./other", "another kind of machine"]),
        ("./orphan", &["/no/such/interpreter"]),
    ] {
        refused(record(&folder, &["-o", "x.trace", "--", program]), words);
        assert!(!folder.join("x.trace").exists(), "{program}: no trace of what did not run");
    }
    if compiled(&folder, "limit.c", &["-static"]).is_some() {
        let words = ["./limit: statically linked", "link the library `exectrace`"];
        refused(record(&folder, &["--", "./limit"]), &words);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = folder("refusals-outputs");
    fs::write(folder.join("precious"), "not a trace").unwrap();
    for (output, words) in [
        ("no/such/folder/x", &["no/such/folder/x", "No such file", "-o"][..]),
        (".", &["written to .:", "-o"]),
        ("precious", &["precious", "no trace", "not overwritten"]),
    ] {
        refused(record(&folder, &["-o", output, "--", "echo", "ran"]), words);
    }
    assert_eq!(fs::read_to_string(folder.join("precious")).unwrap(), "not a trace");
}

#[test]
fn a_library_that_is_damaged() {
    let folder = folder("refusals-library");
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for (bytes, word) in [
        (&own[..own.len() / 2], "damaged"),
        (&own[..own.len() - 1], "damaged"),
        (b"text", "damaged"),
        (b"", "no library inside"),
    ] {
        fs::write(folder.join("cut.so"), bytes).unwrap();
        let mut command = record(&folder, &["--", "echo", "ran"]);
        command.env("EXECTRACE_PRELOAD_LIBRARY", "cut.so");
        refused(command, &["library cannot be preloaded", word]);
    }
    let mut command = record(&folder, &["--", "echo", "ran"]);
    command.env("EXECTRACE_PRELOAD_LIBRARY", "missing.so");
    refused(command, &["missing.so"]);
}

#[test]
fn where_there_is_no_place_for_temporary_files_another_one_is_found() {
    let folder = folder("refusals-places");
    if !can_record(&folder) {
        return;
    }
    let mut command =
        record(&folder, &["-o", "x.trace", "--no-report", "--", "sh", "-c", "exit 4"]);
    let out = command.env("TMPDIR", "/no/such/folder").output().unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("x.trace ("), "{}", text(&out.stderr));
}

#[test]
fn a_command_that_is_recorded_itself() {
    let folder = folder("refusals-nested");
    if !can_record(&folder) {
        return;
    }
    let own = env!("CARGO_BIN_EXE_exectrace");
    let inner = ["--", own, "record", "-o", "inner.trace", "--", "echo", "ran"];
    let outer = ["-o", "outer.trace", "--no-report"];
    let out = record(&folder, &[&outer[..], &inner].concat()).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("is being recorded itself") && said.contains("--no-follow"), "{said}");
    assert!(!folder.join("inner.trace").exists());
    // A child that is not followed may record.
    let script = format!("{own} record --no-report -o inner.trace -- echo ran; exit $?");
    let alone = ["--no-follow", "--", "sh", "-c", &script];
    let out = record(&folder, &[&outer[..], &alone].concat()).output().unwrap();
    assert_eq!((out.status.code(), &*text(&out.stdout)), (Some(0), "ran\n"));
    assert!(folder.join("inner.trace").exists());
}

#[test]
fn a_device_without_room() {
    let folder = folder("refusals-full");
    if !can_record(&folder) {
        return;
    }
    let args = ["-o", "/dev/full", "--", "sh", "-c", "echo ran; exit 3"];
    let out = record(&folder, &args).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), &*text(&out.stdout)), (Some(3), "ran\n"), "{said}");
    let line = said.lines().last().unwrap();
    let words = ["/dev/full: ", "No space left", "could not be written"];
    assert!(words.iter().all(|w| line.contains(w)), "{said}");
}

#[test]
fn a_file_that_reaches_its_limit_half_way() {
    let folder = folder("refusals-limit");
    if !can_record(&folder) || compiled(&folder, "limit.c", &[]).is_none() {
        return;
    }
    let out = record(&folder, &["-o", "x.trace", "--", "./limit"]).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), &*text(&out.stdout)), (Some(3), "limit 0\nran\n"), "{said}");
    let line = said.lines().last().unwrap();
    let words = ["x.trace: ", "File too large", "could not be written"];
    assert!(words.iter().all(|w| line.contains(w)), "{said}");
    // What there was by then is a trace, and the report is of it.
    assert_eq!(fs::metadata(folder.join("x.trace")).unwrap().len(), 81920);
    assert!(said.contains("1 thread over"), "{said}");
    let mut stat = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    let stat = stat.args(["stat", "--json", "x.trace"]).current_dir(&folder).output().unwrap();
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!(stat["complete"], false);
    assert!(stat["events"].as_u64().unwrap() > 100, "{stat}");
}

#[test]
fn a_program_whose_files_may_not_grow_runs_unrecorded() {
    let folder = folder("refusals-small");
    if !can_record(&folder) {
        return;
    }
    let script = "ulimit -f 1; exec sh -c 'echo ran; exit 3'";
    let args = ["-o", "x.trace", "--no-report", "--", "bash", "-c", script];
    let out = record(&folder, &args).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), &*text(&out.stdout)), (Some(3), "ran\n"), "{said}");
    assert!(said.contains("ran without being recorded"), "{said}");
}

#[test]
fn a_program_that_is_left_alone_later_is_named() {
    let folder = folder("refusals-later");
    if !can_record(&folder) {
        return;
    }
    fs::copy("/bin/true", folder.join("other")).unwrap();
    fs::set_permissions(folder.join("other"), fs::Permissions::from_mode(0o4755)).unwrap();
    let args = ["-o", "x.trace", "--", "sh", "-c", "exec ./other"];
    let out = record(&folder, &args).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    let why = "./other: it runs with another user's rights";
    assert!(said.contains(&format!("\nNot recorded: {why}.\n")), "{said}");
    let report = exectrace(&folder, &["report", "--json", "x.trace"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["not_recorded"], serde_json::json!([why]));
}
