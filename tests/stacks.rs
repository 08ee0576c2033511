//! Stacks in events: which events have one, where it begins and ends, and that a walk never faults,
//! whatever stands in the frame pointer and on whichever stack the thread runs.

#![cfg(target_arch = "x86_64")]

mod signals_support;
mod support;

use std::arch::asm;
use std::ffi::c_int;
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use signals_support::Library;
use support::Capture;
use trace::Config;
use trace::StackKind;
use trace_decode::Decoder;
use trace_decode::Event;
use trace_decode::Item;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

const ALL: [StackKind; 5] =
    [StackKind::Instant, StackKind::Counter, StackKind::Log, StackKind::Span, StackKind::Task];

/// An event with what its stack is.
#[derive(Debug)]
struct Seen {
    /// The class of its site.
    kind: String,
    /// The site's name.
    name: String,
    /// The id; `None` where the event has no such field.
    id: Option<u64>,
    frames: Vec<u64>,
    truncated: bool,
    /// Frames that lie in no loaded module.
    homeless: usize,
}

/// Records what `body` does and gives its events that have a site.
fn record(config: Config, body: impl FnOnce()) -> Vec<Seen> {
    let capture = Capture::default();
    config.start(capture.clone()).unwrap();
    body();
    let summary = trace::stop().unwrap();
    assert_eq!((summary.lost, summary.stuck_threads), (0, 0));
    let bytes = capture.take();
    support::assert_valid(&bytes);
    let mut seen = Vec::new();
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        let (Some(name), Event::Site(_)) = (e.name(), e.event()) else { continue };
        let id = e.stack();
        let stack = id.filter(|id| *id != 0).map(|id| e.tables().stack(id).expect("a definition"));
        let frames: Vec<u64> = stack.iter().flat_map(|s| s.frames()).collect();
        seen.push(Seen {
            kind: String::from_utf8_lossy(e.kind_name().bytes).into_owned(),
            name: String::from_utf8_lossy(name.bytes).into_owned(),
            id,
            homeless: frames.iter().filter(|a| e.tables().module_of(**a).is_none()).count(),
            truncated: stack.is_some_and(|s| s.is_truncated()),
            frames,
        });
    }
    seen
}

// The functions that emit stand in a section of their own, whose ends the linker tells.
unsafe extern "C" {
    #[link_name = "__start_emits_here"]
    static HERE_FIRST: u8;
    #[link_name = "__stop_emits_here"]
    static HERE_END: u8;
}

fn is_here(address: u64) -> bool {
    let here = (&raw const HERE_FIRST).addr()..(&raw const HERE_END).addr();
    assert!(here.len() > 100);
    here.contains(&(address as usize))
}

/// Frames of the recorder that may stand before the caller's: readers of traces leave them out.
/// Two where code is optimised: `log` formats in a function of its own, and may go the slow path.
const OWN_FRAMES: usize = if cfg!(debug_assertions) { 8 } else { 2 };

impl Seen {
    /// Whether the stack begins in the function that emitted: a return address in it stands first,
    /// but for the recorder's own frames.
    fn begins_here(&self) -> bool {
        self.frames.iter().position(|a| is_here(*a)).is_some_and(|own| own <= OWN_FRAMES)
    }

    /// Frames from the function that emitted on.
    fn frames_from_here(&self) -> usize {
        self.frames.iter().skip_while(|a| !is_here(**a)).count()
    }
}

#[inline(never)]
#[unsafe(link_section = "emits_here")]
fn emit_each_kind() {
    trace::instant!("i", n = 1);
    trace::counter!("c", 2);
    trace::log!(l, "3 {}", 3);
    let _span = trace::span!("s", n = 4);
    let _task = trace::task!("t", n = 5);
}

#[inline(never)]
#[unsafe(link_section = "emits_here")]
fn emit_a_closure_span() -> u32 {
    black_box(trace::span("f", || 7))
}

#[inline(never)]
#[unsafe(link_section = "emits_here")]
fn emit_a_log() {
    trace::log!(l, "here {}", black_box(1));
    black_box(());
}

#[test]
fn tasks_and_logs_have_stacks_unless_told_otherwise() {
    alone("tasks_and_logs_have_stacks_unless_told_otherwise", 30, || {
        let with = |kinds: &[StackKind]| {
            let seen = record(Config::new().stacks(kinds.iter().copied()), emit_each_kind);
            let kinds: Vec<_> =
                seen.iter().filter(|s| s.id.is_some()).map(|s| s.kind.clone()).collect();
            assert_eq!(seen.len(), 5);
            assert!(seen.iter().all(|s| s.id.is_none() || s.begins_here()), "{seen:?}");
            kinds.join(" ")
        };
        let seen = record(Config::new(), emit_each_kind);
        let kinds: Vec<_> = seen.iter().map(|s| (s.kind.as_str(), s.id.is_some())).collect();
        let each = [
            ("instant", false),
            ("counter", false),
            ("log", true),
            ("span", false),
            ("task", true),
        ];
        assert_eq!(kinds, each);
        assert_eq!(with(&[]), "");
        assert_eq!(with(&[StackKind::Instant, StackKind::Span]), "instant span");
        assert_eq!(with(&[StackKind::Counter]), "counter");
        assert_eq!(with(&ALL), "instant counter log span task");
    });
}

