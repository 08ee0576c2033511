//! Times and counts as people read them.

use std::fmt::Write;

const NS: u64 = 1_000_000_000;

/// Unix time in nanoseconds as RFC 3339, in UTC.
pub fn rfc3339(unix_ns: u64) -> String {
    let (seconds, ns) = (unix_ns / NS, unix_ns % NS);
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day last; 400 of them are always 146,097 days.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let date = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// Milliseconds with microseconds behind the point: `1234.567`.
pub fn ms(ns: u64) -> String {
    let us = ns / 1_000;
    format!("{}.{:03}", us / 1_000, us % 1_000)
}

/// A duration in the unit that suits it, with three digits behind the point.
pub fn duration(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..NS => (1_000_000, "ms"),
        _ => (NS, "s"),
    };
    format!("{}.{:03} {name}", ns / unit, ns % unit / (unit / 1_000))
}

/// A duration in three digits: `999 ns`, `1.50 us`, `61.0 s`; from 1,000 s on in whole seconds.
pub fn short(ns: u64) -> String {
    if ns < 1_000 {
        return format!("{ns} ns");
    }
    let mut unit = (1_000, "us");
    for larger in [(1_000_000, "ms"), (NS, "s")] {
        // What would be rounded to 1,000 of a unit is 1 of the next.
        if ns.saturating_add(larger.0 / 2_000) >= larger.0 {
            unit = larger;
        }
    }
    let (unit, name) = unit;
    let rounded = |of: u64| ns.saturating_add(of / 2) / of;
    match (rounded(unit / 100), rounded(unit / 10)) {
        (hundredths @ ..1_000, _) => {
            format!("{}.{:02} {name}", hundredths / 100, hundredths % 100)
        }
        (_, tenths @ ..1_000) => format!("{}.{} {name}", tenths / 10, tenths % 10),
        _ => format!("{} {name}", count(rounded(unit))),
    }
}

/// A part of a whole in percent, with one digit behind the point; nothing of nothing is nothing.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let tenths = (u128::from(part) * 2_000 / u128::from(whole)).div_ceil(2);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A number with commas between its thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        let _ = out.write_char(digit);
    }
    out
}

/// A count and its noun: `1 thread`, `2 threads`.
pub fn counted(n: u64, one: &str) -> String {
    let plural = if one.ends_with("ch") || one.ends_with("ss") { "es" } else { "s" };
    format!("{} {one}{}", count(n), if n == 1 { "" } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        // `date -u -d @951782400`: the leap day of a year divisible by 400.
        assert_eq!(rfc3339(951_782_400 * NS), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_868_799 * NS + 1), "2000-02-29T23:59:59.000000001Z");
        assert_eq!(rfc3339(1_709_251_199 * NS), "2024-02-29T23:59:59.000000000Z");
        assert_eq!(rfc3339(4_107_542_400 * NS), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn durations_and_counts() {
        assert_eq!(ms(1_234_567_890), "1234.567");
        assert_eq!(ms(999), "0.000");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500), "1.500 us");
        assert_eq!(duration(12_345_678), "12.345 ms");
        assert_eq!(duration(61 * NS), "61.000 s");
        for (ns, want) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (1_004, "1.00 us"),
            (1_005, "1.01 us"),
            (9_994, "9.99 us"),
            (9_995, "10.0 us"),
            (99_949, "99.9 us"),
            (99_950, "100 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_500_000, "1.00 s"),
            (61 * NS, "61.0 s"),
            (86_400 * NS, "86,400 s"),
            (u64::MAX, "18,446,744,073 s"),
        ] {
            assert_eq!(short(ns), want, "{ns}");
        }
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "batch"), "1 batch");
        assert_eq!(counted(2, "batch"), "2 batches");
        assert_eq!(counted(0, "thread"), "0 threads");
    }
}
