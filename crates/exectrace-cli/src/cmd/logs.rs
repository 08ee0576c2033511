//! `exectrace logs`: what the program said, in the order of time.

use std::fmt::Write;
use std::ops::ControlFlow;

use clap::Args;
use regex::bytes::Regex;
use trace::encode::field::Text;
use trace::encode::schema::Class;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::Value;
use trace_decode::event::SiteEvent;
use unicode_width::UnicodeWidthStr;

use crate::args::Common;
use crate::cmd;
use crate::cmd::Keep;
use crate::failure::Failure;
use crate::filter;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::kinds;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_prose;
use crate::output::push_safe;
use crate::time;
use crate::value;
use crate::value::Json;
use crate::verdict::Verdict;

/// Widths of the columns of threads and categories; longer categories push the line to the right.
const THREAD_WIDTH: usize = 16;
const CATEGORY_WIDTH: usize = 12;

/// The column of threads where there is little room, and from where on there is more. Longer names
/// push the line to the right too.
const THREAD_WIDTH_NARROW: usize = 11;
const WIDE_FROM: usize = 100;

const HELP: &str = "\
The text is never cut for the terminal. A text that was cut when it was recorded ends in .. and its
length. With --wall, times are those of the wall clock, in UTC.

Each JSON line has ts_ns (since the session's start), wall (RFC 3339), session, thread (the trace's
number), tid (the kernel's), thread_name, category, text, task, fields, file, line; and cut, the
text's length, where it was cut.

Examples:
  exectrace logs trace.bin | less
  exectrace logs --category http --grep 'POST|PUT' trace.bin
  exectrace logs --grep '(?i)error' --from 1.2s trace.bin
  exectrace logs --task 17 --json trace.bin | jq -r .text";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only logs of this category; * and ? stand for other characters (may be repeated)
    #[arg(long, visible_alias = "name", value_name = "PATTERN")]
    category: Vec<Pattern>,
    /// Only logs whose text has a match of this regular expression (may be repeated)
    #[arg(long, value_name = "RE", value_parser = regex)]
    grep: Vec<Regex>,
    /// Only logs of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Only logs of the task with this id (may be repeated)
    #[arg(long, value_name = "ID")]
    task: Vec<u64>,
    #[command(flatten)]
    window: Window,
    /// Stop after so many logs
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show the time of the wall clock
    #[arg(long)]
    wall: bool,
}

fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|e| e.to_string())
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    if options.limit == Some(0) {
        return Ok(verdict);
    }
    let (mut session, mut printed, mut headed) = (0, 0, 0);
    cmd::merged(&mut input, &mut verdict, out, Keep::NoStacks, |item, out| {
        match item {
            Item::SessionBegin(_) => session += 1,
            Item::Event(event) => {
                let Event::Site(site) = event.event() else {
                    return Ok(ControlFlow::Continue(()));
                };
                if site.site.class() != Some(Class::Log) {
                    return Ok(ControlFlow::Continue(()));
                }
                let log = Log::of(event, &site);
                if log.is_wanted(options) {
                    if options.common.json {
                        log.json(session, out)?;
                    } else {
                        if session > 1 && headed != session {
                            headed = session;
                            heading(session, event.session(), out)?;
                        }
                        log.text(options.wall, out)?;
                    }
                    printed += 1;
                }
            }
            _ => {}
        }
        let enough = options.limit.is_some_and(|limit| printed >= limit);
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(verdict)
}

/// Tells the logs of a later session from those before.
fn heading(number: usize, session: &Session, out: &mut Out) -> Result<(), Failure> {
    let mut line = format!("session {number}");
    if let Some(info) = session.info() {
        line.push_str(": ");
        push_safe(&info.program, &mut line);
        let _ = write!(line, ", pid {}", info.pid);
    }
    line.push('\n');
    out.styled(Style::Dim, &line)
}

/// A log.
struct Log<'a, 'e> {
    event: &'e Timed<'a>,
    site: &'e SiteEvent<'a>,
    category: Option<Text<'a>>,
    text: Text<'a>,
    task: u64,
}

impl<'a, 'e> Log<'a, 'e> {
    fn of(event: &'e Timed<'a>, site: &'e SiteEvent<'a>) -> Log<'a, 'e> {
        let text = match site.field("text") {
            Some(Value::Text(text)) => text,
            _ => Text { bytes: b"", cut_from: None },
        };
        let (category, task) = (event.tables().string(site.site.name), kinds::task_of(event));
        Log { event, site, category, text, task }
    }

    fn is_wanted(&self, options: &Options) -> bool {
        let event = self.event;
        (options.thread.is_empty() || options.thread.contains(&event.thread))
            && options.window.holds(event.ts_ns)
            && filter::is_named(&options.category, self.category.map(|c| c.bytes))
            && (options.task.is_empty() || options.task.contains(&self.task))
            && (options.grep.is_empty()
                || options.grep.iter().any(|re| re.is_match(self.text.bytes)))
    }

    /// Its fields, but for those that every log has.
    fn fields(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> {
        let mut has_text = false;
        self.site.fields().filter(move |(name, value)| match value {
            Value::Text(_) if !has_text && *name == b"text" => {
                has_text = true;
                false
            }
            Value::Stack(_) => false,
            Value::Task(_) => *name != b"task",
            _ => true,
        })
    }

    fn text(&self, wall: bool, out: &mut Out) -> Result<(), Failure> {
        let event = self.event;
        let mut line = String::new();
        let session = event.session();
        match session.clock().wall_ns(event.ts_ns).filter(|_| wall) {
            Some(ns) => line.push_str(&time::rfc3339(ns)),
            None => _ = write!(line, "{:>12}", time::ms(event.ts_ns)),
        }
        line.push_str("  ");
        let is_wide = out.width().is_none_or(|width| width >= WIDE_FROM);
        let width = if is_wide { THREAD_WIDTH } else { THREAD_WIDTH_NARROW };
        let mut thread = format!("T{}", event.thread);
        if let Some(known) = session.thread(u64::from(event.thread))
            && !known.name.is_empty()
        {
            thread.push(' ');
            push_safe(&known.name, &mut thread);
        }
        push_padded(&thread, width, &mut line);
        let task = if self.task == 0 { "-".to_owned() } else { self.task.to_string() };
        let _ = write!(line, "  {task:>6}  ");
        let mut category = String::new();
        push_safe(self.category.map_or(b"?", |c| c.bytes), &mut category);
        out.begin(Style::Dim, &mut line);
        push_padded(&category, CATEGORY_WIDTH, &mut line);
        out.end(Style::Dim, &mut line);
        line.push_str("  ");
        push_prose(self.text.bytes, &mut line);
        if let Some(length) = self.text.cut_from {
            let _ = write!(line, "..{length}");
        }
        for (name, value) in self.fields() {
            line.push(' ');
            push_safe(name, &mut line);
            line.push('=');
            value::push(&mut line, &value, session, event.tables());
        }
        if event.lane != 0 {
            line.push_str(" [nested]");
        }
        if event.late {
            line.push_str(" [late]");
        }
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        out.text(&line)
    }

    fn json(&self, number: usize, out: &mut Out) -> Result<(), Failure> {
        let (event, session, tables) = (self.event, self.event.session(), self.event.tables());
        let thread = session.thread(u64::from(event.thread));
        let mut fields = serde_json::Map::new();
        for (name, value) in self.fields() {
            let value = serde_json::to_value(Json { value, session, tables }).unwrap_or_default();
            // Of two fields of one name the first counts.
            fields.entry(json::lossy(name)).or_insert(value);
        }
        let file = tables.string(self.site.site.file).map(|file| json::lossy(file.bytes));
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("ts_ns", event.ts_ns);
            o.put("wall", session.clock().wall_ns(event.ts_ns).map(time::rfc3339));
            o.put("session", number);
            o.put("thread", event.thread);
            o.put("tid", thread.map(|t| t.tid).filter(|tid| *tid != 0));
            o.put("thread_name", thread.map(|t| json::lossy(&t.name)));
            o.put("category", self.category.map(json::text));
            o.put("text", json::text(self.text));
            if let Some(length) = self.text.cut_from {
                o.put("cut", length);
            }
            o.put("task", (self.task != 0).then_some(self.task));
            o.put("fields", fields);
            o.put("file", file.filter(|file| !file.is_empty()));
            o.put("line", Some(self.site.site.line).filter(|line| *line != 0));
            if event.lane != 0 {
                o.put("lane", "side");
            }
            if event.late {
                o.put("late", true);
            }
        });
        bytes.push(b'\n');
        out.bytes(&bytes)
    }
}

fn push_padded(text: &str, width: usize, line: &mut String) {
    line.push_str(text);
    line.extend(std::iter::repeat_n(' ', width.saturating_sub(text.width())));
}
