//! Folders of our own, for this user alone, removed at the end.

use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

/// A private folder, removed with all that is in it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one in `parent`, with a name that nobody guesses.
    pub fn make(parent: &Path) -> io::Result<Folder> {
        let name = format!("exectrace-{:016x}", trace::sys::random_u64());
        let path = parent.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }

    /// Makes one on a tmpfs, where mappings may stand.
    pub fn on_tmpfs() -> io::Result<Folder> {
        let mut why = io::Error::new(io::ErrorKind::NotFound, "there is no tmpfs to write to");
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        for parent in [Some(PathBuf::from("/dev/shm")), runtime].into_iter().flatten() {
            if !is_tmpfs(&parent) {
                continue;
            }
            match Folder::make(&parent) {
                Ok(folder) => return Ok(folder),
                Err(e) => why = io::Error::new(e.kind(), format!("{}: {e}", parent.display())),
            }
        }
        Err(why)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder on a tmpfs in which buffers can be made.
///
/// # Errors
///
/// There is none, or it cannot be written to.
pub fn can_hold_buffers() -> io::Result<PathBuf> {
    let folder = Folder::on_tmpfs()?;
    Ok(folder.path().parent().unwrap_or(folder.path()).to_path_buf())
}

/// Whether a folder is on a tmpfs, by the table of mounts: the longest mount point above it says.
fn is_tmpfs(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best = (0, false);
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(at), Some(kind)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if folder.starts_with(at) && at.len() >= best.0 {
            best = (at.len(), kind == "tmpfs");
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_goes() {
        let Ok(folder) = Folder::on_tmpfs() else {
            println!("skipped: no tmpfs to write to");
            return;
        };
        let path = folder.path().to_path_buf();
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        fs::write(path.join("a"), "b").unwrap();
        drop(folder);
        assert!(!path.exists());
        assert!(!is_tmpfs(Path::new("/proc")));
    }
}
