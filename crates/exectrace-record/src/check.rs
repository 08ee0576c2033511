//! Whether a program can be recorded, before it is started.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// Why a program cannot be recorded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refused {
    /// There is no such program.
    NotFound(PathBuf),
    /// It is no file that this user may execute.
    NotExecutable(PathBuf),
    /// It has no dynamic linker, which would load the recorder.
    Static(PathBuf),
    /// It runs with another user's rights, where nothing is preloaded.
    SetId(PathBuf),
    /// It is for another kind of machine, or of another word size.
    OtherMachine(PathBuf),
    /// It is started by a dynamic linker that the recorder is not built for.
    OtherLoader(PathBuf, String),
    /// This process is being recorded itself.
    Nested,
    /// There is no tmpfs for the buffers.
    NoTmpfs(io::Error),
    /// The preloaded library cannot be put into place.
    Library(io::Error),
    /// The trace cannot be written.
    Output(PathBuf, io::Error),
    /// The program could not be started.
    Start(PathBuf, io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotFound(p) => write!(f, "{}: no such program", p.display()),
            Refused::NotExecutable(p) => write!(f, "{}: not executable", p.display()),
            Refused::Static(p) => write!(
                f,
                "{}: statically linked, so nothing can be preloaded; link the library `exectrace` \
                 into it and call trace::init_from_env() instead",
                p.display()
            ),
            Refused::SetId(p) => write!(
                f,
                "{}: runs with another user's rights (set-user-id or set-group-id), where nothing \
                 can be preloaded",
                p.display()
            ),
            Refused::OtherMachine(p) => {
                write!(f, "{}: built for another kind of machine", p.display())
            }
            Refused::OtherLoader(p, loader) => write!(
                f,
                "{}: started by {loader}, and the recorder needs the dynamic linker of glibc",
                p.display()
            ),
            Refused::Nested => write!(
                f,
                "this command is being recorded itself, by another `exectrace record`: leave one \
                 of the two out, or give --no-follow to the outer one"
            ),
            Refused::NoTmpfs(e) => write!(f, "the buffers need a tmpfs: {e}"),
            Refused::Library(e) => write!(f, "the recorder's library cannot be preloaded: {e}"),
            Refused::Output(p, e) => {
                write!(
                    f,
                    "the trace cannot be written to {}: {e}; name another with -o",
                    p.display()
                )
            }
            Refused::Start(p, e) if e.raw_os_error() == Some(ENOEXEC) => write!(
                f,
                "{}: neither a program nor a script that begins with #! and an interpreter",
                p.display()
            ),
            Refused::Start(p, e) => write!(f, "{}: cannot be started: {e}", p.display()),
        }
    }
}

impl std::error::Error for Refused {}

/// The kernel knows no way to run it.
pub(crate) const ENOEXEC: i32 = 8;

/// The file of the program that a shell would run for this name, if it can be recorded.
///
/// # Errors
///
/// What is in the way.
pub fn program(name: &OsStr) -> Result<PathBuf, Refused> {
    let path = find(name)?;
    inspect(&path, 0)?;
    Ok(path)
}

/// As a shell finds it: a name with a slash is a path, another one stands in a folder of `PATH`.
fn find(name: &OsStr) -> Result<PathBuf, Refused> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return executable(&path).map(|()| path);
    }
    let mut refused = Refused::NotFound(name.into());
    let folders = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    for folder in std::env::split_paths(&folders) {
        let path = folder.join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(Refused::NotFound(_)) => {}
            Err(other) => refused = other,
        }
    }
    Err(refused)
}

fn executable(path: &Path) -> Result<(), Refused> {
    let Ok(about) = fs::metadata(path) else { return Err(Refused::NotFound(path.into())) };
    match about.is_file() && about.mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(Refused::NotExecutable(path.into())),
    }
}

/// The machine of this build, as ELF numbers it.
pub(crate) const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
const PT_INTERP: u32 = 3;
const SCRIPTS_MAX: u32 = 4;