/// The innermost frame is the caller's: a return address in the function that holds the macro.
#[test]
fn stacks_begin_in_the_function_that_emits() {
    alone("stacks_begin_in_the_function_that_emits", 30, || {
        let seen = record(Config::new().stacks(ALL), || {
            for _ in 0..black_box(3) {
                emit_each_kind();
            }
            assert_eq!(emit_a_closure_span(), 7);
        });
        assert_eq!(seen.len(), 16);
        let outside: Vec<_> = seen.iter().filter(|s| !s.begins_here()).collect();
        let names: Vec<_> = outside.iter().map(|s| (&s.kind, &s.name)).collect();
        assert!(outside.is_empty(), "{names:?} begin elsewhere: {outside:#x?}");
        assert!(seen.iter().all(|s| s.frames.iter().filter(|a| is_here(**a)).count() == 1));
        assert!(seen.iter().all(|s| s.homeless == 0 && !s.truncated), "{seen:?}");
        // The same place gives the same stack, but for the first time, by the slow path.
        for at in 5..10 {
            assert_eq!(seen[at].id, seen[at + 5].id, "{:?}", seen[at]);
        }
        // Places differ.
        let ids: std::collections::BTreeSet<_> = seen[10..].iter().map(|s| s.id).collect();
        assert_eq!(ids.len(), 6);
    });
}

#[inline(never)]
fn deep(left: u64, f: &mut dyn FnMut()) -> u64 {
    if left == 0 {
        f();
        return 0;
    }
    black_box(deep(black_box(left) - 1, f) + 1)
}

#[test]
fn depth_is_limited_and_the_rest_is_said_to_be_cut() {
    alone("depth_is_limited_and_the_rest_is_said_to_be_cut", 30, || {
        for depth in [OWN_FRAMES + 1, OWN_FRAMES + 4, 128] {
            let seen = record(Config::new().stack_depth(depth), || {
                emit_a_log();
                assert_eq!(deep(200, &mut emit_a_log), 200);
            });
            let cut: Vec<_> = seen.iter().map(|s| (s.frames.len(), s.truncated)).collect();
            let shallow = seen[0].frames.len();
            assert!(shallow == depth || depth == 128 && shallow < 100, "{cut:?}");
            assert!(shallow > OWN_FRAMES);
            assert_eq!(cut, [(shallow, depth != 128), (depth, true)]);
            assert!(seen.iter().all(Seen::begins_here));
        }
        let seen = record(Config::new().stack_depth(1), emit_a_log);
        assert_eq!((seen[0].frames.len(), seen[0].truncated), (1, true));
        for depth in [0, 129] {
            let refused = Config::new().stack_depth(depth).start(std::io::sink());
            assert!(matches!(refused, Err(trace::StartError::Config(_))));
        }
    });
}

#[test]
fn recursion_of_ten_and_a_hundred_thousand() {
    alone("recursion_of_ten_and_a_hundred_thousand", 60, || {
        let big = std::thread::Builder::new().stack_size(512 << 20);
        let run = || {
            for depth in [10_000, 100_000] {
                let seen = record(Config::new().stacks(ALL), || {
                    assert_eq!(deep(depth, &mut emit_each_kind), depth);
                    emit_a_log();
                });
                assert_eq!(seen.len(), 6);
                for s in &seen[..5] {
                    assert_eq!((s.frames.len(), s.truncated), (128, true));
                    // One address for all calls of itself.
                    let itself = s.frames.iter().filter(|a| **a == s.frames[64]).count();
                    assert!(itself > 100 && s.begins_here(), "{itself}");
                }
                assert!(!seen[5].truncated);
            }
        };
        big.spawn(run).unwrap().join().unwrap();
    });
}

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0.rotate_left(29)
    }
}

static ROUNDS: AtomicU64 = AtomicU64::new(0);

extern "C" fn emit_from_elsewhere() {
    emit_a_log();
    ROUNDS.fetch_add(1, Relaxed);
}

