//! Field types: how one value of an event stands in bytes.
//!
//! A field's type is `meaning << 3 | shape`. The shape alone tells how many bytes the value takes,
//! so that a reader can step over a meaning that it does not know.

use super::varint;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shape {
    /// A varint.
    Varint = 0,
    /// A zigzag varint.
    Zigzag = 1,
    /// Eight bytes, little-endian.
    Fixed = 2,
    /// `varint(length << 1 | cut)`, the bytes, and where `cut` is 1 `varint(original length)`.
    Text = 3,
    /// `varint(n)`, then n zigzag varints, each the difference to the one before (the first to 0).
    List = 4,
    /// `varint(n)`, then n times: name (as text), type (a varint).
    Fields = 5,
}

impl Shape {
    /// The shape of a field type; `None` for a shape from a later version.
    #[inline]
    pub fn of(ty: u64) -> Option<Shape> {
        Some(match ty & 7 {
            0 => Shape::Varint,
            1 => Shape::Zigzag,
            2 => Shape::Fixed,
            3 => Shape::Text,
            4 => Shape::List,
            5 => Shape::Fields,
            _ => return None,
        })
    }
}

macro_rules! types {
    ($(
        $(#[doc = $doc:literal])* $name:ident = $meaning:literal $shape:ident, $text:literal;
    )*) => {
        /// The number of each field type.
        pub mod ty {
            use super::Shape;
            $( $(#[doc = $doc])* pub const $name: u64 = $meaning << 3 | Shape::$shape as u64; )*
        }
        /// Every field type: number, name, shape, meaning.
        pub const TYPES: &[(u64, &str, Shape, &str)] =
            &[$( (ty::$name, $text, Shape::$shape, concat!($($doc),*)) ),*];
    };
}

types! {
    /// An unsigned number.
    U64 = 1 Varint, "u64";
    /// A signed number.
    I64 = 1 Zigzag, "i64";
    /// A number in IEEE 754 double precision.
    F64 = 1 Fixed, "f64";
    /// True (1) or false (0).
    BOOL = 2 Varint, "bool";
    /// Text, normally UTF-8; bytes are kept as they came.
    TEXT = 1 Text, "text";
    /// Id of a string of the table epoch; 0 none.
    STRING = 3 Varint, "string";
    /// Id of a stack of the table epoch; 0 none.
    STACK = 4 Varint, "stack";
    /// Id of a task of the session; 0 none.
    TASK = 5 Varint, "task";
    /// Number of a thread of the session; 0 none.
    THREAD = 6 Varint, "thread";
    /// A time, in scaled ticks of the session's clock.
    TICKS = 7 Varint, "ticks";
    /// An address in the recorded process.
    ADDR = 8 Varint, "addr";
    /// A kind: static below 64, a site of the table epoch from 64 on; 0 none.
    KIND = 9 Varint, "kind";
    /// Bytes.
    BYTES = 2 Text, "bytes";
    /// Addresses of code, innermost first.
    FRAMES = 1 List, "frames";
    /// Numbers.
    LIST = 2 List, "list";
    /// Names and types of fields.
    FIELDS = 1 Fields, "fields";
    /// A duration in nanoseconds.
    NANOS = 10 Varint, "nanos";
    /// A bit set.
    FLAGS = 11 Varint, "flags";
}

/// Name of a field type, for people.
pub fn type_name(ty: u64) -> Option<&'static str> {
    TYPES.iter().find(|t| t.0 == ty).map(|t| t.1)
}

/// Reads values from bytes; every method gives `None` where the input ends or is no such value.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A text as it stands in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// The bytes kept.
    pub bytes: &'a [u8],
    /// The length before it was cut, where it was.
    pub cut_from: Option<u64>,
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(s: &'a str) -> Self {
        Text { bytes: s.as_bytes(), cut_from: None }
    }
}

/// A list of numbers as it stands in an event; iterate it to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a> {
    count: u64,
    bytes: &'a [u8],
}

/// The fields of a site or a kind as they stand in its definition; iterate them to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[inline(always)]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    #[inline(always)]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A varint.
    #[inline(always)]
    pub fn varint(&mut self) -> Option<u64> {
        let (v, n) = varint::read(self.rest)?;
        self.rest = self.rest.get(n..)?;
        Some(v)
    }

    /// `n` bytes.
    #[inline]
    pub fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(n).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    /// Eight bytes as a little-endian number.
    #[inline]
    pub fn fixed(&mut self) -> Option<u64> {
        let (head, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*head))
    }

    /// A text.
    #[inline]
    pub fn text(&mut self) -> Option<Text<'a>> {
        let head = self.varint()?;
        let bytes = self.take(head >> 1)?;
        let cut_from = if head & 1 != 0 { Some(self.varint()?) } else { None };
        Some(Text { bytes, cut_from })
    }

    /// A list of numbers.
    pub fn list(&mut self) -> Option<List<'a>> {
        let count = self.varint()?;
        let start = self.rest;
        for _ in 0..count {
            self.varint()?;
        }
        Some(List { count, bytes: &start[..start.len() - self.rest.len()] })
    }

    /// A list of fields.
    pub fn fields(&mut self) -> Option<Fields<'a>> {
        let count = self.varint()?;
        let start = self.rest;
        for _ in 0..count {
            self.text()?;
            self.varint()?;
        }
        Some(Fields { count, bytes: &start[..start.len() - self.rest.len()] })
    }

    /// Steps over a value of this type.
    #[inline]
    pub fn skip(&mut self, ty: u64) -> Option<()> {
        match Shape::of(ty)? {
            Shape::Varint | Shape::Zigzag => self.varint().map(drop),
            Shape::Fixed => self.fixed().map(drop),
            Shape::Text => self.text().map(drop),
            Shape::List => self.list().map(drop),
            Shape::Fields => self.fields().map(drop),
        }
    }
}

