//! Where a module's names may stand beside its own file: debug files by build id and by link.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use crate::content::Pages;
use crate::elf::Elf;
use crate::module::Module;

/// Where to look for files.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Directories of debug files, the first one first.
    pub dirs: Vec<PathBuf>,
    /// Where files that a `debuginfod` client has fetched are kept.
    pub fetched: Option<PathBuf>,
}

impl Places {
    /// Files of this build id, in the order to try.
    fn of_build_id(&self, id: &[u8], name: Option<&OsStr>) -> Vec<PathBuf> {
        let Some((first, rest)) = id.split_first() else { return Vec::new() };
        let (first, rest) = (hex(&[*first]), hex(rest));
        let mut out = Vec::new();
        for dir in &self.dirs {
            let mut file = dir.join(".build-id").join(&first).join(&rest).into_os_string();
            file.push(".debug");
            out.push(PathBuf::from(file));
            if let Some(name) = name {
                let mut debug = name.to_owned();
                debug.push(".debug");
                out.extend([dir.join(name), dir.join(debug)]);
            }
        }
        if let Some(fetched) = &self.fetched {
            let of_id = fetched.join(first + &rest);
            out.extend([of_id.join("debuginfo"), of_id.join("executable")]);
        }
        out
    }

    /// The debug file of a module's build id.
    pub fn by_build_id(&self, module: &Module, pages: &Rc<Pages>) -> Option<Elf> {
        let id = module.build_id.as_deref()?;
        let mut places = self.of_build_id(id, module.path.file_name()).into_iter();
        places.find_map(|path| of_id(&path, id, pages))
    }

    /// The debug file that `elf` names: of the same build id, or where one of them has none, with
    /// the checksum that `elf` says. Reads the whole file for that.
    pub fn by_link(&self, elf: &Elf, pages: &Rc<Pages>) -> Option<Elf> {
        let (name, checksum) = elf.debuglink()?;
        let name = Path::new(OsStr::from_bytes(&name)).file_name()?;
        let beside = elf.path().parent()?;
        let mut places = vec![beside.join(name), beside.join(".debug").join(name)];
        if let Ok(inside) = beside.strip_prefix("/") {
            places.extend(self.dirs.iter().map(|dir| dir.join(inside).join(name)));
        }
        places.into_iter().find_map(|place| {
            let found = Elf::open(&place, pages).ok()?;
            let same = match (elf.build_id(), found.build_id()) {
                (Some(own), Some(id)) => own == id,
                _ => found.checksum().ok()? == checksum,
            };
            same.then_some(found)
        })
    }

    /// The file with what `elf` has in common with others, which it names with its build id; the
    /// name alone where it is not there.
    pub fn alt(&self, elf: &Elf, pages: &Rc<Pages>) -> Option<Result<Elf, String>> {
        let (name, id) = elf.altlink()?;
        let path = Path::new(OsStr::from_bytes(&name));
        let mut places = Vec::new();
        if let Some(beside) = elf.path().parent() {
            // Joined to an absolute path, that stands alone.
            places.push(beside.join(path));
        }
        if let Some(last) = path.file_name() {
            places.extend(self.dirs.iter().map(|dir| dir.join(".dwz").join(last)));
        }
        places.extend(self.of_build_id(&id, path.file_name()));
        let found = places.into_iter().find_map(|place| of_id(&place, &id, pages));
        Some(found.ok_or_else(|| path.display().to_string()))
    }

    /// Packages with what was split off from the units of a program.
    pub fn packages(&self, program: &Path, debug: &Path) -> Vec<PathBuf> {
        let package = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dwp");
            PathBuf::from(name)
        };
        let mut out = vec![package(program)];
        if debug != program {
            out.push(package(debug));
        }
        if let Some(name) = program.file_name() {
            out.extend(self.dirs.iter().map(|dir| package(&dir.join(name))));
        }
        out
    }
}

/// The file at a path, if it has this build id.
fn of_id(path: &Path, id: &[u8], pages: &Rc<Pages>) -> Option<Elf> {
    let found = Elf::open(path, pages).ok()?;
    (found.build_id() == Some(id)).then_some(found)
}

/// Where a `debuginfod` client of this user keeps what it has fetched, whether there is one or not.
pub fn fetched() -> Option<PathBuf> {
    let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = var("DEBUGINFOD_CACHE_PATH").or_else(|| {
        let caches = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?;
        Some(caches.join("debuginfod_client"))
    });
    dir.filter(|dir| dir.is_absolute())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_build_id_leads() {
        let places = Places { dirs: vec!["/d".into()], fetched: Some("/cache".into()) };
        let found = places.of_build_id(&[0xab, 0x01, 0x20], Some(OsStr::new("prog")));
        let want = [
            "/d/.build-id/ab/0120.debug",
            "/d/prog",
            "/d/prog.debug",
            "/cache/ab0120/debuginfo",
            "/cache/ab0120/executable",
        ];
        assert_eq!(found, want.map(PathBuf::from));
        assert!(places.of_build_id(&[], None).is_empty());
        let packages = places.packages(Path::new("/bin/prog"), Path::new("/x/prog.debug"));
        let want = ["/bin/prog.dwp", "/x/prog.debug.dwp", "/d/prog.dwp"];
        assert_eq!(packages, want.map(PathBuf::from));
    }
}