fn inspect(path: &Path, depth: u32) -> Result<(), Refused> {
    let start = |e| Refused::Start(path.into(), e);
    let about = fs::metadata(path).map_err(start)?;
    if about.mode() & 0o6000 != 0 {
        return Err(Refused::SetId(path.into()));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        // It may be executed and not read: it is tried.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(e) => return Err(start(e)),
    };
    let mut head = [0u8; 512];
    let mut have = 0;
    let mut reader = &file;
    while have < head.len() {
        match reader.read(&mut head[have..]).map_err(start)? {
            0 => break,
            n => have += n,
        }
    }
    let head = &head[..have];
    if let Some(script) = head.strip_prefix(b"#!") {
        let line = script.split(|b| *b == b'\n').next().unwrap_or_default();
        let word = line.trim_ascii().split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
        if depth >= SCRIPTS_MAX || word.is_empty() {
            return Ok(());
        }
        return inspect(Path::new(OsStr::from_bytes(word)), depth + 1);
    }
    if !head.starts_with(b"\x7fELF") {
        // The system says what it is when it is started.
        return Ok(());
    }
    let u16_at = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if head.get(4) != Some(&2) || head.get(5) != Some(&1) || u16_at(18) != Some(MACHINE) {
        return Err(Refused::OtherMachine(path.into()));
    }
    match interpreter(&file, head) {
        None => Err(Refused::Static(path.into())),
        Some(loader) if loader.contains("ld-linux") => Ok(()),
        Some(loader) => Err(Refused::OtherLoader(path.into(), loader)),
    }
}

/// The dynamic linker that an ELF file of 64 bits, little endian, names.
fn interpreter(file: &File, head: &[u8]) -> Option<String> {
    let number = |from: &[u8], at: usize| Some(u64::from_le_bytes(*from.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u64::from(u16::from_le_bytes(*head.get(at..)?.first_chunk()?)));
    let (at, size, count) = (number(head, 32)?, short(54)?, short(56)?);
    for i in 0..count.min(256) {
        let mut entry = [0u8; 56];
        file.read_exact_at(&mut entry, at.checked_add(i * size)?).ok()?;
        if u32::from_le_bytes(*entry.first_chunk()?) == PT_INTERP {
            let (offset, len) = (number(&entry, 8)?, number(&entry, 32)?.min(4096));
            let mut name = vec![0u8; len as usize];
            file.read_exact_at(&mut name, offset).ok()?;
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            return Some(String::from_utf8_lossy(&name[..end]).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let sh = program(OsStr::new("sh")).expect("every system has one");
        assert!(sh.is_absolute() && sh.ends_with("sh"));
        assert!(program(sh.as_os_str()).is_ok());
        let none = program(OsStr::new("no-such-program-here"));
        assert!(matches!(none, Err(Refused::NotFound(_))), "{none:?}");
        let folder = program(OsStr::new("/proc"));
        assert!(matches!(folder, Err(Refused::NotExecutable(_))), "{folder:?}");
    }

    #[test]
    fn what_cannot_be_preloaded_is_refused() {
        let dir = std::env::temp_dir().join(format!("exectrace-check-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let make = |name: &str, bytes: &[u8], mode: u32| {
            let path = dir.join(name);
            fs::write(&path, bytes).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(&path, mode).unwrap();
            program(path.as_os_str())
        };
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(make("own", &own, 0o755).is_ok());
        assert!(matches!(make("plain", &own, 0o644), Err(Refused::NotExecutable(_))));
        assert!(matches!(make("setuid", &own, 0o4755), Err(Refused::SetId(_))));
        let mut other = own.clone();
        other[18] = 8; // MIPS
        assert!(matches!(make("other", &other, 0o755), Err(Refused::OtherMachine(_))));
        let mut small = own.clone();
        small[4] = 1;
        assert!(matches!(make("small", &small, 0o755), Err(Refused::OtherMachine(_))));
        let mut fixed = own.clone();
        // Without program headers it names no linker.
        (fixed[56], fixed[57]) = (0, 0);
        assert!(matches!(make("static", &fixed, 0o755), Err(Refused::Static(_))));
        let at = own.windows(9).position(|w| w == b"/ld-linux").unwrap();
        let mut musl = own.clone();
        musl[at..at + 9].copy_from_slice(b"/ld-musl-");
        assert!(matches!(make("musl", &musl, 0o755), Err(Refused::OtherLoader(..))));
        assert!(make("script", b"#!/bin/sh\nexit 0\n", 0o755).is_ok());
        assert!(make("cut", &own[..40], 0o755).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
