//! Programs and plug-ins that link the library, under the preloaded one: what they say of
//! themselves is in the same trace as their waits, once, on the same threads.

mod recorded;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use recorded::Ran;
use recorded::Said;
use recorded::Trace;
use recorded::said;
use trace::encode::op::Op;

/// As in `examples/linked.rs`.
const THREADS: usize = 4;
const ROUNDS: usize = 5;

/// A program or a library of `examples`, built at the first call: a no-op where cargo has done it.
fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["build", "--offline", "--locked", "--quiet", "--examples"]);
        command.args(["--package", "exectrace-preload", "--target-dir"]).arg(target);
        let output = command.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("debug/examples")
    });
    folder.join(name)
}

fn linked(args: &[&str]) -> Command {
    let mut command = Command::new(example("linked"));
    command.args(args);
    command
}

fn recorded_linked(name: &str, args: &[&str]) -> Option<Ran> {
    let ran = recorded::run(name, linked(args), "")?;
    assert!(ran.status.success(), "{} {}", ran.status, ran.stderr);
    assert_eq!(ran.refused, Vec::<String>::new());
    Some(ran)
}

/// The events as text, without the threads and the tasks' ids: one line each.
fn lines(said: &[&Said]) -> Vec<String> {
    let line = |s: &&Said| {
        let mut line = format!("{} {}", s.what, s.name);
        for (name, value) in &s.fields {
            if !["tid", "task", "parent"].contains(&name.as_str()) {
                line += &format!(" {name}={value}");
            }
        }
        line
    };
    said.iter().map(line).collect()
}

/// What a worker of this number says, by the program's text.
fn expected(n: usize) -> Vec<String> {
    let mut all = vec!["TaskSwitch ".to_owned()];
    for round in 0..ROUNDS {
        all.extend([
            format!("span outer round={round} name=of the round"),
            "span inner".into(),
            "instant mark minus=-5 half=0.5 yes=true text=é".into(),
            format!("counter count value={}", n * 100 + round),
            "SpanEnd inner".into(),
            format!("log work text=thread {n} round {round}"),
            "span crossed".into(),
            "SpanEndAt outer depth=0".into(),
            "SpanEnd crossed".into(),
            "span closure".into(),
            "instant in closure".into(),
            "SpanEnd closure".into(),
        ]);
    }
    all.extend([format!("log long text={}", "x".repeat(5000)), "TaskSwitch ".into()]);
    all.extend(["TaskEnd ".into(), "instant goodbye".into()]);
    all
}

/// What each thread of the trace says.
fn by_thread(trace: &Trace) -> BTreeMap<u32, Vec<&Said>> {
    let mut threads: BTreeMap<u32, Vec<&Said>> = BTreeMap::new();
    trace.said.iter().for_each(|s| threads.entry(s.thread).or_default().push(s));
    threads
}

