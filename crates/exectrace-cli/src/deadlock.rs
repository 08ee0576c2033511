//! What threads were still waiting for when the recording ended, as the report's first lines say
//! it: threads that wait for each other, and locks that nobody released for long.
//!
//! Idle threads wait without end in most programs; of them nothing is said here.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;
use trace::encode::op::Op;
use trace_analyze::Wait;
use trace_analyze::stuck;
use trace_analyze::waits::Waker;

use crate::cmd::waits;
use crate::places::Cause;
use crate::places::Place;
use crate::time;

/// A wait for a lock that has lasted so long when the recording ends is said. One that began just
/// before a program's end is no news.
const LONG_NS: u64 = 1_000_000_000;
/// Waits that are told one by one.
const LINES: usize = 8;
/// Waits that are kept; those of more threads are counted.
const WAITS_MAX: usize = 4096;

/// A wait that never ended.
#[derive(Clone, Debug)]
struct Held {
    wait: Wait,
    place: Place,
    /// The last to release it, and from where.
    last: Option<(Waker, String)>,
    /// Who has it.
    holder: Option<u32>,
}

/// What is known of a thread.
#[derive(Clone, Debug)]
pub struct Known {
    /// As people know it.
    pub name: String,
    /// It has ended.
    pub ended: bool,
}

/// All waits that never ended.
#[derive(Clone, Debug, Default)]
pub struct Stuck {
    waits: BTreeMap<u32, Held>,
    /// Members of each cycle, in the order in which they wait for each other.
    cycles: Vec<Vec<u32>>,
    /// Waits for locks that lasted long, of threads outside of cycles; the longest first.
    long: Vec<u32>,
    names: BTreeMap<u32, Known>,
}

impl Stuck {
    /// A wait that never ended, where it stands, and the last to release its object, with where.
    pub fn add(&mut self, wait: &Wait, place: &Place, last: Option<(Waker, String)>) {
        if self.waits.len() < WAITS_MAX {
            let (wait, place) = (wait.clone(), place.clone());
            self.waits.insert(wait.thread, Held { wait, place, last, holder: None });
        }
    }

    /// All waits are there: finds who waits for whom. `thread_of` finds a thread by the kernel's
    /// number and a time at which it ran, `known` says what is known of one.
    pub fn settle(
        &mut self,
        thread_of: impl Fn(u64, u64) -> Option<u32>,
        known: impl Fn(u32) -> Known,
    ) {
        for held in self.waits.values_mut() {
            let last = held.last.as_ref().map(|(wake, _)| wake);
            held.holder = stuck::holder(&held.wait, last, &thread_of);
        }
        let edges = self.waits.iter().filter_map(|(t, held)| held.holder.map(|h| (*t, h)));
        self.cycles = stuck::cycles(&edges.collect());
        let inside: BTreeSet<u32> = self.cycles.iter().flatten().copied().collect();
        let is_long =
            |held: &Held| held.place.cause == Cause::Lock && held.wait.duration_ns() >= LONG_NS;
        let long = self.waits.iter().filter(|(t, held)| is_long(held) && !inside.contains(t));
        self.long = long.map(|(t, _)| *t).collect();
        self.long.sort_by_key(|t| std::cmp::Reverse(self.waits[t].wait.duration_ns()));
        let threads = self.waits.iter().flat_map(|(t, held)| {
            let by = held.last.as_ref().map(|(wake, _)| wake.thread);
            [Some(*t), held.holder, by].into_iter().flatten()
        });
        self.names = threads.map(|t| (t, known(t))).collect();
    }

    fn name(&self, thread: u32) -> &str {
        self.names.get(&thread).map_or("another thread", |known| &known.name)
    }

    /// The first sentence, where threads hang.
    pub fn sentence(&self) -> Option<String> {
        let lasted = |threads: &[u32]| {
            let all = threads.iter().map(|t| self.waits[t].wait.duration_ns());
            time::short(all.min().unwrap_or(0))
        };
        if let Some(cycle) = self.cycles.first() {
            let more = match self.cycles.len() - 1 {
                0 => String::new(),
                n => format!(" And {}.", time::counted(n as u64, "more deadlock")),
            };
            let told = match cycle.as_slice() {
                [one] => format!("{} waits for a lock that it holds itself", self.name(*one)),
                [a, b] => format!("{} and {} wait for each other", self.name(*a), self.name(*b)),
                all => format!("{} wait for each other in a ring", counted_threads(all.len())),
            };
            let for_how_long = lasted(cycle);
            return Some(format!(
                "Deadlock: {told}, for {for_how_long} when the recording ended.{more}"
            ));
        }
        let longest = self.waits[self.long.first()?].wait.duration_ns();
        let (threads, verb) = match self.long.len() {
            1 => (self.name(self.long[0]).to_owned(), "was"),
            n => (counted_threads(n), "were"),
        };
        let length = time::short(longest);
        let up_to = if self.long.len() == 1 { "for" } else { "the longest for" };
        Some(format!(
            "{threads} {verb} still waiting for a lock when the recording ended, {up_to} {length}."
        ))
    }

