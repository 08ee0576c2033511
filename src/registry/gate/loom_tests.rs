//! The gate under loom: one owner, one controller, every execution that the orderings allow.
//!
//! `tests/gate_model.rs` looks at far longer runs, but for one memory model and for its own copy
//! of the steps. Here it is the shipped functions that run, under loom's weaker memory, with each
//! ordering weakened in turn; a weakened one that passes fails the test.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom` (`ci/loom` runs it).

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::sync::Arc;
use crate::sync::UnsafeCell;
use crate::sync::thread;

/// Any stack pointer.
const SP: u64 = 0x7000;
/// Buffer of generation 1 and buffer of generation 2.
const OLD: u32 = 0;
const NEW: u32 = 1;

/// How the owner opens a section.
#[derive(Clone, Copy, PartialEq)]
enum Opening {
    Light,
    Fenced,
    /// The compiler barrier is missing: the compiler puts the gate's load before busy's store.
    Reordered,
}

/// How the controller makes its turn of the gate known.
#[derive(Clone, Copy, PartialEq)]
enum Barrier {
    Heavy,
    /// For an owner in fence mode.
    Fence,
    Missing,
}

/// How the controller takes a slot.
#[derive(Clone, Copy, PartialEq)]
enum Take {
    Tagged,
    CheckFirst,
    Swap,
    /// Compares the buffer's index only.
    AnyTag,
}

#[derive(Clone, Copy)]
struct Form {
    opening: Opening,
    barrier: Barrier,
    take: Take,
    /// Whether the controller looks at the busy word before it takes.
    looks: bool,
}

const SOUND: Form =
    Form { opening: Opening::Light, barrier: Barrier::Heavy, take: Take::Tagged, looks: true };

/// One event a buffer is enough: what matters is who touches it when.
struct World {
    gate: AtomicU32,
    busy: AtomicU64,
    slot: AtomicU64,
    post: std::sync::Arc<barrier::Post>,
    /// What the session prepares before it turns the gate, read inside the section.
    tables: UnsafeCell<u32>,
    /// Loom fails an execution in which two threads touch one of these without an order.
    buffers: [UnsafeCell<u32>; 2],
    /// How often each buffer was handed over.
    handed: [AtomicU32; 2],
}

impl World {
    /// Recording in generation 1, the owner has its buffer.
    fn recording() -> Arc<World> {
        Arc::new(World {
            gate: AtomicU32::new(1),
            busy: AtomicU64::new(0),
            slot: AtomicU64::new(slot_word(1, OLD)),
            post: std::sync::Arc::new(barrier::Post::of_this_asker()),
            tables: UnsafeCell::new(1),
            buffers: [UnsafeCell::new(0), UnsafeCell::new(0)],
            handed: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    fn hand_over(&self, (_, buffer): Tagged) {
        let before = self.handed[buffer as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "buffer handed over twice");
    }

    fn write(&self, buffer: u32) {
        // SAFETY: this is the claim under test; loom reports an access that breaks it.
        self.buffers[buffer as usize].with_mut(|b| unsafe { *b += 1 });
    }

    fn read(&self, buffer: u32) -> u32 {
        // SAFETY: as in `write`.
        self.buffers[buffer as usize].with(|b| unsafe { *b })
    }
}

fn open<O: Orders>(form: Form, world: &World, generation: u32) -> bool {
    barrier::light();
    match form.opening {
        Opening::Light => enter_with::<O>(&world.busy, &world.gate, generation, SP),
        Opening::Fenced => enter_fenced(&world.busy, &world.gate, generation, SP),
        Opening::Reordered => {
            let word = world.gate.load(O::GATE_LOAD);
            barrier::light();
            world.busy.store(SP, Ordering::Relaxed);
            word == generation
        }
    }
}

/// The owner emits once: the fast path, and the cold one where the gate has turned.
fn emit<O: Orders>(form: Form, world: &World, generation: &mut u32) {
    while !open::<O>(form, world, *generation) {
        // Relaxed: only a guess, the next opening decides.
        let State::Running(now) = state(world.gate.load(Ordering::Relaxed)) else {
            leave_with::<O>(&world.busy);
            return;
        };
        if now != *generation {
            let old = exchange_slot(&world.slot, now, Some(NEW));
            *generation = now;
            if let Some(old) = old {
                world.hand_over(old);
            }
        }
    }
    // The kernel may ask for the fence here as well: past the gate, nothing written yet.
    barrier::light();
    // SAFETY: this is the claim under test, as in `World::write`.
    let tables = world.tables.with(|t| unsafe { *t });
    assert_eq!(tables, *generation, "a section saw another generation's tables");
    if let Some((tag, buffer)) = slot_content(world.slot.load(Ordering::Relaxed)) {
        assert_eq!(tag, *generation);
        world.write(buffer);
    }
    leave_with::<O>(&world.busy);
}

/// The controller turns the gate and says whether it saw the owner out.
fn turn_and_look<O: Orders>(form: Form, world: &World, word: u32) -> bool {
    turn_with::<O>(&world.gate, word);
    match form.barrier {
        Barrier::Heavy => barrier::heavy(&world.post),
        Barrier::Fence => barrier::full(),
        Barrier::Missing => {}
    }
    !form.looks || is_out_with::<O>(&world.busy)
}

fn take(form: Form, slot: &AtomicU64, older_than: u32) -> Option<Tagged> {
    match form.take {
        Take::Tagged => take_slot(slot, older_than),
        Take::CheckFirst => {
            let seen = slot_content(slot.load(Ordering::Acquire))?;
            if seen.0 >= older_than {
                return None;
            }
            thread::yield_now();
            slot.store(0, Ordering::Release);
            Some(seen)
        }
        Take::Swap => slot_content(slot.swap(0, Ordering::AcqRel)),
        Take::AnyTag => take_slot(slot, u32::MAX),
    }
}

fn spawn_owner<O: Orders + 'static>(
    form: Form,
    world: &Arc<World>,
    events: u32,
) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        let _taking = barrier::Taking::part(world.post.clone());
        let mut generation = 1;
        for _ in 0..events {
            emit::<O>(form, &world, &mut generation);
        }
    })
}