/// All of `linked all` is in the trace: four workers, and the main thread, which is given.
fn check_work(trace: &Trace) -> Vec<String> {
    let root: Vec<_> = trace.said.iter().filter(|s| s.name == "root").collect();
    assert_eq!(root.len(), 1);
    let root_id = root[0].field("task");
    assert_eq!((root[0].field("parent"), root[0].field("threads")), ("0", "4"));
    let begun: Vec<_> =
        trace.said.iter().filter(|s| s.name == "work" && s.what == "task").collect();
    let tasks: BTreeMap<_, _> = begun.iter().map(|s| (s.field("n"), s.field("task"))).collect();
    assert!(begun.iter().all(|s| s.field("parent") == root_id && s.thread == root[0].thread));
    let mut ids: BTreeSet<_> = tasks.values().copied().collect();
    ids.insert(root_id);
    assert_eq!((begun.len(), ids.len()), (THREADS, THREADS + 1));

    let mut threads = by_thread(trace);
    let main = threads.remove(&root[0].thread).expect("the main thread");
    let mut workers = BTreeSet::new();
    for (thread, said) in threads.iter().filter(|(_, s)| s.iter().any(|s| s.name == "mark")) {
        let count = said.iter().find(|s| s.name == "count").expect("a counter");
        let n: usize = count.field("value").parse::<usize>().expect("a number") / 100;
        assert!(workers.insert(n));
        assert_eq!(lines(said), expected(n));
        let task = tasks[n.to_string().as_str()];
        let of = |what: &str| -> Vec<&str> {
            said.iter().filter(|s| s.what == what).map(|s| s.field("task")).collect()
        };
        assert_eq!((of("TaskSwitch"), of("TaskEnd")), (vec![task, "0"], vec![task]));
        // The thread's number in the trace and the kernel's number that it found itself.
        let known = trace.threads.iter().find(|t| t.number == u64::from(*thread)).expect("it");
        let tid = known.tid.to_string();
        assert!(said.iter().filter(|s| s.name == "mark").all(|s| s.field("tid") == tid));
        let by_the_library = known.function.contains("linked::all");
        assert_eq!(by_the_library, n % 2 == 1, "{}", known.function);
    }
    assert_eq!(workers.len(), THREADS);
    lines(&main)
}

/// Each log and each task has a stack of the program's, without frames of the preloaded library.
fn check_stacks(trace: &Trace) {
    let program = example("linked");
    let with: Vec<_> = trace.said.iter().filter(|s| ["log", "task"].contains(&&*s.what)).collect();
    assert_eq!(with.len(), THREADS * (ROUNDS + 2) + 2);
    for s in with {
        assert_eq!(s.modules.first().map(String::as_str), program.to_str(), "{s:?}");
        assert!(!s.modules.iter().any(|m| m.contains("libexectrace_preload")), "{s:?}");
    }
}

const MAIN: [&str; 9] = [
    "task root threads=4",
    "task work n=0",
    "task work n=1",
    "task work n=2",
    "task work n=3",
    "span main threads=4",
    "log end text=all 4 are done",
    "TaskEnd ",
    "SpanEnd main",
];

/// Said after `main`, and after the end of the own session.
const AT_EXIT: &str = "instant at exit";

#[test]
fn all_that_a_linked_program_says_is_beside_its_waits() {
    let Some(ran) = recorded_linked("linked", &["all"]) else { return };
    assert_eq!((said(&ran, "enabled"), said(&ran, "root")), (vec![1], vec![1]));
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    assert_eq!(check_work(trace), [&MAIN[..], &[AT_EXIT]].concat());
    check_stacks(trace);
    // One sleep in each round of each worker, on the worker's own thread.
    let marks = trace.said.iter().filter(|s| s.name == "mark").map(|s| s.thread);
    let (mut of_marks, mut of_sleeps): (Vec<_>, Vec<_>) =
        (marks.collect(), trace.waits(Op::Sleep).iter().map(|w| w.thread).collect());
    of_marks.sort_unstable();
    of_sleeps.sort_unstable();
    assert_eq!(of_marks.len(), THREADS * ROUNDS);
    assert_eq!(of_marks, of_sleeps);
    // Made by the main thread, each once, and each thread has one number.
    assert_eq!(trace.threads.len(), THREADS + 1);
    assert_eq!(trace.kinds["ThreadCreate"], THREADS as u64);
    assert_eq!(trace.kinds["ThreadStart"], THREADS as u64 + 1);
}

