//! Files, pipes, sockets, polling and sleeping under the preloaded library: the same results and
//! errors, also where a signal interrupts a call, and the trace says what released whom.

mod recorded;

use std::process::Command;

use recorded::Event;
use recorded::Trace;
use recorded::said;
use trace::encode::op::Op;

/// The waits of a call for this object that ended well.
fn ended(t: &Trace, op: Op, object: u64) -> Vec<&Event> {
    t.waits(op).into_iter().filter(|w| w.object == object && w.error == 0).collect()
}

#[test]
fn reads_writes_and_interruptions() {
    let Some(program) = recorded::compiled("io.c", &[]) else { return };
    let file = std::env::temp_dir().join(format!("exectrace-io-{}", std::process::id()));
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&file);
        command
    };
    let Some(ran) = recorded::run("io", command(), "") else { return };
    recorded::same_without(&ran, command(), &["port"]);
    assert_eq!(ran.refused, Vec::<String>::new());
    let t = ran.traces.iter().max_by_key(|t| t.threads.len()).expect("a trace");
    let number = |name: &str| said(&ran, name)[0];
    let (pipe, writer) = (number("pipe"), number("writer"));
    let length = "hello, reader".len() as u64;
    // Two of the three reads of the pipe slept: the others came after a poll.
    let slept = ended(t, Op::Read, pipe);
    assert!(slept.len() >= 2 && slept.iter().all(|w| w.result == length), "{slept:?}");
    let sent = ended(t, Op::Write, writer);
    assert_eq!(sent.len(), 4, "each write to a pipe may release a reader");
    assert!(sent.iter().all(|w| w.result == length && w.caller() == program.to_str().unwrap()));
    for (op, object, n) in [
        (Op::Receive, number("socket"), length),
        (Op::Read, number("event"), 8),
        (Op::Receive, number("tcp"), length),
        // Its object is one more than the descriptor that was ready.
        (Op::Poll, pipe + 1, 1),
    ] {
        let waits = ended(t, op, object);
        assert!(waits.iter().any(|w| w.result == n), "{op:?} {object}: {waits:?}");
    }
    assert_eq!(t.waits(Op::EpollWait).iter().filter(|w| w.result == 1).count(), 1);
    assert_eq!(t.waits(Op::Send).iter().filter(|w| w.result == length).count(), 2);
    let errors = |op: Op| t.waits(op).iter().filter(|w| w.error == libc::EINTR as u64).count();
    for (op, n) in [
        (Op::Read, 1),
        (Op::Receive, 2),
        (Op::Poll, 2),
        (Op::Select, 1),
        (Op::EpollWait, 1),
        (Op::Sleep, 4),
        (Op::WaitSignal, 1),
        (Op::WaitProcess, 1),
    ] {
        assert_eq!(errors(op), n, "{op:?}: {:?}", t.waits(op));
    }
    let asked: Vec<u64> =
        t.waits(Op::Sleep).iter().filter(|w| w.error == 0).map(|w| w.object).collect();
    assert!(asked.contains(&3_000_000), "{asked:?}");
    descriptors(&ran, t);
}

/// Of plain files the stack is captured as the call ends: it is the same.
#[test]
fn long_calls_of_a_plain_file_have_their_stacks() {
    let Some(program) = recorded::compiled_as("plain.c", &["-O1"]) else { return };
    let file = std::env::temp_dir().join(format!("exectrace-plain-{}", std::process::id()));
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&file);
        command
    };
    let Some(ran) = recorded::run("plain", command(), "") else { return };
    recorded::same_without(&ran, command(), &["function"]);
    let (fd, functions) = (said(&ran, "file")[0], said(&ran, "function"));
    let main = functions[2];
    for (op, function) in [(Op::Write, functions[0]), (Op::Read, functions[1])] {
        let waits: Vec<_> = ended(&ran.traces[0], op, fd);
        assert_eq!(waits.len(), 1, "{op:?} {waits:?}");
        assert_eq!(waits[0].result, 32 << 20, "{op:?}");
        let below = |address: u64| functions.iter().filter(|f| **f < address).max().copied();
        let found: Vec<_> = waits[0].stack[..2].iter().map(|at| below(*at)).collect();
        assert_eq!(found, [Some(function), Some(main)], "{op:?} {waits:?}");
    }
}

