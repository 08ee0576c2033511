//! Whether a program that is about to run can be recorded: looked at as a file, before it runs, by
//! system calls of our own, without memory of its own: also in a child of vfork.

use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_int;

use crate::raw;

/// What a look at a program's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The library can be loaded into it.
    Follow,
    /// It cannot, for this reason.
    Leave(&'static str),
    /// There is no such program, or none that the system would run: the call says it itself.
    Nothing,
}

/// The machine of this build, as ELF numbers it.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
/// Interpreters of interpreters.
const SCRIPTS_MAX: u32 = 4;
const HEADERS_MAX: u64 = 64;
/// Libraries and names that mean a sanitizer, which wants to be the first library itself.
const SANITIZERS: [&[u8]; 5] = [b"libasan", b"libtsan", b"libhwasan", b"libmsan", b"liblsan"];
const SANITIZED: [&[u8]; 4] = [b"__asan_init", b"__tsan_init", b"__msan_init", b"__hwasan_init"];
/// Bytes of names that are looked through.
const NAMES_MAX: u64 = 1 << 20;

/// An open descriptor of ours.
struct File(usize);

impl File {
    /// # Safety
    /// - `path` ends in a zero.
    unsafe fn open(path: *const c_char) -> Result<File, c_int> {
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let arguments = [libc::AT_FDCWD as usize, path.expose_provenance(), flags, 0, 0, 0];
        // SAFETY: the caller's promise.
        let r = unsafe { raw::system_call(libc::SYS_openat as usize, arguments) };
        if r < 0 { Err(-r as c_int) } else { Ok(File(r as usize)) }
    }

    /// Reads at a place of the file; gives how much there was.
    fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let to = into.as_mut_ptr().expose_provenance();
        let arguments = [self.0, to, into.len(), at as usize, 0, 0];
        // SAFETY: the buffer is writable for its length.
        let r = unsafe { raw::system_call(libc::SYS_pread64 as usize, arguments) };
        r.max(0) as usize
    }

    fn exact<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read(at, &mut bytes) == N).then_some(bytes)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: our own descriptor.
        unsafe { raw::system_call(libc::SYS_close as usize, [self.0, 0, 0, 0, 0, 0]) };
    }
}

/// Looks at the program at `path`.
///
/// # Safety
/// - `path` is null or ends in a zero.
pub unsafe fn look(path: *const c_char) -> Verdict {
    if path.is_null() {
        return Verdict::Nothing;
    }
    // SAFETY: the caller's promise.
    unsafe { look_at(path, 0) }
}

/// # Safety
/// - `path` ends in a zero.
unsafe fn look_at(path: *const c_char, depth: u32) -> Verdict {
    let executable = [libc::AT_FDCWD as usize, path.expose_provenance(), libc::X_OK as usize];
    let executable = [executable[0], executable[1], executable[2], 0, 0, 0];
    // SAFETY: the caller's promise.
    if unsafe { raw::system_call(libc::SYS_faccessat as usize, executable) } != 0 {
        return Verdict::Nothing;
    }
    // SAFETY: the caller's promise.
    let file = match unsafe { File::open(path) } {
        Ok(file) => file,
        Err(libc::EACCES) => return Verdict::Leave("it cannot be read"),
        Err(_) => return Verdict::Nothing,
    };
    let mut head = [0u8; 512];
    let have = file.read(0, &mut head);
    if let Some(script) = head[..have].strip_prefix(b"#!") {
        return interpreter_of(script, depth);
    }
    match rights(&file) {
        Verdict::Follow if head.starts_with(b"\x7fELF") => elf(&file, &head),
        // A shell runs it as a script; which one is for libc to say.
        Verdict::Follow => Verdict::Leave("it is no ELF file"),
        other => other,
    }
}

/// The program that a script names in its first line.
fn interpreter_of(script: &[u8], depth: u32) -> Verdict {
    let line = script.split(|b| *b == b'\n').next().unwrap_or_default();
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | 0);
    let word = line.split(blank).find(|w| !w.is_empty()).unwrap_or_default();
    let mut path = [0u8; 256];
    if depth >= SCRIPTS_MAX || word.is_empty() || word.len() >= path.len() {
        return Verdict::Nothing;
    }
    path[..word.len()].copy_from_slice(word);
    // SAFETY: the array ends in a zero.
    unsafe { look_at(path.as_ptr().cast(), depth + 1) }
}

