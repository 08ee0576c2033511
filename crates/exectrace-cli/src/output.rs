//! Standard output: buffered, coloured on terminals only, content to be cut by `head`.

use std::fmt;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal;
use std::io::StdoutLock;
use std::io::Write;

use crate::failure::Failure;

/// What a stretch of text is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Headings and what is only there for order.
    Dim,
    /// What the eye looks for.
    Strong,
    /// What went wrong.
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Dim => "\x1b[2m",
            Style::Strong => "\x1b[1m",
            Style::Bad => "\x1b[31m",
        }
    }
}

/// Standard output.
pub struct Out {
    to: BufWriter<StdoutLock<'static>>,
    colours: bool,
}

impl Out {
    /// Standard output, with colours where a person looks at it and has not refused them.
    pub fn stdout() -> Out {
        let stdout = io::stdout();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let colours = stdout.is_terminal() && !refused && !dumb;
        Out { to: BufWriter::with_capacity(64 << 10, stdout.lock()), colours }
    }

    /// Writes text that is already escaped.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes what a format gives, already escaped.
    pub fn put(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        self.to.write_fmt(text).map_err(Failure::output)
    }

    /// Writes bytes that are already safe.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::output)
    }

    /// Writes text in a style.
    pub fn styled(&mut self, style: Style, text: &str) -> Result<(), Failure> {
        if !self.colours || style == Style::Plain {
            return self.text(text);
        }
        self.put(format_args!("{}{text}\x1b[0m", style.code()))
    }

    /// Hands on what was written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::output)
    }

    /// Hands on what was written, for the last time.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}
