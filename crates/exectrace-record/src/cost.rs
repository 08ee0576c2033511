//! What recording itself took, beside what the program did.

use std::fs;
use std::time::Duration;

use rustix::time::ClockId;

/// CPU time of this process so far.
pub fn own() -> Duration {
    let t = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// CPU time of the processes that this one has waited for, and of those that they have; to a
/// hundredth of a second. `None` where the kernel does not tell.
pub fn of_children() -> Option<Duration> {
    parse(&fs::read("/proc/self/stat").ok()?)
}

/// The 16th and 17th field of `/proc/PID/stat`. The second one, the name, may hold anything.
fn parse(stat: &[u8]) -> Option<Duration> {
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(stat.get(behind..)?).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(13);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // What the kernel shows user space is in hundredths of a second everywhere.
    Some(Duration::from_millis((ticks()?.checked_add(ticks()?)?).checked_mul(10)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs_do_not_shift_the_fields() {
        let line = b"7 (a) b) (c) R 1 7 7 0 -1 4194304 1 2 3 4 5 6 70 31 20 0 1 0 9 9";
        assert_eq!(parse(line), Some(Duration::from_millis(1010)));
        assert_eq!(parse(b"7 (x) R 1 2"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn work_takes_time() {
        let before = own();
        let mut n = 1u64;
        while own() == before {
            n = std::hint::black_box(n.rotate_left(1));
        }
        assert!(of_children().is_some());
    }
}
