//! The session's side: turns of the gate, looks, takes; a script of small operations.

use crate::Form;
use crate::Mutant;
use crate::explore::Next;
use crate::state::EMPTY;
use crate::state::Fault;
use crate::state::Holder;
use crate::state::OwnHandler;
use crate::state::PAUSED;
use crate::state::State;

/// One step of the controller that others can come between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A session begins; this is its first generation.
    Begin(u8),
    Turn(u8),
    Barrier,
    /// Is the owner out? If not, after a while, it goes on the late list.
    Look,
    /// Is the owner out? Waits until it is.
    WaitUntilOut,
    BeginSnapshot,
    EndSnapshot,
    /// Reads the side buffer.
    ReadSide,
    /// Polls a late owner: still busy means that the next two operations are skipped.
    Poll,
    ReadSlot,
    /// Takes what was read, if it is older than this and still there.
    TakeSlot(u8),
    /// At the stop's deadline: a late owner's buffer is taken out of its slot, what is published
    /// in it is copied, and it is put aside until the owner is out.
    Quarantine(u8),
    /// Frees the buffer that was put aside, once the owner is out.
    Release,
    SwitchOn,
    SwitchOff,
}

fn start(generation: u8) -> Vec<Op> {
    vec![Op::Begin(generation), Op::Turn(generation), Op::Barrier, Op::SwitchOn]
}

fn pause(generation: u8) -> Vec<Op> {
    vec![Op::Turn(PAUSED | generation), Op::Barrier, Op::Look, Op::BeginSnapshot, Op::EndSnapshot]
}

/// The end of a pause needs no barrier: behind that of the pause nobody matches an old number.
fn resume(generation: u8) -> Vec<Op> {
    [vec![Op::Turn(generation)], collect(generation)].concat()
}

/// A pause that came to nothing, since somebody stayed inside: the generation goes on.
fn pause_in_vain(generation: u8) -> Vec<Op> {
    [pause(generation), vec![Op::Turn(generation)]].concat()
}

fn advance(generation: u8) -> Vec<Op> {
    [vec![Op::Turn(generation), Op::Barrier, Op::Look], collect(generation)].concat()
}

fn collect(older_than: u8) -> Vec<Op> {
    vec![Op::ReadSide, Op::Poll, Op::ReadSlot, Op::TakeSlot(older_than)]
}

/// A stop that gives up at its deadline.
fn stop(generation: u8) -> Vec<Op> {
    let next = generation + 1;
    let deadline = vec![Op::ReadSlot, Op::Quarantine(next), Op::SwitchOff];
    [pause(generation), vec![Op::Turn(0)], collect(next), deadline].concat()
}

/// A stop that waits for a late owner however long it takes.
fn patient_stop(generation: u8) -> Vec<Op> {
    let turn = vec![Op::Turn(0), Op::Barrier, Op::WaitUntilOut];
    [turn, collect(generation + 1), vec![Op::Release, Op::SwitchOff]].concat()
}

/// One session: a pause in vain; pause and snapshot, resumed in the next generation; advance; stop.
pub fn one_session() -> Vec<Op> {
    let pauses = [start(1), pause_in_vain(1), pause(1), resume(2)].concat();
    [pauses, advance(3), pause(3), patient_stop(3)].concat()
}

/// A stop with its deadline, then a second session whose first generation is `second`.
pub fn two_sessions(second: u8) -> Vec<Op> {
    [start(1), advance(2), stop(2), start(second), patient_stop(second)].concat()
}

/// The script of a form, with the faults that are faults of order.
pub fn script(form: &Form) -> Vec<Op> {
    let mut script = (form.script)();
    if form.has(Mutant::NoBarrier) {
        script.retain(|op| *op != Op::Barrier);
    }
    if form.has(Mutant::LooksBeforeBarrier) || form.has(Mutant::BarrierBeforeTurn) {
        let first = |ops: &[Op]| match form.mutant {
            Some(Mutant::LooksBeforeBarrier) => {
                ops[0] == Op::Barrier && matches!(ops[1], Op::Look | Op::WaitUntilOut)
            }
            _ => matches!(ops[0], Op::Turn(_)) && ops[1] == Op::Barrier,
        };
        for at in 1..script.len() {
            if first(&script[at - 1..=at]) {
                script.swap(at - 1, at);
            }
        }
    }
    if form.has(Mutant::ReadsSideBeforeLook) {
        let look = |op: &Op| matches!(op, Op::Look | Op::WaitUntilOut);
        let last = script.iter().rposition(look).expect("every script looks");
        assert_eq!(script[last + 1], Op::ReadSide);
        script.swap(last, last + 1);
    }
    script
}

/// Everything that the controller's side can do next: one operation, or one handler.
pub fn steps(form: &Form, script: &[Op], state: &State, next: &mut Next) {
    match state.own_handler {
        OwnHandler::Coming => {
            let mut after = *state;
            let waits = state.gate & PAUSED != 0 && form.has(Mutant::PauserWaits);
            after.own_handler = if waits { OwnHandler::Waiting } else { OwnHandler::Over };
            next.add("handler on the controller's thread: emits, counts while paused", after);
        }
        OwnHandler::Waiting => {
            // The controller stands still below its handler.
            if state.gate & PAUSED == 0 {
                let mut after = *state;
                after.own_handler = OwnHandler::Over;
                next.add("handler on the controller's thread: wakes up", after);
            }
            return;
        }
        OwnHandler::Over => {}
    }
    if let Some(op) = script.get(state.at as usize) {
        let mut after = *state;
        after.at += 1;
        if execute(form, *op, &mut after) {
            next.add(label(*op), after);
        }
    }
}

