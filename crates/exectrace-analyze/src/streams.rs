//! Which descriptors are ends of one stream, as far as the trace says what they are: what is
//! written to one end releases who reads at the other.
//!
//! 1. Two ends belong together where their texts say so: the same pipe, one eventfd, two sockets of
//!    which each names the other. Where a text leaves it open, nothing is tied.
//! 2. Memory is bounded by [`ENDS_MAX`].

use std::collections::HashMap;

/// Most descriptors, and most ends, that are kept.
const ENDS_MAX: usize = 1 << 16;
/// Most polls that wait for one end.
const POLLS_MAX: usize = 64;

/// What the descriptors of a process are.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// For each descriptor the end that is read there, and the one that is written to.
    told: HashMap<u64, (u64, u64)>,
    names: HashMap<String, u64>,
    /// For each end the polls that wait for it.
    watched: HashMap<u64, Vec<u64>>,
}

impl Streams {
    /// From here on the descriptor is this.
    pub fn tell(&mut self, fd: u64, text: &str) {
        if let Some(of) = text.strip_prefix("anon_inode:[eventpoll] with ") {
            let end = of.parse().ok().and_then(|of| self.read_at(of));
            let polls = end.map(|end| self.watched.entry(end).or_default());
            if let Some(polls) = polls.filter(|p| p.len() < POLLS_MAX && !p.contains(&fd)) {
                polls.push(fd);
            }
            return;
        }
        let ends = names(fd, text).and_then(|(reads, writes)| {
            let reads = self.number(reads)?;
            Some((reads, self.number(writes)?))
        });
        match ends {
            Some(ends) if self.told.len() < ENDS_MAX || self.told.contains_key(&fd) => {
                self.told.insert(fd, ends);
            }
            _ => {
                self.told.remove(&fd);
            }
        }
    }

    /// The end that is read at this descriptor.
    pub fn read_at(&self, fd: u64) -> Option<u64> {
        self.told.get(&fd).map(|ends| ends.0)
    }

    /// The end at which is read what is written to this descriptor.
    pub fn written_by(&self, fd: u64) -> Option<u64> {
        self.told.get(&fd).map(|ends| ends.1)
    }

    /// The polls that wait for this end.
    pub fn polls(&self, end: u64) -> impl Iterator<Item = u64> {
        self.watched.get(&end).into_iter().flatten().copied()
    }

    fn number(&mut self, name: String) -> Option<u64> {
        let next = self.names.len() as u64;
        if self.names.len() >= ENDS_MAX && !self.names.contains_key(&name) {
            return None;
        }
        Some(*self.names.entry(name).or_insert(next))
    }
}

/// What the end is called that is read at a descriptor, and the one that is written to there.
fn names(fd: u64, text: &str) -> Option<(String, String)> {
    if text.starts_with("pipe:[") || text.starts_with("fifo /") {
        return Some((text.to_owned(), text.to_owned()));
    }
    // An eventfd has no name of its own: those that share one number at a time are one.
    if text == "anon_inode:[eventfd]" {
        let name = format!("eventfd {fd}");
        return Some((name.clone(), name));
    }
    let (kind, rest) = text.split_once(' ')?;
    if !matches!(kind, "tcp" | "udp" | "unix") {
        return None;
    }
    // A listening socket has no other side, and many clients of a path share a name of none.
    let (own, other) = rest.split_once(" -> ")?;
    let is_named = !own.is_empty() && !other.is_empty();
    is_named.then(|| (text.to_owned(), format!("{kind} {other} -> {own}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether what is written to the one is read at the other.
    fn tied(from: (u64, &str), to: (u64, &str)) -> bool {
        let mut s = Streams::default();
        s.tell(from.0, from.1);
        s.tell(to.0, to.1);
        s.written_by(from.0).is_some_and(|end| s.read_at(to.0) == Some(end))
    }

    #[test]
    fn ends_that_name_each_other_are_tied() {
        assert!(tied((4, "pipe:[77]"), (3, "pipe:[77]")));
        assert!(!tied((4, "pipe:[77]"), (3, "pipe:[78]")));
        assert!(tied((4, "fifo /run/a"), (3, "fifo /run/a")));
        assert!(!tied((4, "fifo /run/a"), (3, "fifo /run/b")));
        assert!(!tied((4, "/run/a"), (3, "/run/a")), "a file");
        assert!(tied((5, "anon_inode:[eventfd]"), (5, "anon_inode:[eventfd]")));
        assert!(!tied((5, "anon_inode:[eventfd]"), (6, "anon_inode:[eventfd]")));
        let (here, there) = ("tcp 127.0.0.1:80 -> 127.0.0.1:9", "tcp 127.0.0.1:9 -> 127.0.0.1:80");
        assert!(tied((3, here), (9, there)) && tied((9, there), (3, here)));
        assert!(!tied((3, here), (9, here)), "who writes there does not read it there");
        assert!(!tied((3, "udp 127.0.0.1:80 -> 127.0.0.1:9"), (9, there)));
        assert!(tied((3, "unix pair:3 -> pair:4"), (4, "unix pair:4 -> pair:3")));
    }

    #[test]
    fn what_leaves_it_open_is_not() {
        let unnamed = ["tcp 127.0.0.1:80", "unix -> /run/x", "unix /run/x ->", "unix ->", "/tmp/f"];
        for text in unnamed.into_iter().chain(["", "socket:[5]", "anon_inode:[timerfd]"]) {
            assert!(!tied((3, text), (3, text)), "{text}");
        }
        let mut s = Streams::default();
        s.tell(7, "anon_inode:[eventpoll] with 3");
        assert!(s.watched.is_empty(), "nobody knows what 3 is");
        s.tell(3, "pipe:[1]");
        s.tell(7, "anon_inode:[eventpoll] with 3");
        let end = s.read_at(3).unwrap();
        assert_eq!(s.polls(end).collect::<Vec<_>>(), [7]);
        s.tell(3, "/etc/passwd");
        assert_eq!((s.read_at(3), s.written_by(3)), (None, None));
        for fd in 0..2 * ENDS_MAX as u64 {
            s.tell(fd, &format!("pipe:[{fd}]"));
        }
        assert!(s.told.len() <= ENDS_MAX && s.names.len() <= ENDS_MAX);
    }
}