    /// The lines below it: each thread, what it waits for, where, and who has it.
    pub fn lines(&self) -> Vec<String> {
        let mut told: Vec<u32> = self.cycles.iter().flatten().copied().collect();
        // Who waits for one of those, directly or not.
        loop {
            let waits_for_told = |(t, held): &(&u32, &Held)| {
                held.holder.is_some_and(|h| told.contains(&h)) && !told.contains(t)
            };
            let Some(behind) = self.waits.iter().find(waits_for_told).map(|(t, _)| *t) else {
                break;
            };
            told.push(behind);
        }
        let rest: Vec<u32> = self.long.iter().copied().filter(|t| !told.contains(t)).collect();
        told.extend(rest);
        let mut lines: Vec<String> =
            told.iter().take(LINES).map(|t| self.line(*t, &self.waits[t])).collect();
        if let n @ 1.. = told.len().saturating_sub(LINES) {
            lines.push(format!("and {}", time::counted(n as u64, "more thread")));
        }
        lines
    }

    fn line(&self, thread: u32, held: &Held) -> String {
        let since = time::short(held.wait.began_ns);
        let of = match (held.place.text.as_str(), held.place.primitive) {
            ("", what) => what.to_owned(),
            (place, what) => format!("{what} in {place}"),
        };
        let mut line = format!("{} waits since {since}: {of}", self.name(thread));
        match held.holder {
            Some(h) if held.wait.op == Op::Join => line.push_str(&format!(", of {}", self.name(h))),
            Some(h) => {
                line.push_str(&format!(", held by {}", self.name(h)));
                line.push_str(&self.meanwhile(h));
            }
            None if held.place.cause == Cause::Lock => line.push_str(", held by nobody known"),
            None => {}
        }
        if let Some((wake, from)) = &held.last
            && held.holder.is_none()
        {
            let at = time::short(wake.began_ns);
            line.push_str(&format!("; last released by {} at {at}", self.name(wake.thread)));
            if !from.is_empty() {
                line.push_str(&format!(" in {from}"));
            }
        }
        line
    }

    /// What the holder of a lock did when the recording ended.
    fn meanwhile(&self, holder: u32) -> String {
        match self.waits.get(&holder) {
            Some(held) if held.holder.is_none() && held.place.cause != Cause::Lock => {
                let (what, since) = (held.wait.op.name(), time::short(held.wait.began_ns));
                format!(", which is in {what} since {since}")
            }
            Some(_) => String::new(),
            None if self.names.get(&holder).is_some_and(|known| known.ended) => {
                ", which has ended".into()
            }
            None => ", which runs".into(),
        }
    }

    /// For programs: the cycles, and the waits of the lines.
    pub fn json(&self) -> Value {
        let inside: BTreeSet<u32> = self.cycles.iter().flatten().copied().collect();
        let said = |t: &&u32| inside.contains(t) || self.long.contains(t);
        let waits: Vec<Value> = self
            .waits
            .keys()
            .filter(said)
            .map(|t| {
                let held = &self.waits[t];
                let last = held.last.as_ref().map(|(wake, from)| {
                    json!({"thread": wake.thread, "began_ns": wake.began_ns, "from": from})
                });
                json!({
                    "thread": t,
                    "kind": held.wait.op.name(),
                    "on": held.place.primitive,
                    "object": waits::object(held.wait.op, held.wait.object),
                    "where": held.place.text,
                    "began_ns": held.wait.began_ns,
                    "duration_ns": held.wait.duration_ns(),
                    "holder": held.holder,
                    "last_released_by": last,
                })
            })
            .collect();
        json!({"cycles": self.cycles, "waits": waits})
    }
}

