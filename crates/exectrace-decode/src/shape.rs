//! How many bytes an event takes: checked steps from event to event.
//!
//! Nearly all events are varints only and end within eight bytes: kind, a field or two and delta.
//! Their last byte is found from one word without a branch that depends on sizes, since sizes in a
//! trace are mixed and each wrong guess costs more than the rest of the step.
//!
//! 1. An event counts only when all its values were stepped over within the body.
//! 2. Nothing here is allocated on the word of a count in the input.

use trace::encode::field::Reader;
use trace::encode::field::Shape;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::schema::EventSpec;
use trace::encode::schema::Kind;
use trace::encode::schema::Phase;
use trace::encode::schema::SPECS;
use trace::encode::varint;

const CONTINUE: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// What an event does to what is known of its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Action {
    /// Nothing.
    #[default]
    None,
    /// Opens a span.
    SpanBegin,
    /// Ends the innermost span.
    SpanEnd,
    /// Ends a span by its depth.
    SpanEndAt,
    /// Tells all of it.
    State,
    /// Goes over to another task.
    TaskSwitch,
}

/// What a reader must know of a kind to step over its timed events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// `0x80 - n` in each byte, n the varints of the event with its kind and delta; zero in kinds
    /// of another form, so that the fast step never fits them.
    bias: u64,
    pub(crate) meaning: Meaning,
}

/// What a kind's events are. One word, so that it is copied as one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(8))]
pub(crate) struct Meaning {
    /// One more than the index of the kind's steps; 0 for a kind that nothing describes.
    pub(crate) steps: u32,
    pub(crate) action: Action,
}

impl Slot {
    pub(crate) const UNKNOWN: Slot =
        Slot { bias: 0, meaning: Meaning { steps: 0, action: Action::None } };
}

/// One stretch of an event's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Varints(u32),
    Fixed,
    Text,
    List,
    Fields,
}

/// The stretches of an event's fields; `None` where one has a shape from a later version.
pub(crate) fn steps_of(types: impl Iterator<Item = u64>) -> Option<Box<[Step]>> {
    let mut steps: Vec<Step> = Vec::new();
    for ty in types {
        let step = match Shape::of(ty)? {
            Shape::Varint | Shape::Zigzag => match steps.last_mut() {
                Some(Step::Varints(n)) => {
                    *n = n.saturating_add(1);
                    continue;
                }
                _ => Step::Varints(1),
            },
            Shape::Fixed => Step::Fixed,
            Shape::Text => Step::Text,
            Shape::List => Step::List,
            Shape::Fields => Step::Fields,
        };
        steps.push(step);
    }
    Some(steps.into_boxed_slice())
}

/// Steps over fields; `None` where they are not all there.
pub(crate) fn skip(r: &mut Reader<'_>, steps: &[Step]) -> Option<()> {
    for step in steps {
        match step {
            Step::Varints(n) => {
                for _ in 0..*n {
                    r.varint()?;
                }
            }
            Step::Fixed => drop(r.fixed()?),
            Step::Text => drop(r.text()?),
            Step::List => drop(r.list()?),
            Step::Fields => drop(r.fields()?),
        }
    }
    Some(())
}

/// The slot of a kind with these steps; `None` where its events cannot be stepped over.
pub(crate) fn slot(steps: Option<&[Step]>, index: usize, action: Action) -> Slot {
    let fields = match steps {
        Some([]) => Some(0),
        Some([Step::Varints(n)]) if *n <= 6 => Some(u64::from(*n)),
        _ => None,
    };
    let bias = fields.map_or(0, |n| (0x80 - (n + 2)) * ONES);
    Slot { bias, meaning: Meaning { steps: u32::try_from(index + 1).unwrap_or(0), action } }
}

pub(crate) fn static_action(kind: u64) -> Action {
    match Kind::from_u64(kind) {
        Some(Kind::SpanEnd) => Action::SpanEnd,
        Some(Kind::SpanEndAt) => Action::SpanEndAt,
        Some(Kind::State) => Action::State,
        Some(Kind::TaskSwitch) => Action::TaskSwitch,
        _ => Action::None,
    }
}

pub(crate) fn site_action(class: u64) -> Action {
    match Class::from_u64(class) {
        Some(Class::Span) => Action::SpanBegin,
        _ => Action::None,
    }
}

/// The row of a timed static kind.
pub(crate) fn timed_spec(kind: u64) -> Option<&'static EventSpec> {
    spec(kind).filter(|s| s.phase != Phase::Structure)
}

/// The row of a static kind.
pub(crate) fn spec(kind: u64) -> Option<&'static EventSpec> {
    SPECS.iter().find(|s| s.kind as u64 == kind)
}

/// The beginning of a timed event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: u64,
    pub(crate) delta: u64,
    /// Where the fields begin, from the start of the event.
    pub(crate) fields: u32,
    pub(crate) meaning: Meaning,
}

