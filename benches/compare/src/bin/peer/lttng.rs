//! LTTng-UST: tracepoints of C, a session daemon, and a consumer that writes. `compare` has started
//! the daemon.
//!
//! It has no spans: the nearest is two events. Threads wait where the buffers are full, so that
//! nothing is lost (`--blocking-timeout=inf`, and LTTNG_UST_ALLOW_BLOCKING set by `compare`).

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::Failure;
use crate::Finished;
use crate::Found;
use crate::Kind;
use crate::Peer;
use crate::Read;
use crate::measure::last_write;

unsafe extern "C" {
    fn compare_lttng_instants(n: u64);
    fn compare_lttng_spans(n: u64);
}

pub struct Recorder {
    session: Option<Session>,
}

struct Session {
    name: String,
    dir: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<String, Failure> {
    let done = Command::new(program).args(args).output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ");
        return Err(format!("{program} {}: {said}", args.join(" ")).into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

impl Peer for Recorder {
    fn off() -> Result<Self, Failure> {
        Ok(Recorder { session: None })
    }

    fn on(dir: &Path, _: &str) -> Result<Self, Failure> {
        let session = format!("compare-{}", std::process::id());
        let out = format!("--output={}", dir.to_str().ok_or("a path that is no text")?);
        run("lttng", &["--no-sessiond", "create", &session, &out])?;
        let of = format!("--session={session}");
        let channel = ["enable-channel", "--userspace", &of, "--subbuf-size=1M", "--num-subbuf=4"];
        let channel = [&channel[..], &["--blocking-timeout=inf", "bench"]].concat();
        run("lttng", &channel)?;
        run("lttng", &["enable-event", "--userspace", &of, "--channel=bench", "compare:*"])?;
        run("lttng", &["start", &session])?;
        Ok(Recorder { session: Some(Session { name: session, dir: dir.to_owned() }) })
    }

    fn instants(&self, n: u64) {
        // SAFETY: a loop over tracepoints, which may be called from any thread at any time.
        unsafe { compare_lttng_instants(n) }
    }

    fn spans(&self, n: u64) {
        // SAFETY: as above.
        unsafe { compare_lttng_spans(n) }
    }

    fn finish(self) -> Result<Finished, Failure> {
        if let Some(session) = self.session {
            // Each gives back some time after the consumer has written what was pending, so the
            // files are asked when that was.
            run("lttng", &["stop", &session.name])?;
            let complete = Some(last_write(&session.dir)?);
            run("lttng", &["destroy", &session.name])?;
            return Ok(Finished { complete, lost: None });
        }
        Ok(Finished::default())
    }

    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure> {
        let events = babeltrace(dir)?;
        Ok(Found { events: if kind == Kind::Span { events / 2 } else { events }, unpacked: None })
    }

    fn readers() -> &'static [(&'static str, Read)] {
        &[("babeltrace2", babeltrace)]
    }
}

/// How many events babeltrace2 counts.
fn babeltrace(dir: &Path) -> Result<u64, Failure> {
    let dir = dir.to_str().ok_or("a path that is no text")?;
    let counter = ["--component=sink.utils.counter", "--params=step=+0"];
    let said = run("babeltrace2", &[&["convert", dir], &counter[..]].concat())?;
    let line = said.lines().find(|l| l.contains("Event message"));
    let number = line.and_then(|l| l.split_whitespace().next()).ok_or("no count of events")?;
    Ok(number.replace(',', "").parse()?)
}
