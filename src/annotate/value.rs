//! Values of fields: what a program gives, made ready before the section, and written inside it.

use crate::emit::put_varint;
use crate::encode::field::ty;
use crate::encode::varint;
use crate::encode::wire::TEXT_BYTES_MAX;
use crate::site::Types;
use crate::tables::FIELDS_MAX;

/// A type that can be the value of a field: integers, floats, booleans, strings, and references to
/// them.
pub trait Arg {
    /// The value, ready to be written.
    type Ready<'a>: Ready
    where
        Self: 'a;
    /// Makes the value ready. Runs before the section.
    fn ready(&self) -> Self::Ready<'_>;
}

/// A value that is ready to be written.
pub trait Ready: Copy {
    /// Number of the field type.
    const TYPE: u64;
    /// Most bytes that it takes.
    fn len_max(&self) -> usize;
    /// Writes it at `p` and returns the end.
    ///
    /// # Safety
    ///
    /// - `p` has room for `len_max()` bytes and eight more.
    unsafe fn put(&self, p: *mut u8) -> *mut u8;
}

/// An unsigned number.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned(pub u64);
/// A signed number.
#[derive(Clone, Copy, Debug)]
pub struct Signed(pub i64);
/// A floating-point number.
#[derive(Clone, Copy, Debug)]
pub struct Float(pub f64);
/// A truth value.
#[derive(Clone, Copy, Debug)]
pub struct Truth(pub bool);
/// The id of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskId(pub u64);
/// A text, cut to what an event holds.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    bytes: &'a [u8],
    whole: usize,
}

impl<'a> Text<'a> {
    /// A text of at most `max` bytes; a longer one is cut between characters and says so.
    pub fn new(text: &'a [u8], max: usize) -> Text<'a> {
        if text.len() <= max {
            return Text { bytes: text, whole: text.len() };
        }
        let mut at = max;
        while at > max - 3 && text[at] & 0xc0 == 0x80 {
            at -= 1;
        }
        Text { bytes: &text[..at], whole: text.len() }
    }

    /// The same text, as the beginning of one of `whole` bytes.
    pub fn cut_from(self, whole: usize) -> Text<'a> {
        Text { bytes: self.bytes, whole }
    }
}

macro_rules! varint_ready { ($($name:ident $ty:ident $v:ident => $e:expr;)*) => { $(
    impl Ready for $name {
        const TYPE: u64 = ty::$ty;

        #[inline(always)]
        fn len_max(&self) -> usize {
            varint::LEN_MAX
        }

        #[inline(always)]
        unsafe fn put(&self, p: *mut u8) -> *mut u8 {
            let $v = self.0;
            // SAFETY: the caller has checked room for ten bytes.
            unsafe { put_varint(p, $e) }
        }
    }
)* } }

varint_ready! {
    Unsigned U64 v => v;
    Signed I64 v => varint::zigzag(v);
    Truth BOOL v => u64::from(v);
    TaskId TASK v => v;
}

impl Ready for Float {
    const TYPE: u64 = ty::F64;

    #[inline(always)]
    fn len_max(&self) -> usize {
        8
    }

    #[inline(always)]
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller has checked room for eight bytes.
        unsafe { p.cast::<u64>().write_unaligned(self.0.to_bits().to_le()) };
        // SAFETY: as above.
        unsafe { p.add(8) }
    }
}

impl Ready for Text<'_> {
    const TYPE: u64 = ty::TEXT;

    #[inline(always)]
    fn len_max(&self) -> usize {
        self.bytes.len() + 2 * varint::LEN_MAX
    }

    #[inline]
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        let cut = self.whole != self.bytes.len();
        // SAFETY: the caller has checked room for the bytes and two varints.
        let p = unsafe { put_varint(p, (self.bytes.len() as u64) << 1 | u64::from(cut)) };
        // SAFETY: as above; the event's buffer is not the program's text.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), p, self.bytes.len()) };
        // SAFETY: as above.
        let p = unsafe { p.add(self.bytes.len()) };
        if cut {
            // SAFETY: as above.
            return unsafe { put_varint(p, self.whole as u64) };
        }
        p
    }
}

