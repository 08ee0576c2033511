//! Runs one job of one peer in a process of its own, and takes what it prints.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::peers::Peer;

/// A job that takes longer is ended.
const JOB_MAX: Duration = Duration::from_secs(180);

/// How much of each thing is done.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Events of a flood.
    pub events: u64,
    /// How long the time of an event is measured, in milliseconds.
    pub millis: u64,
}

/// The folder that all jobs work in: on tmpfs where there is one, so that no disk is measured.
pub struct Place(PathBuf);

impl Place {
    /// Makes it.
    pub fn new() -> Result<Place, String> {
        let shm = Path::new("/dev/shm");
        let temp = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let dir = temp.join(format!("exectrace-compare-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Place(dir))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The session daemon of LTTng, for as long as it is needed.
pub struct Daemon(Option<Child>);

impl Daemon {
    /// Starts it. One that runs already is used, and this one ends at once.
    pub fn start(place: &Place) -> Daemon {
        let mut command = Command::new("lttng-sessiond");
        command.arg("--no-kernel").env("LTTNG_HOME", &place.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().ok();
        std::thread::sleep(Duration::from_secs(1));
        Daemon(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It ends its consumers when it is asked to end, and not when it is killed.
            // SAFETY: a signal to a child that was not waited for yet, so the number is its own.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens on, for the peer that listens.
fn free_port() -> String {
    let found = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
    found.map_or(8086, |a| a.port()).to_string()
}

/// What a job measured, by name.
pub type Measured = Vec<(String, f64)>;

/// Runs one job; gives what it measured, or what went wrong.
pub fn run(
    program: &Path,
    peer: &Peer,
    job: &str,
    amount: Amount,
    place: &Place,
) -> Result<Measured, String> {
    let dir = place.0.join("out");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut command = Command::new(program);
    command.arg(job).arg(&dir).arg(peer.how);
    command.args([amount.events.to_string(), amount.millis.to_string()]);
    command.env("TRACY_PORT", free_port());
    command.env("LTTNG_HOME", &place.0).env("LTTNG_UST_ALLOW_BLOCKING", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let done = wait(command.spawn().map_err(|e| format!("{}: {e}", program.display()))?);
    let _ = fs::remove_dir_all(&dir);
    let (said, complained) = done.map_err(|e| format!("{job}: {e}"))?;
    let lines = said.lines().filter_map(|l| l.split_once(' '));
    let measured: Measured =
        lines.filter_map(|(name, v)| Some((name.to_owned(), v.parse().ok()?))).collect();
    match complained {
        Some(complaint) => Err(format!("{job}: {complaint}")),
        None => Ok(measured),
    }
}

/// Waits for the end of a job; gives what it said, and what it complained of if it failed.
fn wait(mut child: Child) -> Result<(String, Option<String>), String> {
    let mut out = child.stdout.take().ok_or("no output")?;
    let mut err = child.stderr.take().ok_or("no output")?;
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let until = Instant::now() + JOB_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if Instant::now() > until {
            // SAFETY: the group of a child that was not waited for yet, which it leads.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            let _ = child.wait();
            return Err(format!("was ended after {} s", JOB_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = out.join().map_err(|_| "output")?.map_err(|e| e.to_string())?;
    let complained = err.join().map_err(|_| "output")?.map_err(|e| e.to_string())?;
    let last = complained.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("");
    Ok((said, (!status.success()).then(|| format!("{status}; {last}"))))
}