#[test]
fn without_a_recording_nothing_is_on() {
    let output = linked(&["all"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "enabled 0\nroot 0\n");
}

#[test]
fn a_session_of_its_own_goes_on_beside_the_recording() {
    let file = made("own");
    let Some(ran) = recorded_linked("own", &["own", file.to_str().unwrap()]) else { return };
    let own = Trace::new(0, &fs::read(&file).unwrap());
    fs::remove_file(&file).unwrap();
    assert_eq!(check_work(&own), MAIN);
    assert_eq!(own.kinds.values().sum::<u64>(), said(&ran, "own")[0]);
    assert_eq!(own.waits.len() + own.wakes.len(), 0);

    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let main = check_work(trace);
    let around = ["instant before n=1", "span after", "instant after n=2", "SpanEnd after"];
    assert_eq!(main, [&around[..1], &MAIN, &around[1..], &[AT_EXIT]].concat());
    check_stacks(trace);
    assert_eq!(trace.waits(Op::Sleep).len(), THREADS * ROUNDS);
}

#[test]
fn a_forked_child_says_it_in_its_own_trace() {
    let Some(ran) = recorded_linked("fork", &["fork"]) else { return };
    check_fork(&ran);
}

/// The same where the parent has a session of its own, which is not the child's.
#[test]
fn a_child_of_a_program_with_a_session_of_its_own() {
    let file = made("own-fork");
    let Some(ran) = recorded_linked("own-fork", &["own-fork", file.to_str().unwrap()]) else {
        return;
    };
    check_fork(&ran);
    let own = Trace::new(0, &fs::read(&file).unwrap());
    fs::remove_file(&file).unwrap();
    assert_eq!(lines(&own.said.iter().collect::<Vec<_>>()), PARENT);
}

const PARENT: [&str; 5] = [
    "task parent's",
    "span over the fork",
    "SpanEnd over the fork",
    "TaskEnd ",
    "instant parent's last status=0",
];

fn check_fork(ran: &Ran) {
    let (parents, childs): (Vec<&Trace>, Vec<&Trace>) =
        ran.traces.iter().partition(|t| t.said.iter().any(|s| s.name == "parent's"));
    let ([parent], [child]) = (&parents[..], &childs[..]) else { panic!("{}", ran.traces.len()) };
    assert_eq!(check_work(child), [&MAIN[..], &["instant child's last", AT_EXIT]].concat());
    assert_eq!(lines(&parent.said.iter().collect::<Vec<_>>()), PARENT);
}

/// Beside an own session the places of so many open spans are kept; the ends find theirs.
#[test]
fn many_open_spans_beside_a_session_of_its_own() {
    let file = made("deep");
    let Some(ran) = recorded_linked("deep", &["deep", file.to_str().unwrap()]) else { return };
    let own = Trace::new(0, &fs::read(&file).unwrap());
    fs::remove_file(&file).unwrap();
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    for (trace, deep) in [(&own, 70), (trace, 64)] {
        let begins = (0..deep).map(|i| format!("span deep more={}", 70 - i));
        let ends = (0..deep).map(|_| "SpanEnd deep".to_owned());
        let said: Vec<_> = trace.said.iter().collect();
        assert_eq!(lines(&said), begins.chain(ends).collect::<Vec<_>>());
    }
}

/// A file for a session of a program's own.
fn made(name: &str) -> PathBuf {
    let name = format!("{name}-{}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The binary's own session has what it waits for; a recording beside it has that once too.
#[test]
fn the_hooks_by_one_line_in_a_binary() {
    let check = |trace: &Trace| {
        let said: Vec<_> = trace.said.iter().collect();
        assert_eq!(lines(&said), ["span by one line", "SpanEnd by one line"]);
        let main = said[0].thread;
        let [sleep] = trace.waits(Op::Sleep)[..] else { panic!("{:?}", trace.waits) };
        assert_eq!((sleep.thread, sleep.object), (main, 7_000_000));
        let [join] = trace.waits(Op::Join)[..] else { panic!("{:?}", trace.waits) };
        let made = trace.threads.iter().find(|t| t.creator == u64::from(main)).expect("a thread");
        // Made by the main thread: the reader, or the thread of the own session.
        assert_eq!(join.thread, main);
        assert_ne!(made.number, u64::from(main));
    };
    let file = made("hooked");
    let mut command = Command::new(example("hooked"));
    command.arg(&file);
    let own = |file: &Path| {
        let own = Trace::new(0, &fs::read(file).unwrap());
        fs::remove_file(file).unwrap();
        own
    };
    assert!(command.output().unwrap().status.success());
    check(&own(&file));
    let Some(ran) = recorded::run("hooked", command, "") else { return };
    assert!(ran.status.success(), "{} {}", ran.status, ran.stderr);
    check(&own(&file));
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    check(trace);
}

#[test]
fn a_handler_that_interrupts_events() {
    let Some(ran) = recorded_linked("signals", &["signals"]) else { return };
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let count = |what: &str, name: &str| {
        trace.said.iter().filter(|s| (&*s.what, &*s.name) == (what, name)).count() as u64
    };
    for (name, span, of) in
        [("emitted", "interrupted", "emitted"), ("handled", "handler", "handled")]
    {
        let n = said(&ran, of)[0];
        assert!(n >= 40);
        assert_eq!((count("instant", name), count("span", span)), (n, n), "{name}");
        assert_eq!(count("SpanEnd", span), n, "{name}");
    }
}

/// A copy of the plug-in: another module, with a copy of the recorder of its own.
fn plugin(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(example("libplugin.so")).unwrap();
    change(&mut bytes);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("{name}-{}.so", std::process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

fn hosted(name: &str, staying: &Path, coming: &Path) -> Option<Ran> {
    let host = recorded::compiled("plugin_host.c", &[])?;
    let mut command = Command::new(host);
    command.arg(staying).arg(coming);
    let ran = recorded::run(name, command, "classes=locks");
    fs::remove_file(staying).unwrap();
    fs::remove_file(coming).unwrap();
    let ran = ran?;
    assert!(ran.status.success(), "{} {}", ran.status, ran.stderr);
    Some(ran)
}

/// How often the plug-ins were called that stay, and those that come and go: spans, instants, ends.
fn calls(trace: &Trace) -> [[usize; 2]; 3] {
    let mut count = [[0; 2]; 3];
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    for s in &trace.said {
        let comes = |s: &Said| usize::from(s.field("n").parse::<u64>().unwrap() >= 1_000_000);
        match (&*s.what, &*s.name) {
            ("span", "plugged") => {
                open.insert(s.thread, comes(s));
                count[0][comes(s)] += 1;
            }
            ("instant", "in plug-in") => {
                assert_eq!(s.field("text"), "lent");
                count[1][comes(s)] += 1;
            }
            ("SpanEnd", "plugged") => count[2][open[&s.thread]] += 1,
            _ => panic!("{s:?}"),
        }
    }
    count
}

#[test]
fn plugins_come_and_go_while_others_emit() {
    let (staying, coming) = (plugin("staying", |_| ()), plugin("coming", |_| ()));
    let Some(ran) = hosted("plugins", &staying, &coming) else { return };
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let expected = ["staying", "coming"].map(|name| said(&ran, name)[0] as usize);
    assert_eq!(calls(trace), [expected; 3]);
    assert_eq!(trace.notes.iter().filter(|(name, _)| name == "copies").count(), 0);
}

#[test]
fn a_copy_of_another_version_is_left_alone_and_named() {
    let (staying, coming) = (
        plugin("stays", |_| ()),
        plugin("other", |bytes| {
            // The version stands behind the name, filled up to 12 bytes, and eight bytes more.
            let note = bytes.windows(10).position(|w| w == b"exectrace\0").expect("a note");
            assert_eq!(bytes[note + 22..note + 24], 1u16.to_le_bytes());
            bytes[note + 22] = 200;
        }),
    );
    let Some(ran) = hosted("versions", &staying, &coming) else { return };
    let [trace] = &ran.traces[..] else { panic!("{} traces", ran.traces.len()) };
    let staying = said(&ran, "staying")[0] as usize;
    assert_eq!(calls(trace), [[staying, 0]; 3]);
    let notes: Vec<_> = trace.notes.iter().filter(|(name, _)| name == "copies").collect();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].1.contains("another version"), "{notes:?}");
}
