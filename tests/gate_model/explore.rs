//! Visits every state that any interleaving can reach, breadth first.

use crate::Form;
use crate::controller;
use crate::controller::Op;
use crate::owner;
use crate::state::Fault;
use crate::state::State;

/// The states that one more step leads to.
pub struct Next {
    found: Vec<(&'static str, State)>,
    from: State,
}

impl Next {
    /// A step that changes nothing is a thread that waits.
    pub fn add(&mut self, label: &'static str, state: State) {
        if state != self.from {
            self.found.push((label, state));
        }
    }
}

/// What the search saw.
pub struct Report {
    pub states: usize,
    /// States in which all was over.
    pub ends: usize,
    /// The first fault, and the shortest way to it.
    pub fault: Option<(Fault, Vec<String>)>,
}

/// Every state ever reached, in the order of its discovery, found by its bits.
struct Visited {
    states: Vec<u128>,
    parents: Vec<u32>,
    /// Index into `states` plus one, 0 = free; a power of two long.
    table: Vec<u32>,
}

impl Visited {
    fn new() -> Visited {
        Visited { states: Vec::new(), parents: Vec::new(), table: vec![0; 1 << 12] }
    }

    fn insert(&mut self, state: u128, parent: u32) {
        if self.states.len() * 2 >= self.table.len() {
            self.grow();
        }
        let place = self.place(state);
        if self.table[place] == 0 {
            self.states.push(state);
            self.parents.push(parent);
            self.table[place] = self.states.len() as u32;
        }
    }

    /// Where the state stands in the table, or would stand.
    fn place(&self, state: u128) -> usize {
        let mask = self.table.len() - 1;
        let folded = (state as u64) ^ ((state >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = folded.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut place = (mixed >> 32) as usize & mask;
        loop {
            let entry = self.table[place] as usize;
            if entry == 0 || self.states[entry - 1] == state {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 4];
        for index in 0..self.states.len() {
            let place = self.place(self.states[index]);
            self.table[place] = index as u32 + 1;
        }
    }
}

fn successors(form: &Form, script: &[Op], state: State, next: &mut Next) {
    next.found.clear();
    next.from = state;
    owner::steps(form, &state, next);
    controller::steps(form, script, &state, next);
    let mut after = state;
    if after.drain() {
        next.add("reader: drains a buffer", after);
    }
}

/// Visits all states of a form, until there are no more or one is at fault.
pub fn explore(form: &Form) -> Report {
    let script = controller::script(form);
    let first = State::initial(!form.registers, form.events, form.handlers, form.own_handler);
    assert_eq!(State::unpack(first.pack()), first);
    let mut visited = Visited::new();
    visited.insert(first.pack(), 0);
    let mut next = Next { found: Vec::new(), from: first };
    let (mut at, mut ends) = (0, 0);
    while at < visited.states.len() {
        let state = State::unpack(visited.states[at]);
        successors(form, &script, state, &mut next);
        let mut fault = None;
        if next.found.is_empty() {
            ends += 1;
            fault = controller::judge_end(&script, &state).map(|fault| (fault, state));
        }
        for (_, after) in &next.found {
            match after.fault {
                Some(found) => fault = fault.or(Some((found, *after))),
                None => visited.insert(after.pack(), at as u32),
            }
        }
        if let Some((fault, last)) = fault {
            let trace = trace(form, &script, &visited, at, last);
            return Report { states: visited.states.len(), ends, fault: Some((fault, trace)) };
        }
        at += 1;
    }
    Report { states: visited.states.len(), ends, fault: None }
}

/// The steps from the first state to the one at `at`, and to `last`, which may follow it.
fn trace(form: &Form, script: &[Op], visited: &Visited, at: usize, last: State) -> Vec<String> {
    let mut way = vec![last];
    let mut at = at;
    loop {
        way.push(State::unpack(visited.states[at]));
        if at == 0 {
            break;
        }
        at = visited.parents[at] as usize;
    }
    way.reverse();
    let mut next = Next { found: Vec::new(), from: last };
    let mut labels = Vec::new();
    for pair in way.windows(2) {
        successors(form, script, pair[0], &mut next);
        if let Some((label, _)) = next.found.iter().find(|(_, state)| *state == pair[1]) {
            labels.push(label.to_string());
        }
    }
    labels
}
