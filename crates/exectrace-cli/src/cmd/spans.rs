//! `exectrace spans`: where time went, by the names of spans.

use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;
use trace_analyze::Span;
use trace_analyze::Spans;
use trace_decode::Item;

use crate::args::Common;
use crate::cmd;
use crate::cmd::Keep;
use crate::failure::Failure;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::lengths;
use crate::lengths::ByName;
use crate::lengths::Row;
use crate::output::Out;
use crate::output::Style;
use crate::table;
use crate::table::Table;
use crate::time;
use crate::time::count;
use crate::verdict::Verdict;

/// Names shown to people who did not say how many: what fits a screen.
const LIMIT: usize = 15;

const HELP: &str = "\
The self time of a span is the time in which it was the innermost open span of its thread. With
--from and --to, spans count that were open at some time between, with their whole lengths. Spans
without an end, or whose beginning is not in the trace, are counted apart and have no length.

The JSON object has spans, a list of {name, count, total_ns, self_ns, min_ns, p50_ns, p90_ns,
p99_ns, max_ns, open, began_unseen, buckets (from, to, count), file, line, sites}, and ends_unknown,
too_deep, complete.

Examples:
  exectrace spans trace.bin                    the names that took longest
  exectrace spans --name 'read*' --thread 3 trace.bin
  exectrace spans --from 1.2s --to 1.5s trace.bin
  exectrace spans --json trace.bin | jq -r '.spans[] | [.name, .count, .p99_ns] | @tsv'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = format!("{}\n\n{HELP}", lengths::PERCENTILES))]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only spans of this name; * and ? stand for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    /// Only spans of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    #[command(flatten)]
    window: Window,
    /// How many names to show; 15 for people, all in JSON
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut spans = Spans::default();
    let mut all = ByName::new(&options.name);
    cmd::merged(&mut input, &mut verdict, out, Keep::NoStacks, |item, _| {
        let mut add = |names: &_, span: Span| {
            if is_wanted(options, &span) && all.wants(names, span.name) {
                add(all.row(span.name), &span);
            }
        };
        match item {
            Item::SessionBegin(_) => spans.begin_session(),
            Item::Event(event) => spans.event(event, &mut add),
            Item::SessionEnd(_) => spans.end_session(&mut add),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match options.common.json {
        true => json(options, &spans, &all, &verdict, out)?,
        false => people(options, &spans, &all, out)?,
    }
    Ok(verdict)
}

fn is_wanted(options: &Options, span: &Span) -> bool {
    let thread = options.thread.is_empty() || options.thread.contains(&span.thread);
    let (from, to) = (span.began_ns.unwrap_or(0), span.ended_ns.unwrap_or(u64::MAX));
    thread && options.window.overlaps(from, to)
}

fn add(row: &mut Row, span: &Span) {
    match (span.duration_ns(), span.ended_ns) {
        (Some(ns), _) => {
            row.lengths.add(ns);
            row.own_ns = row.own_ns.saturating_add(span.self_ns);
        }
        (None, Some(_)) => row.began_unseen += 1,
        (None, None) => row.open += 1,
    }
}

fn json(
    options: &Options,
    spans: &Spans,
    all: &ByName,
    verdict: &Verdict,
    out: &mut Out,
) -> Result<(), Failure> {
    let rows = all.sorted(&spans.names);
    let limit = options.limit.unwrap_or(usize::MAX);
    let shown = rows.iter().take(limit);
    let list: Vec<_> =
        shown.map(|(name, id, row)| lengths::row_json(name, *id, row, "self_ns")).collect();
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| {
        o.put("complete", verdict.is_complete());
        o.put("names", rows.len());
        o.put("ends_unknown", spans.ends_unknown());
        o.put("too_deep", spans.too_deep());
        o.put("spans", json!(list));
    });
    bytes.push(b'\n');
    out.bytes(&bytes)
}

fn people(options: &Options, spans: &Spans, all: &ByName, out: &mut Out) -> Result<(), Failure> {
    let rows = all.sorted(&spans.names);
    if rows.is_empty() {
        return out.text("no spans\n");
    }
    let own: u64 = rows.iter().fold(0, |sum, (_, _, row)| sum.saturating_add(row.own_ns));
    let mut table = Table::new([
        table::number("count"),
        table::number("open"),
        table::number("unseen"),
        table::number("total"),
        table::number("self"),
        table::number("self %").spare(3),
        table::number("min").spare(4),
        table::number("p50"),
        table::number("p90").spare(1),
        table::number("p99"),
        table::number("max"),
        table::text("span", 16),
        table::text("where", 24).spare(5),
    ]);
    let shown = rows.len().min(options.limit.unwrap_or(LIMIT));
    let some = |n: u64| if n > 0 { count(n) } else { String::new() };
    for (name, id, row) in &rows[..shown] {
        let quantile = |i: usize| row.quantiles().map_or("-".to_owned(), |q| time::short(q[i]));
        table.row([
            count(row.lengths.count()),
            some(row.open),
            some(row.began_unseen),
            time::short(row.lengths.total_ns()),
            time::short(row.own_ns),
            time::percent(row.own_ns, own),
            row.lengths.min_ns().map_or("-".to_owned(), time::short),
            quantile(0),
            quantile(1),
            quantile(2),
            quantile(3),
            lengths::name_text(name, *id),
            lengths::place_text(name),
        ]);
    }
    table.print(out)?;
    lengths::left_out(rows.len(), shown, "name", out)?;
    declare(spans, &rows.iter().map(|(_, _, row)| *row).collect::<Vec<_>>(), out)
}

/// Says what the table cannot show.
fn declare(spans: &Spans, rows: &[&Row], out: &mut Out) -> Result<(), Failure> {
    let sum = |of: fn(&Row) -> u64| rows.iter().fold(0u64, |all, row| all.saturating_add(of(row)));
    let mut say = |n: u64, what: &str, rest: &str| match n {
        0 => Ok(()),
        _ => out.styled(Style::Dim, &format!("{} {rest}\n", time::counted(n, what))),
    };
    say(sum(|row| row.open), "span", "without an end (open): no length, not in the percentiles")?;
    let rest = "that began before the trace or in what was lost (unseen): no length";
    say(sum(|row| row.began_unseen), "span", rest)?;
    say(spans.ends_unknown(), "end", "of spans that the trace does not know")?;
    say(spans.too_deep(), "span", "below 4,096 others: counted only here")
}