fn counted_threads(n: usize) -> String {
    time::counted(n as u64, "thread")
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_analyze::waits::Ending;
    use trace_analyze::waits::StackKey;

    const SECOND: u64 = 1_000_000_000;

    fn wait(thread: u32, op: Op, result: u64, began_ns: u64) -> Wait {
        Wait {
            thread,
            task: 0,
            op,
            object: 64 * u64::from(thread),
            began_ns,
            ended_ns: 5 * SECOND,
            result,
            ending: Ending::Never,
            stack: StackKey::default(),
            pieces: Vec::new(),
            released_by: None,
        }
    }

    fn place(primitive: &'static str, cause: Cause, text: &str) -> Place {
        Place { primitive, cause, text: text.into() }
    }

    type Never = (Wait, Place, Option<(Waker, String)>);

    /// Threads have the kernel's number 100 + theirs; thread 9 has ended.
    fn settled(waits: &[Never]) -> Stuck {
        let mut stuck = Stuck::default();
        waits.iter().for_each(|(w, p, last)| stuck.add(w, p, last.clone()));
        let thread_of = |tid: u64, _| Some(tid as u32 - 100);
        stuck.settle(thread_of, |t| Known { name: format!("t ({t})"), ended: t == 9 });
        stuck
    }

    fn mutex(thread: u32, holder: u64, at: &str) -> Never {
        let tid = if holder == 0 { 0 } else { 100 + holder };
        let place = place("mutex lock", Cause::Lock, at);
        (wait(thread, Op::MutexLock, tid, SECOND), place, None)
    }

    #[test]
    fn two_threads_that_wait_for_each_other_and_one_behind_them() {
        let join = (wait(1, Op::Join, 2, 0), place("join", Cause::Other, "main"), None);
        let stuck = settled(&[join, mutex(2, 3, "take_b"), mutex(3, 2, "take_a")]);
        let said = "Deadlock: t (2) and t (3) wait for each other, for 4.00 s when the recording \
                    ended.";
        assert_eq!(stuck.sentence().as_deref(), Some(said));
        let lines = [
            "t (2) waits since 1.00 s: mutex lock in take_b, held by t (3)",
            "t (3) waits since 1.00 s: mutex lock in take_a, held by t (2)",
            "t (1) waits since 0 ns: join in main, of t (2)",
        ];
        assert_eq!(stuck.lines(), lines);
        assert_eq!(stuck.json()["cycles"], json!([[2, 3]]));
        assert_eq!(stuck.json()["waits"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_thread_that_waits_for_itself_and_a_ring() {
        let stuck = settled(&[mutex(4, 4, "again")]);
        assert!(stuck.sentence().unwrap().contains("t (4) waits for a lock that it holds itself"));
        let ring = settled(&[mutex(1, 2, ""), mutex(2, 3, ""), mutex(3, 1, ""), mutex(5, 5, "")]);
        let said = ring.sentence().unwrap();
        assert!(said.contains("3 threads wait for each other in a ring"), "{said}");
        assert!(said.ends_with("And 1 more deadlock."), "{said}");
        assert_eq!(ring.lines().len(), 4);
    }

    #[test]
    fn locks_that_name_no_holder_say_who_released_them_last() {
        let waker = Waker {
            thread: 3,
            began_ns: SECOND / 2,
            ended_ns: SECOND / 2 + 1,
            stack: StackKey::default(),
            op: Op::FutexWake,
        };
        let (w, p) = (
            wait(2, Op::FutexWait, 0, SECOND),
            place("mutex", Cause::Lock, "look_up at cache.rs:41"),
        );
        let stuck = settled(&[(w, p, Some((waker, "refresh".into())))]);
        let said = "t (2) was still waiting for a lock when the recording ended, for 4.00 s.";
        assert_eq!(stuck.sentence().as_deref(), Some(said));
        let line = "t (2) waits since 1.00 s: mutex in look_up at cache.rs:41, held by nobody \
                    known; last released by t (3) at 500 ms in refresh";
        assert_eq!(stuck.lines(), [line]);
        assert_eq!(stuck.json()["waits"][0]["last_released_by"]["thread"], 3);
    }

    #[test]
    fn what_the_holder_does() {
        let sleep = (wait(3, Op::Sleep, 0, 2 * SECOND), place("sleep", Cause::Sleep, ""), None);
        let all = settled(&[mutex(1, 3, "a"), mutex(2, 9, "b"), mutex(4, 5, "c"), sleep]);
        let lines = all.lines();
        assert!(lines[0].ends_with("held by t (3), which is in sleep since 2.00 s"), "{lines:?}");
        assert!(lines[1].ends_with("held by t (9), which has ended"), "{lines:?}");
        assert!(lines[2].ends_with("held by t (5), which runs"), "{lines:?}");
    }

    #[test]
    fn idle_threads_and_short_waits_are_no_news() {
        let idle = (wait(2, Op::CondWait, 0, 0), place("condvar", Cause::Idle, "pool"), None);
        let mut short = mutex(3, 0, "a");
        short.0.began_ns = 5 * SECOND - LONG_NS + 1;
        let stuck = settled(&[idle, short]);
        assert_eq!((stuck.sentence(), stuck.lines().len()), (None, 0));
        assert_eq!(stuck.json(), json!({"cycles": [], "waits": []}));
    }
}
