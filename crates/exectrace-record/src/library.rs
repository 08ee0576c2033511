//! The preloaded library on its way to a file that the dynamic linker can map.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::folder::Folder;

/// The library in a private folder whose file system allows to execute.
#[derive(Debug)]
pub struct Library {
    _folder: Folder,
    path: PathBuf,
}

impl Library {
    /// Writes the library's bytes to the first folder that may hold executable mappings.
    pub fn unpack(bytes: &[u8]) -> io::Result<Library> {
        if !bytes.starts_with(b"\x7fELF") {
            let what = "this build has no library inside";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
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

fn unpack_in(parent: &Path, bytes: &[u8]) -> io::Result<Library> {
    let folder = Folder::make(parent)?;
    let path = folder.path().join("libexectrace_preload.so");
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
        assert!(Library::unpack(b"no library").is_err());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let forbids = |l: &&str| l.split(' ').nth(3).is_some_and(|o| o.contains("noexec"));
        match mounts.lines().find(forbids).and_then(|l| l.split(' ').nth(1)) {
            Some(folder) => assert!(is_noexec(Path::new(folder)), "{folder}"),
            None => println!("skipped: no folder here is mounted noexec"),
        }
    }
}
