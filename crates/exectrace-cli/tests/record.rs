//! `exectrace record`: the program runs as without it, its status and output are its own, and the
//! report names the lock that was planted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod recording;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

#[test]
fn output_and_status_are_the_programs() {
    let folder = folder("record-status");
    if !can_record(&folder) {
        return;
    }
    let script = "cat; echo to-err >&2; exit 7";
    let plain = |args: &[&str], recorded: bool| {
        let mut command = match recorded {
            true => Command::new(env!("CARGO_BIN_EXE_exectrace")),
            false => Command::new(args[0]),
        };
        let skip = usize::from(!recorded);
        let all =
            if recorded { [&["record", "--no-report", "--"], args].concat() } else { args.into() };
        let input = fs::File::open(std::env::current_exe().unwrap()).unwrap();
        command.args(&all[skip..]).current_dir(&folder).stdin(input).output().unwrap()
    };
    let (without, with) = (plain(&["sh", "-c", script], false), plain(&["sh", "-c", script], true));
    assert_eq!((without.status.code(), with.status.code()), (Some(7), Some(7)));
    assert_eq!(without.stdout.len(), with.stdout.len());
    assert!(without.stdout == with.stdout && with.stdout.len() > 10_000);
    assert!(text(&with.stderr).contains("to-err"));
    // What the recording itself took stands beside what the program did.
    let took = text(&with.stderr);
    let took = took.lines().find_map(|l| l.split_once("; recording took ")).map(|(_, rest)| rest);
    let (own, rest) = took.and_then(|rest| rest.split_once(" of CPU")).expect("what it took");
    let number = own.split(' ').next().unwrap();
    assert!(number.parse::<f64>().is_ok_and(|n| n > 0.0), "{own}{rest}");
    assert!(folder.join("sh.trace").exists(), "{}", text(&with.stderr));
    let killed = plain(&["sh", "-c", "kill -9 $$"], true);
    assert_eq!(killed.status.code(), Some(128 + 9));
    assert!(text(&killed.stderr).contains("signal 9"));
    let stat = exectrace(&folder, &["stat", "--json", "sh.trace"]).output().unwrap();
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&stat["complete"], &stat["lost"]), (&Value::Bool(true), &Value::from(0)));
}

#[test]
fn the_environment_is_the_programs_own() {
    let folder = folder("record-environment");
    if !can_record(&folder) {
        return;
    }
    let out = exectrace(&folder, &["record", "--no-report", "--", "env"]).output().unwrap();
    let own = text(&out.stdout);
    assert!(own.contains("PATH="), "{own}");
    for of_ours in ["EXECTRACE_PRELOAD", "EXECTRACE_RECORD", "LD_PRELOAD"] {
        assert!(!own.contains(of_ours), "{own}");
    }
}

/// The kernel refuses them, and `execvp`, by which `env` starts them, has a shell run them.
#[test]
fn scripts_that_name_no_interpreter() {
    let folder = folder("record-scripts");
    if !can_record(&folder) {
        return;
    }
    for (name, script) in [("script", "echo \"$0 $# $2\"; exit 3\n"), ("empty", "")] {
        let path = folder.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = format!("./{name}");
        let line = [&*program, "one", "two words"];
        let alone = Command::new("env").args(line).current_dir(&folder).output().unwrap();
        let args = [&["record", "--no-report", "-o", "x.trace", "--"][..], &line].concat();
        let out = exectrace(&folder, &args).output().unwrap();
        let said = text(&out.stderr);
        assert_eq!((text(&out.stdout), out.status), (text(&alone.stdout), alone.status), "{said}");
        assert!(said.contains("x.trace ("), "{said}");
    }
}