/// Calls `f` with this number in the frame pointer.
#[inline(never)]
fn with_frame_pointer(number: u64, f: extern "C" fn()) {
    // SAFETY: rbp and the stack pointer, which a callee keeps, are put back before the end; all
    // else that a call may change is said.
    unsafe {
        asm!(
            "push rbp",
            "mov rbp, {number}",
            "mov r12, rsp",
            "and rsp, -16",
            "call {f}",
            "mov rsp, r12",
            "pop rbp",
            number = in(reg) number,
            f = in(reg) f,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

#[test]
fn garbage_in_the_frame_pointer() {
    alone("garbage_in_the_frame_pointer", 60, || {
        let rounds = 100_000 * support::multiplier();
        let mut random = Random(7);
        let seen = record(Config::new(), || {
            emit_a_log();
            for round in 0..rounds {
                let here = (&raw const random).addr() as u64;
                let r = random.next();
                let number = match round % 8 {
                    0 => r,
                    1 => r & !7,
                    // In the stack, below and above the frames, and beyond its end.
                    2 => (here + (r & 0xffff)) & !7,
                    3 => (here & !0xfff) + (r & 0xf_fff8),
                    4 => here.wrapping_sub(r & 0x3fff) & !7,
                    5 => [0, 8, 15, u64::MAX, u64::MAX - 7, 1 << 63, 1 << 47][r as usize % 7],
                    6 => here + (r & 0x7f),
                    _ => (emit_from_elsewhere as *const () as u64) + (r & 0xff),
                };
                with_frame_pointer(number, emit_from_elsewhere);
            }
        });
        assert_eq!(ROUNDS.load(Relaxed), rounds);
        assert_eq!(seen.len() as u64, rounds + 1);
        // What the recorder can know is there: the function that emits, and its caller.
        let odd = seen.iter().find(|s| !s.begins_here() || s.frames_from_here() < 2);
        assert!(odd.is_none(), "{odd:x?}");
        // Most numbers end the walk at once; some lead it on.
        assert!(seen.iter().any(|s| s.frames_from_here() <= 3));
        assert!(seen[1..].iter().any(|s| s.frames_from_here() > 3));
    });
}

/// Calls `f` on another stack, which ends at `top`.
#[inline(never)]
fn on_stack(top: u64, f: extern "C" fn()) {
    // SAFETY: the stack pointer is put back before the end; the other stack is the caller's own.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {f}",
            "mov rsp, r12",
            top = in(reg) top & !15,
            f = in(reg) f,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

/// On a stack that is not the thread's own nothing is known of what stands above: no frames.
#[test]
fn stacks_that_are_not_the_threads_own() {
    alone("stacks_that_are_not_the_threads_own", 30, || {
        const BYTES: usize = 256 << 10;
        let foreign = Box::leak(vec![0u64; BYTES / 8].into_boxed_slice());
        let top = foreign.as_mut_ptr().expose_provenance() as u64 + BYTES as u64;
        let seen = record(Config::new(), || {
            emit_a_log();
            for _ in 0..5000 {
                on_stack(top, emit_from_elsewhere);
            }
            emit_a_log();
            // Another thread's first event stands on a stack that is not its own.
            let other = std::thread::spawn(move || {
                on_stack(top, emit_from_elsewhere);
                for _ in 0..3000 {
                    emit_a_log();
                }
            });
            other.join().unwrap();
        });
        assert_eq!(ROUNDS.load(Relaxed), 5001);
        let none = |s: &Seen| s.id == Some(0) && s.frames.is_empty();
        assert_eq!(seen.len(), 2 + 5001 + 3000);
        assert!(!none(&seen[0]) && !none(&seen[5001]), "{:?}", seen[5001]);
        assert!(seen[1..=5000].iter().all(none));
        assert!(none(&seen[5002]));
        assert!(seen[8001].begins_here(), "its own stack is found after a while");
    });
}

/// A callback through C code that keeps no frame pointers and holds any number in that register.
#[test]
fn callbacks_through_code_without_frame_pointers() {
    type Call = extern "C" fn(extern "C" fn(), u64, u64, u64, u64) -> u64;
    alone("callbacks_through_code_without_frame_pointers", 30, || {
        let flags = ["-fomit-frame-pointer", "-fno-optimize-sibling-calls"];
        let Some(c) = Library::of("no_frames.c", &flags) else { return };
        // SAFETY: the C function's type.
        let call: Call = unsafe { std::mem::transmute(c.address("no_frames")) };
        let mut random = Random(3);
        let rounds = 2000;
        let seen = record(Config::new(), || {
            for round in 0..rounds {
                let here = (&raw const random).addr() as u64;
                let r = random.next();
                let odd = [r, here + (r & 0xff8), 0, here & !0xfff, u64::MAX - 7][round % 5];
                let sum = call(emit_from_elsewhere, odd, odd, odd, odd);
                let square = odd.wrapping_mul(odd);
                assert_eq!(sum, odd.wrapping_mul(16).wrapping_add(square.wrapping_mul(24)));
            }
        });
        assert_eq!(seen.len(), rounds);
        assert!(seen.iter().all(|s| s.begins_here() && s.frames_from_here() >= 2));
    });
}

/// A handler that interrupts no event has a stack of its own: through the signal's frame, or to it.
#[test]
fn a_handler_has_a_stack() {
    extern "C" fn emits(_signal: c_int) {
        emit_a_log();
    }
    alone("a_handler_has_a_stack", 30, || {
        signals_support::handle(libc::SIGUSR1, 0, emits);
        let seen = record(Config::new(), || {
            for _ in 0..10 {
                // SAFETY: a signal to the calling thread, with a handler.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            }
        });
        assert_eq!(seen.len(), 10);
        assert!(seen.iter().all(|s| s.begins_here() && s.frames_from_here() >= 2), "{seen:?}");
        black_box(std::ptr::null::<c_void>());
    });
}
