//! What a caller tells about a loaded module, and what became of it.

use std::fmt;
use std::path::PathBuf;

/// An address space: an address means one module in it. A program that loads and unloads modules
/// goes through several of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(pub u64);

/// A module that was added to a [`Symbolizer`](crate::Symbolizer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub(crate) u32);

/// A loaded module: where it stood, and how to know its file again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Lowest address that is mapped from it.
    pub base: u64,
    /// Bytes from `base` to the end of its highest mapping.
    pub size: u64,
    /// What was added to the addresses in the file when it was loaded.
    pub bias: u64,
    /// Its build id, where it has one.
    pub build_id: Option<Vec<u8>>,
    /// Its file.
    pub path: PathBuf,
    /// Size of the file in bytes. Tells the file again where there is no build id.
    pub file_size: u64,
    /// When the file last changed, in seconds of Unix time. With `file_size`.
    pub mtime: u64,
}

/// Whether a module's addresses can be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// They can.
    Found(Source),
    /// They cannot.
    Missing(Missing),
}

/// What is known of a module so far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report<'a> {
    /// Its number.
    pub id: ModuleId,
    /// What was told of it.
    pub module: &'a Module,
    /// Whether its addresses can be resolved; `None` as long as nobody asked for one of them, since
    /// its file was not opened then.
    pub status: Option<Status>,
    /// Addresses of it that were asked for. One that was asked for again counts once, unless so
    /// many were asked for in between that it was forgotten.
    pub asked: u64,
    /// How many of these have the name of a function.
    pub resolved: u64,
}

/// What names were made from, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Names {
    /// Debug information: functions, those inlined too, files and lines.
    DebugInformation,
    /// The symbol table: functions, but for those inlined.
    SymbolTable,
    /// A symbol table that stands packed in the program, beside what the dynamic linker needs.
    MiniDebug,
    /// The symbols for the dynamic linker: exported functions only.
    DynamicSymbols,
}

/// Where the names of a module come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file that was read.
    pub file: PathBuf,
    /// The best that it has.
    pub names: Names,
    /// Whether it has files and lines.
    pub lines: bool,
    /// Why less was read than stands in the file, where that is so.
    pub partial: Option<String>,
}

/// Why a module's addresses cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The module has no path of a file (as the kernel's own, `linux-vdso.so.1`).
    NoPath,
    /// There is no such file.
    NotFound,
    /// The path does not name an ordinary file.
    NotAFile,
    /// The file cannot be read.
    Unreadable(String),
    /// The file is no ELF file that can be read.
    NotElf(String),
    /// The file has another build id than the module.
    OtherBuildId {
        /// The module's.
        module: Vec<u8>,
        /// The file's.
        file: Option<Vec<u8>>,
    },
    /// The file has another size, or was changed after it was loaded.
    OtherFile,
    /// It is the kernel's, and the kernel that runs here brings another one.
    OtherKernel,
    /// The module has no build id, and its size and time were not kept: no file can be checked.
    NoIdentity,
    /// Its debug information cannot be read, and there are no symbols beside it.
    BrokenDebug(String),
    /// Neither the file nor a debug file of its build id has names.
    NoSymbols,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NoPath => f.write_str("it has no file"),
            Missing::NotFound => f.write_str("its file is not there"),
            Missing::NotAFile => f.write_str("its path is not an ordinary file"),
            Missing::Unreadable(e) => write!(f, "its file cannot be read: {e}"),
            Missing::NotElf(e) => write!(f, "its file is not readable ELF: {e}"),
            Missing::OtherBuildId { module, file } => {
                let module = Some(module);
                let (file, module) = (Hex(file), Hex(&module));
                write!(f, "its file was changed since: it has build id {file}, expected {module}")
            }
            Missing::OtherFile => f.write_str("its file was changed since it was loaded"),
            Missing::OtherKernel => f.write_str("it is of another kernel than this one"),
            Missing::NoIdentity => f.write_str("nothing is known to check its file by"),
            Missing::BrokenDebug(why) => f.write_str(why),
            Missing::NoSymbols => f.write_str("its file has no symbols"),
        }
    }
}

/// Bytes in hexadecimal.
struct Hex<'a, T>(&'a Option<T>);

impl<T: AsRef<[u8]>> fmt::Display for Hex<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("none") };
        bytes.as_ref().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
