//! Futex calls, Rust's locks and threads under the preloaded library: nothing is changed, and all
//! waits and wakes are in the trace.

mod recorded;

use std::collections::BTreeMap;
use std::process::Command;

use recorded::said;
use recorded::same_without;
use trace::encode::op::Op;

#[test]
fn every_futex_call_is_there_with_its_result() {
    let Some(program) = recorded::compiled("futex.c", &[]) else { return };
    let Some(ran) = recorded::run("futex", Command::new(&program), "") else { return };
    same_without(&ran, Command::new(&program), &["word", "entry"]);
    assert_eq!(ran.refused, Vec::<String>::new());
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let word = said(&ran, "word")[0];
    let waits: Vec<_> = t.waits(Op::FutexWait).into_iter().filter(|w| w.object == word).collect();
    let main = waits[0].thread;
    let of_main: Vec<u64> = waits.iter().filter(|w| w.thread == main).map(|w| w.error).collect();
    let errors = [libc::EAGAIN, libc::ETIMEDOUT, libc::EINVAL, libc::ETIMEDOUT].map(|e| e as u64);
    assert_eq!(of_main, errors);
    let of_sleeper: Vec<_> = waits.iter().filter(|w| w.thread != main).collect();
    assert!(of_sleeper.iter().any(|w| (w.result, w.error) == (0, 0)), "{of_sleeper:?}");
    // In the order of the program: nobody, none requeued for the word had changed, the sleeper.
    let wakes = t.wakes(Op::FutexWake);
    let woken: Vec<u64> =
        wakes.iter().filter(|w| w.object == word && w.thread == main).map(|w| w.result).collect();
    assert_eq!(woken, [0, 0, 1]);
    // The direct caller of `syscall` is in the stack.
    for e in waits.iter().chain(&wakes).filter(|e| e.object == word) {
        assert_eq!(e.caller(), program.to_str().unwrap(), "{e:?}");
    }
    let entry = said(&ran, "entry")[0];
    let made = t.threads.iter().find(|t| t.entry == entry).expect("the thread and what it runs");
    assert_eq!(made.creator, u64::from(main));
    let joins = t.waits(Op::Join);
    assert_eq!(joins.len(), 1);
    assert_eq!((joins[0].result, joins[0].error), (made.number, 0));
    // It slept in a futex wait of 20 ms.
    assert!(t.voluntary[&(made.number as u32)] >= 1);
    assert!(t.voluntary.contains_key(&main), "the first thread ends with the process");
}

#[test]
fn without_stacks_nothing_has_one() {
    for program in ["futex.c", "locks.c"] {
        let Some(path) = recorded::compiled(program, &[]) else { return };
        let options = "classes=locks;stacks=0";
        let Some(ran) = recorded::run("no-stacks", Command::new(&path), options) else { return };
        let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
        assert!(!t.waits.is_empty() && !t.wakes.is_empty(), "{program}");
        for e in t.waits.iter().chain(&t.wakes) {
            assert_eq!(e.stack, [], "{program} {e:?}");
        }
    }
}

#[test]
fn rusts_locks_condvars_channels_and_parking() {
    let program = recorded::compiled_rust("std_locks.rs");
    let Some(ran) = recorded::run("std", Command::new(&program), "classes=locks") else { return };
    same_without(&ran, Command::new(&program), &["condvar_", "mutex_", "park_", "channel_"]);
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let rounds = said(&ran, "rounds")[0];
    let slept = |tid: u64| {
        let number = t.threads.iter().find(|t| t.tid == tid).expect("the thread").number;
        let own = t.waits.iter().filter(|w| u64::from(w.thread) == number);
        // Only those that slept: a wait may find its word changed.
        own.filter(|w| w.op == Op::FutexWait && w.error == 0).cloned().collect::<Vec<_>>()
    };
    let woken_at = |object: u64| {
        t.wakes(Op::FutexWake).iter().filter(|w| w.object == object && w.result > 0).count()
    };
    for (name, least) in
        [("condvar_thread", rounds), ("park_thread", 1), ("channel_thread", rounds)]
    {
        let waits = slept(said(&ran, name)[0]);
        assert!(waits.len() as u64 >= least, "{name}: {waits:?}");
        for w in &waits {
            assert!(woken_at(w.object) > 0, "{name}: nobody woke {:#x}", w.object);
        }
    }
    let contenders = said(&ran, "mutex_thread");
    assert_eq!(contenders.len() as u64, rounds);
    for tid in contenders {
        let waits = slept(tid);
        assert!(!waits.is_empty(), "thread {tid} waited for the mutex");
        assert!(waits.iter().all(|w| woken_at(w.object) > 0), "{waits:?}");
    }
    assert_eq!(t.kinds["ThreadCreate"], 3 + rounds);
    assert_eq!(t.waits(Op::Join).len() as u64, 3 + rounds);
    assert!(t.waits(Op::Join).iter().all(|j| j.result != 0), "each join knows its thread");
}