/// Executes one operation; false where the controller has to wait.
fn execute(form: &Form, op: Op, s: &mut State) -> bool {
    match op {
        Op::Begin(generation) => {
            s.second_session = s.first != 0;
            s.first = generation;
        }
        Op::Turn(word) => s.gate = word,
        Op::Barrier => s.commit_all(),
        Op::Look => {
            let inside = s.busy && !form.has(Mutant::TakesWithoutLook);
            if inside && form.patient {
                return false;
            }
            s.late = inside;
        }
        Op::WaitUntilOut => {
            if s.busy {
                return false;
            }
            s.late = s.late && form.has(Mutant::ForgetsLate);
        }
        Op::BeginSnapshot => s.snapshot = true,
        Op::EndSnapshot => s.snapshot = false,
        Op::ReadSide => {
            let events = std::mem::take(&mut s.side);
            s.account(events);
        }
        Op::Poll => {
            s.late = s.late && (s.busy || form.has(Mutant::ForgetsLate));
            if s.late {
                s.at += 2;
            }
        }
        Op::ReadSlot => s.seen = s.slot,
        Op::TakeSlot(older_than) => take_slot(form, s, older_than),
        Op::Quarantine(older_than) => quarantine(form, s, older_than),
        Op::Release => {
            if s.busy {
                return false;
            }
            if s.quarantine != 0 {
                let buffer = s.buffer(s.quarantine);
                buffer.holder = Holder::Pool;
                // What came after the copy is counted as lost.
                let rest = buffer.position - s.copied;
                s.account(rest);
                s.quarantine = 0;
                s.copied = 0;
            }
        }
        Op::SwitchOn => s.on = true,
        Op::SwitchOff => s.on = false,
    }
    true
}

fn take_slot(form: &Form, s: &mut State, older_than: u8) {
    let seen = std::mem::replace(&mut s.seen, EMPTY);
    let now = s.slot;
    let taken = match form.mutant {
        _ if seen.buffer == 0 || seen.generation >= older_than => EMPTY,
        // What it read, although that may be gone by now.
        Some(Mutant::ChecksThenTakes) => seen,
        // Whatever is there by now.
        Some(Mutant::TakesBySwap) => now,
        // The same buffer, although it may have been round and be in use again.
        Some(Mutant::ComparesBufferOnly) if now.buffer == seen.buffer => now,
        _ if now == seen => seen,
        _ => EMPTY,
    };
    if taken.buffer != 0 {
        s.slot = EMPTY;
        s.hand_over(taken);
    }
}

fn quarantine(form: &Form, s: &mut State, older_than: u8) {
    let seen = std::mem::replace(&mut s.seen, EMPTY);
    if !s.late || seen.buffer == 0 || seen != s.slot || seen.generation >= older_than {
        return;
    }
    match form.mutant {
        Some(Mutant::RecyclesAtDeadline) => {
            s.slot = EMPTY;
            s.hand_over(seen);
        }
        Some(Mutant::CopiesWithoutTaking) => {
            let published = s.buffer(seen.buffer).position;
            s.account(published);
        }
        _ => {
            s.slot = EMPTY;
            s.buffer(seen.buffer).holder = Holder::Quarantine;
            s.quarantine = seen.buffer;
            s.copied = s.buffer(seen.buffer).position;
            let copied = s.copied;
            s.account(copied);
        }
    }
}

/// What must hold when nobody can go on any more.
pub fn judge_end(script: &[Op], s: &State) -> Option<Fault> {
    if (s.at as usize) < script.len() || s.depth > 0 {
        return Some(Fault::Deadlock);
    }
    if s.open != 0 { Some(Fault::LostInSilence) } else { None }
}

fn label(op: Op) -> &'static str {
    match op {
        Op::Begin(_) => "controller: begins a session",
        Op::Turn(word) if word & PAUSED != 0 => "controller: turns the gate to paused",
        Op::Turn(0) => "controller: turns the gate to off",
        Op::Turn(_) => "controller: turns the gate to a generation",
        Op::Barrier => "controller: membarrier",
        Op::Look | Op::WaitUntilOut => "controller: looks at busy",
        Op::BeginSnapshot => "controller: begins the snapshot",
        Op::EndSnapshot => "controller: ends the snapshot",
        Op::ReadSide => "controller: reads the side buffer",
        Op::Poll => "controller: polls the late list",
        Op::ReadSlot => "controller: reads the slot",
        Op::TakeSlot(_) => "controller: takes the slot",
        Op::Quarantine(_) => "controller: puts a late thread's buffer aside",
        Op::Release => "controller: frees what was put aside",
        Op::SwitchOn => "controller: ON = 1",
        Op::SwitchOff => "controller: ON = 0",
    }
}
