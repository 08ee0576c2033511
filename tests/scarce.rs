//! Where memory is short: address space, a control group, a tmpfs under the mapping. A start that
//! is refused, or events that are counted; never a signal, and nothing half-started.

mod confined;
mod support;

use std::path::Path;
use std::process::Output;

use support::Attempted;
use trace::Config;
use trace::Outcome;
use trace::StartError;
use trace::StopError;
use trace::encode::schema::Cause;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

/// Sets the soft limit of address space, in bytes; `None` = none.
fn limit_address_space(bytes: Option<u64>) {
    let soft = bytes.unwrap_or(libc::RLIM_INFINITY);
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Address space in use, in bytes.
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// A session that must work and be exact, also where the pool is empty for a while.
fn records() {
    Config::new().memory_bytes(2 << 20).start_reading().unwrap();
    let mut a = Attempted::default();
    let mut n = 0;
    while a.lost < 100 {
        n += 1;
        a.probe(n << 32);
    }
    trace::stop().unwrap();
    let bytes = support::read_all();
    support::assert_valid(&bytes);
    support::assert_exact(&bytes, &[(support::tid(), a)].into());
}

/// With a little more address space each time the start fails here, then there, then nowhere.
#[test]
fn address_space_is_short() {
    const TEST: &str = "address_space_is_short";
    const MIB: [u64; 9] = [8, 40, 80, 90, 92, 95, 100, 150, 400];
    let Some(scenario) = support::scenario() else {
        let outs = MIB.map(|mib| support::in_child(TEST, &mib.to_string()));
        let said = |o: &Output, what: &str| String::from_utf8_lossy(&o.stdout).contains(what);
        let refused = outs.iter().filter(|o| said(o, "refused")).count();
        let started = outs.iter().filter(|o| said(o, "started")).count();
        assert_eq!(refused + started, MIB.len());
        assert!(refused >= 2 && started >= 1, "{refused} refused, {started} started");
        return;
    };
    let _watchdog = support::watch(TEST, 30);
    let more: u64 = scenario.parse().unwrap();
    limit_address_space(Some(address_space() + (more << 20)));
    match Config::new().memory_bytes(2 << 20).start(std::io::sink()) {
        Ok(()) => {
            assert_eq!(trace::emit_probe(1), Outcome::Recorded);
            trace::stop().unwrap();
            println!("started");
        }
        Err(StartError::Memory(_) | StartError::Thread(_)) => {
            assert!(!trace::is_enabled());
            assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
            println!("refused");
        }
        Err(e) => panic!("{e}"),
    }
    limit_address_space(None);
    if more.is_multiple_of(40) {
        records();
    } else {
        Config::new().memory_bytes(2 << 20).start(std::io::sink()).unwrap();
        assert_eq!(trace::emit_probe(1), Outcome::Recorded);
        assert_eq!(trace::stop().unwrap().lost, 0);
    }
}

/// The bound that is used where none was set leaves a small control group alive.
#[test]
fn the_control_group_is_small() {
    const TEST: &str = "the_control_group_is_small";
    const LIMIT: u64 = 64 << 20;
    if support::scenario().is_none() {
        let Some(group) = confined::Group::with_memory(LIMIT) else { return };
        let out = group.run(&mut support::child(TEST, "inside"));
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("1 passed"), "{out:?}");
        return;
    }
    let _watchdog = support::watch(TEST, 60);
    Config::new().start_reading().unwrap();
    let mut lost = 0u64;
    while lost < 1000 {
        lost += u64::from(matches!(trace::emit_probe(u64::MAX), Outcome::Lost(_)));
    }
    let m = trace::registry::mapping().unwrap();
    assert!(u64::from(m.committed()) << 16 <= LIMIT / 16, "{} buffers", m.committed());
    trace::stop().unwrap();
    assert!(support::read_all().len() > 1 << 20);
}

/// Names of the files in a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.map(|e| e.file_name().into_string().unwrap()).collect()
}

/// A mapping on a tmpfs that has no room for it is an error of `start`, which leaves nothing there.
#[test]
fn a_tmpfs_without_room_for_the_mapping() {
    alone("a_tmpfs_without_room_for_the_mapping", 30, || {
        if !confined::own_mounts() {
            return;
        }
        // Room for nothing, for the front page, for fewer buffers than are kept back for handlers.
        for kib in [4, 128, 256] {
            let folder = confined::tmpfs(&kib.to_string(), kib << 10);
            let config = Config::new().memory_bytes(2 << 20).mapping_dir(&folder);
            let error = config.start(std::io::sink()).unwrap_err();
            assert!(matches!(error, StartError::Memory(_)), "{kib} KiB: {error}");
            assert_eq!(files(&folder), [""; 0], "{kib} KiB");
            assert!(!trace::is_enabled());
            confined::remove_tmpfs(&folder);
        }
        records();
    });
}

/// A tmpfs that fills up while the program records: no SIGBUS; events, and threads that find no
/// room for a record, are counted.
#[test]
fn a_tmpfs_fills_up_under_the_mapping() {
    alone("a_tmpfs_fills_up_under_the_mapping", 60, || {
        if !confined::own_mounts() {
            return;
        }
        let folder = confined::tmpfs("fills", 5 << 20);
        let config = Config::new().memory_bytes(64 << 20).mapping_dir(&folder);
        config.start_reading().unwrap();
        let mut accounts = std::collections::BTreeMap::new();
        let mut a = Attempted::default();
        while a.lost < 1000 {
            a.probe(a.kept << 32);
        }
        accounts.insert(support::tid(), a);
        let m = trace::registry::mapping().unwrap();
        assert!(m.committed() < 80, "the bound of 64 MiB was not what ended it");
        // What is left of the last pages goes to records, until they are refused too.
        let mut unregistered = 0;
        let end = std::sync::Barrier::new(101);
        std::thread::scope(|s| {
            let one = || {
                let mut outcomes = Vec::new();
                for n in 0..3 {
                    outcomes.push(trace::emit_probe(n));
                }
                end.wait();
                outcomes
            };
            let threads: Vec<_> = (0..100).map(|_| s.spawn(one)).collect();
            end.wait();
            for t in threads {
                let outcomes = t.join().unwrap();
                assert!(outcomes.iter().all(|o| matches!(o, Outcome::Lost(_))), "{outcomes:?}");
                let none = Outcome::Lost(Cause::Unregistered);
                unregistered += outcomes.iter().filter(|o| **o == none).count() as u64;
            }
        });
        let summary = trace::stop().unwrap();
        let bytes = support::read_all();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        let mine = c.of_tid(support::tid());
        assert_eq!((mine.probes, mine.sum, mine.lost()), (a.kept, a.sum, a.lost));
        assert!(unregistered > 0);
        assert_eq!(c.cause(Cause::Unregistered), unregistered);
        // Threads that have a record lose their end as well.
        assert!(summary.lost >= a.lost + 300 && summary.lost <= a.lost + 400, "{summary:?}");
        assert_eq!(summary.lost, c.lost());
        confined::remove_tmpfs(&folder);
    });
}
