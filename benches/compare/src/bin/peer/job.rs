//! The jobs, the same for every peer.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use crate::Failure;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::Task;
use crate::measure::BURST;
use crate::measure::Memory;
use crate::measure::PerEvent;
use crate::measure::children_cpu_ns;
use crate::measure::empty;
use crate::measure::per_event;
use crate::measure::process_cpu_ns;
use crate::measure::reads;
use crate::measure::thread_cpu_ns;
use crate::measure::work;

/// Time from one event to the next where events come at a bearable rate.
const PACE: Duration = Duration::from_micros(1);

/// How often a file is read.
const READINGS: usize = 3;

/// Does what is asked.
pub fn run<P: Peer>(task: &Task) -> Result<(), Failure> {
    match task.job.as_str() {
        "off" => off::<P>(task),
        "on-instant" => on::<P>(task, Kind::Instant),
        "on-span" => on::<P>(task, Kind::Span),
        "added" => added::<P>(task),
        "two-instant" => two::<P>(task, Kind::Instant),
        "two-span" => two::<P>(task, Kind::Span),
        "flood-instant" => flood::<P>(task, Kind::Instant),
        "flood-span" => flood::<P>(task, Kind::Span),
        "paced" => paced::<P>(task),
        "read" => read::<P>(task),
        other => Err(format!("no job {other}").into()),
    }
}

fn say(name: &str, value: f64) {
    println!("{name} {value}");
}

fn emit(peer: &impl Peer, kind: Kind, n: u64) {
    peer.inside(&mut || match kind {
        Kind::Instant => peer.instants(n),
        Kind::Span => peer.spans(n),
    });
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Instant => "instant",
        Kind::Span => "span",
    }
}

/// What an instant and a span cost while nothing records, over a loop that does nothing.
fn off<P: Peer>(task: &Task) -> Result<(), Failure> {
    let peer = P::off()?;
    for kind in [Kind::Instant, Kind::Span] {
        let time = per_event(task.millis / 2, &|n| emit(&peer, kind, n), &empty);
        say(&format!("off_{}_ns", word(kind)), (time.ns - time.beside_ns).max(0.0));
    }
    Ok(())
}

fn say_time(name: &str, time: PerEvent) {
    say("rdtsc_ns", time.beside_ns);
    say(&format!("{name}_ns"), time.ns);
    say(&format!("{name}_x"), time.ns / time.beside_ns);
    say(&format!("{name}_cpu_ns"), time.cpu_ns);
}

/// What one costs while recording.
fn on<P: Peer>(task: &Task, kind: Kind) -> Result<(), Failure> {
    let peer = P::on(&task.dir, &task.how)?;
    let time = per_event(task.millis, &|n| emit(&peer, kind, n), &reads);
    say_time(&format!("on_{}", word(kind)), time);
    peer.finish()?;
    Ok(())
}

/// What an instant adds to other work, while recording.
fn added<P: Peer>(task: &Task) -> Result<(), Failure> {
    let peer = P::on(&task.dir, &task.how)?;
    let state = Cell::new(88_172_645_463_325_252);
    let with = |n| {
        peer.inside(&mut || {
            for _ in 0..n {
                state.set(work(state.get()));
                peer.instants(1);
            }
        });
    };
    let without = |n| {
        for _ in 0..n {
            state.set(work(state.get()));
            empty(1);
        }
    };
    let time = per_event(task.millis, &with, &without);
    say("work_ns", time.beside_ns);
    say("added_instant_ns", time.ns - time.beside_ns);
    peer.finish()?;
    Ok(())
}

/// What one costs while another thread does the same.
fn two<P: Peer>(task: &Task, kind: Kind) -> Result<(), Failure> {
    let peer = P::on(&task.dir, &task.how)?;
    let done = AtomicBool::new(false);
    let time = std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Relaxed) {
                emit(&peer, kind, BURST);
            }
        });
        let time = per_event(task.millis, &|n| emit(&peer, kind, n), &reads);
        done.store(true, Relaxed);
        time
    });
    say_time(&format!("two_{}", word(kind)), time);
    peer.finish()?;
    Ok(())
}

