//! What is wrong with an input: an [`Error`] where nothing can be read, [`Damage`] where something
//! was skipped and reading goes on.
//!
//! 1. Both name an offset in the input, what was expected there and what was found; of files of
//!    other kinds that come instead of a trace, the kind.
//! 2. Neither holds more than a few words of the input, so that no input makes them large.

use std::fmt;

use trace::encode::wire::MAGIC;
use trace::encode::wire::VERSION;

/// Why an input was refused. Opaque: ask [`Error::kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    offset: u64,
    found: Vec<u8>,
}

/// What sort of [`Error`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input has no bytes.
    Empty,
    /// The input is something else than a trace.
    NotATrace,
    /// The trace was written in a later version of the format.
    Version {
        /// The version in the batch header.
        found: u16,
    },
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, offset: u64, found: &[u8]) -> Self {
        Error(Box::new(Inner { kind, offset, found: found[..found.len().min(8)].to_vec() }))
    }

    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where in the input.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// What was expected there.
    pub fn expected(&self) -> String {
        match self.0.kind {
            ErrorKind::Empty | ErrorKind::NotATrace => format!("magic {}", Hex(&MAGIC)),
            ErrorKind::Version { .. } => format!("version {VERSION}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, expected) = (self.0.offset, self.expected());
        match self.0.kind {
            ErrorKind::Empty => {
                write!(f, "not an exectrace trace: expected {expected} at offset 0, input is empty")
            }
            ErrorKind::NotATrace => {
                let found = Hex(&self.0.found);
                write!(f, "not an exectrace trace: expected {expected} at offset {at}, ")?;
                match kind_of(&self.0.found) {
                    Some(kind) => write!(f, "found {found} ({kind})"),
                    None => write!(f, "found {found}"),
                }
            }
            ErrorKind::Version { found } => write!(
                f,
                "trace of format version {found} at offset {at}: this decoder supports version \
                 {VERSION}; read it with a newer exectrace"
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Files that are given in place of a trace, by their first bytes.
const OTHERS: [(&[u8], &str); 16] = [
    (b"\xf1\x54\x58\xeb", "our magic backwards: the byte order was changed"),
    (b"\x1f\x8b", "gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd: unpack it first"),
    (b"\xfd7zXZ\0", "xz: unpack it first"),
    (b"BZh", "bzip2: unpack it first"),
    (b"\x04\x22\x4d\x18", "lz4: unpack it first"),
    (b"PK\x03\x04", "zip: unpack it first"),
    (b"\x7fELF", "ELF: a program, library or core file"),
    (b"PERFILE2", "data of Linux perf"),
    (b"go 1.", "a trace of the Go runtime"),
    (b"\xc1\x1f\xfc\xc1", "a packet of the Common Trace Format"),
    (b"\xc1\xfc\x1f\xc1", "a packet of the Common Trace Format"),
    (b"SQLite f", "an SQLite database"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"<", "XML or HTML"),
];

/// What sort of file begins with these bytes.
fn kind_of(found: &[u8]) -> Option<&'static str> {
    OTHERS.iter().find(|(magic, _)| found.starts_with(magic)).map(|(_, kind)| *kind)
}

/// Bytes for people.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            write!(f, "{}{b:02X}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// A range of the input that was skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Where the range begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
    /// What was found at its beginning.
    pub kind: DamageKind,
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// No batch begins where one was expected.
    Magic {
        /// The bytes there.
        found: [u8; 4],
    },
    /// A batch header with an impossible length.
    Length {
        /// The length.
        found: u32,
    },
    /// A batch whose bytes do not have the CRC that its header names.
    Crc {
        /// The CRC in the header.
        found: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// A batch header of version 0, which does not exist.
    Version {
        /// The version.
        found: u16,
    },
    /// The input ends within a batch.
    Truncated {
        /// Bytes that the batch needs; 64 where not even its header is whole.
        need: u32,
    },
    /// An event that is none of its kind: a value is cut off or too large.
    Event {
        /// Its kind.
        kind: u64,
    },
    /// An event whose kind nothing in the trace describes: the rest of its batch cannot be read.
    Kind {
        /// The kind.
        kind: u64,
    },
    /// A batch of another session amid this one.
    Session {
        /// The other session.
        found: u64,
    },
}

impl Default for DamageKind {
    fn default() -> Self {
        DamageKind::Truncated { need: 0 }
    }
}

impl DamageKind {
    /// One word, as the raw text form has it.
    pub fn word(&self) -> &'static str {
        match self {
            DamageKind::Magic { .. } => "magic",
            DamageKind::Length { .. } => "length",
            DamageKind::Crc { .. } => "crc",
            DamageKind::Version { .. } => "version",
            DamageKind::Truncated { .. } => "truncated",
            DamageKind::Event { .. } => "event",
            DamageKind::Kind { .. } => "kind",
            DamageKind::Session { .. } => "session",
        }
    }

    /// What was expected.
    pub fn expected(&self) -> &'static str {
        match self {
            DamageKind::Magic { .. } => "magic EB 58 54 F1",
            DamageKind::Length { .. } => "a length from 64 to 65536",
            DamageKind::Crc { .. } => "the CRC of the batch",
            DamageKind::Version { .. } => "version 1",
            DamageKind::Truncated { .. } => "a whole batch",
            DamageKind::Event { .. } => "the values of an event",
            DamageKind::Kind { .. } => "a kind that the trace describes",
            DamageKind::Session { .. } => "a batch of the session that is open",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, ", self.expected())?;
        match self {
            DamageKind::Magic { found } => write!(f, "found {}", Hex(found)),
            DamageKind::Length { found } => write!(f, "found {found}"),
            DamageKind::Crc { found, computed } => {
                write!(f, "found {found:#010x} for bytes with {computed:#010x}")
            }
            DamageKind::Version { found } => write!(f, "found {found}"),
            DamageKind::Truncated { need } => write!(f, "of {need} bytes; the input ended"),
            DamageKind::Event { kind } => write!(f, "found something else in one of kind {kind}"),
            DamageKind::Kind { kind } => write!(f, "found kind {kind}"),
            DamageKind::Session { found } => write!(f, "found one of session {found:#018x}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, at) = (self.len, self.offset);
        write!(f, "skipped {len} bytes at offset {at}: {}", self.kind)
    }
}
