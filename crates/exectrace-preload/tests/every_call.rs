//! Every function that the library stands in for behaves as libc's does when its thread is
//! cancelled or interrupted: one program runs with the library and without it, and prints the same.

mod recorded;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::Command;

use recorded::Ran;

/// Functions that the program does not call in every situation, and why.
const LEFT_OUT: [(&str, &str); 10] = [
    ("_exit", "does not return; the children of children.c end by it"),
    ("_Exit", "the same function"),
    ("__isoc23_scanf", "of glibc 2.38 and later; as __isoc99_scanf"),
    ("__isoc23_fscanf", "as above"),
    ("__isoc23_vscanf", "as above"),
    ("__isoc23_vfscanf", "as above"),
    ("dprintf", "libc leaves a stream on a cancelled thread's stack, and crashes"),
    ("vdprintf", "as above; streams.c calls it"),
    ("__dprintf_chk", "as above"),
    ("__vdprintf_chk", "as above"),
];

/// What the library defines for the programs that it is loaded into.
fn exported() -> Option<BTreeSet<String>> {
    let mut nm = Command::new("nm");
    match nm.args(["-D", "--defined-only", "-P"]).arg(recorded::library()).output() {
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let text = String::from_utf8(out.stdout).unwrap();
            let name = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_owned();
            Some(text.lines().map(name).collect())
        }
        Err(e) => {
            println!("skipped: no nm: {e}");
            None
        }
    }
}

/// The functions of the program's lines, each with the situations that it was in.
fn situations(ran: &Ran) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found = BTreeMap::<&str, BTreeSet<&str>>::new();
    for line in ran.stdout.lines() {
        let mut words = line.split([' ', ':']);
        if let (Some(situation), Some(name), true) =
            (words.next(), words.next(), line.contains(": "))
        {
            assert!(found.entry(name).or_default().insert(situation), "twice: {line}");
        }
    }
    found
}

#[test]
fn cancelled_and_interrupted_as_without() {
    let Some(program) = recorded::compiled("every_call.c", &[]) else { return };
    let options = "follow=0;classes=locks,io,net,sleep,sched,process";
    let Some(ran) = recorded::run("every", Command::new(&program), options) else { return };
    recorded::same_without(&ran, Command::new(&program), &[]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stdout);
    let asleep = BTreeSet::from(["pending", "cancelled", "interrupted", "restarted"]);
    let quick = BTreeSet::from(["plain", "pending"]);
    let called = situations(&ran);
    for (name, seen) in &called {
        assert!([&asleep, &quick].contains(&seen), "{name}: {seen:?}");
    }
    let Some(exported) = exported() else { return };
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    let called: BTreeSet<&str> = called.into_keys().collect();
    assert!(called.is_disjoint(&left_out));
    let both: BTreeSet<String> = called.union(&left_out).map(|n| (*n).to_owned()).collect();
    assert_eq!(both, exported, "each function of the library, and no other");
    // A thread that was cancelled asleep has said what it waited for, in one event each.
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let cancelled = t.waits.iter().filter(|w| w.error == libc::ECANCELED as u64).count();
    let asleep = |l: &&str| l.starts_with("cancelled ") && l.contains(": cancelled");
    let asleep = ran.stdout.lines().filter(asleep).count();
    println!("{asleep} cancelled asleep, {cancelled} in the trace");
    assert!(cancelled >= asleep, "{cancelled} of {asleep}");
}