/// Bytes of all files in a folder.
fn bytes_in(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_in(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

/// Says what the file holds of `attempted` events.
fn say_found(
    task: &Task,
    name: &str,
    attempted: u64,
    found: Found,
    told: Option<u64>,
) -> Result<(), Failure> {
    let lost = attempted.saturating_sub(found.events) as f64;
    say(&format!("{name}_lost"), lost / attempted as f64);
    if let Some(told) = told {
        say(&format!("{name}_told"), told as f64 / attempted as f64);
    }
    if found.events > 0 {
        let events = found.events as f64;
        say(&format!("{name}_bytes"), bytes_in(&task.dir)? as f64 / events);
        if let Some(unpacked) = found.unpacked {
            say(&format!("{name}_unpacked"), unpacked as f64 / events);
        }
    }
    Ok(())
}

/// One thread emits as fast as it can; the time runs until the file is complete.
fn flood<P: Peer>(task: &Task, kind: Kind) -> Result<(), Failure> {
    let name = format!("flood_{}", word(kind));
    let memory = Memory::begin()?;
    let peer = P::on(&task.dir, &task.how)?;
    let (began, cpu, all) = (Instant::now(), thread_cpu_ns(), process_cpu_ns());
    for _ in 0..task.events / BURST {
        emit(&peer, kind, BURST);
    }
    let (emitted, cpu) = (began.elapsed(), thread_cpu_ns() - cpu);
    let finished = peer.finish()?;
    let all = process_cpu_ns() - all;
    let complete = finished.complete.map_or(began.elapsed(), |at| at - began);
    let attempted = task.events / BURST * BURST;
    say(&format!("{name}_emit_ns"), emitted.as_nanos() as f64 / attempted as f64);
    say(&format!("{name}_cpu_ns"), cpu as f64 / attempted as f64);
    say(&format!("{name}_process_ns"), all as f64 / attempted as f64);
    say(&format!("{name}_ns"), complete.as_nanos() as f64 / attempted as f64);
    say(&format!("{name}_mib"), memory.most_mib()?);
    say_found(task, &name, attempted, P::count(&task.dir, kind)?, finished.lost)
}

/// An instant each microsecond.
fn paced<P: Peer>(task: &Task) -> Result<(), Failure> {
    let attempted = (task.events / 8).clamp(10_000, 1_000_000) / BURST * BURST;
    let peer = P::on(&task.dir, &task.how)?;
    let mut next = Instant::now();
    for _ in 0..attempted / BURST {
        peer.inside(&mut || {
            for _ in 0..BURST {
                peer.instants(1);
                next += PACE;
                while Instant::now() < next {
                    std::hint::spin_loop();
                }
            }
        });
    }
    let finished = peer.finish()?;
    say_found(task, "paced", attempted, P::count(&task.dir, Kind::Instant)?, finished.lost)
}

/// How many events the peer's own readers read of its own file in a second of CPU time.
fn read<P: Peer>(task: &Task) -> Result<(), Failure> {
    let peer = P::on(&task.dir, &task.how)?;
    for _ in 0..task.events / BURST {
        emit(&peer, Kind::Instant, BURST);
    }
    peer.finish()?;
    for (name, reader) in P::readers() {
        let mut rates = Vec::new();
        for _ in 0..READINGS {
            let before = process_cpu_ns() + children_cpu_ns();
            let events = reader(&task.dir)?;
            let time = process_cpu_ns() + children_cpu_ns() - before;
            rates.push(events as f64 * 1e3 / time as f64);
            if events < task.events / 20 {
                return Err(format!("the reader {name} saw {events} events").into());
            }
        }
        rates.sort_by(f64::total_cmp);
        say(&format!("read_{name}"), rates[READINGS / 2]);
    }
    Ok(())
}
