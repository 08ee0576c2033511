//! `exectrace dump`: every batch and event as it stands in the file, as text.
//!
//! The text is the decoder's raw form, to the byte: other decoders are compared with it. Whether
//! the trace is complete is asked of the same scan as in the other commands.

use clap::Args;
use trace::encode::wire::Header;
use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_decode::clock::Clock;
use trace_decode::raw::Dump;

use crate::args::Common;
use crate::cmd;
use crate::failure::Failure;
use crate::filter;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::output::Out;
use crate::verdict::Verdict;

const HELP: &str = "\
Each JSON line has type (batch, event or damage) and text; those of batches have the header's fields
as well, those of events the number of their batch and their thread.

With --from and --to, timed events are printed without their batches. The file is read twice then,
for its clocks first, so that it cannot be standard input.

Examples:
  exectrace dump trace.bin | less
  exectrace dump --thread 2 --limit 100 trace.bin
  exectrace dump --kind Loss trace.bin
  exectrace dump --json trace.bin | jq 'select(.type == \"batch\") | .length'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only batches of this thread, 0 for those of none (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Only events of this kind, without their batches: SpanEnd, Loss, a site's name (repeatable)
    #[arg(long, value_name = "NAME")]
    kind: Vec<String>,
    /// Only events whose site has this name, as the line shows it, without their batches; * and ?
    /// stand for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    #[command(flatten)]
    window: Window,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let clocks = match options.window.is_all() {
        true => Vec::new(),
        false => clocks(options)?,
    };
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let (mut dump, mut scan) = (Dump::new(), Scan::new());
    let (mut printed, mut session) = (0, 0);
    let mut place = Place::default();
    loop {
        let live = input.is_live();
        let piece = input.next_piece()?;
        let at_end = piece.is_empty();
        if at_end {
            dump.finish();
            scan.finish();
        } else {
            dump.push(piece);
            scan.push(piece);
        }
        while let Some(item) = scan.next_item().map_err(|e| cmd::refused(&input, &e))? {
            match item {
                ScanItem::Damage(damage) => out.aside(|| verdict.damage(&damage)),
                ScanItem::SessionBegin(_) => session += 1,
                ScanItem::SessionEnd(s) => out.aside(|| verdict.session(session, s)),
                ScanItem::Batch(_) => {}
            }
        }
        loop {
            if options.limit.is_some_and(|limit| printed >= limit) {
                return Ok(verdict);
            }
            // What borrows the line cannot be asked for the header.
            let line = match dump.next_line().map_err(|e| cmd::refused(&input, &e))? {
                Some(line) => line.to_owned(),
                None => break,
            };
            place.meet(&line, dump.header());
            let is_then = options.window.is_all()
                || place.ns(&line, &clocks).is_some_and(|ns| options.window.holds(ns));
            if is_then && is_wanted(options, &line, dump.header()) {
                printed += 1;
                print(options.common.json, &line, &place, dump.header(), out)?;
            }
        }
        if at_end {
            return Ok(verdict);
        }
        out.reading(&input);
        if live {
            out.flush()?;
        }
    }
}

/// The clock of each session, and where the session begins.
fn clocks(options: &Options) -> Result<Vec<(u64, Clock)>, Failure> {
    let mut input = Input::open(&options.common.file)?;
    if input.is_live() {
        let why = "dump with --from and --to reads its input twice: expected a file".to_owned();
        return Err(Failure::Refused(why));
    }
    let (mut scan, mut clocks) = (Scan::new(), Vec::new());
    loop {
        let piece = input.next_piece()?;
        let at_end = piece.is_empty();
        if at_end {
            scan.finish();
        } else {
            scan.push(piece);
        }
        while let Some(item) = scan.next_item().map_err(|e| cmd::refused(&input, &e))? {
            if let ScanItem::SessionEnd(session) = item {
                clocks.push((session.offset(), session.clock().clone()));
            }
        }
        if at_end {
            return Ok(clocks);
        }
    }
}

