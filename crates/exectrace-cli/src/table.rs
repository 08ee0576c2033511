//! Tables for people, as wide as there is room.
//!
//! Where a terminal, or `COLUMNS`, says how wide, a table first leaves out the columns that matter
//! least, then cuts texts in the middle. Without such a width, in a file or a pipe, nothing is left
//! out or cut.

use unicode_width::UnicodeWidthChar;
use unicode_width::UnicodeWidthStr;

use crate::failure::Failure;
use crate::output::Out;
use crate::output::Style;

/// Blanks between columns.
const GAP: usize = 2;

/// What stands where something was cut out.
const CUT: &str = "..";

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub head: &'static str,
    /// Whether it stands to the right, as numbers do.
    right: bool,
    /// The greatest is left out first; 0 never.
    spare: u8,
    /// What remains of a text at least; 0 where it is never cut.
    least: usize,
    /// Whether the end of a text goes first, as of a list; otherwise its middle.
    is_list: bool,
}

/// A column of numbers that is never left out.
pub const fn number(head: &'static str) -> Column {
    Column { head, right: true, spare: 0, least: 0, is_list: false }
}

/// A column of texts that are cut where there is no room, to `least` at the shortest.
pub const fn text(head: &'static str, least: usize) -> Column {
    Column { head, right: false, spare: 0, least, is_list: false }
}

/// A column of lists, as [`text`], but cut at the end.
pub const fn list(head: &'static str, least: usize) -> Column {
    Column { head, right: false, spare: 0, least, is_list: true }
}

impl Column {
    /// The same; left out where there is no room, the greatest `spare` first.
    pub const fn spare(self, spare: u8) -> Column {
        Column { spare, ..self }
    }
}

/// A table. Texts in it are escaped already.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table of these columns.
    pub fn new(columns: [Column; N]) -> Table<N> {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Prints it. Columns without any text are left out.
    pub fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let widths = self.widths(out.width());
        let heads = self.columns.map(|column| column.head.to_owned());
        out.styled(Style::Dim, &self.line(&heads, &widths))?;
        for row in &self.rows {
            out.text(&self.line(row, &widths))?;
        }
        Ok(())
    }

    /// The width of each column; `None` of one that is left out.
    fn widths(&self, room: Option<usize>) -> [Option<usize>; N] {
        let mut widths: [Option<usize>; N] = std::array::from_fn(|i| {
            let widest = self.rows.iter().map(|row| row[i].width()).max().unwrap_or(0);
            (widest > 0).then(|| widest.max(self.columns[i].head.width()))
        });
        let Some(room) = room else { return widths };
        let least = |i: usize, width: usize| match self.columns[i].least {
            0 => width,
            least => width.min(least.max(self.columns[i].head.width())),
        };
        while sum(&widths, least) > room {
            let there = (0..N).filter(|i| widths[*i].is_some() && self.columns[*i].spare > 0);
            let Some(spare) = there.max_by_key(|i| self.columns[*i].spare) else { break };
            widths[spare] = None;
        }
        // What is too much is taken from the widest column first, as far as it may be cut.
        while let too_much @ 1.. = sum(&widths, |_, width| width).saturating_sub(room) {
            let may = |i: &usize| widths[*i].is_some_and(|width| width > least(*i, width));
            let Some(widest) = (0..N).filter(may).max_by_key(|i| widths[*i]) else { break };
            let width = widths[widest].unwrap_or(0);
            let others = (0..N).filter(may).filter(|i| *i != widest);
            let next = others.filter_map(|i| widths[i]).max().unwrap_or(0);
            let step = (width - least(widest, width)).min((width - next).max(1)).min(too_much);
            widths[widest] = Some(width - step);
        }
        widths
    }

    fn line(&self, cells: &[String; N], widths: &[Option<usize>; N]) -> String {
        let mut line = String::new();
        for ((cell, width), column) in cells.iter().zip(widths).zip(&self.columns) {
            let Some(width) = *width else { continue };
            if !line.is_empty() {
                line.extend(std::iter::repeat_n(' ', GAP));
            }
            let cell = cut(cell, width, column.is_list);
            let blanks = std::iter::repeat_n(' ', width.saturating_sub(cell.width()));
            if column.right {
                line.extend(blanks);
                line.push_str(&cell);
            } else {
                line.push_str(&cell);
                line.extend(blanks);
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        line
    }
}

fn sum<const N: usize>(widths: &[Option<usize>; N], of: impl Fn(usize, usize) -> usize) -> usize {
    let all: usize = widths.iter().enumerate().filter_map(|(i, w)| Some(of(i, (*w)?) + GAP)).sum();
    all.saturating_sub(GAP)
}

/// A text in this many columns: what is too much is cut off its end, or out of its middle.
fn cut(text: &str, width: usize, at_end: bool) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(CUT.len());
    let back = if at_end { 0 } else { room / 2 };
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > room - back {
            break;
        }
        out.push(c);
    }
    out.push_str(CUT);
    let (mut from, mut used) = (text.len(), 0);
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > back {
            break;
        }
        from = at;
    }
    out.push_str(&text[from..]);
    out
}

