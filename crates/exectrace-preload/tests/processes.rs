//! Processes under the preloaded library: each that can be recorded is, into a trace of its own;
//! the others run as without it, and the trace says that they were not followed.

mod recorded;

use std::process::Command;

use recorded::Ran;
use recorded::same_without;
use trace::encode::op::Step;

/// The texts of one step, of all traces.
fn said_of(ran: &Ran, step: Step) -> Vec<&str> {
    let all = ran.traces.iter().flat_map(|t| &t.processes);
    all.filter(|(s, ..)| *s == step as u64).map(|(.., text)| text.as_str()).collect()
}

#[test]
fn every_way_to_start_a_program() {
    let Some(program) = recorded::compiled("children.c", &[]) else { return };
    let Some(fixed) = recorded::compiled("fixed.c", &["-static"]) else { return };
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&fixed);
        command
    };
    let Some(ran) = recorded::run("children", command(), "") else { return };
    same_without(&ran, command(), &[]);
    assert_eq!(ran.refused, Vec::<String>::new());
    let own = program.to_str().unwrap();
    // From the program's text: the forks; and those of them, with those of vfork and posix_spawn,
    // that become a program which can be recorded.
    let (by_exec, by_fd, of_the_system) = (9, 1, 2);
    let (forks, spawned, shells) = (12, 2, 3);
    let programs = by_exec + by_fd + of_the_system + spawned + shells;
    assert_eq!(said_of(&ran, Step::Child).iter().filter(|t| **t == "fork").count(), forks);
    assert_eq!(ran.traces.len(), 1 + forks + programs);
    let exec = said_of(&ran, Step::Exec);
    assert_eq!(exec.iter().filter(|t| **t == own).count(), by_exec, "{exec:?}");
    for name in ["/usr/bin/env", "/proc/self/fd/"] {
        assert!(exec.iter().any(|t| t.starts_with(name)), "{name}: {exec:?}");
    }
    let children = said_of(&ran, Step::Child);
    let of_popen = children.iter().filter(|t| **t == "/bin/sh: popen").count();
    let of_system = children.iter().filter(|t| **t == "/bin/sh").count();
    assert_eq!((of_popen, of_system), (2, 1), "{children:?}");
    let reason = format!("{}: it is statically linked", fixed.display());
    assert_eq!(said_of(&ran, Step::NotFollowed), [reason.as_str()]);
}

#[test]
fn only_the_first_process_where_children_are_not_wanted() {
    let Some(program) = recorded::compiled("children.c", &[]) else { return };
    let Some(fixed) = recorded::compiled("fixed.c", &["-static"]) else { return };
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&fixed);
        command
    };
    let Some(ran) = recorded::run("alone", command(), "follow=0") else { return };
    same_without(&ran, command(), &[]);
    assert_eq!(ran.traces.len(), 1);
    let left = said_of(&ran, Step::NotFollowed);
    let reason = ": children are not recorded";
    assert!(left.iter().filter(|t| t.ends_with(reason)).count() >= 3, "{left:?}");
}

#[test]
fn a_pipeline_of_a_shell() {
    let command = || {
        let mut command = Command::new("bash");
        command.args(["-c", "ls / | sort | wc -l; (exit 3); echo $?; exit 5"]);
        command
    };
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: no bash");
        return;
    }
    let Some(ran) = recorded::run("pipeline", command(), "") else { return };
    same_without(&ran, command(), &[]);
    assert_eq!(ran.status.code(), Some(5));
    let exec = said_of(&ran, Step::Exec);
    for name in ["ls", "sort", "wc"] {
        let end = format!("/{name}");
        assert_eq!(exec.iter().filter(|t| t.ends_with(&end)).count(), 1, "{exec:?}");
    }
    // The shell, its four children, and what three of them became.
    assert_eq!(ran.traces.len(), 1 + 4 + 3);
}

#[test]
fn python_starts_programs_by_vfork() {
    let script = "import subprocess\n\
                  print(subprocess.run(['true']).returncode)\n\
                  print(subprocess.run(['cat'], input=b'x', capture_output=True).stdout)\n\
                  try: subprocess.run(['no-such-program'])\n\
                  except FileNotFoundError: print('missing')\n";
    let command = || {
        let mut command = Command::new("python3");
        command.args(["-c", script]);
        command
    };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: no python3");
        return;
    }
    let Some(ran) = recorded::run("python", command(), "") else { return };
    same_without(&ran, command(), &[]);
    assert!(ran.traces.len() >= 3, "{}", ran.traces.len());
}
