//! Names that need no second file: those packed into the program itself, and the kernel's.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::content::Content;
use crate::elf::Elf;

/// Bytes of a packed symbol table, unpacked. Distributions' largest have a few million.
const MINI_BYTES_MAX: u64 = 64 << 20;

/// Memory for unpacking it, in KiB: twice what the packer takes at its highest level.
const UNPACK_KIB_MAX: u32 = 128 << 10;

/// Bytes of the kernel's module; it has a few pages.
const VDSO_BYTES_MAX: u64 = 1 << 20;

/// The file with the symbols that are not for the dynamic linker, which some distributions leave in
/// their programs, packed, in `.gnu_debugdata`.
pub fn mini(elf: &Elf) -> Option<Elf> {
    let packed = elf.whole(".gnu_debugdata", MINI_BYTES_MAX / 4)?;
    let unpack = lzma_rust2::XzReader::new_mem_limit(&packed[..], true, UNPACK_KIB_MAX);
    let mut bytes = Vec::new();
    unpack.take(MINI_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > MINI_BYTES_MAX {
        return None;
    }
    Elf::read(elf.path(), Content::memory(bytes)).ok()
}

/// The module that the kernel brings to every process, as this process has it. It is no file; but
/// the same kernel brings the same one.
pub fn vdso() -> Option<Elf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, rest) = line.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(rest.split(' ').next()?, 16).ok()?;
    let len = end.checked_sub(start).filter(|len| *len <= VDSO_BYTES_MAX)?;
    let mut bytes = vec![0; len as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    Elf::read(Path::new("[vdso]"), Content::memory(bytes)).ok()
}