macro_rules! args { ($($t:ty => $ready:ident as $as:ty;)*) => { $(
    impl Arg for $t {
        type Ready<'a> = $ready;

        #[inline(always)]
        fn ready(&self) -> $ready {
            $ready(*self as $as)
        }
    }
)* } }

args! {
    u8 => Unsigned as u64;
    u16 => Unsigned as u64;
    u32 => Unsigned as u64;
    u64 => Unsigned as u64;
    usize => Unsigned as u64;
    i8 => Signed as i64;
    i16 => Signed as i64;
    i32 => Signed as i64;
    i64 => Signed as i64;
    isize => Signed as i64;
    f32 => Float as f64;
    f64 => Float as f64;
    bool => Truth as bool;
}

impl Arg for str {
    type Ready<'a> = Text<'a>;

    #[inline]
    fn ready(&self) -> Text<'_> {
        Text::new(self.as_bytes(), TEXT_BYTES_MAX)
    }
}

impl Arg for String {
    type Ready<'a> = Text<'a>;

    #[inline]
    fn ready(&self) -> Text<'_> {
        self.as_str().ready()
    }
}

impl Arg for std::borrow::Cow<'_, str> {
    type Ready<'a>
        = Text<'a>
    where
        Self: 'a;

    #[inline]
    fn ready(&self) -> Text<'_> {
        str::ready(self)
    }
}

impl<T: Arg + ?Sized> Arg for &T {
    type Ready<'a>
        = T::Ready<'a>
    where
        Self: 'a;

    #[inline(always)]
    fn ready(&self) -> T::Ready<'_> {
        (**self).ready()
    }
}

/// The values of an event's fields, in their order.
pub trait Values: Copy {
    /// Their types.
    const TYPES: Types;
    /// The same; another copy's are known at run time only.
    fn types(&self) -> Types {
        Self::TYPES
    }
    /// The types of a task's fields: its id, its parent, and these.
    fn types_of_task(&self) -> Types {
        with_task_and_parent::<Self>()
    }
    /// See [`Emission::from`](crate::emit::Emission::from).
    fn from(&self) -> usize {
        0
    }
    /// Most bytes that they take.
    fn len_max(&self) -> usize;
    /// Writes them at `p` and returns the end.
    ///
    /// # Safety
    ///
    /// - `p` has room for `len_max()` bytes and eight more.
    unsafe fn put(&self, p: *mut u8) -> *mut u8;
}

/// The types of a task's fields: its id, its parent, and the program's own.
fn with_task_and_parent<V: Values>() -> Types {
    trait Whole {
        const TYPES: [u64; FIELDS_MAX];
    }
    impl<V: Values> Whole for V {
        const TYPES: [u64; FIELDS_MAX] = {
            let mut types = [ty::TASK; FIELDS_MAX];
            let mut i = 0;
            while i < V::TYPES.len() {
                types[i + 2] = V::TYPES[i];
                i += 1;
            }
            types
        };
    }
    &<V as Whole>::TYPES
}

macro_rules! tuples { ($($($name:ident)*;)*) => { $(
    #[allow(non_snake_case, unused_mut, clippy::unused_unit)]
    impl<$($name: Ready),*> Values for ($($name,)*) {
        const TYPES: Types = &[$($name::TYPE),*];

        #[inline(always)]
        fn len_max(&self) -> usize {
            let ($($name,)*) = self;
            0 $(+ $name.len_max())*
        }

        #[inline(always)]
        unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
            let ($($name,)*) = self;
            $(
                // SAFETY: the caller has checked room for all of them.
                p = unsafe { $name.put(p) };
            )*
            p
        }
    }
)* } }

tuples! {
    ;
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
    A B C D E F G H I;
    A B C D E F G H I J;
    A B C D E F G H I J K;
    A B C D E F G H I J K L;
    A B C D E F G H I J K L M;
    A B C D E F G H I J K L M N;
    A B C D E F G H I J K L M N O;
    A B C D E F G H I J K L M N O P;
}
