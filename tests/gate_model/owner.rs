//! The emitting thread: one instruction of `emit`, or of the handler that interrupts it.

use crate::Form;
use crate::Mutant;
use crate::explore::Next;
use crate::state::EMPTY;
use crate::state::Fault;
use crate::state::Holder;
use crate::state::PAUSED;
use crate::state::ROOM;
use crate::state::STORES;
use crate::state::State;
use crate::state::Step;
use crate::state::Store;
use crate::state::Tagged;

/// Everything that the owner's side can do next.
pub fn steps(form: &Form, state: &State, next: &mut Next) {
    if state.stores_len > 0 {
        let mut after = *state;
        after.commit();
        next.add("owner: its oldest store becomes visible", after);
    }
    if state.depth == 1 && state.handlers_left > 0 {
        let mut after = *state;
        after.handlers_left -= 1;
        after.begin();
        next.add("handler: interrupts the owner and emits", after);
    }
    let mut after = *state;
    if state.depth > 0 {
        // Room for what one instruction stores; a full store buffer stalls the processor.
        if (state.stores_len as usize) < STORES - 1 {
            let label = run(form, &mut after);
            next.add(label, after);
        }
    } else if state.events_left > 0 {
        after.events_left -= 1;
        after.begin();
        next.add("owner: calls emit", after);
    }
}

/// Executes the instruction at which the innermost event stands; the state is left as it is where
/// the event has to wait.
fn run(form: &Form, s: &mut State) -> &'static str {
    match s.frame().step {
        Step::LoadOn => {
            if s.on {
                s.frame().step = Step::TestBusy;
            } else {
                s.account(1);
                s.end();
            }
            "emit: loads ON"
        }
        Step::TestBusy => test_busy(form, s),
        Step::Register => register(form, s),
        Step::SetBusy => {
            s.store(Store::Busy(true));
            if form.has(Mutant::GateBeforeBusy) {
                decide(s);
            } else {
                s.frame().step = Step::LoadGate;
            }
            "emit: stores busy = stack pointer"
        }
        Step::LoadGate => {
            load_gate(s);
            decide(s);
            "emit: loads the gate"
        }
        Step::Write | Step::Publish | Step::Leave => section(form, s),
        Step::Nested | Step::NestedWrite | Step::NestedWait => nested(form, s),
        Step::Cold => cold(form, s),
        Step::Wait => {
            if s.gate & PAUSED == 0 {
                // Inside, as the mutant is, the re-entry test would stop it here.
                let inside = form.has(Mutant::WaitsInside);
                s.frame().step = if inside { Step::LoadGate } else { Step::TestBusy };
            }
            "emit: wakes up, the pause is over"
        }
        Step::Pop | Step::Exchange | Step::HandOver => exchange(form, s),
    }
}

fn load_gate(s: &mut State) {
    let (gate, second_session) = (s.gate, s.second_session);
    let frame = s.frame();
    frame.gate = gate;
    frame.second_session = second_session;
}

/// Whether the record has room in a buffer of this generation.
fn ready(s: &State, gate: u8) -> bool {
    gate & PAUSED == 0 && gate == s.joined.generation && s.joined.buffer != 0 && s.used < ROOM
}

/// The compare of the fast path.
fn decide(s: &mut State) {
    let gate = s.frame().gate;
    if ready(s, gate) {
        let index = s.joined.buffer;
        if s.buffer(index).second_session != s.frame().second_session {
            s.fail(Fault::WrongSession);
        }
        s.frame().step = Step::Write;
    } else {
        s.frame().step = Step::Cold;
    }
}

fn test_busy(form: &Form, s: &mut State) -> &'static str {
    if form.has(Mutant::GateBeforeBusy) || form.has(Mutant::RegistersWithStaleGate) {
        load_gate(s);
    }
    s.frame().step = if !s.registered {
        Step::Register
    } else if s.inside && !form.has(Mutant::NoReentryTest) {
        Step::Nested
    } else {
        Step::SetBusy
    };
    "emit: tests busy"
}

/// A locked instruction takes a record; then all starts again.
fn register(form: &Form, s: &mut State) -> &'static str {
    s.commit_all();
    s.registered = true;
    s.frame().step = Step::TestBusy;
    if form.has(Mutant::RegistersWithStaleGate) {
        s.store(Store::Busy(true));
        let running = s.frame().gate != 0 && s.frame().gate & PAUSED == 0;
        s.frame().step = if running { Step::Pop } else { Step::Cold };
    }
    "emit: registers"
}