/// A pause: while the owner is out, the controller reads what sections write, and the tables of
/// the next generation are laid out.
fn pause<O: Orders + 'static>(form: Form) {
    let world = World::recording();
    let owner = spawn_owner::<O>(form, &world, 1);
    if turn_and_look::<O>(form, &world, 1 | PAUSED) {
        assert!(world.read(OLD) <= 1);
        // SAFETY: this is the claim under test, as in `World::write`.
        world.tables.with_mut(|t| unsafe { *t = 2 });
        turn_with::<O>(&world.gate, 2);
    }
    owner.join().unwrap();
}

/// An advance: the old buffer is handed over by exactly one side, and nobody writes to it then.
fn advance<O: Orders + 'static>(form: Form) {
    let world = World::recording();
    // The tables are the pause's matter.
    let owner = spawn_owner::<O>(form, &world, 1);
    if turn_and_look::<O>(form, &world, 1 | PAUSED) {
        // SAFETY: this is the claim under test, as in `World::write`.
        world.tables.with_mut(|t| unsafe { *t = 2 });
        turn_with::<O>(&world.gate, 2);
        if let Some(taken) = take(form, &world.slot, 2) {
            assert_eq!(taken, (1, OLD), "the controller took a buffer of the new generation");
            world.hand_over(taken);
            assert!(world.read(taken.1) <= 1);
        }
        owner.join().unwrap();
        let left = slot_content(world.slot.load(Ordering::Acquire));
        let handed = world.handed[OLD as usize].load(Ordering::Relaxed);
        assert_eq!(handed, 1, "the old buffer was not handed over");
        assert_ne!(left.map(|tagged| tagged.1), Some(OLD));
    } else {
        owner.join().unwrap();
    }
}

/// Switches away from a thread that could run on, in one execution. Without a bound the models
/// hold as well, in 2.4 million executions and four minutes.
const PREEMPTIONS: usize = 4;

/// Runs all executions; how many there were.
fn explore(run: impl Fn() + Send + Sync + 'static) -> usize {
    let executions = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        run();
    });
    executions.load(Ordering::Relaxed)
}

/// Fails unless some execution fails with a message that has `expected` in it.
fn must_fail(expected: &str, run: impl Fn() + Send + Sync + 'static) {
    let outcome = catch_unwind(AssertUnwindSafe(|| explore(run)));
    let Err(payload) = outcome else { panic!("the mutant passed, expected: {expected}") };
    let said = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(payload.downcast_ref::<&str>().copied())
        .unwrap_or("");
    assert!(said.contains(expected), "expected: {expected}, failed with: {said}");
}

