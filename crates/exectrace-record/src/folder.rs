//! Folders of our own, for this user alone, removed at the end; those of a command that was killed
//! are removed by the next one.
//!
//! 1. In each folder stands a file that its command keeps locked while it lives: whoever can lock
//!    it knows that nobody drains there any more. A recorded program that starts looks, too.
//! 2. A folder has its name only when the file is there and locked.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

/// What its command keeps locked.
const OWNER: &str = "owner";
const PREFIX: &str = "exectrace-";

/// A private folder, removed with all that is in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _owner: File,
}

impl Folder {
    /// Makes one in `parent`, with a name that nobody guesses.
    pub fn make(parent: &Path) -> io::Result<Folder> {
        remove_left(parent);
        let path = parent.join(format!("{PREFIX}{:016x}", trace::sys::random_u64()));
        let young = path.with_extension("new");
        DirBuilder::new().mode(0o700).create(&young)?;
        let owned = File::create(young.join(OWNER)).and_then(|owner| {
            rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive)?;
            fs::rename(&young, &path)?;
            Ok(owner)
        });
        match owned {
            Ok(owner) => Ok(Folder { path, _owner: owner }),
            Err(e) => {
                let _ = fs::remove_dir_all(&young);
                Err(e)
            }
        }
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
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether this is the name of a folder as they are made here.
fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX);
    number.is_some_and(|n| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Removes the folders of commands that were killed. Those of other users cannot be opened.
fn remove_left(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        let Ok(owner) = File::open(entry.path().join(OWNER)) else { continue };
        if rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
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

    #[test]
    fn what_a_killed_command_left_is_removed_by_the_next_one() {
        let parent = std::env::temp_dir().join(format!("exectrace-left-{}", std::process::id()));
        fs::create_dir_all(parent.join("exectrace-0123456789abcdeg")).unwrap();
        let left = parent.join("exectrace-0123456789abcdef");
        fs::create_dir_all(left.join("with")).unwrap();
        fs::write(left.join("with/something"), "in it").unwrap();
        // One that has no such file is not known.
        drop(Folder::make(&parent).unwrap());
        assert!(left.exists());
        fs::write(left.join(OWNER), "").unwrap();
        let one = Folder::make(&parent).unwrap();
        assert!(!left.exists());
        let two = Folder::make(&parent).unwrap();
        assert!(one.path().exists() && two.path().exists() && one.path() != two.path());
        drop((one, two));
        let names: Vec<_> =
            fs::read_dir(&parent).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["exectrace-0123456789abcdeg"]);
        fs::remove_dir_all(&parent).unwrap();
    }
}
