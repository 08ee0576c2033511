//! What a trace says of the recorded process's memory, in words and for programs.
//!
//! Numbers come from a trace and may be anything: sums saturate.

use serde_json::Value;
use serde_json::json;
use trace::encode::schema;

use crate::time;

/// Growth that is worth a line: so many bytes, and more than half of what was there at first.
const GROWTH: u64 = 16 << 20;

/// What was seen of one session's process, from the first look to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    looks: u64,
    first: Look,
    last: Look,
    /// The most that was resident at any time.
    most: u64,
}

/// One look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    at_ns: u64,
    resident: u64,
    shared: u64,
    minor: u64,
    major: u64,
}

impl Memory {
    /// Takes in what was seen at this time. In any order.
    pub fn add(&mut self, at_ns: u64, m: &schema::Memory<'_>) {
        let (minor, major) = (m.minor_faults, m.major_faults);
        let look = Look { at_ns, resident: m.resident, shared: m.shared, minor, major };
        if self.looks == 0 || at_ns < self.first.at_ns {
            self.first = look;
        }
        if self.looks == 0 || at_ns >= self.last.at_ns {
            self.last = look;
        }
        self.most = self.most.max(m.peak).max(m.resident);
        self.looks = self.looks.saturating_add(1);
    }

    /// The line of `stat`; `None` where nobody looked.
    pub fn text(&self) -> Option<String> {
        let Memory { looks, first, last, most } = self;
        let shared = match last.shared {
            0 => String::new(),
            n => format!(", {} of it shared with the recorder or others", bytes(n)),
        };
        let at = time::short(last.at_ns);
        let faults = time::counted(last.minor.saturating_add(last.major), "page fault");
        let resident = match looks {
            0 => return None,
            1 => format!("{} resident after {at}{shared}, {} at most", bytes(last.resident), {
                bytes(*most)
            }),
            _ => format!(
                "{} resident at first, {} at most, {} after {at}{shared}",
                bytes(first.resident),
                bytes(*most),
                bytes(last.resident),
            ),
        };
        let disk = time::count(last.major);
        Some(format!("{resident}; {faults} until then, {disk} of them from disk"))
    }

    /// The line of a report: where memory grew much, or pages came from disk meanwhile.
    pub fn news(&self) -> Option<String> {
        let Memory { looks, first, last, most } = self;
        let grown = most.saturating_sub(first.resident);
        let has_grown = *looks > 0 && grown >= GROWTH && grown > first.resident / 2;
        let from_disk = last.major.saturating_sub(first.major);
        if !has_grown && from_disk == 0 {
            return None;
        }
        let mut text = format!("Memory: {} resident at first", bytes(first.resident));
        text.push_str(&format!(", {} at most, {} when last", bytes(*most), bytes(last.resident)));
        text.push_str(&format!(" looked at, after {}", time::short(last.at_ns)));
        if from_disk > 0 {
            let faults = time::counted(from_disk, "page");
            text.push_str(&format!("; {faults} came from disk meanwhile"));
        }
        text.push('.');
        Some(text)
    }

    /// For programs; null where nobody looked.
    pub fn json(&self) -> Value {
        let Memory { looks, first, last, most } = self;
        if *looks == 0 {
            return Value::Null;
        }
        json!({"looks": looks, "first_bytes": first.resident, "max_bytes": most,
            "last_bytes": last.resident, "last_shared_bytes": last.shared,
            "first_at_ns": first.at_ns, "last_at_ns": last.at_ns, "minor_faults": last.minor,
            "major_faults": last.major})
    }
}

/// Bytes as people read them, in three digits: `4.00 KiB`, `12.4 MiB`.
pub fn bytes(n: u64) -> String {
    if n < 1 << 10 {
        return format!("{n} B");
    }
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    // What would be rounded to 1,024 of a unit is 1 of the next.
    let large = |(unit, _): &&(u64, &str)| n.saturating_add(unit / 2048) >= *unit;
    let (unit, name) = units.iter().find(large).copied().unwrap_or((1 << 10, "KiB"));
    let parts = |of: u64| {
        ((u128::from(n) * u128::from(of) + u128::from(unit) / 2) / u128::from(unit)) as u64
    };
    match (parts(100), parts(10)) {
        (hundredths @ ..1_000, _) => {
            format!("{}.{:02} {name}", hundredths / 100, hundredths % 100)
        }
        (_, tenths @ ..1_000) => format!("{}.{} {name}", tenths / 10, tenths % 10),
        _ => format!("{} {name}", time::count(parts(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(looks: &[(u64, [u64; 5])]) -> Memory {
        let mut memory = Memory::default();
        for (at_ns, [resident, shared, peak, minor_faults, major_faults]) in looks.iter().copied() {
            let _life = schema::LIFE;
            let m = schema::Memory { resident, shared, peak, minor_faults, major_faults, _life };
            memory.add(at_ns, &m);
        }
        memory
    }

    #[test]
    fn bytes_have_three_digits() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 10, "10.0 KiB"),
            (340 * MIB, "340 MiB"),
            (12 * MIB + 2 * MIB / 5, "12.4 MiB"),
            (MIB - 1, "1.00 MiB"),
            (1 << 30, "1.00 GiB"),
            (u64::MAX, "17,179,869,184 GiB"),
        ] {
            assert_eq!(bytes(n), want, "{n}");
        }
    }

    #[test]
    fn looks_in_words() {
        let none = Memory::default();
        assert_eq!((none.text(), none.news(), none.json()), (None, None, Value::Null));
        let one = seen(&[(2_000_000, [4 * MIB, 0, 5 * MIB, 900, 1])]);
        let want = "4.00 MiB resident after 2.00 ms, 5.00 MiB at most; 901 page faults until \
                    then, 1 of them from disk";
        assert_eq!((one.text().as_deref(), one.news()), (Some(want), None));
        // The lane of another thread may come first.
        let looks = [
            (3_000_000_000, [338 * MIB, 2 * MIB, 340 * MIB, 84_000, 3]),
            (1_000_000, [12 * MIB, 2 * MIB, 12 * MIB, 3_000, 1]),
        ];
        let want = "12.0 MiB resident at first, 340 MiB at most, 338 MiB after 3.00 s, 2.00 MiB \
                    of it shared with the recorder or others; 84,003 page faults until then, 3 of \
                    them from disk";
        assert_eq!(seen(&looks).text().as_deref(), Some(want));
        let news = "Memory: 12.0 MiB resident at first, 340 MiB at most, 338 MiB when last looked \
                    at, after 3.00 s; 2 pages came from disk meanwhile.";
        assert_eq!(seen(&looks).news().as_deref(), Some(news));
    }

    #[test]
    fn small_growth_is_no_news_and_any_number_is_borne() {
        let grown = |first: u64, most: u64| {
            let at = |ns, resident| (ns, [resident, 0, resident, 10, 5]);
            seen(&[at(1, first), at(2, most)]).news().is_some()
        };
        assert!(grown(4 * MIB, 20 * MIB) && !grown(4 * MIB, 20 * MIB - 1));
        assert!(!grown(100 * MIB, 150 * MIB) && grown(100 * MIB, 151 * MIB));
        let wild = seen(&[(u64::MAX, [u64::MAX; 5]), (0, [0; 5]), (u64::MAX, [u64::MAX; 5])]);
        assert!(wild.text().is_some() && wild.news().is_some() && wild.json()["looks"] == 3);
    }
}
