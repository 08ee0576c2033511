//! Code that enters the kernel by itself: no hook of the C library sees what it waits for. rustix,
//! libgomp and Go do so.
//!
//! The code of a file is read instruction by instruction, with the number that was put into the
//! register of the system call last. Of a call whose number comes from elsewhere only the place is
//! known.
//!
//! The C library itself is left out: its calls are made by functions that the hooks stand in for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use iced_x86::Code;
use iced_x86::Decoder;
use iced_x86::DecoderOptions;
use iced_x86::FlowControl;
use iced_x86::Instruction;
use iced_x86::InstructionInfoFactory;
use iced_x86::OpAccess;
use iced_x86::Register;
use object::Architecture;
use object::Object;
use object::ObjectSection;
use object::ObjectSegment;
use object::SectionKind;
use serde_json::Value;
use serde_json::json;
use trace_decode::Session;
use trace_symbolize::Frame;
use trace_symbolize::Module;
use trace_symbolize::Space;
use trace_symbolize::Symbolizer;

use crate::output::safe;
use crate::time;

/// Files larger than this are not looked through. 256 MiB: a second.
const FILE_MAX: u64 = 256 << 20;
/// Branches that go further are not followed.
const AHEAD_MAX: u64 = 1 << 16;
/// Places that are named; others are counted.
const NAMED_MAX: usize = 1000;

/// A place that enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its address in the file.
    pub address: u64,
    /// The number of the system call, where it is a constant.
    pub number: Option<u64>,
}

/// The same with the names of its functions.
#[derive(Clone, Debug)]
pub struct Named {
    /// The file.
    pub file: PathBuf,
    /// Where.
    pub site: Site,
    /// The functions, innermost first.
    pub frames: Vec<Frame>,
}

/// System calls in which a thread may wait, or by which it wakes others.
#[cfg(not(target_arch = "aarch64"))]
const WAITING: [(u64, &str); 54] = [
    (0, "read"),
    (1, "write"),
    (2, "open"),
    (7, "poll"),
    (16, "ioctl"),
    (17, "pread64"),
    (18, "pwrite64"),
    (19, "readv"),
    (20, "writev"),
    (23, "select"),
    (24, "sched_yield"),
    (26, "msync"),
    (34, "pause"),
    (35, "nanosleep"),
    (40, "sendfile"),
    (42, "connect"),
    (43, "accept"),
    (44, "sendto"),
    (45, "recvfrom"),
    (46, "sendmsg"),
    (47, "recvmsg"),
    (61, "wait4"),
    (65, "semop"),
    (69, "msgsnd"),
    (70, "msgrcv"),
    (72, "fcntl"),
    (73, "flock"),
    (74, "fsync"),
    (75, "fdatasync"),
    (128, "rt_sigtimedwait"),
    (130, "rt_sigsuspend"),
    (202, "futex"),
    (208, "io_getevents"),
    (220, "semtimedop"),
    (230, "clock_nanosleep"),
    (232, "epoll_wait"),
    (247, "waitid"),
    (257, "openat"),
    (270, "pselect6"),
    (271, "ppoll"),
    (275, "splice"),
    (276, "tee"),
    (281, "epoll_pwait"),
    (288, "accept4"),
    (295, "preadv"),
    (296, "pwritev"),
    (299, "recvmmsg"),
    (307, "sendmmsg"),
    (326, "copy_file_range"),
    (426, "io_uring_enter"),
    (441, "epoll_pwait2"),
    (449, "futex_waitv"),
    (454, "futex_wake"),
    (455, "futex_wait"),
];
/// System calls in which a thread may wait, or by which it wakes others.
#[cfg(target_arch = "aarch64")]
const WAITING: [(u64, &str); 36] = [
    (22, "epoll_pwait"),
    (25, "fcntl"),
    (29, "ioctl"),
    (32, "flock"),
    (56, "openat"),
    (63, "read"),
    (64, "write"),
    (65, "readv"),
    (66, "writev"),
    (67, "pread64"),
    (68, "pwrite64"),
    (71, "sendfile"),
    (72, "pselect6"),
    (73, "ppoll"),
    (76, "splice"),
    (82, "fsync"),
    (83, "fdatasync"),
    (95, "waitid"),
    (98, "futex"),
    (101, "nanosleep"),
    (115, "clock_nanosleep"),
    (124, "sched_yield"),
    (133, "rt_sigsuspend"),
    (137, "rt_sigtimedwait"),
    (202, "accept"),
    (203, "connect"),
    (206, "sendto"),
    (207, "recvfrom"),
    (211, "sendmsg"),
    (212, "recvmsg"),
    (242, "accept4"),
    (260, "wait4"),
    (426, "io_uring_enter"),
    (441, "epoll_pwait2"),
    (449, "futex_waitv"),
    (455, "futex_wait"),
];

