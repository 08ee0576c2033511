//! The gate and the hand-over of buffers, checked exhaustively.
//!
//! Two programs run against each other: a thread that emits, with a signal handler that may
//! interrupt it at any instruction and emits as well, and the session's controller. Every order
//! of their steps is tried. The thread has an x86 store buffer: its stores become visible late,
//! in their order; a locked instruction, a system call and the controller's membarrier empty it.
//!
//! What must hold in every state:
//! - no bytes of an event reach a buffer that the controller, the reader or the pool has;
//! - nothing appears during the snapshot of a pause, unless the thread was marked as late;
//! - no event is begun inside a half-written one, none is published before it is written;
//! - a buffer is handed over once, by the side that has it;
//! - an event of the second session never goes into a buffer of the first;
//! - nobody waits for ever;
//! - in the end every attempted event was delivered, counted as lost, or met a gate that is off.
//!
//! Every rule of the protocol is then broken in turn, and the search must find what it protects
//! from. Not covered: two emitting threads (they share no word of the protocol), memory weaker
//! than x86 (loom covers the gate's own functions, `src/registry/gate/loom_tests.rs`), a
//! `longjmp` out of an event, the inside of pool, queue and side buffer.

#[path = "gate_model/controller.rs"]
mod controller;
#[path = "gate_model/explore.rs"]
mod explore;
#[path = "gate_model/owner.rs"]
mod owner;
#[path = "gate_model/state.rs"]
mod state;

use controller::Op;
use state::Fault;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// The handler's event goes the same way as the event that it interrupts.
    NoReentryTest,
    /// A nested event waits for the end of the pause.
    NestedWaits,
    /// A nested event asks the gate only whether tracing is off.
    NestedIgnoresPause,
    /// The thread waits for the end of the pause with its busy word set.
    WaitsInside,
    /// A handler on the pausing thread waits for the end of the pause.
    PauserWaits,
    /// The compiler moved the gate's load before busy's store.
    GateBeforeBusy,
    LeavesBeforePublish,
    PublishesFirst,
    /// Registration goes on with the gate's word that was read before it.
    RegistersWithStaleGate,
    /// The owner puts in a new buffer and does not hand over the old one.
    ForgetsOldBuffer,
    NoBarrier,
    BarrierBeforeTurn,
    LooksBeforeBarrier,
    /// The controller takes from threads that are busy.
    TakesWithoutLook,
    /// The controller reads the slot, and empties it without a look at what is there by then.
    ChecksThenTakes,
    TakesBySwap,
    /// The exchange compares the buffer and not its tag.
    ComparesBufferOnly,
    /// Who was late once is never polled.
    ForgetsLate,
    /// The side buffer is read before its thread was seen out.
    ReadsSideBeforeLook,
    /// A stop at its deadline treats a busy thread's buffer as if the thread were out.
    RecyclesAtDeadline,
    /// A stop at its deadline leaves the buffer that it copied from in the slot.
    CopiesWithoutTaking,
}

/// What is explored: how long the programs are, and what is wrong with them.
#[derive(Clone, Copy)]
struct Form {
    script: fn() -> Vec<Op>,
    events: u8,
    handlers: u8,
    /// A handler that emits interrupts the controller's own thread.
    own_handler: bool,
    /// The thread is not registered when it emits first.
    registers: bool,
    /// A pause waits for a busy thread however long it takes. Shows who would wait for ever.
    patient: bool,
    mutant: Option<Mutant>,
}