/// A timed event that one word has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short<'s> {
    /// An index into the slots.
    pub(crate) kind: u32,
    pub(crate) delta: u64,
    /// Where the fields begin, from the start of the event.
    pub(crate) fields: u32,
    /// Where the event ends, from its start: 2 to 8.
    pub(crate) end: u32,
    pub(crate) slot: &'s Slot,
}

/// Kinds below this are two bytes at most: no other has a place in the slots of [`short`].
pub(crate) const SHORT_KINDS: usize = 1 << 14;

/// Reads the event at the start of `rest`, where one word has it. `slots` are indexed by kind, no
/// more than [`SHORT_KINDS`] of them. `None` where a slow look is needed.
#[inline(always)]
pub(crate) fn short<'s>(rest: &[u8], slots: &'s [Slot]) -> Option<Short<'s>> {
    let word = u64::from_le_bytes(*rest.first_chunk::<8>()?);
    let more = word as u32 >> 7 & 1;
    // Two groups; and where these go on, so does the second's highest bit: no slot is that far out.
    let kind = word as u32 & 0x7f | word as u32 >> 1 & 0x7f80 & more.wrapping_neg();
    let slot = slots.get(kind as usize)?;
    // Byte i of `upto` tells how many varints ended in bytes 0 to i.
    let upto = ((!word & CONTINUE) >> 7).wrapping_mul(ONES);
    let ended = upto.wrapping_add(slot.bias) & CONTINUE;
    if ended == 0 {
        return None;
    }
    let end_bit = ended.trailing_zeros();
    // The delta is the last varint: it begins where the one before it has ended, and that is
    // before the last byte, since each event has a kind.
    let before = upto.wrapping_add(slot.bias + ONES) & CONTINUE;
    let begin = before.trailing_zeros() + 1;
    let above = 63 - end_bit;
    let delta = varint::unpack((word << above) >> ((above + begin) & 63));
    Some(Short { kind, delta, fields: more + 1, end: (end_bit >> 3) + 1, slot })
}

/// The kind of an event of any size. Where its fields end, its delta stands.
#[inline(never)]
pub(crate) fn head(rest: &[u8], find: impl Fn(u64) -> Slot) -> Option<Head> {
    let mut r = Reader::new(rest);
    let kind = r.varint()?;
    let fields = (rest.len() - r.rest().len()) as u32;
    Some(Head { kind, delta: 0, fields, meaning: find(kind).meaning })
}

const _: () = assert!(schema::Kind::TaskEnd as u64 + 1 < trace::encode::wire::KIND_DYNAMIC);

#[cfg(test)]
mod tests {
    use super::*;

    /// What short events say against plain reading, value by value.
    #[test]
    fn a_short_event_is_what_plain_reading_finds() {
        let mut slots = vec![Slot::UNKNOWN; SHORT_KINDS];
        let forms = |kind: u64| match kind {
            // Kinds with slots of one byte, of two, and such as a longer kind's low bits name.
            1..8 | 120..140 | 16_000.. => Some((kind % 7) as u32),
            _ => None,
        };
        for (kind, slot) in slots.iter_mut().enumerate() {
            let Some(n) = forms(kind as u64) else { continue };
            let steps: &[Step] = if n == 0 { &[] } else { &[Step::Varints(n)] };
            *slot = super::slot(Some(steps), kind, Action::None);
        }
        let (mut x, mut met, mut far) = (88_172_645_463_325_252_u64, [0; 9], 0);
        for turn in 0..300_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // Any bytes, few that go on, many that do, and kinds of three bytes.
            let more = [x, x & x >> 3, x | x >> 5, 0x8080][turn % 4] & CONTINUE;
            let mut bytes = (x.rotate_left(29) & !CONTINUE | more).to_le_bytes().to_vec();
            bytes[0] = bytes[0] & 0x80 | [3, 5, 2, 7, 0x7b][turn % 5];
            bytes[1] = bytes[1] & 0x80 | [0, 1, 0x7d][turn % 3];
            bytes.extend([1; 8]);
            let mut r = Reader::new(&bytes);
            let kind = r.varint().unwrap();
            far += u64::from(kind >= SHORT_KINDS as u64 || r.rest().len() < 14);
            let fields = bytes.len() - r.rest().len();
            let Some(short) = short(&bytes, &slots) else { continue };
            assert_eq!(u64::from(short.kind), kind, "{bytes:x?}");
            for _ in 0..forms(kind).unwrap() {
                r.varint().unwrap();
            }
            assert_eq!(short.fields as usize, fields);
            assert_eq!(Some(short.delta), r.varint(), "{bytes:x?}");
            assert_eq!(short.end as usize, bytes.len() - r.rest().len());
            met[short.end as usize] += 1;
        }
        assert!(met[2..].iter().all(|n| *n > 100) && far > 10_000, "{met:?} {far}");
    }
}
