//! Places that are made small or odd for one test: mounts that only its process sees, and a control
//! group of its own. They need root; without it a test says why it is skipped.

#![allow(dead_code)] // Each test binary uses its part.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn mount(from: &str, to: &Path, kind: &str, flags: libc::c_ulong, options: &str) -> bool {
    let (from, to) = (c_string(from), c_string(to.to_str().unwrap()));
    let (kind, options) = (c_string(kind), c_string(options));
    // SAFETY: strings that end with zero.
    let r = unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    r == 0
}

/// Gives the calling thread, and those that it makes, mounts of their own. False, with the reason
/// printed, where that is refused.
pub fn own_mounts() -> bool {
    // SAFETY: numbers only.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0
        && mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "");
    if !done {
        println!("skipped: no mounts of its own: {}", io::Error::last_os_error());
    }
    done
}

/// A new folder that is a tmpfs of so many bytes. After `own_mounts`.
pub fn tmpfs(name: &str, bytes: u64) -> PathBuf {
    let name = format!("tmpfs-{}-{name}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir(&folder).unwrap();
    let made = mount("none", &folder, "tmpfs", 0, &format!("size={bytes}"));
    assert!(made, "{}", io::Error::last_os_error());
    folder
}

/// Removes a folder of `tmpfs`.
pub fn remove_tmpfs(folder: &Path) {
    let name = c_string(folder.to_str().unwrap());
    // SAFETY: a string that ends with zero.
    unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
    std::fs::remove_dir(folder).unwrap();
}

/// Puts the file `from` over the file `to`. After `own_mounts`.
pub fn put_over(from: &Path, to: &Path) {
    let done = mount(from.to_str().unwrap(), to, "", libc::MS_BIND, "");
    assert!(done, "{}", io::Error::last_os_error());
}

/// Hides everything below a folder. After `own_mounts`.
pub fn hide(folder: &Path) {
    assert!(mount("none", folder, "tmpfs", 0, "size=4096"), "{}", io::Error::last_os_error());
}

/// A control group with a limit of memory; removed when dropped.
pub struct Group(PathBuf);

impl Group {
    /// A group below the one of this process; `None`, with the reason printed, where there is none
    /// to be had.
    pub fn with_memory(bytes: u64) -> Option<Group> {
        let (root, limit) = Group::root()?;
        let folder = root.join(format!("exectrace-{}", std::process::id()));
        let made = std::fs::create_dir(&folder)
            .and_then(|()| std::fs::write(folder.join(limit), bytes.to_string()));
        if let Err(e) = made {
            println!("skipped: no control group of its own: {e}");
            let _ = std::fs::remove_dir(&folder);
            return None;
        }
        Some(Group(folder))
    }

    /// Where the memory groups stand that this process is in, and the name of the limit's file.
    fn root() -> Option<(PathBuf, &'static str)> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let path = path.trim_start_matches('/');
            let (root, limit) = match kinds {
                "" => (Path::new("/sys/fs/cgroup").join(path), "memory.max"),
                k if k.split(',').any(|k| k == "memory") => {
                    (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes")
                }
                _ => continue,
            };
            if root.join("cgroup.procs").exists() && (!kinds.is_empty() || has_memory(&root)) {
                return Some((root, limit));
            }
        }
        println!("skipped: no control group for memory");
        None
    }

    /// Runs `command` inside.
    pub fn run(&self, command: &mut Command) -> std::process::Output {
        use std::os::unix::process::CommandExt;
        let procs = self.0.join("cgroup.procs");
        // SAFETY: opens and writes a file, which a child of fork may do; no lock is held over it.
        unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
        command.output().unwrap()
    }
}

/// Whether groups below may limit memory (version 2).
fn has_memory(root: &Path) -> bool {
    let controllers = std::fs::read_to_string(root.join("cgroup.subtree_control"));
    controllers.is_ok_and(|c| c.split_whitespace().any(|k| k == "memory"))
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
