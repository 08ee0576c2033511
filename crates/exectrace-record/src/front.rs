//! The command in two processes: a *front*, for which whoever typed the command waits, and a
//! *back*, which starts the program and records it. So the command can end with the program's
//! status while what the program left behind is recorded on.
//!
//! 1. The front does nothing but wait and hand signals on: it is ready before anything heavy.
//! 2. They talk by a socket without a file, and each looks who is at its other end: the kernel says
//!    the process number. Nobody else is listened to.
//! 3. The front says numbers of signals, a byte each; the back says one byte at most, the status
//!    that the front ends with at once.
//! 4. Where there can be no front, one process does both.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;

use rustix::process::Pid;

use crate::signals;
use crate::signals::Heard;

/// The variable by which a back knows its front's socket, and which signals were ignored when that
/// began, a bit each. It is not in the program's environment.
pub const VARIABLE: &str = "EXECTRACE_RECORD_FRONT";

/// What a front has told.
pub fn told() -> Option<(OsString, u64)> {
    let told = env::var_os(VARIABLE)?;
    let (name, ignored) = told.to_str()?.split_once(' ')?;
    Some((name.into(), u64::from_str_radix(ignored, 16).ok()?))
}

/// What this process is of the command.
#[derive(Debug)]
pub enum Part {
    /// The front, and it has waited.
    Front(Waited),
    /// The back of this front.
    Back(Front),
    /// Both: there can be no front.
    Both,
}

/// What a front has seen of its back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It ended with this status, or goes on behind and says that the program has.
    Status(u8),
    /// This signal ended the back: what it recorded is not complete.
    Lost {
        /// The back's process number.
        back: u32,
        /// The signal.
        signal: i32,
    },
}

/// Divides the command: as the front this returns when the command may end.
pub fn divide() -> Part {
    match told() {
        Some((name, _)) => Front::reach(&name).map_or(Part::Both, Part::Back),
        // Not by a front, but not to be had twice.
        None if env::var_os(VARIABLE).is_some() => Part::Both,
        None => Waiting::begin().map_or(Part::Both, |front| Part::Front(front.wait())),
    }
}

/// The front, seen from its back.
#[derive(Debug)]
pub struct Front(Option<UnixStream>);

impl Front {
    fn reach(name: &OsStr) -> Option<Front> {
        let address = SocketAddr::from_abstract_name(name.as_bytes()).ok()?;
        let stream = UnixStream::connect_addr(&address).ok()?;
        stream.set_nonblocking(true).ok()?;
        let is_parent = peer(&stream).is_some_and(|pid| Some(pid) == rustix::process::getppid());
        is_parent.then_some(Front(Some(stream)))
    }

    /// The signals that the front was sent since this was last asked.
    pub fn signals(&mut self) -> Vec<i32> {
        let mut said = [0u8; 64];
        let Some(stream) = &mut self.0 else { return Vec::new() };
        match stream.read(&mut said) {
            Ok(0) => self.0 = None,
            Ok(n) => return said[..n].iter().map(|b| i32::from(*b)).collect(),
            Err(_) => {}
        }
        Vec::new()
    }

    /// Whether it still waits.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Has it end with this status, now.
    pub fn end(self, status: u8) {
        if let Some(mut stream) = self.0 {
            // It may have been killed.
            let _ = stream.write_all(&[status]);
        }
    }
}

/// Who is at the other end.
fn peer(stream: &UnixStream) -> Option<Pid> {
    rustix::net::sockopt::socket_peercred(stream).ok().map(|peer| peer.pid)
}

/// A front that waits.
struct Waiting {
    back: Child,
    listener: UnixListener,
    stream: Option<UnixStream>,
    /// Nothing more will be said: the back is about to end.
    is_closed: bool,
    heard: Heard,
    /// Signals that the back has not been told of yet.
    signals: Vec<u8>,
}

impl Waiting {
    /// Starts the back.
    fn begin() -> io::Result<Waiting> {
        // Before the back is there, which must not end unseen.
        let heard = Heard::begin()?;
        let number = || trace::sys::random_u64();
        let name = format!("exectrace-{:016x}{:016x}", number(), number());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        let back = start_back(&name)?;
        Ok(Waiting { back, listener, stream: None, is_closed: false, heard, signals: Vec::new() })
    }

    fn wait(mut self) -> Waited {
        loop {
            self.sleep();
            self.signals.extend(self.heard.take());
            // Before what it says is read: its last word comes before its end.
            let ended = self.back.try_wait();
            if let Some(status) = self.talk() {
                return Waited::Status(status);
            }
            match ended {
                Ok(None) => {}
                Ok(Some(status)) => return self.waited(status),
                // Somebody else has taken its status: nothing more is known.
                Err(_) => return Waited::Status(1),
            }
        }
    }

    /// Until there is a signal, the back's end among them, or a word from the back.
    fn sleep(&self) {
        let (stream, listener) = (self.stream.as_ref(), &self.listener);
        self.heard.sleep(match stream {
            _ if self.is_closed => None,
            Some(stream) => Some(stream.as_fd()),
            None => Some(listener.as_fd()),
        });
    }

    /// Hands signals on, and reads what the back says: the status to end with.
    fn talk(&mut self) -> Option<u8> {
        while self.stream.is_none() {
            let Ok((stream, _)) = self.listener.accept() else { return None };
            let is_back = peer(&stream).is_some_and(|pid| pid == Pid::from_child(&self.back));
            if is_back && stream.set_nonblocking(true).is_ok() {
                self.stream = Some(stream);
            }
        }
        let stream = self.stream.as_mut().filter(|_| !self.is_closed)?;
        // Few bytes, for which there is room.
        let _ = stream.write_all(&std::mem::take(&mut self.signals));
        let mut word = [0u8];
        match stream.read(&mut word) {
            Ok(0) => self.is_closed = true,
            Ok(_) => return Some(word[0]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.is_closed = true,
        }
        None
    }

    fn waited(&self, status: ExitStatus) -> Waited {
        match status.signal() {
            Some(signal) => Waited::Lost { back: self.back.id(), signal },
            None => Waited::Status(status.code().unwrap_or(1) as u8),
        }
    }
}

/// Starts this program again, with the same arguments.
fn start_back(name: &str) -> io::Result<Child> {
    let mut args = env::args_os();
    let own = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let told = format!("{name} {:x}", signals::ignored_before());
    let start =
        |program: &Path| Command::new(program).arg0(&own).args(&args).env(VARIABLE, &told).spawn();
    match env::current_exe().and_then(|program| start(&program)) {
        Ok(back) => Ok(back),
        // The file may have gone or been replaced; this is the one that runs.
        Err(_) => start(Path::new("/proc/self/exe")),
    }
}