/// Of the signals that are passed on to the program, those that it ignores.
#[test]
fn ignored_signals_stay_ignored() {
    let folder = folder("record-ignored");
    if !can_record(&folder) {
        return;
    }
    let own = env!("CARGO_BIN_EXE_exectrace");
    let look = "grep SigIgn /proc/self/status";
    let ignored = |before: &str| {
        let line = format!("trap '' HUP USR1; exec {before} {look}");
        let done = Command::new("sh").args(["-c", &line]).current_dir(&folder).output().unwrap();
        let set = text(&done.stdout);
        let set = set.strip_prefix("SigIgn:").unwrap().trim();
        let set = u64::from_str_radix(set, 16).unwrap();
        [1, 2, 3, 10, 12, 15].map(|signal| set >> (signal - 1) & 1)
    };
    let without = ignored("");
    assert_eq!((without[0], without[3]), (1, 1), "HUP and USR1");
    assert_eq!(ignored(&format!("{own} record --no-report --")), without);
}

#[test]
fn refusals_are_said_before_anything_runs() {
    let folder = folder("record-refusals");
    let refused = |args: &[&str], why: &str| {
        let out = exectrace(&folder, &[&["record"], args].concat()).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(text(&out.stderr).contains(why), "{args:?}: {}", text(&out.stderr));
        assert!(out.stdout.is_empty());
    };
    refused(&["--", "no-such-program-here"], "no such program");
    refused(&["--", "/proc"], "not executable");
    refused(&["--classes", "locks,typo", "--", "true"], "no class `typo`");
    refused(&["-o", "/no/such/folder/x.trace", "--", "true"], "/no/such/folder/x.trace");
    fs::write(folder.join("precious"), "not a trace").unwrap();
    refused(&["-o", "precious", "--", "true"], "not overwritten");
    assert_eq!(fs::read_to_string(folder.join("precious")).unwrap(), "not a trace");
    refused(&[], "required");
}

