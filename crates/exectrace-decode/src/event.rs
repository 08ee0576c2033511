//! Typed events and values, made from the one event table.
//!
//! 1. Every value of an event was stepped over before the event is given out: the accessors here
//!    find their bytes, and on bytes that they do not expect they end early, they never panic.
//! 2. Events borrow the bytes of their batch; nothing is copied or allocated.

use std::fmt;

use trace::encode::field::Fields as FieldList;
use trace::encode::field::List;
use trace::encode::field::Reader;
use trace::encode::field::Shape;
use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::varint;

use crate::shape;
use crate::tables::FieldDefs;
use crate::tables::SchemaDef;
use crate::tables::Site;

macro_rules! define_decoder {
    (@ [$({ $(#[doc = $sdoc:literal])* $s:ident })*]
        [$({ $(#[doc = $edoc:literal])* $e:ident })*]) => {
        /// A structural event: tables, accounts, marks.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Structural<'a> {
            $( $(#[doc = $sdoc])* $s(schema::$s<'a>), )*
            /// Of a kind that only the trace describes.
            Other(Other<'a>),
        }

        impl<'a> Structural<'a> {
            /// Reads the fields of an event of this kind; `None` where it is none.
            pub(crate) fn read(kind: u64, r: &mut Reader<'a>) -> Option<Self> {
                $( if kind == schema::Kind::$s as u64 {
                    return Some(Structural::$s(schema::$s::read(r)?));
                } )*
                None
            }

            /// The name of its kind; `None` where only the trace describes it.
            pub fn kind_name(&self) -> Option<&'static str> {
                match self {
                    $( Structural::$s(_) => Some(stringify!($s)), )*
                    Structural::Other(_) => None,
                }
            }

            /// Its kind.
            pub fn kind(&self) -> u64 {
                match self {
                    $( Structural::$s(_) => schema::Kind::$s as u64, )*
                    Structural::Other(o) => o.kind,
                }
            }
        }

        /// A timed event.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Event<'a> {
            $( $(#[doc = $edoc])* $e(schema::$e<'a>), )*
            /// Of a site: a place in the recorded program's source.
            Site(SiteEvent<'a>),
            /// Of a kind that only the trace describes.
            Other(Other<'a>),
        }

        impl<'a> Event<'a> {
            /// Reads the fields of an event of this static kind; `None` where it is none.
            #[inline(always)]
            pub(crate) fn read(kind: u64, r: &mut Reader<'a>) -> Option<Self> {
                match schema::Kind::from_u64(kind)? {
                    $( schema::Kind::$e => Some(Event::$e(schema::$e::read(r)?)), )*
                    _ => None,
                }
            }

            /// The name of its kind; `None` for sites and where only the trace describes it.
            pub fn kind_name(&self) -> Option<&'static str> {
                match self {
                    $( Event::$e(_) => Some(stringify!($e)), )*
                    Event::Site(_) | Event::Other(_) => None,
                }
            }
        }
    };
    (@ [$($s:tt)*] [$($e:tt)*] $(#[doc = $doc:literal])* $id:literal $name:ident
        since $since:literal, phase Structure { $($body:tt)* } $($rest:tt)*) => {
        define_decoder!(@ [$($s)* { $(#[doc = $doc])* $name }] [$($e)*] $($rest)*);
    };
    (@ [$($s:tt)*] [$($e:tt)*] $(#[doc = $doc:literal])* $id:literal $name:ident
        since $since:literal, phase $phase:ident $(($pair:literal))? { $($body:tt)* }
        $($rest:tt)*) => {
        define_decoder!(@ [$($s)*] [$($e)* { $(#[doc = $doc])* $name }] $($rest)*);
    };
    ($($rows:tt)*) => { define_decoder!(@ [] [] $($rows)*); };
}

trace::__events!(define_decoder);

/// An event of a site.
#[derive(Clone, Copy)]
pub struct SiteEvent<'a> {
    /// The site.
    pub site: &'a Site,
    pub(crate) bytes: &'a [u8],
}

impl PartialEq for SiteEvent<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.site.kind == other.site.kind && self.fields().eq(other.fields())
    }
}

// By its fields: `bytes` run on to the end of the batch.
impl fmt::Debug for SiteEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteEvent {{ kind: {}, fields: ", self.site.kind)?;
        f.debug_list().entries(self.fields()).finish()?;
        f.write_str(" }")
    }
}

impl<'a> SiteEvent<'a> {
    /// Its fields.
    pub fn fields(&self) -> Fields<'a> {
        Fields::new(self.site.types(), self.bytes)
    }

    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        self.fields().find(|f| f.0 == name.as_bytes()).map(|f| f.1)
    }
}

/// An event of a kind that only the trace describes.
#[derive(Clone, Copy)]
pub struct Other<'a> {
    /// Its kind.
    pub kind: u64,
    /// What the trace says of the kind; `None` for an event that could not be read as one.
    pub def: Option<&'a SchemaDef>,
    pub(crate) bytes: &'a [u8],
}

impl PartialEq for Other<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.fields().eq(other.fields())
    }
}

impl fmt::Debug for Other<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Other {{ kind: {}, fields: ", self.kind)?;
        f.debug_list().entries(self.fields()).finish()?;
        f.write_str(" }")
    }
}

impl<'a> Other<'a> {
    /// Its fields.
    pub fn fields(&self) -> Fields<'a> {
        match self.def {
            Some(def) => Fields::new(FieldTypes::Defined(&def.fields), self.bytes),
            None => Fields::new(FieldTypes::Table(&[]), self.bytes),
        }
    }
}

/// A value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // The field types are described in docs/format.md.
pub enum Value<'a> {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    Text(Text<'a>),
    String(u64),
    Stack(u64),
    Task(u64),
    Thread(u64),
    Ticks(u64),
    Addr(u64),
    Kind(u64),
    Bytes(Text<'a>),
    Frames(List<'a>),
    List(List<'a>),
    Fields(FieldList<'a>),
    Nanos(u64),
    Flags(u64),
    /// A meaning of a later version, written as eight bytes.
    Fixed(u64),
}

impl<'a> Value<'a> {
    /// Reads a value of this type; one with an unknown meaning by its shape alone.
    pub fn read(ty: u64, r: &mut Reader<'a>) -> Option<Value<'a>> {
        Some(match Shape::of(ty)? {
            Shape::Varint => Self::of_varint(ty, r.varint()?),
            Shape::Zigzag => Value::I64(varint::unzigzag(r.varint()?)),
            Shape::Fixed if ty == ty::F64 => Value::F64(f64::from_bits(r.fixed()?)),
            Shape::Fixed => Value::Fixed(r.fixed()?),
            Shape::Text if ty == ty::TEXT => Value::Text(r.text()?),
            Shape::Text => Value::Bytes(r.text()?),
            Shape::List if ty == ty::FRAMES => Value::Frames(r.list()?),
            Shape::List => Value::List(r.list()?),
            Shape::Fields => Value::Fields(r.fields()?),
        })
    }

    fn of_varint(ty: u64, v: u64) -> Value<'a> {
        match ty {
            ty::BOOL if v < 2 => Value::Bool(v == 1),
            ty::STRING => Value::String(v),
            ty::STACK => Value::Stack(v),
            ty::TASK => Value::Task(v),
            ty::THREAD => Value::Thread(v),
            ty::TICKS => Value::Ticks(v),
            ty::ADDR => Value::Addr(v),
            ty::KIND => Value::Kind(v),
            ty::NANOS => Value::Nanos(v),
            ty::FLAGS => Value::Flags(v),
            _ => Value::U64(v),
        }
    }
}

/// Names and types of an event's fields.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FieldTypes<'a> {
    Table(&'static [(&'static str, u64)]),
    Defined(&'a FieldDefs),
}

impl<'a> FieldTypes<'a> {
    /// Those of a static kind of our table; none for another.
    pub(crate) fn of_static(kind: u64) -> FieldTypes<'a> {
        FieldTypes::Table(shape::spec(kind).map_or(&[], |s| s.fields))
    }

    pub(crate) fn len(self) -> usize {
        match self {
            FieldTypes::Table(rows) => rows.len(),
            FieldTypes::Defined(defs) => defs.len(),
        }
    }

    fn get(self, at: usize) -> Option<(&'a [u8], u64)> {
        match self {
            FieldTypes::Table(rows) => rows.get(at).map(|f| (f.0.as_bytes(), f.1)),
            FieldTypes::Defined(defs) => defs.get(at),
        }
    }
}

/// The fields of an event: name and value of each, decoded as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    types: FieldTypes<'a>,
    at: usize,
    rest: Reader<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(types: FieldTypes<'a>, bytes: &'a [u8]) -> Self {
        Fields { types, at: 0, rest: Reader::new(bytes) }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest.rest()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, ty) = self.types.get(self.at)?;
        self.at += 1;
        Some((name, Value::read(ty, &mut self.rest)?))
    }
}