/// Whether it runs with rights of its own, where nothing is preloaded.
fn rights(file: &File) -> Verdict {
    // SAFETY: plain numbers, for which zero is a value.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    let arguments = [file.0, (&raw mut about).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the struct is writable.
    if unsafe { raw::system_call(libc::SYS_fstat as usize, arguments) } < 0 {
        return Verdict::Nothing;
    }
    if about.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Verdict::Nothing;
    }
    if about.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
        return Verdict::Leave("it runs with another user's rights");
    }
    let name = c"security.capability".as_ptr().expose_provenance();
    // SAFETY: a string that ends in a zero; a size of 0 asks for the length alone.
    let r = unsafe { raw::system_call(libc::SYS_fgetxattr as usize, [file.0, name, 0, 0, 0, 0]) };
    match r {
        n if n > 0 => Verdict::Leave("it has capabilities of its own"),
        _ => Verdict::Follow,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// A program header: type, offset, address, size in the file.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn elf(file: &File, head: &[u8]) -> Verdict {
    if head[4] != 2 || head[5] != 1 || u16_at(head, 18) != MACHINE {
        return Verdict::Leave("it is built for another kind of machine");
    }
    let (at, size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
    let headers = (0..u64::from(count).min(HEADERS_MAX)).filter_map(|i| {
        let at = at.checked_add(i.checked_mul(size.into())?)?;
        let h: [u8; 56] = file.exact(at)?;
        let (offset, address, size) = (u64_at(&h, 8), u64_at(&h, 16), u64_at(&h, 32));
        Some(Header { kind: u32_at(&h, 0), offset, address, size })
    });
    let Some(interp) = headers.clone().find(|h| h.kind == PT_INTERP) else {
        return Verdict::Leave("it is statically linked");
    };
    let mut name = [0u8; 256];
    let n = (interp.size as usize).min(name.len());
    let n = file.read(interp.offset, &mut name[..n]);
    if !name[..n].windows(8).any(|w| w == b"ld-linux") {
        return Verdict::Leave("its dynamic linker is not glibc's");
    }
    let in_file = |address: u64| {
        let mut loads = headers.clone().filter(|h| h.kind == PT_LOAD);
        let load = loads.find(|h| h.address <= address && address - h.address < h.size)?;
        Some(load.offset.wrapping_add(address - load.address))
    };
    let dynamic = headers.clone().find(|h| h.kind == PT_DYNAMIC);
    match dynamic.is_some_and(|d| has_sanitizer(file, d, in_file)) {
        true => Verdict::Leave("it has a sanitizer's runtime"),
        false => Verdict::Follow,
    }
}

/// Whether the program needs or exports a sanitizer.
fn has_sanitizer(file: &File, dynamic: Header, in_file: impl Fn(u64) -> Option<u64>) -> bool {
    let entries = || {
        (0..(dynamic.size / 16).min(512)).map_while(|i| {
            let e: [u8; 16] = file.exact(dynamic.offset.checked_add(i * 16)?)?;
            Some((u64_at(&e, 0), u64_at(&e, 8))).filter(|(tag, _)| *tag != 0)
        })
    };
    let value = |tag| entries().find(|(t, _)| *t == tag).map(|(_, v)| v);
    let Some(names) = value(DT_STRTAB).and_then(in_file) else { return false };
    let needs = entries().filter(|(tag, _)| *tag == DT_NEEDED).any(|(_, at)| {
        let mut name = [0u8; 16];
        let n = file.read(names.saturating_add(at), &mut name);
        SANITIZERS.iter().any(|s| name[..n].starts_with(s))
    });
    needs || exports(file, names, value(DT_STRSZ).unwrap_or(0).min(NAMES_MAX))
}

/// Whether one of a sanitizer's names stands in these bytes of the file.
fn exports(file: &File, from: u64, len: u64) -> bool {
    const OVERLAP: u64 = 16;
    let mut bytes = [0u8; 4096];
    let mut at = 0;
    while at < len {
        let n = file.read(from.saturating_add(at), &mut bytes);
        let found = |name: &&[u8]| bytes[..n].windows(name.len()).any(|w| w == *name);
        if SANITIZED.iter().any(found) {
            return true;
        }
        if n < bytes.len() {
            return false;
        }
        at += bytes.len() as u64 - OVERLAP;
    }
    false
}

/// Puts the path of the program that libc would find for `name` into `into`, and looks at it.
///
/// # Safety
/// - `name` is null or ends in a zero; so does `folders`, the value of `PATH`.
pub unsafe fn find(name: *const c_char, folders: *const c_char, into: &mut [u8; 4096]) -> Verdict {
    if name.is_null() {
        return Verdict::Nothing;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let folders = match folders.is_null() {
        true => &b"/bin:/usr/bin"[..],
        // SAFETY: the caller's promise.
        false => unsafe { CStr::from_ptr(folders) }.to_bytes(),
    };
    let is_path = name.contains(&b'/');
    let folders = if is_path || name.is_empty() { &b""[..] } else { folders };
    for folder in folders.split(|b| *b == b':') {
        let parts = if folder.is_empty() { [&b""[..], b"", name] } else { [folder, b"/", name] };
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if len >= into.len() {
            continue;
        }
        let mut at = 0;
        for part in parts {
            into[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        into[at] = 0;
        // SAFETY: the zero was just written.
        let verdict = unsafe { look(into.as_ptr().cast()) };
        if verdict != Verdict::Nothing {
            return verdict;
        }
    }
    Verdict::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn verdict(path: &Path) -> Verdict {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a string that ends in a zero.
        unsafe { look(path.as_ptr()) }
    }

    #[test]
    fn files_of_all_kinds() {
        let dir = std::env::temp_dir().join(format!("exectrace-target-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let make = |name: &str, bytes: &[u8], mode: u32| {
            let path = dir.join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            verdict(&path)
        };
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(make("own", &own, 0o755), Verdict::Follow);
        assert_eq!(make("plain", &own, 0o644), Verdict::Nothing);
        assert_eq!(verdict(&dir), Verdict::Nothing);
        assert_eq!(verdict(&dir.join("none")), Verdict::Nothing);
        let another = Verdict::Leave("it runs with another user's rights");
        assert_eq!(make("setuid", &own, 0o4755), another);
        let machine = Verdict::Leave("it is built for another kind of machine");
        let mut other = own.clone();
        other[18] = 8; // MIPS
        assert_eq!(make("other", &other, 0o755), machine);
        other[18] = own[18];
        other[4] = 1;
        assert_eq!(make("small", &other, 0o755), machine);
        let mut fixed = own.clone();
        (fixed[56], fixed[57]) = (0, 0);
        assert_eq!(make("static", &fixed, 0o755), Verdict::Leave("it is statically linked"));
        let at = own.windows(9).position(|w| w == b"/ld-linux").unwrap();
        let mut musl = own.clone();
        musl[at..at + 9].copy_from_slice(b"/ld-musl-");
        let linker = Verdict::Leave("its dynamic linker is not glibc's");
        assert_eq!(make("musl", &musl, 0o755), linker);
        assert_eq!(make("script", b"#! /bin/sh -e\nexit\n", 0o755), Verdict::Follow);
        let of_none = make("of-none", b"#!/no/such/shell\n", 0o755);
        assert_eq!(of_none, Verdict::Nothing);
        assert_eq!(make("text", b"echo 1\n", 0o755), Verdict::Leave("it is no ELF file"));
        // Whatever a file's first bytes say, looking at it ends.
        for cut in [0, 1, 5, 40, 63, 64, 100, 300, 4000] {
            make("cut", &own[..cut], 0o755);
        }
        for at in 4..600 {
            let mut broken = own[..8192.min(own.len())].to_vec();
            broken[at] ^= 0xff;
            make("broken", &broken, 0o755);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    /// By what marks a sanitizer: a name that its runtime exports, a library that it comes in.
    #[test]
    fn programs_with_a_sanitizer() {
        let dir = std::env::temp_dir().join(format!("exectrace-sanitizer-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let cc = |text: &str, name: &str, flags: &[&str]| {
            let (source, program) = (dir.join(format!("{name}.c")), dir.join(name));
            fs::write(&source, text).unwrap();
            let mut cc = std::process::Command::new("cc");
            let output = cc.arg("-o").arg(&program).arg(&source).args(flags).output().ok()?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(program)
        };
        let main = "int main(void) { return 0; }";
        let Some(plain) = cc(main, "plain", &["-rdynamic"]) else {
            println!("skipped: no C compiler");
            return;
        };
        assert_eq!(verdict(&plain), Verdict::Follow);
        let found = Verdict::Leave("it has a sanitizer's runtime");
        let exports = format!("void __tsan_init(void) {{}} {main}");
        assert_eq!(verdict(&cc(&exports, "exports", &["-rdynamic"]).unwrap()), found);
        let shared = ["-shared", "-fPIC", "-Wl,-soname,libasan.so.8"];
        let library = cc("int x;", "libfake.so", &shared).unwrap();
        let needs = ["-Wl,--no-as-needed", library.to_str().unwrap()];
        assert_eq!(verdict(&cc(main, "needs", &needs).unwrap()), found);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_are_found_as_libc_finds_them() {
        let mut into = [0u8; 4096];
        let mut at = |name: &CStr, folders: &CStr| {
            // SAFETY: strings that end in a zero.
            let verdict = unsafe { find(name.as_ptr(), folders.as_ptr(), &mut into) };
            let path = CStr::from_bytes_until_nul(&into).unwrap().to_str().unwrap().to_owned();
            (verdict, path)
        };
        let (verdict, path) = at(c"sh", c"/no/such:/usr/bin:/bin");
        assert_eq!((verdict, path.as_str()), (Verdict::Follow, "/usr/bin/sh"));
        assert_eq!(at(c"/bin/sh", c"").1, "/bin/sh");
        assert_eq!(at(c"no-such-program", c"/bin:/usr/bin").0, Verdict::Nothing);
        assert_eq!(at(c"", c"/bin").0, Verdict::Nothing);
    }
}