fn section(form: &Form, s: &mut State) -> &'static str {
    let leaves_early = form.has(Mutant::LeavesBeforePublish);
    let publishes_first = form.has(Mutant::PublishesFirst);
    let index = s.joined.buffer;
    match s.frame().step {
        Step::Write => {
            if std::mem::replace(&mut s.buffer(index).half, true) {
                s.fail(Fault::Torn);
            }
            if publishes_first {
                s.store(Store::Position(index));
            } else {
                s.store(Store::Data(index));
            }
            if leaves_early {
                s.store(Store::Busy(false));
            }
            s.frame().step = Step::Publish;
            "section: writes the bytes"
        }
        Step::Publish => {
            s.buffer(index).half = false;
            s.used += 1;
            if publishes_first {
                s.store(Store::Data(index));
            } else {
                s.store(Store::Position(index));
            }
            s.frame().step = Step::Leave;
            if leaves_early {
                s.end();
            }
            "section: publishes the position"
        }
        _ => {
            s.store(Store::Busy(false));
            s.end();
            "emit: stores busy = 0"
        }
    }
}

/// An event inside an event: one look at the gate, then the side buffer. It never waits.
fn nested(form: &Form, s: &mut State) -> &'static str {
    if s.frame().step == Step::NestedWrite {
        s.store(Store::Side);
        s.end();
        return "nested: writes to the side buffer";
    }
    let paused = s.gate & PAUSED != 0;
    if paused && form.has(Mutant::NestedWaits) {
        s.frame().step = Step::NestedWait;
        return "nested: waits for the end of the pause";
    }
    if s.gate == 0 || (paused && !form.has(Mutant::NestedIgnoresPause)) {
        s.account(1);
        s.end();
        "nested: off, or counted as lost in the pause"
    } else {
        s.frame().step = Step::NestedWrite;
        "nested: loads the gate"
    }
}

/// Inside the section, after a mismatch: the gate says what to do.
fn cold(form: &Form, s: &mut State) -> &'static str {
    load_gate(s);
    let gate = s.frame().gate;
    if gate == 0 {
        s.account(1);
        s.frame().step = Step::Leave;
        "cold: tracing is off"
    } else if gate & PAUSED != 0 {
        if !form.has(Mutant::WaitsInside) {
            s.store(Store::Busy(false));
        }
        s.frame().step = Step::Wait;
        "cold: leaves the section and waits for the end of the pause"
    } else {
        s.frame().step = if ready(s, gate) { Step::LoadGate } else { Step::Pop };
        "cold: needs a buffer of this generation"
    }
}

/// Takes a buffer from the pool, swaps it into the slot, hands the old one over.
fn exchange(form: &Form, s: &mut State) -> &'static str {
    s.commit_all();
    match s.frame().step {
        Step::Pop => {
            pop(s);
            s.frame().step = Step::Exchange;
            "exchange: takes a buffer from the pool, or finds none"
        }
        Step::Exchange => {
            let frame = *s.frame();
            let old = s.slot;
            s.joined = Tagged { generation: frame.gate, buffer: frame.buffer };
            s.slot = if frame.buffer == 0 { EMPTY } else { s.joined };
            s.used = 0;
            s.frame().gate = old.generation;
            s.frame().buffer = old.buffer;
            if old.buffer == 0 || form.has(Mutant::ForgetsOldBuffer) {
                after_exchange(form, s);
            } else {
                s.frame().step = Step::HandOver;
            }
            "exchange: swaps it into the slot"
        }
        _ => {
            let frame = *s.frame();
            s.hand_over(Tagged { generation: frame.gate, buffer: frame.buffer });
            after_exchange(form, s);
            "exchange: hands the old buffer over"
        }
    }
}

fn pop(s: &mut State) {
    let second_session = s.frame().second_session;
    s.frame().buffer = 0;
    let Some(index) = s.buffers.iter().position(|b| b.holder == Holder::Pool) else { return };
    let buffer = &mut s.buffers[index];
    buffer.holder = Holder::Owner;
    buffer.position = 0;
    buffer.fresh = false;
    buffer.half = false;
    buffer.second_session = second_session;
    s.frame().buffer = index as u8 + 1;
}

fn after_exchange(form: &Form, s: &mut State) {
    let frame = s.frame();
    frame.gate = 0;
    frame.buffer = 0;
    frame.step =
        if form.has(Mutant::RegistersWithStaleGate) { Step::Write } else { Step::LoadGate };
    if s.joined.buffer == 0 {
        // No buffer: the event is counted as lost.
        s.account(1);
        s.frame().step = Step::Leave;
    }
}