#[test]
fn a_library_that_is_not_asked_is_silent() {
    let Some(program) = recorded::compiled("futex.c", &[]) else { return };
    let mut command = Command::new(&program);
    command.env("LD_PRELOAD", recorded::library());
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(out.stderr.is_empty());
}

#[test]
fn the_environment_is_the_programs_own() {
    let mut command = Command::new("env");
    command.env_clear().env("A", "1").env("EXECTRACE_PRELOAD_FORMER", "/no/such.so").env("B", "2");
    let Some(ran) = recorded::run("env", command, "classes=locks") else { return };
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "B=2", "LD_PRELOAD=/no/such.so"]);
    let mut command = Command::new("env");
    command.env_clear();
    let Some(ran) = recorded::run("env", command, "classes=locks") else { return };
    assert_eq!(ran.stdout, "");
    let mut command = Command::new("true");
    command.env_clear();
    let Some(ran) = recorded::run("env", command, "colour=red") else { return };
    assert!(ran.status.success() && ran.stderr.is_empty() && ran.traces.is_empty());
    assert_eq!(ran.refused, ["not understood: \"colour=red\""]);
}

#[test]
fn each_lock_of_libc_that_was_waited_for() {
    let Some(program) = recorded::compiled("locks.c", &["-no-pie"]) else { return };
    let options = "classes=locks";
    let Some(ran) = recorded::run("locks", Command::new(&program), options) else { return };
    let objects = [
        ("mutex ", Op::MutexLock, Some(Op::MutexUnlock)),
        ("timed ", Op::MutexLock, Some(Op::MutexUnlock)),
        ("clocked ", Op::MutexLock, Some(Op::MutexUnlock)),
        ("reads ", Op::RwlockRead, Some(Op::RwlockUnlock)),
        ("writes ", Op::RwlockWrite, Some(Op::RwlockUnlock)),
        ("cond ", Op::CondWait, Some(Op::CondSignal)),
        ("all ", Op::CondWait, Some(Op::CondBroadcast)),
        ("sem ", Op::SemWait, Some(Op::SemPost)),
        ("barrier ", Op::BarrierWait, None),
        ("mtx ", Op::MutexLock, Some(Op::MutexUnlock)),
        ("cnd ", Op::CondWait, Some(Op::CondSignal)),
    ];
    same_without(&ran, Command::new(&program), &["holder"]);
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let holder = said(&ran, "holder")[0];
    let main = t.threads.iter().find(|t| t.tid == holder).expect("the first thread").number as u32;
    for (name, op, wake) in objects {
        let object = said(&ran, name.trim())[0];
        let waits: Vec<_> =
            t.waits.iter().filter(|w| w.object == object && w.thread != main).collect();
        let slept: Vec<_> = waits.iter().filter(|w| w.op == op).collect();
        // A condition variable may wake its waiter for no reason.
        assert!(!slept.is_empty(), "{name}: {waits:?}");
        assert!(op == Op::CondWait || slept.len() == 1, "{name}: {slept:?}");
        assert!(slept.iter().all(|w| w.error == 0), "{name}: {slept:?}");
        assert!(slept.iter().all(|w| w.caller() == program.to_str().unwrap()), "{name}");
        if op == Op::MutexLock && name != "mtx " {
            assert_eq!(slept[0].result, holder, "{name}: who held it");
        }
        let Some(wake) = wake else { continue };
        let last = slept.last().unwrap();
        let mut wakes = t.wakes.iter().filter(|w| w.op == wake && w.object == object);
        let wake = wakes.find(|w| w.thread == main).unwrap_or_else(|| panic!("{name}: {t:?}"));
        assert!(wake.ts_ns <= last.ts_ns + 1_000_000_000 && !wake.stack.is_empty());
    }
    let arrived: Vec<u64> = t.waits(Op::BarrierWait).iter().map(|w| w.result).collect();
    assert_eq!(arrived.iter().sum::<u64>(), 1, "one came last: {arrived:?}");
    // Of the thousand rounds without a second thread nothing is written: what the first thread
    // waited for is what refused it, and the joins.
    let of_main: Vec<_> = t.waits.iter().filter(|w| w.thread == main && w.error != 0).collect();
    let refused: Vec<u64> = of_main.iter().map(|w| w.error).collect();
    let expected = [
        libc::EDEADLK,
        libc::EDEADLK,
        libc::ETIMEDOUT,
        libc::EINVAL,
        libc::EDEADLK,
        libc::EDEADLK,
        libc::ETIMEDOUT,
        libc::EINVAL,
        libc::ETIMEDOUT,
    ];
    assert_eq!(refused, expected.map(|e| e as u64), "{of_main:?}");
    let wakes_of_main = t.wakes.iter().filter(|w| w.thread == main).count();
    assert!(wakes_of_main < 40, "{wakes_of_main}: a release that nobody waits for is no event");
}