impl Site {
    /// The call's name, where it may wait or wake.
    pub fn call(&self) -> Option<&'static str> {
        let number = self.number?;
        WAITING.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
    }

    /// Whether a thread may wait there: in such a call, or in one that is not known.
    pub fn may_wait(&self) -> bool {
        self.number.is_none() || self.call().is_some()
    }

    /// The call in words.
    fn text(&self) -> String {
        match (self.call(), self.number) {
            (Some(name), _) => name.to_owned(),
            (None, Some(number)) => format!("call {number}"),
            (None, None) => "some call".to_owned(),
        }
    }
}

impl Named {
    /// For programs.
    pub fn json(&self) -> Value {
        let frame = |f: &Frame| {
            json!({"function": f.function.as_deref(), "file": f.file.as_deref(), "line": f.line,
                "inlined": f.inlined})
        };
        let frames: Vec<Value> = self.frames.iter().map(frame).collect();
        json!({"module": self.file.to_string_lossy(), "address": self.site.address,
            "number": self.site.number, "call": self.site.call(),
            "may_wait": self.site.may_wait(), "frames": frames})
    }

    /// What places alike have in common: the call, and the function or else the file.
    fn key(&self) -> String {
        match self.frames.iter().any(|f| f.function.is_some()) {
            true => format!("{} {}", self.site.text(), self.place()),
            false => format!("{} {}", self.site.text(), self.file.display()),
        }
    }

    /// The place in words: the function, the one it is inlined into, file and line.
    fn place(&self) -> String {
        let name = self.file.file_name().unwrap_or(OsStr::new("?"));
        let mut text = String::new();
        let own = self.frames.iter().find(|f| f.function.is_some());
        match own.and_then(|f| f.function.as_deref()) {
            Some(function) => text.push_str(&safe(function.as_bytes())),
            None => {
                text = format!("{}+{:#x}", safe(name.as_bytes()), self.site.address);
                return text;
            }
        }
        // What is inlined is a library's; whose waits these are says the function around it.
        let around = self.frames.last().filter(|f| !std::ptr::eq(*f, &self.frames[0]));
        if let Some(function) = around.and_then(|f| f.function.as_deref()) {
            text.push_str(&format!(" in {}", safe(function.as_bytes())));
        }
        if let Some(frame) = self.frames.iter().find(|f| f.file.is_some())
            && let (Some(file), Some(line)) = (&frame.file, frame.line)
        {
            let file = file.rsplit('/').next().unwrap_or(file);
            text.push_str(&format!(" at {}:{line}", safe(file.as_bytes())));
        }
        text.push_str(&format!(" ({})", safe(name.as_bytes())));
        text
    }
}

/// A few lines that name the places, those that may wait first. Places alike are one line.
pub fn lines(all: &[Named], most: usize) -> Vec<String> {
    let mut places: Vec<(String, String, u64)> = Vec::new();
    for named in all.iter().filter(|n| n.site.may_wait()) {
        let (key, text) = (named.key(), format!("{} by {}", named.site.text(), named.place()));
        match places.iter_mut().find(|(known, ..)| *known == key) {
            Some((.., count)) => *count += 1,
            None => places.push((key, text, 1)),
        }
    }
    // Futexes are what threads wait by.
    places.sort_by_key(|(_, text, _)| (!text.starts_with("futex"), text.starts_with("some")));
    let line = |(_, text, count): &(String, String, u64)| match count {
        1 => format!("around the hooks: {text}"),
        n => format!("around the hooks: {text}, and {} like it", n - 1),
    };
    let mut lines: Vec<String> = places.iter().take(most).map(line).collect();
    if places.len() > most {
        let more = (places.len() - most) as u64;
        lines.push(format!("around the hooks: {}", time::counted(more, "more place")));
    }
    lines
}