fn descriptors(ran: &recorded::Ran, t: &Trace) {
    let texts = |name: &str| -> Vec<&str> {
        let fd = said(ran, name)[0];
        t.descriptors.iter().filter(|(n, _)| *n == fd).map(|(_, text)| text.as_str()).collect()
    };
    assert!(texts("pipe")[0].starts_with("pipe:["), "{:?}", texts("pipe"));
    assert_eq!(texts("event"), ["anon_inode:[eventfd]"]);
    assert!(texts("socket")[0].starts_with("unix"), "{:?}", texts("socket"));
    let port = said(ran, "port")[0];
    let tcp = texts("tcp")[0];
    assert!(tcp.starts_with(&format!("tcp 127.0.0.1:{port} -> 127.0.0.1:")), "{tcp}");
}

#[test]
fn streams_where_they_enter_the_kernel() {
    let Some(program) = recorded::compiled("streams.c", &[]) else { return };
    let file = std::env::temp_dir().join(format!("exectrace-streams-{}", std::process::id()));
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&file);
        command
    };
    let Some(ran) = recorded::run("streams", command(), "") else { return };
    recorded::same_without(&ran, command(), &[]);
    let t = ran.traces.iter().max_by_key(|t| t.threads.len()).expect("a trace");
    let number = |name: &str| said(&ran, name)[0];
    // Each reader slept once: `fgets`, `fread`, `getc`, `getline`, `fscanf`, the function of a
    // stream that has no descriptor, and `fgets` that had two bytes of its 14.
    for (part, n) in [12, 12, 1, 12, 1, 12, 14].into_iter().enumerate() {
        let fd = number(&format!("reads{part}"));
        let waits = ended(t, Op::Read, fd);
        let of_program = |w: &&&Event| w.caller() == program.to_str().unwrap();
        let slept: Vec<_> = waits.iter().filter(|w| w.result == n).filter(of_program).collect();
        assert_eq!(slept.len(), 1, "{part}: {waits:?}");
        assert!(t.descriptors.iter().any(|(d, text)| *d == fd && text.starts_with("pipe:[")));
    }
    // What is written to a pipe may release a reader, so it is there however short it was; what
    // the buffer holds is not. The call that ends a line writes it, and says what it was given. A
    // printf of 3000 bytes finds 4000 in the buffer of 4096: it writes that full, and leaves 2904.
    let parts: [(&str, &[u64]); 6] = [
        ("unbuffered", &[1, 4, 1, 3, 2, 1]),
        ("lines", &[1, 5, 3, 2, 1]),
        ("full", &[1, 3000, 2904, 3000, 1904]),
        ("longer", &[1, 4000, 104]),
        ("closed", &[1, 4]),
        ("direct", &[10]),
    ];
    for (name, expected) in parts {
        let waits = ended(t, Op::Write, number(name));
        let bytes: Vec<u64> = waits.iter().map(|w| w.result).collect();
        assert_eq!(bytes, expected, "{name}");
        assert!(waits.iter().all(|w| w.caller() == program.to_str().unwrap()), "{name}");
    }
    assert_eq!(ended(t, Op::WaitProcess, 0).len(), 1, "pclose");
}

#[test]
fn what_is_not_asked_for_is_not_recorded() {
    let Some(program) = recorded::compiled("io.c", &[]) else { return };
    let file = std::env::temp_dir().join(format!("exectrace-io-few-{}", std::process::id()));
    let mut command = Command::new(&program);
    command.arg(&file);
    let Some(ran) = recorded::run("io-few", command, "classes=sleep;stacks=0") else { return };
    assert!(ran.status.success());
    let t = ran.traces.iter().max_by_key(|t| t.threads.len()).expect("a trace");
    assert!(t.waits.iter().all(|w| w.op == Op::Sleep && w.stack.is_empty()), "{:?}", t.waits);
    assert!(t.waits.len() >= 5 && t.wakes.is_empty() && t.descriptors.is_empty());
}

#[test]
fn a_library_that_comes_while_the_program_runs() {
    let Some(program) = recorded::compiled("plugin.c", &["-ldl"]) else { return };
    let flags = ["-DPLUGIN", "-shared", "-fPIC"];
    let Some(library) = recorded::compiled("plugin.c", &flags) else { return };
    let command = || {
        let mut command = Command::new(&program);
        command.arg(&library);
        command
    };
    let Some(ran) = recorded::run("plugin", command(), "") else { return };
    recorded::same_without(&ran, command(), &[]);
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let sleeps = t.waits(Op::Sleep);
    assert_eq!(sleeps.len(), 1);
    assert_eq!(sleeps[0].caller(), library.to_str().unwrap(), "{:?}", sleeps[0].modules);
}
