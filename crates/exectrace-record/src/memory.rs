//! What the kernel says of a process as a whole: how much memory it has, its page faults, and where
//! it may run.
//!
//! All of it is read from outside, in `/proc`, so that the process does nothing for it. A look
//! costs some tens of microseconds, whatever the size of the process.

use std::fs;

/// Bytes resident, of them shared, the most that were resident so far, minor and major page faults.
pub type Memory = [u64; 5];

/// Where numbers stand behind the state in the text of a process's `stat`.
const MINOR: usize = 6;
const MAJOR: usize = 8;
/// The same, of the time at which the process began.
pub const BEGAN: usize = 18;

/// Most threads that are asked where the first one has ended.
const THREADS_MAX: usize = 64;

/// The memory of the process with this number that began then, by one of its living threads: the
/// first one, unless that has ended before the others. `None` where the process has ended.
pub fn look(pid: u32, began: u64) -> Option<(u32, Memory)> {
    let stat_bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (_, numbers) = stat(&stat_bytes)?;
    if numbers[BEGAN] != began {
        return None;
    }
    let of = |path: String| resident(&fs::read_to_string(path).ok()?);
    let first = of(format!("/proc/{pid}/status")).map(|found| (pid, found));
    let (tid, [now, shared, peak]) = first.or_else(|| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().take(THREADS_MAX);
        let mut tids = threads.filter_map(|t| t.file_name().to_str()?.parse::<u32>().ok());
        tids.find_map(|tid| Some((tid, of(format!("/proc/{pid}/task/{tid}/status"))?)))
    })?;
    Some((tid, [now, shared, peak.max(now), numbers[MINOR], numbers[MAJOR]]))
}

/// The state and the numbers behind it, of the text of a `stat`: the name before it may hold
/// anything. As many as are needed here; one that is negative counts as 0.
pub fn stat(text: &[u8]) -> Option<(u8, [u64; BEGAN + 1])> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let text = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let mut numbers = [0; BEGAN + 1];
    for number in &mut numbers {
        *number = fields.next()?.parse::<i128>().ok()?.try_into().unwrap_or(0);
    }
    Some((state, numbers))
}

/// Bytes resident, shared and at most, of the text of a `status`; a thread that has ended has none.
fn resident(status: &str) -> Option<[u64; 3]> {
    let bytes = |name: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(name))?;
        text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let now = bytes("VmRSS:")?;
    Some([now, bytes("RssShmem:").unwrap_or(0), bytes("VmHWM:").unwrap_or(now)])
}

/// Where a process may run, in words.
pub fn cpus(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let of = online.as_deref().and_then(listed).map(|n| format!(" of {n}")).unwrap_or_default();
    Some(format!("may run on {}{of}", allowed.trim()))
}

/// How many there are in a list such as `0-3,8`.
fn listed(list: &str) -> Option<u64> {
    list.trim().split(',').try_fold(0u64, |sum, part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
        sum.checked_add(to.checked_sub(from)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        // From the page of proc(5): minflt is field 10, majflt 12, starttime 22; the state is 3.
        let mut text = b"7 (a) b) (c) S".to_vec();
        (4..=52).for_each(|field: i64| {
            let number = if field == 8 { -1 } else { field * 100 };
            text.extend(format!(" {number}").into_bytes());
        });
        let (state, numbers) = stat(&text).unwrap();
        assert_eq!((state, numbers[MINOR], numbers[MAJOR]), (b'S', 1000, 1200));
        assert_eq!((numbers[BEGAN], numbers[4]), (2200, 0));
        for broken in [&b""[..], b"7 a S 1", b"7 (a) S 1 2 3", b"7 (a) S x", b"7 (a)"] {
            assert_eq!(stat(broken), None);
        }
    }

    #[test]
    fn a_status_has_bytes_and_one_that_has_ended_has_none() {
        let status = "Name:\tx\nVmHWM:\t  90 kB\nVmRSS:\t  80 kB\nRssShmem:\t 4 kB\n";
        assert_eq!(resident(status), Some([80 << 10, 4 << 10, 90 << 10]));
        assert_eq!(resident("VmRSS:\t8 kB\n"), Some([8 << 10, 0, 8 << 10]));
        assert_eq!(resident("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(resident("VmRSS:\t18446744073709551615 kB\n"), None);
    }

    #[test]
    fn cpus_are_counted() {
        assert_eq!(listed("0-3,8\n"), Some(5));
        assert_eq!(listed("0"), Some(1));
        assert_eq!((listed(""), listed("3-1"), listed("a-b")), (None, None, None));
        assert_eq!(listed("0-18446744073709551615"), None);
    }

    #[test]
    fn this_process_has_what_it_touched() {
        let (pid, began) = (std::process::id(), trace::sys::start_time());
        let (_, before) = look(pid, began).unwrap();
        const BYTES: usize = 32 << 20;
        let mut touched = vec![0u8; BYTES];
        touched.iter_mut().step_by(4096).for_each(|b| *b = 1);
        let (_, after) = look(pid, began).unwrap();
        std::hint::black_box(&touched);
        let gained = after[0].saturating_sub(before[0]);
        assert!(gained > BYTES as u64 / 4 * 3, "{before:?} {after:?}");
        assert!(after[2] >= after[0] && after[1] <= after[0] && after[3] > before[3]);
        assert_eq!(look(pid, began + 1), None, "another one of the same number");
        assert!(cpus(pid).unwrap().starts_with("may run on "));
    }
}