/// Number and offset of the batch that the lines belong to, and the time of the newest event.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    batch: u64,
    offset: u64,
    ticks: u64,
}

impl Place {
    fn meet(&mut self, line: &str, header: Option<&Header>) {
        if let Some(delta) = line.strip_prefix("  +").and_then(|rest| rest.split(' ').next()) {
            self.ticks = self.ticks.saturating_add(delta.parse().unwrap_or(0));
        }
        let Some(rest) = line.strip_prefix("batch ") else { return };
        let mut words = rest.split(' ');
        let number = words.next().and_then(|n| n.parse().ok());
        let offset = words.next().and_then(|w| w.strip_prefix("offset=")?.parse().ok());
        if let (Some(batch), Some(offset)) = (number, offset) {
            *self = Place { batch, offset, ticks: header.map_or(0, |h| h.first_ticks) };
        }
    }

    /// The time of a timed event, since its session's start.
    fn ns(&self, line: &str, clocks: &[(u64, Clock)]) -> Option<u64> {
        let before = clocks.partition_point(|(offset, _)| *offset <= self.offset);
        let (_, clock) = clocks.get(before.checked_sub(1)?).filter(|_| line.starts_with("  +"))?;
        Some(clock.ns(self.ticks))
    }
}

/// An event's line without its delta.
fn event(line: &str) -> Option<&str> {
    let event = line.strip_prefix("  ")?;
    match event.strip_prefix('+') {
        Some(timed) => timed.split_once(' ').map(|(_, rest)| rest),
        None => Some(event),
    }
}

fn is_wanted(options: &Options, line: &str, header: Option<&Header>) -> bool {
    let thread = header.map_or(0, |h| h.thread);
    if !options.thread.is_empty() && !options.thread.contains(&thread) {
        return false;
    }
    if options.kind.is_empty() && options.name.is_empty() {
        return true;
    }
    let Some(event) = event(line) else { return false };
    let label = label(event);
    let is = |kind: &String| match label {
        Some(label) => label == kind,
        None => event.split(' ').next().is_some_and(|name| name.eq_ignore_ascii_case(kind)),
    };
    let kind = options.kind.is_empty() || options.kind.iter().any(is);
    kind && filter::is_named(&options.name, label.map(str::as_bytes))
}

/// The name of the site, or of the kind, that stands in an event's line, escaped.
fn label(event: &str) -> Option<&str> {
    let rest = event.strip_prefix("site ").or(event.strip_prefix("kind "))?;
    let label = rest.split_once(" \"").map_or("", |(_, label)| label);
    // A quote in the label has an odd number of backslashes before it.
    let mut escaped = false;
    let end = label.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    Some(label.get(..end?).unwrap_or_default())
}

fn print(
    as_json: bool,
    line: &str,
    place: &Place,
    header: Option<&Header>,
    out: &mut Out,
) -> Result<(), Failure> {
    if !as_json {
        out.text(line)?;
        return out.text("\n");
    }
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| match (event(line), header) {
        (Some(event), Some(header)) => {
            o.put("type", "event");
            o.put("batch", place.batch);
            o.put("thread", header.thread);
            o.put("text", event);
        }
        (None, Some(header)) if line.starts_with("batch ") => {
            o.put("type", "batch");
            o.put("batch", place.batch);
            o.put("offset", place.offset);
            put_header(o, header);
            o.put("text", line);
        }
        _ => {
            o.put("type", "damage");
            o.put("text", line);
        }
    });
    bytes.push(b'\n');
    out.bytes(&bytes)
}

fn put_header(o: &mut json::Entries<'_, '_>, header: &Header) {
    o.put("length", header.length);
    o.put("kind", header.kind);
    o.put("lane", header.lane);
    o.put("version", header.version);
    o.put("session", format!("{:016x}", header.session));
    o.put("epoch", header.epoch);
    o.put("generation", header.generation);
    o.put("thread", header.thread);
    o.put("sequence", header.sequence);
    o.put("first", header.first_ticks);
    o.put("last", header.last_ticks);
    o.put("count", header.count);
    o.put("flags", header.flags);
}
