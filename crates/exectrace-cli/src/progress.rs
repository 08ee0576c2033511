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

use indicatif::BinaryBytes;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// Reads that are shorter need no bar.
const AFTER: Duration = Duration::from_secs(1);

/// How often it is drawn anew: often enough to look alive, too seldom to cost anything.
const EVERY: Duration = Duration::from_millis(100);

/// The bar takes what room the terminal has.
const OF_FILE: &str = "{spinner} reading [{wide_bar}] {msg}";
const OF_STREAM: &str = "{spinner} reading {msg}";

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
        let elapsed = self.began.elapsed();
        if self.bar.is_none() {
            if !self.may_draw || elapsed < AFTER {
                return;
            }
            // Hidden until it knows what to say: a bar begins with what it says for good.
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
            let template = if total.is_some() { OF_FILE } else { OF_STREAM };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("#>-").tick_chars("|/-\\ "));
            }
            self.bar = Some(bar);
        }
        let Some(bar) = &self.bar else { return };
        bar.set_message(message(bytes, total, elapsed));
        bar.set_position(bytes);
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            bar.enable_steady_tick(EVERY);
        }
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

/// How much was read, how fast, and how long the rest takes at that speed.
fn message(bytes: u64, total: Option<u64>, elapsed: Duration) -> String {
    let a_second = (bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let speed = format!("{}/s", BinaryBytes(a_second));
    let Some(total) = total else { return format!("{}, {speed}", BinaryBytes(bytes)) };
    // A file that grows while it is read has more than it had.
    let left = total.saturating_sub(bytes).checked_div(a_second).unwrap_or(0);
    let of = BinaryBytes(total.max(bytes));
    format!("{} of {of}, {speed}, {left} s left", BinaryBytes(bytes))
}

/// Whether standard output goes to another program; where that cannot be told, it may.
fn is_pipe() -> bool {
    let kind = |file: File| Some(file.metadata().ok()?.file_type());
    let own = io::stdout().as_fd().try_clone_to_owned().ok();
    own.and_then(|fd| kind(File::from(fd))).is_none_or(|t| t.is_fifo() || t.is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bar_says() {
        let mib = |n: u64| n << 20;
        let second = Duration::from_secs(1);
        assert_eq!(message(mib(64), None, second), "64.00 MiB, 64.00 MiB/s");
        let of = message(mib(100), Some(mib(300)), 2 * second);
        assert_eq!(of, "100.00 MiB of 300.00 MiB, 50.00 MiB/s, 4 s left");
        let grown = message(mib(3), Some(mib(2)), second);
        assert_eq!(grown, "3.00 MiB of 3.00 MiB, 3.00 MiB/s, 0 s left");
        assert_eq!(message(0, Some(5), Duration::ZERO), "0 B of 5 B, 0 B/s, 0 s left");
    }
}