#[test]
fn the_planted_lock_is_found() {
    let folder = folder("record-demo");
    if !can_record(&folder) {
        return;
    }
    let out = exectrace(&folder, &["demo"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stderr);
    assert!(said.contains("waiting for the mutex"), "{said}");
    assert!(said.len() < 8 << 10, "an answer fits");
    let report = exectrace(&folder, &["report", "--json", "demo.trace"]).output().unwrap();
    assert!(report.status.success(), "{}", text(&report.stderr));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let first = &report["causes"][0];
    assert_eq!((&first["cause"], &first["on"]), (&Value::from("lock"), &Value::from("mutex")));
    // The four workers; the thread that holds it so long waits for it too, now and then.
    let threads = first["threads"].as_u64().unwrap();
    assert!((4..=5).contains(&threads), "{first}");
    let by = first["released_by"].as_array().unwrap();
    let holder = by.iter().find(|by| by["from"].as_str().unwrap().contains("refresh"));
    let did = &holder.unwrap_or_else(|| panic!("{first}"))["meanwhile"];
    let slept = did["blocked_ns"]["sleep"].as_u64().unwrap();
    let (seen, running) = (did["seen_ns"].as_u64().unwrap(), did["running_ns"].as_u64().unwrap());
    assert!(slept > 0 && slept + running <= seen, "{did}");
    let sentence = report["sentence"].as_str().unwrap();
    assert!(
        sentence.contains("waiting for the mutex") && sentence.contains("meanwhile"),
        "{sentence}"
    );
    let by = &report["waits"];
    let (all, explained) = (by["by_wake"].as_u64().unwrap(), by["explained"].as_u64().unwrap());
    assert!(all > 10 && explained * 100 >= all * 95, "{by}");
    // Each thread is one, also while it wakes the one that waits for its end.
    assert_eq!(report["threads"].as_array().unwrap().len(), 6, "{}", report["threads"]);
    // Every worker waited, and of each wait the pieces make up the whole.
    let waits = exectrace(&folder, &["waits", "--json", "demo.trace"]).output().unwrap();
    let mut checked = 0;
    for line in text(&waits.stdout).lines() {
        let wait: Value = serde_json::from_str(line).unwrap();
        let pieces = wait["pieces"].as_array().unwrap();
        let sum: u64 = pieces
            .iter()
            .map(|p| p["to_ns"].as_u64().unwrap() - p["from_ns"].as_u64().unwrap())
            .sum();
        assert_eq!(sum, wait["duration_ns"].as_u64().unwrap(), "{line}");
        checked += 1;
    }
    assert!(checked > 10);
}

#[test]
fn code_without_frame_pointers_has_whole_stacks() {
    let folder = folder("record-deep");
    if !can_record(&folder) {
        return;
    }
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../exectrace-preload/tests/programs/deep.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-fomit-frame-pointer", "-pthread", "-o", "deep"]).arg(source);
    match cc.current_dir(&folder).output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            return;
        }
    }
    let out = exectrace(&folder, &["record", "--no-report", "-o", "deep.trace", "--", "./deep"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let waits = exectrace(&folder, &["waits", "deep.trace", "--json"]).output().unwrap();
    let waits: Vec<Value> =
        text(&waits.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut waits: Vec<&Value> = waits.iter().filter(|w| w["kind"] == "condvar wait").collect();
    waits.sort_by_key(|w| w["began_ns"].as_u64());
    let levels: Vec<String> = (0..=20).map(|n| format!("level_{n:02}")).collect();
    let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
    let handler = ["level_00", "on_trap", "trapped_00", "trapped_01", "trapped_02", "main"];
    let chains = [[&levels[..], &["main"]].concat(), levels.clone(), handler.to_vec()];
    assert_eq!(waits.len(), chains.len(), "{waits:?}");
    for (wait, chain) in waits.iter().zip(&chains) {
        let names = wait["stack"].as_array().unwrap().iter().filter_map(|c| c["function"].as_str());
        let all: Vec<&str> = names.collect();
        // libc's own, in between and around, are left out: it may have no names here.
        let own = |n: &&str| ["level_", "on_trap", "trapped_"].iter().any(|b| n.starts_with(b));
        let found: Vec<&str> = all.iter().copied().filter(|n| own(n) || *n == "main").collect();
        assert_eq!(&found, chain, "{all:?}");
        assert_eq!(all[0], "level_00", "the direct caller of libc");
        assert_eq!(wait["stack_walk"], serde_json::json!(["tables"]));
        assert!(!all.iter().any(|n| n.contains("trace_hooks") || n.starts_with("pthread_cond")));
    }
}

/// What is opened by a path counts as a file, whose reads have their stack at their end, only until
/// a read of it took long: where a thread hangs in a named pipe is known after SIGKILL, and who
/// wrote there before.
#[test]
fn a_thread_that_hangs_in_a_named_pipe_has_its_stack() {
    let folder = folder("record-fifo");
    if !can_record(&folder) {
        return;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/fifo.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-g", "-pthread", "-o", "fifo"]).arg(source).current_dir(&folder);
    match cc.output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => return println!("skipped: no C compiler: {e}"),
    }
    let args = ["record", "--no-report", "-o", "fifo.trace", "--", "./fifo", "the-pipe"];
    let out = exectrace(&folder, &args).output().unwrap();
    assert_eq!(out.status.code(), Some(128 + 9), "{}", text(&out.stderr));
    let waits = exectrace(&folder, &["waits", "fifo.trace", "--json"]).output().unwrap();
    let waits: Vec<Value> =
        text(&waits.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let own = |w: &&Value| w["kind"] == "read" && w["stack"][0]["function"] == "drains_the_pipe";
    let reads: Vec<&Value> = waits.iter().filter(own).collect();
    let endings: Vec<&str> = reads.iter().map(|w| w["ending"].as_str().unwrap()).collect();
    assert_eq!(endings, ["done", "done", "never"]);
    // Who wrote there ended it, or nobody has.
    for done in &reads[..2] {
        assert_eq!(done["released_by"]["stack"][0]["function"], "writer", "{done}");
    }
    assert!(reads[2]["released_by"].is_null(), "{}", reads[2]);
}

/// Of a pool whose workers mostly have nothing to do the report tells the lock that delays jobs,
/// not that they wait for work; built as release builds are, without frame pointers.
#[test]
fn idle_workers_are_no_news() {
    let folder = folder("record-pool");
    if !can_record(&folder) {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/pool.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2021", "-O", "-C", "debuginfo=1", "-o", "pool", source])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    let out = exectrace(&folder, &["record", "--no-report", "--", "./pool"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let sum: u32 = (0..100).map(|round| round * 4).sum();
    assert_eq!(text(&out.stdout).trim(), sum.to_string());
    let report = exectrace(&folder, &["report", "--json", "pool.trace"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let causes = report["causes"].as_array().unwrap();
    let (first, place) = (&causes[0], |c: &Value| c["where"].as_str().unwrap().to_owned());
    assert_eq!(first["cause"], "lock", "{causes:#?}");
    assert!(place(first).contains("count_visit"), "{causes:#?}");
    assert!(first["threads"].as_u64().unwrap() > 4, "{first}");
    // Waiting for a job delays none.
    assert!(causes.iter().take(5).all(|c| c["on"] != "condvar"), "{causes:#?}");
    let workers = report["threads"].as_array().unwrap();
    let workers: Vec<_> =
        workers.iter().filter(|t| t["name"].as_str().unwrap().starts_with("worker")).collect();
    assert_eq!(workers.len(), 32);
    for w in workers {
        let idle = w["waited_ns"]["idle"].as_u64().unwrap();
        assert!(idle > 0 && idle <= w["wall_ns"].as_u64().unwrap(), "{w}");
    }
}

/// Who records a wrapper asks about the program that it starts.
#[test]
fn the_report_is_of_the_program_behind_a_wrapper() {
    let folder = folder("record-wrapper");
    if !can_record(&folder) {
        return;
    }
    let command = env!("CARGO_BIN_EXE_exectrace");
    let script = "sh -c true; sh -c true; exec \"$0\" demo --run";
    let args = ["record", "-o", "w.trace", "--", "sh", "-c", script, command];
    let said = text(&exectrace(&folder, &args).output().unwrap().stderr);
    let most = said.lines().find_map(|l| l.split_once("with the most events, ")).unwrap().1;
    let most = most.trim_end_matches(':');
    let stat = exectrace(&folder, &["stat", "--json", most]).output().unwrap();
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert!(stat["program"].as_str().is_some_and(|p| p.contains("exectrace")), "{stat}");
    // The shell was this process first: its trace has the plain name.
    let first = exectrace(&folder, &["stat", "--json", "w.trace"]).output().unwrap();
    let first: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(first["pid"], stat["pid"]);
    assert!(!first["program"].as_str().unwrap().contains("exectrace"), "{first}");
    let listed = said.lines().rfind(|l| l.contains(most)).unwrap();
    assert!(listed.contains("exectrace, process"), "{said}");
}

/// An allocator that the program's user preloads is there beside the recorder, and the program does
/// what it does without both.
#[test]
fn an_allocator_that_is_preloaded_too() {
    let folder = folder("record-allocator");
    if !can_record(&folder) {
        return;
    }
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let allocator = places.map(|place| format!("{place}/libjemalloc.so.2"));
    let Some(allocator) = allocator.iter().find(|file| Path::new(file).exists()) else {
        return println!("skipped: no libjemalloc.so.2: apt-get install libjemalloc2");
    };
    let script = "seq 30000 | sort -rn --parallel=2 -S 1M | sha256sum; \
                  grep -c jemalloc /proc/self/maps; echo $LD_PRELOAD; exit 6";
    let mut alone = Command::new("sh");
    alone.args(["-c", script]).env("LD_PRELOAD", allocator).current_dir(&folder);
    let alone = alone.output().unwrap();
    let args = ["record", "--no-report", "-o", "a.trace", "--", "sh", "-c", script];
    let with = exectrace(&folder, &args).env("LD_PRELOAD", allocator).output().unwrap();
    let said = text(&alone.stdout);
    assert!(said.ends_with(&format!("{allocator}\n")), "{said}");
    assert_ne!(said.lines().nth(1), Some("0"), "{said}");
    assert_eq!((text(&with.stdout), with.status.code()), (said, Some(6)), "{}", text(&with.stderr));
    let stat = exectrace(&folder, &["stat", "--json", "a.trace"]).output().unwrap();
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&stat["complete"], &stat["lost"]), (&Value::Bool(true), &Value::from(0)));
}