/// Whether a file is of the C library, or no file.
pub fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let libc = ["libc.so", "ld-linux", "libpthread.so", "librt.so", "libdl.so", "libanl.so"];
    libc.iter().any(|l| name.starts_with(l.as_bytes()))
        || !path.is_absolute()
        || name.starts_with(b"exectrace-")
}

/// The dynamic linker that a program names.
pub fn loader(bytes: &[u8]) -> Option<PathBuf> {
    let file = object::File::parse(bytes).ok()?;
    let name = file.section_by_name(".interp")?.data().ok()?;
    let name = name.split(|b| *b == 0).next()?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

/// Whether a program was made by Go's compiler, which leaves a note of that in it.
pub fn is_go(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    object::File::parse(&*bytes).is_ok_and(|f| f.section_by_name(".go.buildinfo").is_some())
}

/// The places in the code of a program and of its libraries, where their files still are those
/// that were loaded.
pub fn in_session(session: &Session, debug_dirs: &[PathBuf]) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for module in session.epochs().flat_map(|tables| tables.modules()) {
        let path = PathBuf::from(OsStr::from_bytes(&module.path));
        if is_left_out(&path) || seen.contains(&path) {
            continue;
        }
        all.extend(in_file(&path, debug_dirs, Some(&module.build_id)).unwrap_or_default());
        seen.push(path);
    }
    all
}

/// The places in the code of a file, the first thousand with their names; `None` where it cannot be
/// read, or is not the one with this build id.
pub fn in_file(path: &Path, dirs: &[PathBuf], build_id: Option<&[u8]>) -> Option<Vec<Named>> {
    let about = fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= FILE_MAX)?;
    let bytes = fs::read(path).ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    let own_id = file.build_id().ok().flatten();
    if build_id.is_some_and(|id| !id.is_empty() && own_id != Some(id)) {
        return None;
    }
    let sites = sites(&file);
    let end = file.segments().map(|s| s.address().saturating_add(s.size())).max().unwrap_or(0);
    let mut symbolizer = Symbolizer::with_debug_dirs(dirs.to_vec());
    let module = Module {
        base: 0,
        size: end,
        bias: 0,
        build_id: own_id.map(<[u8]>::to_vec),
        path: path.into(),
        file_size: about.len(),
        mtime: about.mtime().max(0) as u64,
    };
    symbolizer.add_module(Space(0), module);
    let named = |(i, site): (usize, Site)| Named {
        file: path.into(),
        site,
        frames: match i < NAMED_MAX {
            true => symbolizer.resolve(Space(0), site.address).frames.clone(),
            false => Vec::new(),
        },
    };
    Some(sites.into_iter().enumerate().map(named).collect())
}

/// The places in the code of a file.
fn sites(file: &object::File<'_>) -> Vec<Site> {
    let look = match file.architecture() {
        Architecture::X86_64 => x86_64,
        Architecture::Aarch64 => aarch64,
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
        if let Ok(code) = section.data() {
            look(code, section.address(), &mut found);
        }
    }
    found
}

/// What a register holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    /// No way here is known yet.
    Unseen,
    /// This constant, on every way that is known.
    Constant(u64),
    /// Anything.
    #[default]
    Other,
}

/// What the registers hold on the way from one instruction to the next.
#[derive(Clone, Copy, Debug, Default)]
struct Constants([Held; 16]);

impl Constants {
    const UNSEEN: Constants = Constants([Held::Unseen; 16]);

    fn at(register: Register) -> Option<usize> {
        let full = register.full_register();
        full.is_gpr64().then(|| full as usize - Register::RAX as usize)
    }

    fn get(&self, register: Register) -> Held {
        Constants::at(register).map_or(Held::Other, |at| self.0[at])
    }

    fn set(&mut self, register: Register, value: Held) {
        if let Some(at) = Constants::at(register) {
            self.0[at] = value;
        }
    }

