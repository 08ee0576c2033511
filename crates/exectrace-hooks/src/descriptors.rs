//! What descriptors are: said once in the trace for each, when a recorded call first names it, and
//! again when its number was given to another one.
//!
//! 1. A number that the program got or gave back through a hook is unknown again.
//! 2. Nothing here opens a descriptor; the system calls are our own, so they are no events.

use std::ffi::c_char;
use std::ffi::c_int;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddrV4;
use std::net::SocketAddrV6;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use trace::block;

use crate::calls;
use crate::raw;

/// Higher ones are never described.
const FDS: usize = 1 << 16;
/// Its kind was asked for.
const ASKED: u8 = 1;
/// What is written there may release a reader: a pipe, a socket, an eventfd.
const RELEASES: u8 = 2;
/// The trace says what it is.
const DESCRIBED: u8 = 4;
/// One of a pair of sockets that this process made.
const PAIR: u8 = 8;
/// It has places to seek, as a file has: its calls wait for no other thread.
const PLAIN: u8 = 16;
/// It was opened by a path: what eventfds and their like say of places means nothing.
const OPENED: u8 = 32;
/// By that path it is likely to be a file.
const LIKELY: u8 = 64;

static KNOWN: [AtomicU8; FDS] = [const { AtomicU8::new(0) }; FDS];

/// The number means something else from here on.
#[inline]
pub fn forget(fd: c_int) {
    if let Some(known) = usize::try_from(fd).ok().and_then(|fd| KNOWN.get(fd))
        && known.load(Relaxed) != 0
    {
        known.store(0, Relaxed);
    }
}

/// The number means what was opened by a path just now, or nothing where that failed.
///
/// # Safety
/// - `path` is what the kernel has opened, where that did not fail.
#[inline]
pub unsafe fn opened(fd: c_int, path: *const c_char) {
    if let Some(known) = usize::try_from(fd).ok().and_then(|fd| KNOWN.get(fd)) {
        // SAFETY: it did not fail.
        let is_file = unsafe { is_path_of_files(path) };
        known.store(if is_file { OPENED | LIKELY } else { OPENED }, Relaxed);
    }
}

/// Whether a path leads to a file as a rule, not to a device or into the kernel.
///
/// # Safety
/// - It ends in a zero.
#[inline]
unsafe fn is_path_of_files(path: *const c_char) -> bool {
    let begins = |with: &[u8]| {
        // SAFETY: whatever stood before was no zero.
        with.iter().enumerate().all(|(at, byte)| unsafe { *path.wrapping_add(at) } as u8 == *byte)
    };
    !(begins(b"/dev/") || begins(b"/proc/") || begins(b"/sys/"))
}

/// All numbers from this one up to that one are unknown.
pub fn forget_range(from: u32, to: u32) {
    let to = (to as usize).min(FDS - 1);
    for known in KNOWN.iter().take(to + 1).skip(from as usize) {
        if known.load(Relaxed) != 0 {
            known.store(0, Relaxed);
        }
    }
}

/// Whether what is written there may release somebody.
#[inline]
pub fn releases(fd: u64) -> bool {
    kind(fd) & RELEASES != 0
}

/// Whether it is a file, or like one.
#[inline]
pub fn is_plain(fd: u64) -> bool {
    kind(fd) & PLAIN != 0
}

/// The same for a read. What was opened by a path counts as a file until a call on it took long:
/// to ask would cost a program that opens many files as much as all else that is done for these.
#[inline]
pub fn is_plain_so_far(fd: u64) -> bool {
    let known = KNOWN.get(fd as usize).map_or(0, |known| known.load(Relaxed));
    known & (ASKED | LIKELY) == LIKELY || is_plain(fd)
}

#[inline]
fn kind(fd: u64) -> u8 {
    let Some(known) = KNOWN.get(fd as usize) else { return 0 };
    match known.load(Relaxed) {
        now if now & ASKED != 0 => now,
        _ => ask(fd, known),
    }
}

