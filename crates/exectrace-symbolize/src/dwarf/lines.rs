//! The line table of a unit: from an address to a file and a line.
//!
//! Its program is run once, to know which addresses each of its sequences covers; the rows of a
//! sequence are made when an address of it is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use gimli::CompleteLineProgram;
use gimli::LineSequence;

use crate::dwarf::Error;
use crate::dwarf::Result;
use crate::dwarf::covering;
use crate::dwarf::reader::PartReader;

/// Sequences of a unit. The largest programs have as many as functions.
const SEQUENCES_MAX: usize = 4 << 20;

/// Rows of a sequence.
const ROWS_MAX: usize = 16 << 20;

/// A line of source, its file by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the file in the line table.
    pub file: u64,
    /// The line; 0 where the code stands for none.
    pub line: u32,
}

/// The line table of a unit.
#[derive(Debug)]
pub struct Lines {
    program: CompleteLineProgram<PartReader>,
    /// By their start.
    sequences: Vec<LineSequence<PartReader>>,
    rows: RefCell<HashMap<usize, Rc<[Row]>>>,
    files: RefCell<HashMap<u64, Option<Rc<str>>>>,
}

/// From `address` to that of the next row.
#[derive(Clone, Copy, Debug)]
struct Row {
    address: u64,
    file: u32,
    line: u32,
}

impl Lines {
    /// Takes the program of a unit that has one, and runs it. `is_code` says whether code stands at
    /// an address: linkers leave the lines of what they have thrown away, at some address without.
    pub fn of(
        unit: &mut gimli::Unit<PartReader>,
        is_code: impl Fn(u64) -> bool,
    ) -> Result<Option<Lines>> {
        let Some(program) = unit.line_program.take() else { return Ok(None) };
        let (program, mut sequences) = program.sequences()?;
        sequences.retain(|s| s.start < s.end && is_code(s.start));
        if sequences.len() > SEQUENCES_MAX {
            return Err(Error::TooMany("lines"));
        }
        sequences.sort_by_key(|s| s.start);
        Ok(Some(Lines { program, sequences, rows: RefCell::default(), files: RefCell::default() }))
    }

    /// The addresses that it covers.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.sequences.iter().map(|s| (s.start, s.end))
    }

    /// Bytes of memory that it took when it was made, about.
    pub fn cost(&self) -> usize {
        let header = self.program.header();
        let files = size_of_val(header.file_names());
        let dirs = size_of_val(header.include_directories());
        files + dirs + self.sequences.len() * size_of::<LineSequence<PartReader>>()
    }

    /// The line at an address; adds to `cost` what it kept in memory.
    pub fn find(&self, address: u64, cost: &mut usize) -> Result<Option<Place>> {
        let mut found = covering(&self.sequences, address, |s| (s.start, s.end));
        let Some(index) = found.next() else { return Ok(None) };
        let known = self.rows.borrow().get(&index).cloned();
        let rows = match known {
            Some(rows) => rows,
            None => {
                let rows: Rc<[Row]> = self.run(&self.sequences[index])?.into();
                *cost += size_of_val(&*rows);
                self.rows.borrow_mut().insert(index, Rc::clone(&rows));
                rows
            }
        };
        let above = rows.partition_point(|row| row.address <= address);
        let row = above.checked_sub(1).and_then(|i| rows.get(i));
        Ok(row.map(|row| Place { file: row.file.into(), line: row.line }))
    }

    fn run(&self, sequence: &LineSequence<PartReader>) -> Result<Vec<Row>> {
        let mut rows = self.program.resume_from(sequence);
        let mut out: Vec<Row> = Vec::new();
        while let Some((_, row)) = rows.next_row()? {
            if row.end_sequence() {
                break;
            }
            let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0));
            let file = u32::try_from(row.file_index()).unwrap_or(u32::MAX);
            let row = Row { address: row.address(), file, line };
            match out.last_mut() {
                // Of several rows for one address, the last one counts.
                Some(last) if last.address == row.address => *last = row,
                Some(last) if last.address > row.address => {}
                _ => out.push(row),
            }
            if out.len() > ROWS_MAX {
                return Err(Error::TooMany("lines"));
            }
        }
        Ok(out)
    }

    /// The path of a file; adds to `cost` what it kept in memory.
    pub fn file(
        &self,
        sections: &gimli::Dwarf<PartReader>,
        unit: &gimli::Unit<PartReader>,
        number: u64,
        cost: &mut usize,
    ) -> Option<Rc<str>> {
        if let Some(known) = self.files.borrow().get(&number) {
            return known.clone();
        }
        let path: Option<Rc<str>> = self.path(sections, unit, number).ok().flatten().map(Rc::from);
        *cost += path.as_deref().map_or(0, str::len) + 64;
        self.files.borrow_mut().insert(number, path.clone());
        path
    }

    fn path(
        &self,
        sections: &gimli::Dwarf<PartReader>,
        unit: &gimli::Unit<PartReader>,
        number: u64,
    ) -> Result<Option<String>> {
        let header = self.program.header();
        let Some(file) = header.file(number) else { return Ok(None) };
        let text = |value| sections.attr_string(unit, value)?.text();
        let mut path = match &unit.comp_dir {
            Some(dir) => dir.text()?,
            None => String::new(),
        };
        // Directory 0 is that of the unit.
        if file.directory_index() != 0
            && let Some(dir) = file.directory(header)
        {
            join(&mut path, &text(dir)?);
        }
        join(&mut path, &text(file.path_name())?);
        Ok(Some(path))
    }
}

/// Goes from `path` to `to`, which may be relative to it.
fn join(path: &mut String, to: &str) {
    if to.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let joined = |parts: &[&str]| {
            let mut path = String::new();
            parts.iter().for_each(|part| join(&mut path, part));
            path
        };
        assert_eq!(joined(&["/build", "src", "main.rs"]), "/build/src/main.rs");
        assert_eq!(joined(&["/build/", "src/", "main.rs"]), "/build/src/main.rs");
        assert_eq!(joined(&["/build", "/usr/include", "stdio.h"]), "/usr/include/stdio.h");
        assert_eq!(joined(&["/build", "/main.rs"]), "/main.rs");
        assert_eq!(joined(&["", "main.rs"]), "main.rs");
    }
}