    /// What is so on both ways to an instruction.
    fn meet(&mut self, other: &Constants) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = match (*own, other) {
                (Held::Unseen, one) | (one, Held::Unseen) => one,
                (one, other) if one == other => one,
                _ => Held::Other,
            };
        }
    }
}

/// What is held where branches go to, by address.
type Targets = HashMap<u64, Constants>;

fn x86_64(code: &[u8], address: u64, found: &mut Vec<Site>) {
    let (mut back, mut own) = (Targets::new(), Vec::new());
    pass(code, address, &mut back, &mut own);
    if own.iter().any(|site| site.number.is_none()) {
        // Loops are entered at their ends: what they begin with is known now.
        own.clear();
        pass(code, address, &mut back, &mut own);
    }
    found.append(&mut own);
}

/// Goes through the code once. `back`: what branches that go back have brought the last time.
fn pass(code: &[u8], address: u64, back: &mut Targets, found: &mut Vec<Site>) {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut held = Constants::default();
    // Where branches go to further on, with what is held there.
    let mut ahead = Targets::new();
    let mut i = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut i);
        for there in [ahead.remove(&i.ip()), back.get(&i.ip()).copied()].into_iter().flatten() {
            held.meet(&there);
        }
        let (to, from) = (i.op0_register(), i.op1_register());
        let value = match i.code() {
            Code::Syscall => {
                let number = match held.get(Register::RAX) {
                    Held::Constant(number) => Some(number),
                    _ => None,
                };
                found.push(Site { address: i.ip(), number });
                held.set(Register::RAX, Held::Other);
                continue;
            }
            Code::Mov_r32_imm32 => Held::Constant(u64::from(i.immediate32())),
            Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32 | Code::Mov_r64_imm64
                if to != Register::None =>
            {
                Held::Constant(i.immediate(1))
            }
            Code::Xor_r32_rm32 | Code::Xor_rm32_r32 if to == from => Held::Constant(0),
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if to != Register::None && from != Register::None =>
            {
                held.get(from)
            }
            _ => {
                match i.flow_control() {
                    FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                        let target = i.near_branch_target();
                        if target.abs_diff(i.ip()) < AHEAD_MAX {
                            let to = if target > i.ip() { &mut ahead } else { &mut *back };
                            to.entry(target).and_modify(|t| t.meet(&held)).or_insert(held);
                        }
                        if i.flow_control() == FlowControl::UnconditionalBranch {
                            held = Constants::UNSEEN;
                        }
                    }
                    FlowControl::Next => {
                        written(info.info(&i)).for_each(|r| held.set(r, Held::Other));
                    }
                    // A function keeps some registers for its caller.
                    FlowControl::Call | FlowControl::IndirectCall => {
                        let kept = [Register::RBX, Register::RBP, Register::R12, Register::R13];
                        let kept = kept.into_iter().chain([Register::R14, Register::R15]);
                        let values: Vec<_> = kept.map(|r| (r, held.get(r))).collect();
                        held = Constants::default();
                        values.into_iter().for_each(|(register, v)| held.set(register, v));
                    }
                    // What stands behind it is another function's, or a way round.
                    _ => held = Constants::UNSEEN,
                }
                continue;
            }
        };
        held.set(to, value);
    }
}

/// The registers that an instruction changes.
fn written(info: &iced_x86::InstructionInfo) -> impl Iterator<Item = Register> {
    let writes = |access: OpAccess| {
        use OpAccess::*;
        matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
    };
    info.used_registers().iter().filter(move |r| writes(r.access())).map(|r| r.register())
}