impl Form {
    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// One session with all turns of the gate; a pause goes on without a busy thread.
const SESSION: Form = Form {
    script: controller::one_session,
    events: 3,
    handlers: 1,
    own_handler: false,
    registers: false,
    patient: false,
    mutant: None,
};

/// A stop that gives up on a busy thread, then a second session.
const DEADLINE: Form = Form { script: || controller::two_sessions(3), ..SESSION };

/// Fails unless the form holds in all its states, of which there must be at least `floor`.
fn holds(name: &str, form: Form, floor: usize) {
    let report = explore::explore(&form);
    println!("{name}: {} states, {} ends", report.states, report.ends);
    if let Some((fault, trace)) = report.fault {
        panic!("{name}: {fault:?} after\n  {}", trace.join("\n  "));
    }
    assert!(report.states > floor, "{name}: only {} states, expected {floor}", report.states);
    assert!(report.ends > 0, "{name}: nothing ever came to its end");
}

/// Fails unless the search finds this fault in the form with this mutant.
fn fails(mutant: Mutant, form: Form, expected: Fault) {
    let report = explore::explore(&Form { mutant: Some(mutant), ..form });
    let Some((fault, trace)) = report.fault else {
        panic!("{mutant:?}: no fault in {} states, expected {expected:?}", report.states);
    };
    println!("{mutant:?}: {fault:?} in {} steps, {} states", trace.len(), report.states);
    assert_eq!(fault, expected, "{mutant:?}, after\n  {}", trace.join("\n  "));
}

/// The number of the last generation of the first session is used again by the second.
const REUSED: Form = Form { script: || controller::two_sessions(2), ..DEADLINE };

const PATIENT: Form = Form { patient: true, ..SESSION };

#[test]
fn one_session_holds() {
    holds("one session", SESSION, 1_000_000);
}

#[test]
fn pauses_need_no_limit() {
    holds("pauses without a limit", PATIENT, 400_000);
}

#[test]
fn registration_in_the_cold_path_holds() {
    holds("registration", Form { registers: true, ..SESSION }, 1_000_000);
}

#[test]
fn handler_on_the_controller_holds() {
    let form = Form { own_handler: true, patient: true, events: 2, ..SESSION };
    holds("handler on the controller's thread", form, 400_000);
}

#[test]
fn stop_at_its_deadline_and_a_second_session_hold() {
    holds("deadline, second session", DEADLINE, 1_000_000);
}

#[test]
fn faults_of_a_nested_event() {
    fails(Mutant::NoReentryTest, SESSION, Fault::Torn);
    fails(Mutant::NestedWaits, PATIENT, Fault::Deadlock);
    fails(Mutant::NestedIgnoresPause, SESSION, Fault::WrittenInSnapshot);
}

#[test]
fn faults_of_waiting() {
    fails(Mutant::WaitsInside, Form { handlers: 0, ..PATIENT }, Fault::Deadlock);
    let form = Form { own_handler: true, handlers: 0, ..PATIENT };
    fails(Mutant::PauserWaits, form, Fault::Deadlock);
}

#[test]
fn faults_of_the_section() {
    let form = Form { handlers: 0, ..SESSION };
    fails(Mutant::GateBeforeBusy, form, Fault::WrittenInSnapshot);
    fails(Mutant::LeavesBeforePublish, form, Fault::WrittenInSnapshot);
    fails(Mutant::PublishesFirst, form, Fault::PublishedBeforeWritten);
    let form = Form { registers: true, ..form };
    fails(Mutant::RegistersWithStaleGate, form, Fault::WrittenInSnapshot);
}

#[test]
fn faults_of_the_barrier() {
    let form = Form { handlers: 0, ..SESSION };
    fails(Mutant::NoBarrier, form, Fault::WrittenInSnapshot);
    fails(Mutant::BarrierBeforeTurn, form, Fault::WrittenInSnapshot);
    fails(Mutant::LooksBeforeBarrier, form, Fault::WrittenInSnapshot);
    fails(Mutant::TakesWithoutLook, form, Fault::WrittenInSnapshot);
}

#[test]
fn faults_of_the_take() {
    let form = Form { handlers: 0, ..SESSION };
    fails(Mutant::ChecksThenTakes, form, Fault::HandedOverTwice);
    fails(Mutant::TakesBySwap, form, Fault::WrittenAfterTaken);
    fails(Mutant::ComparesBufferOnly, form, Fault::WrittenAfterTaken);
}

#[test]
fn faults_of_the_late_list() {
    let form = Form { handlers: 0, ..SESSION };
    fails(Mutant::ForgetsOldBuffer, form, Fault::LostInSilence);
    fails(Mutant::ForgetsLate, form, Fault::LostInSilence);
    fails(Mutant::ReadsSideBeforeLook, SESSION, Fault::LostInSilence);
}

#[test]
fn faults_of_a_stop_at_its_deadline() {
    let form = Form { handlers: 0, ..DEADLINE };
    fails(Mutant::RecyclesAtDeadline, form, Fault::WrittenAfterTaken);
    fails(Mutant::CopiesWithoutTaking, form, Fault::AccountedTwice);
    let report = explore::explore(&Form { handlers: 0, ..REUSED });
    let fault = report.fault.map(|(fault, _)| fault);
    println!("a generation's number used again: {fault:?} in {} states", report.states);
    assert_eq!(fault, Some(Fault::WrongSession));
}