#[test]
fn a_cancelled_thread_ends_and_the_process_lives() {
    let Some(program) = recorded::compiled("cancel.c", &[]) else { return };
    let Some(ran) = recorded::run("cancel", Command::new(&program), "") else { return };
    same_without(&ran, Command::new(&program), &[]);
    assert_eq!(said(&ran, "cancelled"), vec![1; 18]);
    assert_eq!(said(&ran, "cleaned"), [18]);
    let first = ran.traces.iter().max_by_key(|t| t.threads.len()).expect("a trace");
    let cancelled =
        |op| first.waits(op).iter().filter(|w| w.error == libc::ECANCELED as u64).count();
    assert_eq!(cancelled(Op::CondWait), 2, "{:?}", first.waits(Op::CondWait));
    assert_eq!(cancelled(Op::SemWait), 2);
    for (op, n) in [
        (Op::Join, 1),
        (Op::Read, 1),
        (Op::Receive, 2),
        (Op::Poll, 1),
        (Op::Select, 1),
        (Op::EpollWait, 1),
        (Op::Sleep, 4),
        (Op::Write, 1),
        (Op::WaitProcess, 2),
    ] {
        assert_eq!(cancelled(op), n, "{op:?}");
    }
}

#[test]
fn ten_thousand_short_threads_are_joined_by_their_makers() {
    let Some(program) = recorded::compiled("short.c", &[]) else { return };
    // Each thread has a buffer until it is drained: memory for all of them at once.
    let memory = "memory=805306368";
    let Some(ran) = recorded::run("short", Command::new(&program), memory) else { return };
    same_without(&ran, Command::new(&program), &[]);
    assert_eq!(said(&ran, "wrong"), [0]);
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let mut made: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    // Whoever makes threads numbers them in the order of making.
    for thread in &t.threads {
        made.entry(thread.creator).or_default().push(thread.number);
    }
    made.values_mut().for_each(|numbers| numbers.sort_unstable());
    let mut joined: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for join in t.waits(Op::Join) {
        joined.entry(join.thread.into()).or_default().push(join.result);
    }
    let unknown = made.remove(&0).unwrap_or_default();
    assert_eq!(made.values().map(Vec::len).collect::<Vec<_>>(), [4, 2500, 2500, 2500, 2500]);
    assert_eq!(made, joined);
    // The first thread, and the one that libc made: it woke the first.
    let post = t.wakes.iter().find(|w| w.op == Op::SemPost);
    let by = post.map_or(0, |w| u64::from(w.thread));
    assert!(by == 0 || unknown.contains(&by), "{by} {unknown:?}");
}

#[test]
fn before_the_library_begins_and_inside_an_allocator() {
    let flags = ["-DLIBRARY", "-shared", "-fPIC"];
    let Some(library) = recorded::compiled("early.c", &flags) else { return };
    let link = ["-fno-builtin", "-ldl", library.to_str().unwrap()];
    let Some(program) = recorded::compiled("early.c", &link) else { return };
    let Some(ran) = recorded::run("early", Command::new(&program), "") else { return };
    same_without(&ran, Command::new(&program), &[]);
    assert_eq!(said(&ran, "early"), [5]);
    assert_eq!(said(&ran, "open").len(), 1, "as many descriptors as without, said above");
    assert_eq!(ran.refused, Vec::<String>::new());
    let [t] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let sleeps = t.waits(Op::Sleep);
    assert!(sleeps.iter().any(|w| w.object == 6_000_000), "{sleeps:?}");
    let signals = t.waits(Op::WaitSignal);
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].result, libc::SIGUSR1 as u64);
}
