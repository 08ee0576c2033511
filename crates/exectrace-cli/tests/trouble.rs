//! What goes wrong: damage, strangers, hostile text, pipes that close, and what the command says.

mod made;

use std::io::Read;
use std::process::Stdio;

use made::*;
use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;

const COMMANDS: [&[&str]; 19] = [
    &["stat"],
    &["stat", "--json"],
    &["events"],
    &["events", "--json"],
    &["threads"],
    &["threads", "--json"],
    &["spans"],
    &["spans", "--json"],
    &["tasks"],
    &["tasks", "--json"],
    &["tasks", "--list"],
    &["tasks", "--list", "--json"],
    &["logs"],
    &["logs", "--json"],
    &["stacks"],
    &["stacks", "--json"],
    &["stacks", "--folded"],
    &["dump"],
    &["dump", "--json"],
];

#[test]
fn a_complete_trace_is_0_in_every_command() {
    for command in COMMANDS {
        let out = run_on(&whole().bytes, &format!("ok{}", command.concat()), command).complete();
        assert!(out.lines().count() > 0, "{command:?}");
        if command.contains(&"--json") {
            assert!(!json_lines(&out).is_empty());
        }
    }
}

#[test]
fn what_is_no_trace_is_1() {
    for command in COMMANDS {
        let name = command.concat();
        let empty = run_on(b"", &format!("empty{name}"), command);
        assert_eq!((empty.status, empty.out.as_str()), (1, ""), "{command:?}");
        let want = "exectrace: FILE: not an exectrace trace: expected magic EB 58 54 F1 at offset \
                    0, input is empty\n";
        assert_eq!(empty.err, want, "{command:?}");
        let other = run_on(b"\x7fELF\x1b[31m and so on", &format!("other{name}"), command);
        assert_eq!((other.status, other.out.as_str()), (1, ""), "{command:?}");
        assert!(other.err.starts_with("exectrace: FILE: not an exectrace trace: "), "{other:?}");
        assert_eq!(other.err.lines().count(), 1);
    }
    let ran = run(&["stat", "/nowhere/trace.bin"]);
    assert_eq!(ran.status, 1);
    let want =
        "exectrace: /nowhere/trace.bin: cannot open it: No such file or directory (os error 2)\n";
    assert_eq!(ran.err, want);
    let ran = run(&["stat", "/"]);
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (1, "exectrace: /: is a directory, expected a trace\n")
    );
    let ran = run(&["stat", "/nowhere/\u{1b}[31m"]);
    assert_eq!(ran.status, 1);
}