#[cold]
fn ask(fd: u64, known: &AtomicU8) -> u8 {
    let is_opened = known.load(Relaxed) & OPENED != 0;
    let kind = match is_opened && can_seek(fd) {
        true => ASKED | PLAIN,
        false => kind_by_type(fd),
    };
    known.fetch_or(kind, Relaxed);
    kind
}

/// Asks for less than `fstat` does, which a program that opens many files would notice.
fn can_seek(fd: u64) -> bool {
    let from_here = [fd as usize, 0, libc::SEEK_CUR as usize, 0, 0, 0];
    // SAFETY: moves by nothing; no memory is passed.
    unsafe { raw::system_call(libc::SYS_lseek as usize, from_here) >= 0 }
}

fn kind_by_type(fd: u64) -> u8 {
    match kind_of(fd) {
        None => 0,
        // Eventfds and their like have no type at all.
        Some(libc::S_IFIFO | libc::S_IFSOCK | 0) => ASKED | RELEASES,
        Some(libc::S_IFREG) => ASKED | PLAIN,
        Some(_) => ASKED,
    }
}

/// The type of file, as `stat` has it.
fn kind_of(fd: u64) -> Option<libc::mode_t> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    let arguments = [fd as usize, (&raw mut about).addr(), 0, 0, 0, 0];
    // SAFETY: the struct is writable.
    let r = unsafe { raw::system_call(libc::SYS_fstat as usize, arguments) };
    (r >= 0).then_some(about.st_mode & libc::S_IFMT)
}

/// Says in the trace what it is, once.
#[inline]
pub fn describe(fd: u64) {
    if let Some(known) = KNOWN.get(fd as usize)
        && known.load(Relaxed) & DESCRIBED == 0
    {
        say(fd, known);
    }
}

#[cold]
fn say(fd: u64, known: &AtomicU8) {
    known.fetch_or(DESCRIBED, Relaxed);
    // It took long, and may not be the file that it was taken for.
    let releases = releases(fd);
    let mut link = Text::default();
    let _ = write!(link, "/proc/self/fd/{fd}\0");
    let mut target = Text::default();
    let room = [libc::AT_FDCWD as usize, link.at(), target.at(), target.bytes.len(), 0, 0];
    // SAFETY: a string that ends in a zero, and a writable buffer of this length.
    let n = unsafe { raw::system_call(libc::SYS_readlinkat as usize, room) };
    target.len = n.clamp(0, target.bytes.len() as isize) as usize;
    if target.text().starts_with(b"socket:") {
        let mut text = Text::default();
        socket(fd as c_int, &mut text);
        if text.len != 0 {
            return block::descriptor(fd, text.text());
        }
    }
    if releases && target.text().starts_with(b"/") {
        // Not to be taken for a file: two ends of one name are one pipe.
        let mut text = Text::default();
        text.push(b"fifo ");
        text.push(target.text());
        return block::descriptor(fd, text.text());
    }
    if target.len != 0 {
        block::descriptor(fd, target.text());
    }
}

/// Says that these two are one pair of sockets, which have no names to know each other by.
pub fn describe_pair(fds: [c_int; 2]) {
    for (own, other) in [(fds[0], fds[1]), (fds[1], fds[0])] {
        let known = usize::try_from(own).ok().and_then(|own| KNOWN.get(own));
        if let Some(known) = known {
            known.fetch_or(DESCRIBED | PAIR, Relaxed);
            let mut text = Text::default();
            let _ = write!(text, "unix pair:{own} -> pair:{other}");
            block::descriptor(own as u64, text.text());
        }
    }
}

