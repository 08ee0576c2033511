//! What a report and `stat` say of how much of the threads' waiting is in the trace.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;
use trace_analyze::Estimate;
use trace_analyze::Sched;
use trace_analyze::coverage;
use trace_analyze::coverage::Share;
use trace_analyze::coverage::TOLERANCE_NS;
use trace_decode::Session;

use crate::time;

/// The coverage of a session.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// All threads together.
    pub all: Estimate,
    /// By the thread's number.
    pub threads: BTreeMap<u64, Estimate>,
    /// Waits of some classes were not asked for: then nothing follows from their absence.
    pub is_partial: bool,
}

/// Classes without which waits are missing because nobody wanted them.
const CLASSES: [&str; 5] = ["locks", "io", "net", "sleep", "process"];

/// A share in percent with its sign.
pub fn percent(share: Share) -> String {
    format!("{} %", time::percent(share.part, share.whole))
}

impl Coverage {
    /// What the trace says of it.
    pub fn of(session: &Session) -> Coverage {
        let mut found = Coverage::default();
        let chosen = session.notes().find(|(name, _)| *name == b"classes");
        if let Some(list) = chosen.and_then(|(_, list)| std::str::from_utf8(list).ok()) {
            let has = |class: &str| list.split(',').any(|c| c == class);
            found.is_partial = !CLASSES.iter().all(|class| has(class));
        }
        for row in session.coverage() {
            let one = Estimate::of(row);
            found.all.add(&one);
            found.threads.entry(row.thread).or_default().add(&one);
        }
        found
    }

    /// In words: what recorded waits explain of what the kernel counted; empty where it counted
    /// nothing.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(share) = self.all.by_time().filter(|s| s.whole > 0) {
            let (of, off) = (time::short(share.whole), time::short(TOLERANCE_NS));
            let share = percent(share);
            parts.push(format!("{share} of {of} that threads were blocked (to {off} each)"));
        }
        if let Some([least, most]) = self.all.by_switches() {
            let switches = time::counted(most.whole, "switch");
            let share = match (percent(least), percent(most)) {
                (least, most) if least == most => most,
                (least, most) => format!("{least} to {most}"),
            };
            parts.push(format!("{share} of {switches} that they asked for"));
        }
        let mut text = parts.join(" and ");
        if self.is_partial && !text.is_empty() {
            text.push_str(" (not every class of waits was recorded)");
        }
        text
    }

    /// For programs: all threads, and each.
    pub fn json(&self) -> Value {
        let mut all = estimate(&self.all);
        let each = |(n, e): (&u64, &Estimate)| {
            let mut one = estimate(e);
            one["thread"] = json!(n);
            one
        };
        all["threads"] = self.threads.iter().map(each).collect();
        all
    }
}

/// An estimate for programs.
pub fn estimate(e: &Estimate) -> Value {
    let by_time = e.by_time().map(|share| {
        json!({"blocked_ns": share.whole, "explained_ns": share.part, "over_ns": e.over_ns,
            "tolerance_ns": e.tolerance_ns})
    });
    let by_switches = e.by_switches().map(
        |[least, most]| json!({"switches": most.whole, "least": least.part, "most": most.part}),
    );
    json!({"slept": e.slept, "longer": e.longer, "voluntary_switches": e.switches,
        "share": e.share().map(ratio), "poor": e.is_poor(), "time": by_time,
        "switches": by_switches})
}

fn ratio(share: Share) -> f64 {
    match share.whole {
        0 => 1.0,
        whole => share.part as f64 / whole as f64,
    }
}

/// Whether too little is explained, by the switches where they are in the trace.
pub fn is_poor(coverage: &Coverage, sched: &Sched) -> bool {
    if coverage.is_partial {
        return false;
    }
    match sched.all() {
        Some(cpu) => coverage::is_poor(&cpu),
        None => coverage.all.is_poor(),
    }
}

/// The share that counts, where there is one.
pub fn share(coverage: &Coverage, sched: &Sched) -> Option<Share> {
    match sched.all() {
        Some(cpu) => Some(coverage::exact(&cpu)).filter(|s| s.whole > 0),
        None => coverage.all.share(),
    }
}

/// What the report opens with where too little is explained.
pub fn warning(coverage: &Coverage, sched: &Sched) -> String {
    let what = match sched.all() {
        Some(cpu) => {
            let share = coverage::exact(&cpu);
            format!(
                "{} of {} that threads were blocked, by the kernel's switches",
                percent(share),
                time::short(share.whole)
            )
        }
        None => format!("at most {}, by the kernel's counts", coverage.text()),
    };
    let share = share(coverage, sched).map_or(String::new(), percent);
    format!("COVERAGE IS ONLY {share}: recorded waits explain {what}.\n")
}

/// Threads of which too little is explained: number, share and what is not explained, in
/// nanoseconds or switches; the worst first.
pub fn poor_threads(coverage: &Coverage, sched: &Sched) -> Vec<(u64, Share)> {
    if coverage.is_partial {
        return Vec::new();
    }
    let mut poor: Vec<(u64, Share)> = match sched.all() {
        Some(_) => sched
            .threads()
            .filter(|(_, cpu)| coverage::is_poor(cpu))
            .map(|(n, cpu)| (u64::from(n), coverage::exact(cpu)))
            .collect(),
        None => coverage
            .threads
            .iter()
            .filter(|(_, e)| e.is_poor())
            .filter_map(|(n, e)| Some((*n, e.share()?)))
            .collect(),
    };
    poor.sort_by_key(|(n, share)| (std::cmp::Reverse(share.rest()), *n));
    poor
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of a thread's life, blocked all the time, and so much of it in recorded waits.
    fn second(waited_ns: u64) -> Estimate {
        Estimate::of(&trace_decode::tables::Coverage {
            over_ns: 1_000_000_000,
            blocked_ns: 1_000_000_000,
            waited_ns,
            ..Default::default()
        })
    }

    fn of(threads: &[u64]) -> Coverage {
        let mut found = Coverage::default();
        for (number, waited_ns) in threads.iter().enumerate() {
            let one = second(*waited_ns);
            found.all.add(&one);
            found.threads.insert(number as u64 + 1, one);
        }
        found
    }

    #[test]
    fn one_thread_in_many_is_named_and_alone_is_no_alarm() {
        let sched = Sched::new();
        let mut waits = vec![1_000_000_000; 20];
        waits[6] = 10_000_000;
        let mut found = of(&waits);
        assert!(!is_poor(&found, &sched));
        let share = Share { part: 10_000_000, whole: 1_000_000_000 };
        assert_eq!(poor_threads(&found, &sched), [(7, share)]);
        assert_eq!(found.text(), "95.1 % of 20.0 s that threads were blocked (to 5.00 ms each)");
        // Nobody is accused of what was not to be recorded.
        found.is_partial = true;
        assert_eq!(poor_threads(&found, &sched), []);
        assert!(found.text().ends_with("(not every class of waits was recorded)"));
    }

    #[test]
    fn the_worst_thread_stands_first_and_the_report_opens_with_the_share() {
        let sched = Sched::new();
        let found = of(&[500_000_000, 100_000_000]);
        assert!(is_poor(&found, &sched));
        let numbers: Vec<u64> = poor_threads(&found, &sched).iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, [2, 1]);
        let warning = warning(&found, &sched);
        assert!(
            warning.starts_with("COVERAGE IS ONLY 30.0 %: recorded waits explain at most 30.0 %")
        );
        assert_eq!(Coverage::default().text(), "");
    }
}