/// What loom says when two accesses to a cell have no order.
const RACE: &str = "Causality violation";

macro_rules! weakened {
    ($name:ident, $field:ident) => {
        struct $name;
        impl Orders for $name {
            const GATE_STORE: Ordering = weakened!(@ $field GATE_STORE Release);
            const GATE_LOAD: Ordering = weakened!(@ $field GATE_LOAD Acquire);
            const LEAVE_STORE: Ordering = weakened!(@ $field LEAVE_STORE Release);
            const OUT_LOAD: Ordering = weakened!(@ $field OUT_LOAD Acquire);
        }
    };
    (@ GATE_STORE GATE_STORE $sound:ident) => {
        Ordering::Relaxed
    };
    (@ GATE_LOAD GATE_LOAD $sound:ident) => {
        Ordering::Relaxed
    };
    (@ LEAVE_STORE LEAVE_STORE $sound:ident) => {
        Ordering::Relaxed
    };
    (@ OUT_LOAD OUT_LOAD $sound:ident) => {
        Ordering::Relaxed
    };
    (@ $other:ident $field:ident $sound:ident) => {
        Ordering::$sound
    };
}

weakened!(GateStoreRelaxed, GATE_STORE);
weakened!(GateLoadRelaxed, GATE_LOAD);
weakened!(LeaveRelaxed, LEAVE_STORE);
weakened!(OutRelaxed, OUT_LOAD);

#[test]
fn pause_holds() {
    let executions = explore(|| pause::<Sound>(SOUND));
    println!("pause: {executions} executions");
    assert!(executions > 100, "{executions}");
}

#[test]
fn advance_holds() {
    let executions = explore(|| advance::<Sound>(SOUND));
    println!("advance: {executions} executions");
    assert!(executions > 100, "{executions}");
}

#[test]
fn fence_mode_holds() {
    let fenced = Form { opening: Opening::Fenced, barrier: Barrier::Fence, ..SOUND };
    let executions = explore(move || {
        pause::<Sound>(fenced);
    }) + explore(move || advance::<Sound>(fenced));
    println!("fence mode: {executions} executions");
    assert!(executions > 50, "{executions}");
}

#[test]
fn without_the_heavy_side_it_fails() {
    must_fail(RACE, || pause::<Sound>(Form { barrier: Barrier::Missing, ..SOUND }));
}

#[test]
fn without_the_light_side_it_fails() {
    must_fail(RACE, || pause::<Sound>(Form { opening: Opening::Reordered, ..SOUND }));
}

#[test]
fn without_a_fence_on_either_side_fence_mode_fails() {
    let fenced = Form { opening: Opening::Fenced, barrier: Barrier::Missing, ..SOUND };
    must_fail(RACE, move || pause::<Sound>(fenced));
    let fenced = Form { opening: Opening::Light, barrier: Barrier::Fence, ..SOUND };
    must_fail(RACE, move || pause::<Sound>(fenced));
}

#[test]
fn without_a_look_at_busy_it_fails() {
    must_fail(RACE, || pause::<Sound>(Form { looks: false, ..SOUND }));
}

#[test]
fn a_relaxed_load_of_the_gate_fails() {
    must_fail(RACE, || pause::<GateLoadRelaxed>(SOUND));
}

#[test]
fn a_relaxed_store_of_the_gate_fails() {
    must_fail(RACE, || pause::<GateStoreRelaxed>(SOUND));
}

#[test]
fn leaving_without_release_fails() {
    must_fail(RACE, || pause::<LeaveRelaxed>(SOUND));
}

#[test]
fn a_relaxed_look_at_busy_fails() {
    must_fail(RACE, || pause::<OutRelaxed>(SOUND));
}

#[test]
fn check_then_take_fails() {
    must_fail("handed over twice", || advance::<Sound>(Form { take: Take::CheckFirst, ..SOUND }));
}

#[test]
fn taking_by_swap_fails() {
    let expected = "took a buffer of the new generation";
    must_fail(expected, || advance::<Sound>(Form { take: Take::Swap, ..SOUND }));
}

#[test]
fn taking_any_generation_fails() {
    let expected = "took a buffer of the new generation";
    must_fail(expected, || advance::<Sound>(Form { take: Take::AnyTag, ..SOUND }));
}
