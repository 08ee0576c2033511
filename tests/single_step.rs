//! A handler at one instruction after another of a thread's first event and of its end, by the trap
//! flag of the processor: what timers hit once in hours, these runs hit each time.
#![cfg(target_arch = "x86_64")]

mod signals_support;
mod support;

use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use signals_support::assert_exact;
use signals_support::mine;
use signals_support::tally;
use signals_support::total;
use support::Capture;

/// Trap after each instruction.
const TRAP_FLAG: i64 = 0x100;
/// Instructions around the moment at which the thread has its record, one run for each.
const DENSE: u64 = 96;
/// Beyond them, one run for so many.
const STRIDE: u64 = 4001;

/// Where the handler emits: after so many instructions.
static AT: AtomicU64 = AtomicU64::new(0);
/// From when they count: one of the three below.
static FROM: AtomicU32 = AtomicU32::new(0);
/// The first instruction of the event.
const BEGIN: u32 = 0;
/// The moment at which the thread has its record.
const RECORD: u32 = 1;
/// The moment at which it gives it up.
const END: u32 = 2;
static STEPS: AtomicU64 = AtomicU64::new(0);
static HITS: AtomicU64 = AtomicU64::new(0);

extern "C" fn step(_signal: c_int, _info: *mut c_void, context: *mut c_void) {
    let l = trace::registry::local::here();
    let begun = match FROM.load(Relaxed) {
        BEGIN => true,
        RECORD => l.record().is_some(),
        _ => !l.registered(),
    };
    if !begun || STEPS.fetch_add(1, Relaxed) != AT.load(Relaxed) {
        return;
    }
    HITS.fetch_add(1, Relaxed);
    if let Some(t) = mine() {
        t.probe(2);
        t.probe(3);
    }
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel's, for the handler of this signal; the flags are one register.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG };
}

/// Switches trapping on, or off where no handler has done it.
#[inline(always)]
fn trap(on: bool) {
    match on {
        // SAFETY: changes the trap flag, for which there is a handler.
        true => unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") },
        // SAFETY: as above.
        false => unsafe {
            std::arch::asm!("pushfq", "and qword ptr [rsp], 0xfffffffffffffeff", "popfq");
        },
    }
}

/// A new thread, whose handler emits at this place; whether it did.
fn run(from: u32, at: u64) -> bool {
    FROM.store(from, Relaxed);
    AT.store(at, Relaxed);
    STEPS.store(0, Relaxed);
    let hits = HITS.load(Relaxed);
    let thread = std::thread::spawn(move || {
        let t = tally();
        trap(from != END);
        t.probe(1);
        trap(false);
        // The thread goes on as any other.
        (4..8).for_each(|n| _ = t.probe(n));
        // Until the handler has emitted.
        trap(from == END);
    });
    thread.join().unwrap();
    HITS.load(Relaxed) > hits
}

/// Runs `body` in a process of its own, with a session; all that was attempted is accounted for.
fn recorded(test: &'static str, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, 240);
    // SAFETY: plain numbers, a mask and a pointer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = step as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the action is filled in; the handler is a function for the life of the process.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()) }, 0);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    body();
    trace::stop().unwrap();
    assert_exact(&[out.take()], 0);
    println!("{} events of handlers lost", total(|t| &t.lost));
}

#[test]
fn a_handler_at_each_step_of_a_threads_first_event() {
    recorded("a_handler_at_each_step_of_a_threads_first_event", || {
        for at in 0..DENSE {
            assert!(run(RECORD, at), "no step {at} after the record");
        }
        let mut runs = 0;
        for from in [RECORD, BEGIN] {
            // Another place within the stride each time, so that in the end all are tried.
            let mut at = u64::from(std::process::id()) % STRIDE + DENSE;
            while run(from, at) {
                (runs, at) = (runs + 1, at + STRIDE);
            }
        }
        assert!(runs > 4, "{runs}");
    });
}

#[test]
fn a_handler_at_each_step_of_a_threads_end() {
    recorded("a_handler_at_each_step_of_a_threads_end", || {
        for at in 0..DENSE {
            assert!(run(END, at), "no step {at} after the end");
        }
    });
}
