//! Processes under the preloaded library: each that can be recorded is, into a trace of its own;
//! the others run as without it, and the trace says that they were not followed.

mod recorded;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
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

/// Compiles `arguments.c` as `name`; `None`, and why, where this compiler cannot.
fn made(folder: &Path, name: &str, flags: &[String]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/arguments.c");
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    match cc.arg("-o").arg(&program).arg(source).args(flags).output() {
        Ok(out) if out.status.success() && Command::new(&program).output().is_ok() => Some(program),
        Ok(out) => {
            println!("skipped: {name}: {}", String::from_utf8_lossy(&out.stderr));
            None
        }
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            None
        }
    }
}

/// A root of its own with the program and what it needs; needs the right to enter it.
fn another_root(folder: &Path, program: &Path) -> Option<PathBuf> {
    let root = folder.join("root");
    let listed = Command::new("ldd").arg(program).output().ok()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let needed = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in needed.map(Path::new).chain([program]) {
        let to = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).ok()?;
    }
    let tried = Command::new("chroot").arg(&root).arg(program).output();
    let can = tried.is_ok_and(|out| out.status.code() == Some(3));
    can.then_some(root).or_else(|| {
        println!("skipped: a program in another root");
        None
    })
}

/// Each runs as without us, whatever it is that keeps it from being recorded, and the trace of the
/// process that it was says what.
#[test]
fn children_that_cannot_be_recorded_run_as_without() {
    let Some(folder) = recorded::Folder::new("not-followed") else { return };
    let Some(plain) = made(&folder.0, "plain", &[]) else { return };
    // It does the same under this name, by which musl's is known.
    let loader = folder.0.join("ld-musl-x86_64.so.1");
    let of_glibc = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let of_glibc = of_glibc.into_iter().find(|file| Path::new(file).exists()).unwrap();
    symlink(of_glibc, &loader).unwrap();
    let linker = format!("-Wl,--dynamic-linker={}", loader.display());
    let set_id = folder.0.join("set-id");
    fs::copy(&plain, &set_id).unwrap();
    fs::set_permissions(&set_id, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut refused = vec![(set_id.display().to_string(), "it runs with another user's rights")];
    if let Some(musl) = made(&folder.0, "musl", &[linker]) {
        refused.push((musl.display().to_string(), "its dynamic linker is not glibc's"));
    }
    if let Some(sanitized) = made(&folder.0, "sanitized", &["-fsanitize=address".into()]) {
        refused.push((sanitized.display().to_string(), "it has a sanitizer's runtime"));
    }
    if let Some(root) = another_root(&folder.0, &plain) {
        refused.push((format!("chroot {} {}", root.display(), plain.display()), ""));
    }
    let runs = refused.iter().map(|(command, _)| format!("{command} a 'b c'; echo status $?\n"));
    let script: String = runs.collect();
    let command = || {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    };
    let Some(ran) = recorded::run("not-followed-traces", command(), "") else { return };
    same_without(&ran, command(), &[]);
    assert_eq!(ran.refused, Vec::<String>::new());
    let one = "arguments 2 ours 0\nstatus 3\n";
    assert_eq!(ran.stdout, one.repeat(refused.len()));
    let said = said_of(&ran, Step::NotFollowed);
    assert_eq!(said.len(), refused.len(), "{said:?}");
    for (command, why) in &refused {
        let program = command.rsplit(' ').next().unwrap();
        let says = |t: &&str| t.strip_prefix(program).is_some_and(|rest| rest.contains(why));
        assert!(said.iter().any(says), "{program}: {why}: {said:?}");
    }
}