/// Every instruction has four bytes; the number is in x8.
fn aarch64(code: &[u8], address: u64, found: &mut Vec<Site>) {
    let mut number = None;
    for (i, word) in code.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        if word == 0xd400_0001 {
            found.push(Site { address: address + 4 * i as u64, number });
        }
        // `mov w8, #n` or `mov x8, #n`.
        if word & 0x7fe0_001f == 0x5280_0008 {
            number = Some(u64::from(word >> 5 & 0xffff));
        } else if word == 0xd65f_03c0 {
            number = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code by hand, with the addresses of its calls and their numbers.
    #[test]
    fn numbers_are_those_that_were_loaded_last() {
        let parts: [(&[u8], Option<Option<u64>>); 14] = [
            (&[0xb8, 202, 0, 0, 0, 0x31, 0xff], None), // mov eax, 202; xor edi, edi
            (&[0x0f, 0x05], Some(Some(202))),          // syscall
            (&[0x0f, 0x05], Some(None)),               // again: eax is what it returned
            (&[0x48, 0xc7, 0xc0, 35, 0, 0, 0], None),  // mov rax, 35
            (&[0x74, 0x00, 0x0f, 0x05], Some(Some(35))), // je .; syscall
            (&[0x31, 0xc0, 0x0f, 0x05], Some(Some(0))), // xor eax, eax; syscall
            (&[0xb8, 202, 0, 0, 0, 0xc3], None),       // mov eax, 202; ret
            (&[0x0f, 0x05], Some(None)),               // another function's
            (&[0xb8, 1, 0, 0, 0, 0x89, 0xf8, 0x0f, 0x05], Some(None)), // mov eax, edi
            // mov eax, 202; je to the next line; ret: a way around what ends the function.
            (&[0xb8, 202, 0, 0, 0, 0x74, 0x01, 0xc3, 0x0f, 0x05], Some(Some(202))),
            // mov eax, 1; je to the call; mov eax, 2: two ways with two numbers.
            (&[0xb8, 1, 0, 0, 0, 0x74, 5, 0xb8, 2, 0, 0, 0, 0x0f, 0x05], Some(None)),
            // The bytes of the instruction within a number are none.
            (&[0xb9, 0x0f, 0x05, 0x0f, 0x05], None), // mov ecx, 0x50f050f
            (&[0xb8, 7, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x0f, 0x05], Some(None)), // call
            // mov ebx, 202; call; mov eax, ebx; syscall: what a called function keeps.
            (&[0xbb, 202, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x89, 0xd8, 0x0f, 0x05], Some(Some(202))),
        ];
        let (mut code, mut expected) = (Vec::new(), Vec::new());
        for (bytes, call) in parts {
            code.extend_from_slice(bytes);
            let address = 0x1000 + code.len() as u64 - 2;
            expected.extend(call.map(|number| Site { address, number }));
        }
        let mut found = Vec::new();
        x86_64(&code, 0x1000, &mut found);
        assert_eq!(found, expected);
    }

    #[test]
    fn the_same_on_the_other_machine() {
        let words: [u32; 6] =
            [0x5280_0c48, 0xd400_0001, 0xd280_0ca8, 0xaa00_03e0, 0xd400_0001, 0xd65f_03c0];
        let code: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut found = Vec::new();
        aarch64(&code, 0, &mut found);
        let site = |address, number| Site { address, number: Some(number) };
        assert_eq!(found, [site(4, 98), site(16, 101)]);
    }

    #[test]
    fn calls_that_may_wait_come_first_and_alike_ones_once() {
        let named = |number, function: &str| Named {
            file: "/lib/libx.so".into(),
            site: Site { address: 0x10, number },
            frames: vec![Frame { function: Some(function.into()), ..Frame::default() }],
        };
        let futex = WAITING.iter().find(|(_, name)| *name == "futex").unwrap().0;
        let all = [
            named(None, "syscall6"),
            named(Some(futex), "lock"),
            named(Some(futex), "lock"),
            // getpid never waits, on either machine.
            named(Some(if cfg!(target_arch = "aarch64") { 172 } else { 39 }), "id"),
        ];
        let expected = [
            "around the hooks: futex by lock (libx.so), and 1 like it",
            "around the hooks: some call by syscall6 (libx.so)",
        ];
        assert_eq!(lines(&all, 5), expected);
        assert_eq!(lines(&all, 1)[1], "around the hooks: 1 more place");
        let unnamed = Named { frames: Vec::new(), ..all[0].clone() };
        assert_eq!(unnamed.place(), "libx.so+0x10");
        for (path, out) in [
            ("/lib/x86_64-linux-gnu/libc.so.6", true),
            ("/lib64/ld-linux-x86-64.so.2", true),
            ("linux-vdso.so.1", true),
            ("/usr/lib/libgomp.so.1", false),
            ("/usr/bin/libcat", false),
        ] {
            assert_eq!(is_left_out(Path::new(path)), out, "{path}");
        }
    }
}