/// Bytes of a text in a report, which has a bound, while names and paths have none.
const SHORTENED: usize = 120;

/// A text, or the beginning and the end of one that is too long for a report.
pub fn shortened(text: &str) -> String {
    if text.len() <= SHORTENED {
        return text.to_owned();
    }
    let half = SHORTENED / 2;
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let to = ends.take_while(|end| *end <= half).last();
    let from = text.char_indices().map(|(at, _)| at).find(|at| *at >= text.len() - half);
    format!("{}{CUT}{}", &text[..to.unwrap_or(0)], &text[from.unwrap_or(text.len())..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] =
        [number("n"), number("rare").spare(2), text("name", 6), number("max").spare(1)];

    fn lines(room: Option<usize>, rows: &[[&str; 4]]) -> Vec<String> {
        let mut table = Table::new(COLUMNS);
        rows.iter().for_each(|row| table.row(row.map(str::to_owned)));
        let widths = table.widths(room);
        table.rows.iter().map(|row| table.line(row, &widths)).collect()
    }

    #[test]
    fn columns_go_before_texts_are_cut() {
        let rows = [["1", "22", "a_name_of_a_place", "7"], ["100", "2", "b", "700"]];
        let all = ["  1    22  a_name_of_a_place    7\n", "100     2  b                  700\n"];
        assert_eq!(lines(None, &rows), all);
        assert_eq!(lines(Some(33), &rows), all);
        // 32: one too few, so the name gives one.
        assert_eq!(lines(Some(32), &rows)[0], "  1    22  a_name_..a_place    7\n");
        assert_eq!(lines(Some(22), &rows)[0], "  1    22  a_..ce    7\n");
        assert_eq!(lines(Some(21), &rows)[0], "  1  a_nam..lace    7\n");
        assert_eq!(lines(Some(16), &rows)[0], "  1  a_..ce    7\n");
        assert_eq!(lines(Some(15), &rows)[0], "  1  a_na..lace\n");
        // Nothing is left to give.
        assert_eq!(lines(Some(3), &rows)[0], "  1  a_..ce\n");
    }

    #[test]
    fn long_texts_keep_both_ends() {
        assert_eq!(shortened(&"a".repeat(120)), "a".repeat(120));
        let long = format!("begin{}end", "x".repeat(4000));
        let cut = shortened(&long);
        assert!(cut.starts_with("beginxx") && cut.ends_with("xxend"), "{cut}");
        assert_eq!(cut.len(), 60 + 2 + 60);
        // Three bytes each: 59 and 61 are no boundaries.
        let wide = shortened(&"\u{6f22}".repeat(100));
        assert_eq!(wide, format!("{0}..{0}", "\u{6f22}".repeat(20)));
        let odd = shortened(&format!("a{}b", "\u{6f22}".repeat(100)));
        assert_eq!(odd.len(), 58 + 2 + 58);
    }

    #[test]
    fn empty_columns_are_left_out() {
        let rows = [["1", "", "a", ""], ["2", "", "", ""]];
        assert_eq!(lines(None, &rows), ["1  a\n", "2\n"]);
    }

    #[test]
    fn wide_characters_count_twice() {
        let wide = "\u{6f22}".repeat(20);
        let rows = [["1", "2", wide.as_str(), "3"], ["1", "2", "plain", "3"]];
        for room in 12..60 {
            for line in lines(Some(room), &rows) {
                assert!(line.trim_end().width() <= room.max(11), "{room}: {line:?}");
            }
        }
        assert_eq!(cut(&wide, 9, false), "\u{6f22}\u{6f22}..\u{6f22}");
        assert_eq!(cut("abcdefgh", 8, false), "abcdefgh");
        assert_eq!(cut("abcdefgh", 7, false), "abc..gh");
        assert_eq!(cut("abcdefgh", 7, true), "abcde..");
    }
}
