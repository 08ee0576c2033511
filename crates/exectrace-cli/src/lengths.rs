//! Lengths of time by name: what `spans` and `tasks` add up and print.

use serde_json::json;
use trace_analyze::Bucket;
use trace_analyze::Latencies;
use trace_analyze::Name;
use trace_analyze::NameId;
use trace_analyze::Names;
use trace_analyze::Percentile;

use crate::failure::Failure;
use crate::filter;
use crate::filter::Pattern;
use crate::json;
use crate::output::Out;
use crate::output::Style;
use crate::output::safe;
use crate::time;
use crate::time::count;

/// What is said of percentiles where they are explained.
pub const PERCENTILES: &str = "\
Percentiles are nearest ranks: the p-th of n lengths is the one at place ceil(n * p) when they are
sorted, so it is a length that occurred. They are exact for up to 1,024 lengths of a name; beyond,
rounded up by less than 1/1000. Sums, counts and the longest are exact always.";

/// Widest bar of a histogram.
const BAR_WIDTH: usize = 50;

/// Most lines of a histogram before three buckets become one.
const LINES_MAX: usize = 12;

/// What is known of a name's lengths.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// From beginning to end.
    pub lengths: Latencies,
    /// What of it is its own: of a span its self time, of a task the time entered.
    pub own_ns: u64,
    /// Without an end.
    pub open: u64,
    /// With an end, without a beginning.
    pub began_unseen: u64,
}

impl Row {
    /// All that occurred.
    pub fn count(&self) -> u64 {
        self.lengths.count() + self.open + self.began_unseen
    }

    /// The percentiles that everybody asks for, and the longest.
    pub fn quantiles(&self) -> Option<[u64; 4]> {
        let asked = [Percentile::P50, Percentile::P90, Percentile::P99];
        let [p50, p90, p99] = self.lengths.percentiles(asked)?;
        Some([p50, p90, p99, self.lengths.max_ns()?])
    }
}

/// Rows by name, of the names that are asked for.
#[derive(Debug, Default)]
pub struct ByName {
    patterns: Vec<Pattern>,
    wanted: Vec<Option<bool>>,
    rows: Vec<Option<Box<Row>>>,
}

impl ByName {
    /// No rows yet; names are asked for by patterns, all without any.
    pub fn new(patterns: &[Pattern]) -> ByName {
        ByName { patterns: patterns.to_vec(), ..ByName::default() }
    }

    /// Whether a name is asked for.
    pub fn wants(&mut self, names: &Names, id: NameId) -> bool {
        if self.wanted.len() <= id.index() {
            self.wanted.resize(id.index() + 1, None);
        }
        let text = || names.get(id).text.as_deref();
        *self.wanted[id.index()].get_or_insert_with(|| filter::is_named(&self.patterns, text()))
    }

    /// The row of a name.
    pub fn row(&mut self, id: NameId) -> &mut Row {
        if self.rows.len() <= id.index() {
            self.rows.resize(id.index() + 1, None);
        }
        self.rows[id.index()].get_or_insert_default()
    }

    /// All rows, the one with the greatest sum first.
    pub fn sorted<'a>(&'a self, names: &'a Names) -> Vec<(&'a Name, NameId, &'a Row)> {
        let known = names.iter().zip(&self.rows);
        let rows = known.filter_map(|((id, name), row)| Some((name, id, row.as_deref()?)));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| {
            let key = |row: &Row| (row.lengths.total_ns(), row.count());
            key(b.2).cmp(&key(a.2)).then_with(|| a.0.text.cmp(&b.0.text))
        });
        rows
    }
}

/// A name for people.
pub fn name_text(name: &Name, id: NameId) -> String {
    match &name.text {
        Some(text) => safe(text),
        None if id == NameId::BEYOND => "(names beyond 4,096)".to_owned(),
        None => "(name not in the trace)".to_owned(),
    }
}

/// Where the first place with a name stands.
pub fn place_text(name: &Name) -> String {
    let mut text = safe(&name.file);
    if text.is_empty() {
        return text;
    }
    if name.line > 0 {
        text.push_str(&format!(":{}", name.line));
    }
    if name.sites > 1 {
        text.push_str(&format!(" and {} more", count(u64::from(name.sites) - 1)));
    }
    text
}

/// A row as JSON; `own` is the key of its own time.
pub fn row_json(name: &Name, id: NameId, row: &Row, own: &str) -> serde_json::Value {
    let lengths = &row.lengths;
    let quantiles = row.quantiles();
    let quantile = |i: usize| quantiles.map(|q| q[i]);
    let buckets: Vec<_> = lengths.buckets().map(|b| json!([b.from_ns, b.to_ns, b.count])).collect();
    let mut value = json!({
        "name": name.text.as_deref().map(json::lossy),
        "count": lengths.count(),
        "open": row.open,
        "began_unseen": row.began_unseen,
        "total_ns": lengths.total_ns(),
        "min_ns": lengths.min_ns(),
        "p50_ns": quantile(0),
        "p90_ns": quantile(1),
        "p99_ns": quantile(2),
        "max_ns": quantile(3),
        "percentiles": if lengths.is_exact() { "exact" } else { "rounded" },
        "buckets": buckets,
        "file": (!name.file.is_empty()).then(|| json::lossy(&name.file)),
        "line": (name.line > 0).then_some(name.line),
        "sites": name.sites,
    });
    value[own] = json!(row.own_ns);
    if id == NameId::BEYOND {
        value["beyond_limit"] = json!(true);
    }
    value
}

/// How lengths are spread, a line for each bucket.
pub fn histogram(lengths: &Latencies, out: &mut Out) -> Result<(), Failure> {
    let buckets = merged(lengths.buckets().collect());
    let most = buckets.iter().map(|b| b.count).max().unwrap_or(0);
    let room = out.width().map_or(BAR_WIDTH, |width| width.saturating_sub(34).min(BAR_WIDTH));
    for bucket in buckets {
        let [from, to] = [bucket.from_ns, bucket.to_ns].map(edge_text);
        let long = u128::from(bucket.count) * room as u128;
        // Where there is one, one sees it.
        let bar = "#".repeat(long.div_ceil(u128::from(most.max(1))) as usize);
        out.text(&format!("{from:>9} .. {to:>6}  "))?;
        out.styled(Style::Strong, &bar)?;
        let blanks = room - bar.len();
        out.put(format_args!("{:blanks$}  {}\n", "", count(bucket.count)))?;
    }
    Ok(())
}

/// Three buckets in one where there are too many: a power of ten each.
fn merged(buckets: Vec<Bucket>) -> Vec<Bucket> {
    if buckets.len() <= LINES_MAX {
        return buckets;
    }
    let mut decades: Vec<Bucket> = Vec::new();
    for bucket in buckets {
        let decade = bucket.from_ns.checked_ilog10();
        match decades.last_mut().filter(|last| last.from_ns.checked_ilog10() == decade) {
            Some(last) => (last.to_ns, last.count) = (bucket.to_ns, last.count + bucket.count),
            None => decades.push(bucket),
        }
    }
    decades
}

/// An edge of a bucket: whole units, as edges are.
fn edge_text(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    format!("{} {name}", ns / unit)
}

/// Says of what more there is, and how to see it.
pub fn left_out(all: usize, shown: usize, what: &str, out: &mut Out) -> Result<(), Failure> {
    if shown >= all {
        return Ok(());
    }
    let more = time::counted((all - shown) as u64, &format!("more {what}"));
    out.styled(Style::Dim, &format!("{more}; --limit {all} shows all\n"))
}