/// Says that the one waits for the other, where that is a pipe, an eventfd or one of a pair of
/// sockets: what the program itself writes there ends its waits.
pub fn describe_watched(poll: c_int, fd: c_int) {
    let Some(known) = usize::try_from(fd).ok().and_then(|fd| KNOWN.get(fd)) else { return };
    // Other sockets are many, and what comes in there is seldom the program's own.
    let is_other = || kind_of(fd as u64).is_none_or(|kind| kind == libc::S_IFSOCK);
    if known.load(Relaxed) & PAIR == 0 && is_other() {
        return;
    }
    if releases(fd as u64) {
        describe(fd as u64);
        let mut text = Text::default();
        let _ = write!(text, "anon_inode:[eventpoll] with {fd}");
        block::descriptor(calls::fd(poll), text.text());
    }
}

/// A text of bounded length on the stack.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text { bytes: [0; 512], len: 0 }
    }
}

impl Text {
    fn at(&mut self) -> usize {
        self.bytes.as_mut_ptr().expose_provenance()
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..][..n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// A socket: its type, its own address and the other side's.
fn socket(fd: c_int, to: &mut Text) {
    let (mut kind, mut len) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET as usize, libc::SO_TYPE as usize);
    let out = [(&raw mut kind).addr(), (&raw mut len).addr()];
    let arguments = [fd as usize, level, name, out[0], out[1], 0];
    // SAFETY: both places are writable.
    unsafe { raw::system_call(libc::SYS_getsockopt as usize, arguments) };
    let Some((own, own_len)) = address(libc::SYS_getsockname, fd) else { return };
    let family = u16::from_ne_bytes([own[0], own[1]]);
    let name = match (c_int::from(family), kind) {
        (libc::AF_UNIX, _) => "unix",
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => "tcp",
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => "udp",
        (libc::AF_NETLINK, _) => "netlink",
        _ => "socket",
    };
    let _ = write!(to, "{name}");
    render(&own[..own_len], to);
    if let Some((peer, peer_len)) = address(libc::SYS_getpeername, fd) {
        to.push(b" ->");
        render(&peer[..peer_len], to);
    }
}

fn address(call: libc::c_long, fd: c_int) -> Option<([u8; 128], usize)> {
    let mut bytes = [0u8; 128];
    let mut len = bytes.len() as libc::socklen_t;
    let arguments = [fd as usize, bytes.as_mut_ptr().addr(), (&raw mut len).addr(), 0, 0, 0];
    // SAFETY: both places are writable, the first for the length that the second says.
    let r = unsafe { raw::system_call(call as usize, arguments) };
    (r == 0).then_some((bytes, (len as usize).min(128)))
}

/// An address of the kernel's as text, behind a blank; nothing for one that says nothing.
fn render(address: &[u8], to: &mut Text) {
    let part = |from: usize, n: usize| address.get(from..from + n);
    let Some(&[a, b]) = part(0, 2) else { return };
    let port = part(2, 2).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]));
    match c_int::from(u16::from_ne_bytes([a, b])) {
        libc::AF_INET => {
            if let Some(&[a, b, c, d]) = part(4, 4) {
                let _ = write!(to, " {}", SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port));
            }
        }
        libc::AF_INET6 => {
            if let Some(Ok(octets)) = part(8, 16).map(<[u8; 16]>::try_from) {
                let ip = Ipv6Addr::from(octets);
                let _ = write!(to, " {}", SocketAddrV6::new(ip, port, 0, 0));
            }
        }
        libc::AF_UNIX => match &address[2..] {
            // An abstract name begins with a zero.
            [0, name @ ..] if !name.is_empty() => {
                to.push(b" @");
                to.push(name);
            }
            path => {
                let path = path.split(|b| *b == 0).next().unwrap_or(&[]);
                if !path.is_empty() {
                    to.push(b" ");
                    to.push(path);
                }
            }
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::sync::MutexGuard;
    use std::sync::PoisonError;

    /// What is known of numbers is one for all tests, and what they open and close goes by no hook.
    fn nothing_is_known() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        forget_range(0, u32::MAX);
        alone
    }

    fn text_of(fd: &impl AsRawFd) -> String {
        let mut text = Text::default();
        socket(fd.as_raw_fd(), &mut text);
        String::from_utf8_lossy(text.text()).into_owned()
    }

    #[test]
    fn sockets_say_both_sides() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listens) = TcpListener::bind(host) else {
                println!("skipped: no {host}");
                continue;
            };
            let there = listens.local_addr().unwrap();
            assert_eq!(text_of(&listens), format!("tcp {there}"));
            let connects = TcpStream::connect(there).unwrap();
            let here = connects.local_addr().unwrap();
            assert_eq!(text_of(&connects), format!("tcp {here} -> {there}"));
        }
        let path = std::env::temp_dir().join(format!("exectrace-sock-{}", std::process::id()));
        let listens = UnixListener::bind(&path).unwrap();
        assert_eq!(text_of(&listens), format!("unix {}", path.display()));
        let connects = UnixStream::connect(&path).unwrap();
        assert_eq!(text_of(&connects), format!("unix -> {}", path.display()));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_may_release_a_reader_is_known_until_it_is_closed() {
        let _alone = nothing_is_known();
        let (reads, writes) = std::io::pipe().unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (w, f) = (writes.as_raw_fd(), file.as_raw_fd());
        assert!(releases(w as u64) && releases(w as u64) && !releases(f as u64));
        assert!(is_plain(f as u64) && is_plain(f as u64) && !is_plain(w as u64));
        assert!(!releases(FDS as u64) && !releases(u64::MAX));
        // SAFETY: gives one of our numbers another meaning.
        assert_eq!(unsafe { libc::dup2(f, w) }, w);
        assert!(releases(w as u64), "nobody has said that it is another one");
        forget(w);
        assert!(!releases(w as u64) && is_plain(w as u64));
        forget(-1);
        forget(c_int::MAX);
        forget_range(3, u32::MAX);
        assert_eq!(KNOWN[f as usize].load(Relaxed), 0);
        drop((reads, writes, file));
    }

    #[test]
    fn what_is_opened_by_a_path_is_like_a_file_where_it_has_places() {
        let _alone = nothing_is_known();
        let fifo = std::env::temp_dir().join(format!("exectrace-fifo-{}", std::process::id()));
        let path = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: a string that ends in a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let open = |path: &str| {
            let opened_as = std::fs::File::options().read(true).write(true).open(path);
            let file = opened_as.unwrap();
            let name = std::ffi::CString::new(path).unwrap();
            // SAFETY: the path that was opened.
            unsafe { opened(file.as_raw_fd(), name.as_ptr()) };
            let fd = file.as_raw_fd() as u64;
            assert_eq!(is_plain_so_far(fd), !path.starts_with("/dev/pt"), "{path}");
            // A call on it took long, and it was described.
            describe(fd);
            assert_eq!(is_plain_so_far(fd), is_plain(fd), "{path}");
            // Once more: as it was kept.
            assert_eq!((is_plain(fd), releases(fd)), (is_plain(fd), releases(fd)));
            (is_plain(fd), releases(fd))
        };
        assert_eq!(open("/dev/zero"), (true, false));
        assert_eq!(open(fifo.to_str().unwrap()), (false, true));
        // A terminal.
        assert_eq!(open("/dev/ptmx"), (false, false));
        std::fs::remove_file(&fifo).unwrap();
        // Opened by no path: an eventfd lets itself be sought, to no end.
        // SAFETY: makes a descriptor.
        let event = unsafe { libc::eventfd(0, 0) };
        forget(event);
        assert_eq!((is_plain(event as u64), releases(event as u64)), (false, true));
        // SAFETY: the descriptor made above.
        assert_eq!(unsafe { libc::close(event) }, 0);
        // SAFETY: nothing was opened.
        unsafe { opened(-1, std::ptr::null()) };
    }
}
