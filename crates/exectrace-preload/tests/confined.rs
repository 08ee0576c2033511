//! Programs with little room or few rights run under the library as without it.

mod recorded;

use std::process::Command;

use recorded::Ran;
use recorded::same_without;
use trace::encode::op::Step;

/// Runs the program in one of its ways, with the library and without.
fn ran(mode: &[&str], options: &str) -> Option<Ran> {
    let program = recorded::compiled("confined.c", &[])?;
    let command = || {
        let mut command = Command::new(&program);
        command.args(mode);
        command
    };
    let ran = recorded::run(&format!("confined-{}", mode[0]), command(), options)?;
    same_without(&ran, command(), &[]);
    assert_eq!(ran.status.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.traces[0].pid, ran.traces.last().unwrap().pid, "no process twice");
    Some(ran)
}

#[test]
fn the_smallest_stacks() {
    let Some(ran) = ran(&["stacks"], "") else { return };
    assert!(ran.traces[0].threads.len() > 8, "{:?}", ran.traces[0].threads);
}

#[test]
fn handlers_on_a_small_stack_of_their_own() {
    ran(&["alternate"], "");
}

#[test]
fn thousands_of_threads_at_a_time() {
    // Each has a buffer.
    let Some(ran) = ran(&["many"], "memory=805306368") else { return };
    let made = recorded::said(&ran, "threads")[0];
    assert!(ran.traces[0].threads.len() as u64 > made, "{made}");
}

#[test]
fn limits_that_leave_nothing() {
    for mode in ["space", "files", "size"] {
        ran(&[mode], "");
    }
}

/// Needs no rights to be of use: where `chroot` is refused, the child is one of another user's.
#[test]
fn another_root_and_another_user() {
    let program = recorded::compiled("confined.c", &[]);
    let Some(program) = program else { return };
    let command = || {
        let mut command = Command::new(&program);
        command.arg("rights");
        command
    };
    let Some(ran) = recorded::run("confined-rights", command(), "") else { return };
    same_without(&ran, command(), &[]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stdout);
}

/// A filter that ends the process at the first call which is not on its list, by both ways to
/// install one: what came before is in the trace, and that there is no more.
#[test]
fn a_filter_that_kills() {
    for mode in [&["calls"][..], &["calls", "by its number"]] {
        let Some(ran) = ran(mode, "") else { return };
        let said = &ran.traces[0].processes;
        let restricts = |(step, _, text): &&(u64, u64, String)| {
            *step == Step::NotFollowed as u64 && text.contains("restricts its own system calls")
        };
        assert_eq!(said.iter().filter(restricts).count(), 1, "{said:?}");
        assert!(ran.traces[0].waits.len() >= 20, "{}", ran.traces[0].waits.len());
    }
}
