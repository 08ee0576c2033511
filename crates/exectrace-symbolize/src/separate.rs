//! Where a module's names may stand beside its own file: debug files by build id and by link.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::elf::ElfReader;
use crate::module::Module;

/// Files that may hold the names of this build id, in the order to try.
pub fn by_build_id(dirs: &[PathBuf], module: &Module) -> Vec<PathBuf> {
    let Some((first, rest)) = module.build_id.as_deref().and_then(|id| id.split_first()) else {
        return Vec::new();
    };
    let mut name = format!("{first:02x}/");
    for byte in rest {
        let _ = write!(name, "{byte:02x}");
    }
    let mut out = Vec::new();
    for dir in dirs {
        out.push(dir.join(".build-id").join(format!("{name}.debug")));
        if let Some(file) = module.path.file_name() {
            out.push(dir.join(file));
            out.push(dir.join(suffixed(file, ".debug")));
        }
    }
    out
}

/// The debug file that `elf` names, if it is there and has the checksum that `elf` says.
pub fn by_link(dirs: &[PathBuf], elf: &ElfReader) -> Option<ElfReader> {
    let (name, checksum) = elf.debuglink()?;
    let name = Path::new(OsStr::from_bytes(name)).file_name()?;
    let beside = elf.path().parent()?;
    let mut places = vec![beside.join(name), beside.join(".debug").join(name)];
    if let Ok(inside) = beside.strip_prefix("/") {
        places.extend(dirs.iter().map(|dir| dir.join(inside).join(name)));
    }
    places.into_iter().find_map(|place| {
        let mut found = ElfReader::open(&place).ok()?;
        let same_build = elf.build_id().is_none_or(|id| found.build_id() == Some(id));
        (same_build && found.checksum().ok()? == checksum).then_some(found)
    })
}

fn suffixed(name: &OsStr, suffix: &str) -> PathBuf {
    let mut name = name.to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
