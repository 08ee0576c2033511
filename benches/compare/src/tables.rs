//! What was measured, as text, as Markdown and as JSON.

use std::fmt::Write as _;

use crate::Row;

/// A table: a title, heads, and a row of cells for each peer.
struct Table {
    title: &'static str,
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

const NONE: &str = "-";

fn number(v: f64, places: usize) -> String {
    format!("{v:.places$}")
}

/// A time, and in what multiple of a counter read.
fn time(row: &Row, name: &str) -> String {
    let (ns, x) = (row.get(&format!("{name}_ns")), row.get(&format!("{name}_x")));
    match (ns, x) {
        (Some(ns), Some(x)) => format!("{} ({x:.2} x)", number(ns, if ns < 100.0 { 1 } else { 0 })),
        (Some(ns), None) => number(ns, if ns < 100.0 { 1 } else { 0 }),
        _ => NONE.into(),
    }
}

fn plain(row: &Row, name: &str, places: usize) -> String {
    row.get(name).map_or(NONE.into(), |v| number(v, places))
}

/// A share of the events that were attempted.
fn share(v: f64) -> String {
    if v == 0.0 { "0".into() } else { format!("{:.2} %", v * 100.0) }
}

/// What is missing from the file, and whether the peer knows.
fn lost(row: &Row, name: &str) -> String {
    let Some(lost) = row.get(&format!("{name}_lost")) else { return NONE.into() };
    match row.get(&format!("{name}_told")) {
        Some(told) if lost > 0.0 => format!("{} (told: {})", share(lost), share(told)),
        _ => share(lost),
    }
}

fn bytes(row: &Row, name: &str) -> String {
    let Some(bytes) = row.get(&format!("{name}_bytes")) else { return NONE.into() };
    match row.get(&format!("{name}_unpacked")) {
        Some(unpacked) => format!("{unpacked:.1} (packed {bytes:.1})"),
        None => number(bytes, 1),
    }
}

fn head(row: &Row) -> String {
    format!("{} {}", row.peer.name, row.version).trim().to_owned()
}

fn times(rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let mut cells = vec![head(row), plain(row, "off_instant_ns", 1)];
        cells.push(plain(row, "off_span_ns", 1));
        cells.extend(["on_instant", "on_span"].map(|n| time(row, n)));
        cells.push(plain(row, "on_instant_cpu_ns", 1));
        cells.push(plain(row, "on_span_cpu_ns", 1));
        cells.push(plain(row, "added_instant_ns", 1));
        cells.extend(["two_instant", "two_span"].map(|n| time(row, n)));
        cells
    };
    Table {
        title: "Time of one event on the thread that emits it, ns (x: of one counter read)",
        heads: &[
            "peer",
            "off: instant",
            "off: span",
            "on: instant",
            "on: span",
            "mean: instant",
            "mean: span",
            "added to work: instant",
            "two threads: instant",
            "two threads: span",
        ],
        rows: rows.iter().map(cells).collect(),
    }
}

fn floods(rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let time = row.least("flood_instant_ns");
        vec![
            head(row),
            time.map_or(NONE.into(), |ns| number(ns, 1)),
            time.map_or(NONE.into(), |ns| number(1000.0 / ns, 1)),
            plain(row, "flood_instant_cpu_ns", 1),
            plain(row, "flood_instant_process_ns", 1),
            lost(row, "flood_instant"),
            plain(row, "flood_instant_mib", 1),
            bytes(row, "flood_instant"),
            bytes(row, "flood_span"),
            bytes(row, "paced"),
            lost(row, "paced"),
        ]
    };
    let has = |row: &&Row| row.get("flood_instant_ns").is_some();
    Table {
        title: "A flood of instants from one thread, until the file is complete",
        heads: &[
            "peer",
            "ns an event",
            "M events/s",
            "CPU of the thread, ns",
            "CPU of the process, ns",
            "lost",
            "memory, MiB",
            "bytes an instant",
            "bytes a span",
            "bytes an instant, one each us",
            "lost, one each us",
        ],
        rows: rows.iter().filter(has).map(cells).collect(),
    }
}

fn readings(rows: &[Row]) -> Table {
    let mut cells = Vec::new();
    for row in rows {
        for name in row.measured.keys().filter(|n| n.starts_with("read_")) {
            let what = name.trim_start_matches("read_");
            cells.push(vec![head(row), what.into(), plain(row, name, 1)]);
        }
    }
    Table {
        title: "Reading the file of a flood of instants",
        heads: &["peer", "reader", "M events a second of CPU"],
        rows: cells,
    }
}

fn tables(rows: &[Row]) -> [Table; 3] {
    [times(rows), floods(rows), readings(rows)]
}

/// What to know of each row.
fn notes(rows: &[Row]) -> Vec<String> {
    let note = |row: &Row| {
        let mut note = format!("{}: {}", row.peer.name, row.peer.note);
        for failure in &row.failures {
            let _ = write!(note, "; FAILED: {failure}");
        }
        note
    };
    rows.iter().map(note).collect()
}

/// One counter read, the median over all rows.
fn unit(rows: &[Row]) -> String {
    let mut all: Vec<f64> = rows.iter().filter_map(|r| r.get("rdtsc_ns")).collect();
    all.sort_by(f64::total_cmp);
    let middle = all.get(all.len() / 2).copied().unwrap_or(f64::NAN);
    format!("One read of the counter, back to back, in the same processes: {middle:.2} ns.")
}

/// As text, for a terminal.
pub fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for table in tables(rows) {
        let mut widths: Vec<usize> = table.heads.iter().map(|h| h.chars().count()).collect();
        for row in &table.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let _ = writeln!(out, "{}\n", table.title);
        let heads: Vec<String> = table.heads.iter().map(|h| (*h).to_owned()).collect();
        for row in std::iter::once(&heads).chain(&table.rows) {
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match n {
                    0 => write!(out, "  {cell:<width$}"),
                    _ => write!(out, "  {cell:>width$}"),
                };
            }
            out.push('\n');
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{}\n", unit(rows));
    for note in notes(rows) {
        let _ = writeln!(out, "- {note}");
    }
    out
}

/// As Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::new();
    for table in tables(rows) {
        let _ = writeln!(out, "{}:\n\n| {} |", table.title, table.heads.join(" | "));
        let _ = writeln!(out, "|{}", "---|".repeat(table.heads.len()));
        for row in &table.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{}\n", unit(rows));
    for note in notes(rows) {
        let _ = writeln!(out, "- {note}");
    }
    out
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// As JSON: for each peer the values of all rounds, by name.
pub fn json(rows: &[Row]) -> String {
    let peer = |row: &Row| {
        let value = |v: &f64| if v.is_finite() { v.to_string() } else { "null".into() };
        let values = |v: &[f64]| v.iter().map(value).collect::<Vec<_>>().join(", ");
        let measured = row.measured.iter();
        let measured: Vec<String> =
            measured.map(|(name, v)| format!("      {}: [{}]", quoted(name), values(v))).collect();
        let failures: Vec<String> = row.failures.iter().map(|f| quoted(f)).collect();
        format!(
            "  {{\n    \"peer\": {},\n    \"version\": {},\n    \"note\": {},\n    \
             \"failures\": [{}],\n    \"measured\": {{\n{}\n    }}\n  }}",
            quoted(row.peer.name),
            quoted(&row.version),
            quoted(row.peer.note),
            failures.join(", "),
            measured.join(",\n"),
        )
    };
    format!("[\n{}\n]\n", rows.iter().map(peer).collect::<Vec<_>>().join(",\n"))
}
