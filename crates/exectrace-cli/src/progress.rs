//! A bar that says how far a long read has come.
//!
//! 1. It is drawn on standard error, after a second, and is gone when the reading ends.
//! 2. It is drawn only where nobody else draws: standard error is a terminal, and standard output
//!    is no pipe, behind which a pager may own that terminal. Where standard output is the terminal
//!    too, the bar goes for good before the first line of output.

use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// Reads that are shorter need no bar.
const AFTER: Duration = Duration::from_secs(1);

/// How often it is drawn anew: often enough to look alive, too seldom to cost anything.
const EVERY: Duration = Duration::from_millis(100);

const OF_FILE: &str =
    "{spinner} reading {bytes} of {total_bytes} [{bar:30}] {bytes_per_sec}, {eta}";
const OF_STREAM: &str = "{spinner} reading {bytes}, {bytes_per_sec}";

/// The bar, or what keeps it from being drawn.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    may_draw: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of a read that begins now.
    pub fn new() -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|v| v == "dumb");
        let may_draw = io::stderr().is_terminal() && !dumb && !is_pipe();
        Progress { began: Instant::now(), may_draw, bar: None }
    }

    /// So many bytes were read, of so many where that is known.
    pub fn update(&mut self, bytes: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            return bar.set_position(bytes);
        }
        if !self.may_draw || self.began.elapsed() < AFTER {
            return;
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let template = if total.is_some() { OF_FILE } else { OF_STREAM };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("#>-").tick_chars("|/-\\ "));
        }
        // So that speed and time left count from the beginning of the read.
        let bar = bar.with_elapsed(self.began.elapsed());
        bar.set_position(bytes);
        bar.enable_steady_tick(EVERY);
        self.bar = Some(bar);
    }

    /// Whether a bar stands on the terminal.
    pub fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes the bar away while something else is written to the terminal.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away for good.
    pub fn end(&mut self) {
        self.may_draw = false;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether standard output goes to another program; where that cannot be told, it may.
fn is_pipe() -> bool {
    let kind = |file: File| Some(file.metadata().ok()?.file_type());
    let own = io::stdout().as_fd().try_clone_to_owned().ok();
    own.and_then(|fd| kind(File::from(fd))).is_none_or(|t| t.is_fifo() || t.is_socket())
}
