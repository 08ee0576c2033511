//! The events of a structural batch, one after the other.
//!
//! A kind that neither our table nor the session's `Schema` events describe ends the batch: what
//! comes after it cannot be found. It is never guessed.

use trace::encode::field::Reader;

use crate::error::DamageKind;
use crate::event::Other;
use crate::event::Structural;
use crate::shape;
use crate::tables::Session;

/// Reads the structural event at the start of `rest`, which is not empty, and tells how many bytes
/// it has.
pub(crate) fn read<'a>(
    session: &'a Session,
    rest: &'a [u8],
) -> Result<(Structural<'a>, usize), DamageKind> {
    let mut r = Reader::new(rest);
    let event = match own(&mut r)? {
        Ok(event) => event,
        Err(kind) => other(session, kind, &mut r)?,
    };
    Ok((event, rest.len() - r.rest().len()))
}

/// Takes the structural event at the start of `rest` into the session; tells its kind and how many
/// bytes it has.
pub(crate) fn apply(
    session: &mut Session,
    epoch: u32,
    rest: &[u8],
) -> Result<(u64, usize), DamageKind> {
    let mut r = Reader::new(rest);
    let kind = match own(&mut r)? {
        Ok(event) => {
            session.apply(epoch, &event, &rest[..rest.len() - r.rest().len()]);
            event.kind()
        }
        Err(kind) => {
            other(session, kind, &mut r)?;
            kind
        }
    };
    Ok((kind, rest.len() - r.rest().len()))
}

/// An event of our own table, or the kind of another one.
fn own<'a>(r: &mut Reader<'a>) -> Result<Result<Structural<'a>, u64>, DamageKind> {
    let kind = r.varint().ok_or(DamageKind::Event { kind: 0 })?;
    match Structural::read(kind, r) {
        Some(event) => Ok(Ok(event)),
        None if shape::spec(kind).is_some() => Err(DamageKind::Event { kind }),
        None => Ok(Err(kind)),
    }
}

fn other<'a>(
    session: &'a Session,
    kind: u64,
    r: &mut Reader<'a>,
) -> Result<Structural<'a>, DamageKind> {
    let unknown = DamageKind::Kind { kind };
    let def = session.schema(kind).filter(|d| d.phase == 0).ok_or(unknown)?;
    let steps = def.steps.as_deref().ok_or(unknown)?;
    let bytes = r.rest();
    shape::skip(r, steps).ok_or(DamageKind::Event { kind })?;
    Ok(Structural::Other(Other { kind, def: Some(def), bytes }))
}