impl<'a> List<'a> {
    /// How many numbers.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The numbers.
    pub fn iter(&self) -> impl Iterator<Item = u64> + 'a {
        let mut r = Reader::new(self.bytes);
        let mut last = 0u64;
        std::iter::from_fn(move || {
            last = last.wrapping_add(varint::unzigzag(r.varint()?) as u64);
            Some(last)
        })
    }
}

impl<'a> Fields<'a> {
    /// How many fields.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Name and type of each.
    pub fn iter(&self) -> impl Iterator<Item = (Text<'a>, u64)> + 'a {
        let mut r = Reader::new(self.bytes);
        std::iter::from_fn(move || Some((r.text()?, r.varint()?)))
    }
}

/// Writes values to a slice; every method gives `None` where there is no room.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `out`.
    pub fn new(out: &'a mut [u8]) -> Self {
        Writer { out, len: 0 }
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A varint.
    pub fn varint(&mut self, v: u64) -> Option<()> {
        self.len += varint::write(self.out.get_mut(self.len..)?, v)?;
        Some(())
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, b: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len.checked_add(b.len())?)?.copy_from_slice(b);
        self.len += b.len();
        Some(())
    }

    /// A text.
    pub fn text(&mut self, t: Text<'_>) -> Option<()> {
        self.varint((t.bytes.len() as u64) << 1 | u64::from(t.cut_from.is_some()))?;
        self.bytes(t.bytes)?;
        t.cut_from.map_or(Some(()), |n| self.varint(n))
    }

    /// A list of numbers.
    pub fn list(&mut self, values: &[u64]) -> Option<()> {
        self.varint(values.len() as u64)?;
        let mut last = 0u64;
        for &v in values {
            self.varint(varint::zigzag(v.wrapping_sub(last) as i64))?;
            last = v;
        }
        Some(())
    }

    /// Names and types of fields.
    pub fn fields(&mut self, fields: &[(&str, u64)]) -> Option<()> {
        self.varint(fields.len() as u64)?;
        for &(name, ty) in fields {
            self.text(name.into())?;
            self.varint(ty)?;
        }
        Some(())
    }
}

/// A Rust type that stands for a field type in the event table.
pub trait Field {
    /// Number of the field type.
    const TYPE: u64;
    /// The decoded value.
    type Out<'a>: Copy + std::fmt::Debug + PartialEq;
    /// The value to encode.
    type In<'a>: Copy;
    /// Reads one.
    fn read<'a>(r: &mut Reader<'a>) -> Option<Self::Out<'a>>;
    /// Writes one.
    fn write<'a>(w: &mut Writer<'_>, v: Self::In<'a>) -> Option<()>;
}

macro_rules! varint_fields { ($( $(#[doc = $doc:literal])* $name:ident: $ty:ident; )*) => { $(
    $(#[doc = $doc])*
    #[derive(Clone, Copy, Debug)]
    pub struct $name;
    impl Field for $name {
        const TYPE: u64 = ty::$ty;
        type Out<'a> = u64;
        type In<'a> = u64;
        #[inline(always)]
        fn read<'a>(r: &mut Reader<'a>) -> Option<u64> { r.varint() }
        fn write<'a>(w: &mut Writer<'_>, v: u64) -> Option<()> { w.varint(v) }
    }
)* } }

varint_fields! {
    /// An unsigned number.
    U64: U64;
    /// A string of the table.
    StringRef: STRING;
    /// A stack of the table.
    StackRef: STACK;
    /// A task.
    TaskRef: TASK;
    /// A thread.
    ThreadRef: THREAD;
    /// A time.
    Ticks: TICKS;
    /// An address.
    Addr: ADDR;
    /// A kind.
    KindRef: KIND;
    /// A duration.
    Nanos: NANOS;
    /// A bit set.
    Flags: FLAGS;
    /// True or false.
    Bool: BOOL;
}

macro_rules! shaped_fields { ($(
    $(#[doc = $doc:literal])* $name:ident: $ty:ident, $out:ty, $in:ty, $m:ident;
)*) => { $(
    $(#[doc = $doc])*
    #[derive(Clone, Copy, Debug)]
    pub struct $name;
    impl Field for $name {
        const TYPE: u64 = ty::$ty;
        type Out<'a> = $out;
        type In<'a> = $in;
        fn read<'a>(r: &mut Reader<'a>) -> Option<$out> { r.$m() }
        fn write<'a>(w: &mut Writer<'_>, v: $in) -> Option<()> { w.$m(v) }
    }
)* } }

shaped_fields! {
    /// A text.
    Str: TEXT, Text<'a>, Text<'a>, text;
    /// Bytes.
    Bytes: BYTES, Text<'a>, Text<'a>, text;
    /// Addresses of code.
    Frames: FRAMES, List<'a>, &'a [u64], list;
    /// Numbers.
    Numbers: LIST, List<'a>, &'a [u64], list;
    /// Names and types.
    FieldList: FIELDS, Fields<'a>, &'a [(&'a str, u64)], fields;
}