#[test]
fn a_later_version_is_1() {
    let mut bytes = whole().bytes;
    bytes[10] = 2;
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    seal(&mut bytes[..length]);
    for command in COMMANDS {
        let ran = run_on(&bytes, &format!("future{}", command.concat()), command);
        assert_eq!(ran.status, 1, "{command:?}");
        let want = "exectrace: FILE: trace of format version 2 at offset 0: ";
        assert!(ran.err.starts_with(want), "{command:?}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1);
    }
}

#[test]
fn usage_errors_are_1_and_help_is_0() {
    for args in [&[][..], &["stat"], &["fly", "x"], &["stat", "x", "--fly"], &["events", "--limit"]]
    {
        let ran = run(args);
        assert_eq!(ran.status, 1, "{args:?}");
        assert!(
            ran.out.is_empty() && (ran.err.starts_with("error: ") || ran.err.contains("Usage: ")),
            "{args:?}: {ran:?}"
        );
    }
    let ran = run(&["events", "x", "--thread", "main"]);
    assert_eq!(ran.status, 1);
    let commands = ["stat", "events", "threads", "spans", "tasks", "logs", "stacks", "dump"];
    for command in commands.iter().map(std::slice::from_ref).chain([&[][..]]) {
        let mut args = command.to_vec();
        args.push("--help");
        let out = run(&args).complete();
        assert!(out.contains("Examples:\n  exectrace "), "{args:?}: {out}");
    }
    assert!(run(&["--version"]).complete().starts_with("exectrace "));
}

#[test]
fn a_trace_without_an_end_is_2() {
    let whole = whole().bytes;
    // The last batch, which has the end, is missing.
    let cut = whole.len() - 64 - 1;
    let last =
        (0..cut).rev().find(|i| whole[*i..].starts_with(&trace::encode::wire::MAGIC)).unwrap();
    for command in COMMANDS {
        let ran = run_on(&whole[..last], &format!("cut{}", command.concat()), command);
        assert_eq!(ran.status, 2, "{command:?}");
        let want = "exectrace: FILE: session 1 has no end mark: it was cut, or did not end\n";
        assert_eq!(ran.err, want, "{command:?}");
    }
    let out = run_on(&whole[..last], "cut", &["stat", "--json"]).out;
    assert!(out.starts_with("{\"complete\":false,\"events\":12,"), "{out}");
    let out = run_on(&whole[..last], "cut-people", &["stat"]).out;
    assert!(out.contains("\n  missing    this session has no end mark"), "{out}");
}

#[test]
fn damage_is_2_and_costs_one_batch() {
    let mut bytes = whole().bytes;
    let starts: Vec<usize> = (0..bytes.len() - 4)
        .filter(|i| bytes[*i..].starts_with(&trace::encode::wire::MAGIC))
        .collect();
    assert_eq!(starts.len(), 6);
    // The first batch of events, of thread 1.
    bytes[starts[3] + 70] ^= 0x40;
    let len = starts[4] - starts[3];
    let said = format!("exectrace: FILE: skipped {len} bytes at offset {}: expected ", starts[3]);
    for command in COMMANDS {
        let ran = run_on(&bytes, &format!("damage{}", command.concat()), command);
        assert_eq!(ran.status, 2, "{command:?}");
        assert!(ran.err.starts_with(&said), "{command:?}: {}", ran.err);
    }
    let ran = run_on(&bytes, "damage", &["stat", "--json"]);
    let stat: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(stat["damaged_bytes"], len);
    assert_eq!(stat["events"], 7);
    assert_eq!(stat["complete"], false);
    let fault = "should have 12 events by its end mark, 7 were read";
    assert_eq!(stat["faults"], serde_json::json!([fault]));
    assert!(ran.err.ends_with(&format!("exectrace: FILE: session 1 {fault}\n")), "{}", ran.err);
    let events = run_on(&bytes, "damage-events", &["events", "--json"]).out;
    assert_eq!(events.lines().count(), 7);
}

#[test]
fn a_trace_cut_after_any_byte_is_read_to_there() {
    let bytes = whole().bytes;
    let whole = run_with_input(&bytes, &["events", "-"]).complete();
    let mut seen = 0;
    for end in (1..bytes.len()).step_by(61) {
        let ran = run_with_input(&bytes[..end], &["events", "-"]);
        assert!(ran.status == 2 || (ran.status == 1 && end < 64), "{end}: {ran:?}");
        let lines: Vec<&str> = ran.out.lines().collect();
        assert!(lines.iter().all(|l| whole.contains(l)), "{end}: {ran:?}");
        seen = seen.max(lines.len());
    }
    assert_eq!(seen, 14, "the last cut leaves all but the end");
}

#[test]
fn damage_without_end_is_said_in_a_few_lines() {
    let mut bytes = Vec::new();
    for _ in 0..40 {
        bytes.extend_from_slice(b"garbage!");
        let mut made = Made::session(5);
        made.end(0, 0);
        bytes.extend_from_slice(&made.bytes);
    }
    let ran = run_on(&bytes, "much", &["stat"]);
    assert_eq!(ran.status, 2);
    assert_eq!(ran.err.lines().count(), 11, "{}", ran.err);
    assert!(ran.err.ends_with(": 30 more; 320 bytes skipped in all\n"), "{}", ran.err);
}

/// Text that tries to drive a terminal, hide itself, or break a line in two.
const HOSTILE: &[u8] = b"\x1b[31mred\x1b]0;title\x07\r\n\x00\x7f\xc2\x9b2J\xe2\x80\xae\xff\xfe\"\\";

#[test]
fn hostile_text_is_shown_and_does_nothing() {
    let hostile = Text { bytes: HOSTILE, cut_from: Some(5_000) };
    let mut made = Made::session(9);
    made.structural(2, |b| {
        b.add(|w| schema::String::put(w, 1, hostile));
        b.add(|w| schema::Thread::put(w, 1, 7, 0, hostile, hostile, 0, START));
        let name = std::str::from_utf8(&HOSTILE[..6]).unwrap();
        let fields = [(name, ty::TEXT), ("text", ty::BYTES), (name, ty::U64)];
        b.add(|w| schema::Site::put(w, 64, 3, 0, 1, 1, 1, 1, &fields));
        b.add(|w| schema::Module::put(w, 0, 1 << 40, 0, hostile, hostile, 1, 1));
        b.add(|w| schema::Stack::put(w, 3, 0, &[55, 66]));
        b.add(|w| schema::Site::put(w, 65, 1, 1, 1, 1, 1, 1, &[("stack", ty::STACK)]));
        b.add(|w| schema::Site::put(w, 66, 4, 0, 1, 1, 1, 1, &[]));
        let task = [("task", ty::TASK), ("parent", ty::TASK)];
        b.add(|w| schema::Site::put(w, 67, 5, 0, 1, 1, 1, 1, &task));
    });
    made.structural(4, |b| {
        b.add(|w| schema::Note::put(w, hostile, hostile));
        b.add(|w| schema::Schema::put(w, 63, hostile, 1, hostile, &[]));
    });
    made.timed(1, 0, 0, |b| {
        b.site(64, 0, |w| {
            w.text(hostile)?;
            w.text(hostile)?;
            w.varint(1)
        });
        b.site(65, 0, |w| w.varint(3));
        b.site(63, 0, |_| Some(()));
        b.site(66, 0, |_| Some(()));
        b.site(67, 0, |w| {
            w.varint(5)?;
            w.varint(0)
        });
        b.add(|w| schema::TaskSwitch::put(w, 0, 5));
    });
    made.end(1_000, 1);
    for command in COMMANDS {
        // Every run is searched for bytes that act; here it is also said that the text was shown.
        let out = run_on(&made.bytes, &format!("hostile{}", command.concat()), command).complete();
        // Folded stacks have no text but the names of functions, and there are none here.
        assert!(out.contains("red") || command.contains(&"--folded"), "{command:?}: {out}");
        if command.contains(&"--json") {
            assert!(!json_lines(&out).is_empty());
        }
    }
    let out = run_on(&made.bytes, "hostile", &["events", "--stacks"]).complete();
    assert_eq!(out.lines().count(), 2 + 6 + 2, "no text breaks its line: {out}");
    let out = run_on(&made.bytes, "hostile-json", &["events", "--json"]).complete();
    let first = &json_lines(&out)[0];
    assert_eq!(first["cut"]["text"], 5_000);
    assert_eq!(first["fields"].as_object().unwrap().len(), 2, "one of two with the same name");
    let run_symbols = run_on(&made.bytes, "hostile-symbols", &["stat", "--symbols"]);
    assert!(run_symbols.complete().contains("module"));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut made = Made::session(9);
    define(&mut made, &[]);
    for batch in 0..200 {
        made.timed(1, 0, batch * 1_000_000, |b| {
            for n in 0..100 {
                let task = 1 + batch * 100 + n;
                b.site(TASK, 1, |w| {
                    w.varint(task)?;
                    w.varint(0)
                });
                b.site(LOG, 1, |w| {
                    w.text("said".into())?;
                    w.varint(7)
                });
                b.add(|w| schema::TaskEnd::put(w, 1, task));
            }
        });
    }
    made.end(1_000_000_000, 2);
    let file = File::new("head", &made.bytes);
    let commands: [&[&str]; 8] = [
        &["events"],
        &["events", "--json"],
        &["dump"],
        &["logs"],
        &["logs", "--json"],
        &["tasks", "--list", "--json"],
        &["tasks", "--list", "--limit", "100000"],
        &["tasks", "--list", "--limit", "100000", "--json"],
    ];
    for command in commands {
        let mut child = exectrace()
            .args(command)
            .arg(&file.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut some = [0; 1_000];
        out.read_exact(&mut some).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_1() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        println!("skipped: there is no /dev/full here");
        return;
    };
    let file = File::new("full", &whole().bytes);
    let output = exectrace()
        .arg("events")
        .arg(&file.0)
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("exectrace: cannot write output: "), "{err}");
    assert_eq!(err.lines().count(), 1);
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let file = File::new("colours", &whole().bytes);
    let command = format!("'{}' events '{}'", env!("CARGO_BIN_EXE_exectrace"), file.path());
    let on_terminal = |variable: (&str, &str)| {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::null());
        script.env_remove("NO_COLOR").env("TERM", "xterm").env(variable.0, variable.1);
        script.output().ok().map(|out| String::from_utf8(out.stdout).unwrap())
    };
    let Some(coloured) = on_terminal(("LANG", "C")) else {
        println!("skipped: there is no `script` here to make a terminal");
        return;
    };
    assert!(coloured.contains("\u{1b}[1mread_file\u{1b}[0m"), "{coloured}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_terminal(variable).unwrap();
        assert!(plain.contains("read_file") && !plain.contains('\u{1b}'), "{plain}");
    }
}
