//! Standard output: buffered, coloured on terminals only, content to be cut by `head`.

use std::fmt;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal;
use std::io::Write;

use trace_decode::text;

use crate::failure::Failure;
use crate::input::Input;
use crate::progress::Progress;

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

/// Appends text of a trace for people, escaped.
pub fn push_safe(bytes: &[u8], line: &mut String) {
    let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    // Nearly all text is plain, and then it is taken whole.
    match std::str::from_utf8(bytes) {
        Ok(whole) if bytes.iter().all(plain) => line.push_str(whole),
        _ => text::escape(bytes, line),
    }
}

/// Appends text of a trace that stands for itself, without quotes around it: escaped, but for
/// quotes in it.
pub fn push_prose(bytes: &[u8], line: &mut String) {
    for (i, part) in bytes.split(|b| *b == b'"').enumerate() {
        if i > 0 {
            line.push('"');
        }
        push_safe(part, line);
    }
}

/// Text of a trace for people, escaped.
pub fn safe(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_safe(bytes, &mut out);
    out
}

/// Narrowest width that output is made for.
const WIDTH_MIN: usize = 40;

/// Standard output, or what stands for it.
pub struct Out {
    to: BufWriter<Box<dyn Write>>,
    colours: bool,
    width: Option<usize>,
    is_terminal: bool,
    progress: Progress,
}

impl Out {
    /// Standard output, with colours where a person looks at it and has not refused them.
    pub fn stdout() -> Out {
        let stdout = io::stdout();
        Out::to(stdout.is_terminal(), Box::new(stdout.lock()))
    }

    /// Standard error, where standard output is another program's.
    pub fn stderr() -> Out {
        let stderr = io::stderr();
        Out::to(stderr.is_terminal(), Box::new(stderr.lock()))
    }

    fn to(is_terminal: bool, to: Box<dyn Write>) -> Out {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let colours = is_terminal && !refused && !dumb;
        let to = BufWriter::with_capacity(64 << 10, to);
        let width = width(is_terminal);
        Out { to, colours, width, is_terminal, progress: Progress::new() }
    }

    /// How wide output may be; `None` where nobody has said so, as for a file or a pipe.
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Shows how far the input was read, where that takes long.
    pub fn reading(&mut self, input: &Input) {
        self.progress.update(input.bytes_read(), input.bytes_total());
    }

    /// Runs what writes to standard error.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.progress.aside(write)
    }

    /// What is read has been read.
    pub fn read(&mut self) {
        self.progress.end();
    }

    /// Output comes: where it goes to the terminal, the bar has to go.
    fn make_way(&mut self) {
        if self.is_terminal && self.progress.is_drawn() {
            self.progress.end();
        }
    }

    /// Writes text that is already escaped.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes what a format gives, already escaped.
    pub fn put(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        self.make_way();
        self.to.write_fmt(text).map_err(Failure::output)
    }

    /// Writes bytes that are already safe.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.make_way();
        self.to.write_all(bytes).map_err(Failure::output)
    }

    /// Writes text in a style.
    pub fn styled(&mut self, style: Style, text: &str) -> Result<(), Failure> {
        let mut line = String::new();
        self.begin(style, &mut line);
        line.push_str(text);
        self.end(style, &mut line);
        self.text(&line)
    }

    /// Begins a style within a line.
    pub fn begin(&self, style: Style, line: &mut String) {
        if self.colours {
            line.push_str(style.code());
        }
    }

    /// Ends a style within a line.
    pub fn end(&self, style: Style, line: &mut String) {
        if self.colours && style != Style::Plain {
            line.push_str("\x1b[0m");
        }
    }

    /// Hands on what was written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::output)
    }

    /// Hands on what was written, for the last time.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.read();
        self.flush()
    }
}

/// The width that a person has asked for by `COLUMNS`, or that the terminal has.
fn width(is_terminal: bool) -> Option<usize> {
    // A terminal that does not know its size says 0.
    let is_width = |width: &usize| *width > 0;
    let asked: Option<usize> = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let own = || Some(usize::from(terminal_size::terminal_size()?.0.0)).filter(is_width);
    let width = asked.filter(is_width).or_else(|| is_terminal.then(own).flatten());
    width.map(|width| width.max(WIDTH_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_gives_what_the_long_one_does() {
        let mut checked = 0;
        for byte in 0..=255u8 {
            for bytes in [&[byte][..], &[b'a', byte, b'z']] {
                let (mut short, mut long) = (String::new(), String::new());
                push_safe(bytes, &mut short);
                text::escape(bytes, &mut long);
                assert_eq!(short, long);
                checked += 1;
            }
        }
        assert_eq!(checked, 512);
    }
}
