//! What a person asks for: names by pattern, stretches of time.

use std::convert::Infallible;
use std::str::FromStr;

use clap::Args;

use crate::failure::Failure;

/// Names that a person asks for. `*` stands for any text, `?` for one character, a backslash takes
/// from the character behind it what it stands for; everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    One,
    Any,
}

impl FromStr for Pattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Pattern, Infallible> {
        let mut parts = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            parts.push(match byte {
                b'*' if parts.last() == Some(&Part::Any) => continue,
                b'*' => Part::Any,
                b'?' => Part::One,
                b'\\' => Part::Byte(bytes.next().unwrap_or(b'\\')),
                _ => Part::Byte(byte),
            });
        }
        Ok(Pattern { parts })
    }
}

impl Pattern {
    /// Whether the name is one that is asked for.
    pub fn fits(&self, name: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // Where to go on when what follows the newest `*` does not fit: that one takes more.
        let mut again: Option<(usize, usize)> = None;
        loop {
            let fits = match self.parts.get(part) {
                None if at == name.len() => return true,
                None => None,
                Some(Part::Any) => {
                    again = Some((part, at));
                    Some(0)
                }
                Some(Part::One) => char_len(name, at),
                Some(Part::Byte(byte)) => (name.get(at) == Some(byte)).then_some(1),
            };
            match (fits, again) {
                (Some(len), _) => (part, at) = (part + 1, at + len),
                (None, Some((star, from))) if from < name.len() => {
                    again = Some((star, from + 1));
                    (part, at) = (star + 1, from + 1);
                }
                (None, _) => return false,
            }
        }
    }
}

/// Bytes of the character that begins here; one of a byte that is no UTF-8.
fn char_len(name: &[u8], at: usize) -> Option<usize> {
    let rest = name.get(at..)?;
    let text = rest[..rest.len().min(4)].utf8_chunks().next()?;
    Some(text.valid().chars().next().map_or(1, char::len_utf8))
}

/// Whether a name fits one of the patterns, or none was given.
pub fn is_named(patterns: &[Pattern], name: Option<&[u8]>) -> bool {
    patterns.is_empty() || name.is_some_and(|name| patterns.iter().any(|p| p.fits(name)))
}

/// A stretch of time.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Window {
    /// Only from this time on, since the session's start: 1.5s, 200ms, 3us, 10ns, or seconds
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<u64>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<u64>,
}

impl Window {
    /// Refuses a window in which nothing can lie.
    pub fn check(&self) -> Result<(), Failure> {
        match (self.from, self.to) {
            (from, Some(to)) if from.unwrap_or(0) >= to => Err(Failure::Refused(
                "nothing lies between --from and --to: --from must be the earlier".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Whether it is all of the time.
    pub fn is_all(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// Whether a moment lies within.
    pub fn holds(&self, ns: u64) -> bool {
        self.overlaps(ns, ns)
    }

    /// Whether a part of a stretch lies within.
    pub fn overlaps(&self, from_ns: u64, to_ns: u64) -> bool {
        self.from.is_none_or(|from| to_ns >= from) && self.to.is_none_or(|to| from_ns < to)
    }
}

/// A time in nanoseconds: a number with an optional fraction and unit; without one, seconds.
pub fn time(text: &str) -> Result<u64, String> {
    let wanted = "expected a time: 1.5s, 200ms, 3us, 10ns, or a number of seconds";
    let units = [("ns", 0), ("us", 3), ("\u{b5}s", 3), ("\u{3bc}s", 3), ("ms", 6), ("s", 9)];
    let unit = units.iter().find_map(|(name, power)| Some((text.strip_suffix(name)?, *power)));
    let (number, power) = unit.unwrap_or((text, 9));
    let number = number.trim_end_matches(' ');
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !is_digits(whole) || !is_digits(part) {
        return Err(wanted.to_owned());
    }
    if part.len() > power {
        return Err("times are whole nanoseconds".to_owned());
    }
    let digits = format!("{whole}{part:0<power$}");
    digits.parse().map_err(|_| "too long a time: 584 years are the most".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_are_exact() {
        for (text, want) in [
            ("1.5s", 1_500_000_000),
            ("200ms", 200_000_000),
            ("3us", 3_000),
            ("3 us", 3_000),
            ("10ns", 10),
            ("2", 2_000_000_000),
            ("0.000000001", 1),
            (".5", 500_000_000),
            ("7.", 7_000_000_000),
            ("1.25\u{b5}s", 1_250),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(time(text), Ok(want), "{text}");
        }
        for text in
            ["", ".", "s", "1.5x", "-1s", "1e3", "1,5s", "1.5 s x", "0.1ns", "1.0000000001s"]
        {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(time("18446744073.709551616").is_err());
        assert!(time("99999999999999999999").is_err());
    }

    #[test]
    fn windows_are_half_open() {
        let window = |from, to| Window { from, to };
        assert!(window(None, None).holds(0) && window(None, None).is_all());
        let w = window(Some(10), Some(20));
        assert_eq!([9, 10, 19, 20].map(|ns| w.holds(ns)), [false, true, true, false]);
        assert!(w.overlaps(0, 10) && w.overlaps(19, 99) && w.overlaps(0, 99));
        assert!(!w.overlaps(0, 9) && !w.overlaps(20, 99));
        assert!(
            window(Some(5), Some(5)).check().is_err() && window(None, Some(0)).check().is_err()
        );
        assert!(window(Some(5), Some(6)).check().is_ok());
    }

    #[test]
    fn patterns() {
        let fits = |pattern: &str, name: &[u8]| Pattern::from_str(pattern).unwrap().fits(name);
        for (pattern, name) in [
            ("read", &b"read"[..]),
            ("*", b""),
            ("*", b"anything"),
            ("read*", b"read_file"),
            ("*file", b"read_file"),
            ("r*d*e", b"read_file"),
            ("**a**", b"bab"),
            ("a*a*a", b"aaaa"),
            ("?", "\u{e9}".as_bytes()),
            ("a?c", b"a\xffc"),
            ("a\\*b", b"a*b"),
            ("a\\", b"a\\"),
            ("", b""),
        ] {
            assert!(fits(pattern, name), "{pattern} {name:?}");
        }
        for (pattern, name) in [
            ("read", &b"read_file"[..]),
            ("read", b"rea"),
            ("", b"a"),
            ("?", b""),
            ("?", b"ab"),
            ("a*b", b"ac"),
            ("a\\*b", b"axb"),
            ("*a", b"ab"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name:?}");
        }
        // A pattern that makes careless matching take forever.
        assert!(!fits(&"a*".repeat(40), &[b'b'; 4096]));
        assert!(!fits(&("a*".repeat(40) + "b"), &[b'a'; 4096]));
    }

    #[test]
    fn names_are_wanted_unless_patterns_say_otherwise() {
        let patterns: Vec<Pattern> = vec!["a*".parse().unwrap(), "b".parse().unwrap()];
        assert!(is_named(&[], None) && is_named(&[], Some(b"x")));
        assert!(is_named(&patterns, Some(b"ab")) && is_named(&patterns, Some(b"b")));
        assert!(!is_named(&patterns, Some(b"c")) && !is_named(&patterns, None));
    }
}
