//! The commands, one file each, and the loops over a trace that they share.

pub mod demo;
pub mod doctor;
pub mod dump;
pub mod events;
pub mod logs;
pub mod record;
pub mod report;
pub mod spans;
pub mod stacks;
pub mod stat;
pub mod tasks;
pub mod threads;
pub mod waits;

use std::ops::ControlFlow;

use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_decode::decoder;
use trace_decode::scan;

use crate::failure::Failure;
use crate::input::Input;
use crate::output::Out;
use crate::verdict::Verdict;

/// What a command needs of a trace beside its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// Stacks too: they may be the largest part of what is kept.
    Stacks,
    /// No stacks.
    NoStacks,
}

impl Keep {
    fn stacks(needed: bool) -> Keep {
        if needed { Keep::Stacks } else { Keep::NoStacks }
    }
}

/// Goes over a trace in the order of time, until `each` says that it has seen enough.
fn merged(
    input: &mut Input,
    verdict: &mut Verdict,
    out: &mut Out,
    keep: Keep,
    mut each: impl FnMut(&Item<'_>, &mut Out) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let mut options = decoder::Options::default();
    options.keep_stacks = keep == Keep::Stacks;
    let mut decoder = Decoder::with(options);
    let mut session = 0;
    loop {
        let live = input.is_live();
        let piece = input.next_piece()?;
        let at_end = piece.is_empty();
        if at_end {
            decoder.finish();
        } else {
            decoder.push(piece);
        }
        while let Some(item) = decoder.next_item().map_err(|e| refused(input, &e))? {
            match &item {
                Item::Damage(damage) => out.aside(|| verdict.damage(damage)),
                Item::Overflow { held_bytes } => {
                    out.aside(|| verdict.out_of_order(*held_bytes as u64));
                }
                Item::SessionBegin(_) => session += 1,
                Item::SessionEnd(s) => out.aside(|| verdict.session(session, s)),
                _ => {}
            }
            if each(&item, out)?.is_break() {
                return Ok(());
            }
        }
        if at_end {
            out.read();
            return Ok(());
        }
        out.reading(input);
        if live {
            out.flush()?;
        }
    }
}

/// Goes over the batches of a trace in the order of the file.
fn scanned(
    input: &mut Input,
    verdict: &mut Verdict,
    out: &mut Out,
    options: scan::Options,
    mut each: impl FnMut(&ScanItem<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut scan = Scan::with(options);
    let mut session = 0;
    loop {
        let piece = input.next_piece()?;
        let at_end = piece.is_empty();
        if at_end {
            scan.finish();
        } else {
            scan.push(piece);
        }
        while let Some(item) = scan.next_item().map_err(|e| refused(input, &e))? {
            match &item {
                ScanItem::Damage(damage) => out.aside(|| verdict.damage(damage)),
                ScanItem::SessionBegin(_) => session += 1,
                ScanItem::SessionEnd(s) => out.aside(|| verdict.session(session, s)),
                _ => {}
            }
            each(&item)?;
        }
        if at_end {
            out.read();
            return Ok(());
        }
        out.reading(input);
    }
}

fn refused(input: &Input, error: &trace_decode::Error) -> Failure {
    Failure::Refused(format!("{}: {error}", input.name()))
}
