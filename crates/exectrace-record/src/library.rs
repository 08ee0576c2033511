//! The preloaded library on its way to a file that the dynamic linker can map.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::check;
use crate::folder::Folder;

/// The name of its file.
pub const NAME: &str = "libexectrace_preload.so";

/// The library in a private folder whose file system allows to execute.
#[derive(Debug)]
pub struct Library {
    _folder: Folder,
    path: PathBuf,
}

impl Library {
    /// Writes the library's bytes to the first folder that may hold executable mappings.
    pub fn unpack(bytes: &[u8]) -> io::Result<Library> {
        if let Err(what) = is_whole(bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let cache = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
        let parents = [Some(std::env::temp_dir()), runtime, cache, Some("/dev/shm".into())];
        let mut why = io::Error::new(io::ErrorKind::NotFound, "no folder for it");
        for parent in parents.into_iter().flatten() {
            if is_noexec(&parent) {
                why = io::Error::other(format!("{}: mounted noexec", parent.display()));
                continue;
            }
            match unpack_in(&parent, bytes) {
                Ok(library) => return Ok(library),
                Err(e) => why = io::Error::new(e.kind(), format!("{}: {e}", parent.display())),
            }
        }
        Err(why)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether these are all bytes of a shared object for this machine: the loader would map a shorter
/// file, and the program die of it.
fn is_whole(bytes: &[u8]) -> Result<(), &'static str> {
    const DAMAGED: &str = "it is damaged: not all of a shared library for this machine is there";
    if bytes.is_empty() {
        return Err("this build has no library inside");
    }
    let number = |at: usize, n: usize| {
        let bytes = bytes.get(at..at.checked_add(n)?)?;
        Some(bytes.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b)))
    };
    let whole = || {
        let is_object = bytes.starts_with(b"\x7fELF\x02\x01") && number(16, 2)? == ET_DYN;
        let is_ours = number(18, 2)? == u64::from(check::MACHINE);
        // The parts that are mapped, and behind them the table of sections, which ends the file.
        let (at, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut end = number(40, 8)?.checked_add(number(58, 2)? * number(60, 2)?)?;
        for i in 0..count {
            let entry = usize::try_from(at.checked_add(i * size)?).ok()?;
            end = end.max(number(entry + 8, 8)?.checked_add(number(entry + 32, 8)?)?);
        }
        (is_object && is_ours && end <= bytes.len() as u64).then_some(())
    };
    whole().ok_or(DAMAGED)
}

const ET_DYN: u64 = 3;

fn unpack_in(parent: &Path, bytes: &[u8]) -> io::Result<Library> {
    let folder = Folder::make(parent)?;
    let path = folder.path().join(NAME);
    fs::write(&path, bytes)?;
    Ok(Library { _folder: folder, path })
}

/// Whether the mount above a folder forbids to execute.
fn is_noexec(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return true };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best = (0, false);
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, _, options, ..] = fields[..] else { continue };
        if folder.starts_with(at) && at.len() >= best.0 {
            best = (at.len(), options.split(',').any(|o| o == "noexec"));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_where_it_can_be_mapped_and_goes() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let library = Library::unpack(&own).unwrap();
        let path = library.path().to_path_buf();
        assert_eq!(fs::read(&path).unwrap().len(), own.len());
        drop(library);
        assert!(!path.exists());
        for (damaged, why) in [
            (&b""[..], "no library inside"),
            (b"no library", "damaged"),
            (&own[..own.len() - 1], "damaged"),
            (&own[..own.len() / 2], "damaged"),
            (&own[..64], "damaged"),
            (&own[..20], "damaged"),
        ] {
            let e = Library::unpack(damaged).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }
        let mut other = own.clone();
        other[18] = 8; // MIPS
        assert!(Library::unpack(&other).is_err());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let forbids = |l: &&str| l.split(' ').nth(3).is_some_and(|o| o.contains("noexec"));
        match mounts.lines().find(forbids).and_then(|l| l.split(' ').nth(1)) {
            Some(folder) => assert!(is_noexec(Path::new(folder)), "{folder}"),
            None => println!("skipped: no folder here is mounted noexec"),
        }
    }
}
