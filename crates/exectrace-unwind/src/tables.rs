//! From the bytes of a module's tables to the rule of one address.
//!
//! gimli reads the entries; what they say is followed for three registers only: the caller's stack
//! pointer, the frame pointer and the return address.
//!
//! 1. Whatever the bytes are, reading ends, after at most [`OPERATIONS_MAX`] operations, and reads
//!    nothing else.

use gimli::BaseAddresses;
use gimli::CallFrameInstruction as Operation;
use gimli::CallFrameInstructionIter as Operations;
use gimli::EhFrame;
use gimli::EndianSlice;
use gimli::NativeEndian;
use gimli::Register;
use gimli::UnwindExpression;
use gimli::UnwindSection;

use crate::rule::FramePointer;
use crate::rule::Place;
use crate::rule::Rule;
use crate::rule::Step;

type Bytes<'t> = EndianSlice<'t, NativeEndian>;

#[cfg(target_arch = "aarch64")]
const SP: Register = gimli::AArch64::SP;
#[cfg(target_arch = "aarch64")]
const FP: Register = gimli::AArch64::X29;
#[cfg(not(target_arch = "aarch64"))]
const SP: Register = gimli::X86_64::RSP;
#[cfg(not(target_arch = "aarch64"))]
const FP: Register = gimli::X86_64::RBP;

/// More operations are not followed for one address. The longest function has some thousand.
pub const OPERATIONS_MAX: usize = 1 << 16;
/// States that one function keeps aside at a time; compilers make one or two.
const ASIDE_MAX: usize = 4;

/// The tables of a module: its bytes, and the addresses at which they stand, or stood.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'t> {
    /// Pairs of 32-bit numbers, bytes from `index_address`: the first address of a function, in
    /// rising order, and its entry in `entries`.
    pub index: &'t [[i32; 2]],
    /// What the pairs count from.
    pub index_address: usize,
    /// `.eh_frame`, and maybe more after it.
    pub entries: &'t [u8],
    /// Its address.
    pub entries_address: usize,
}

/// Where something was put.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Saved {
    Nowhere,
    Lost,
    At(i64),
    By(UnwindExpression<usize>),
}

/// How the caller's stack pointer is found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Register(Register, i64),
    By(UnwindExpression<usize>),
}

/// What holds at an address of a function.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    caller: Caller,
    fp: Saved,
    returns: Saved,
}

/// A run through the operations of a function.
struct Run<'t> {
    section: EhFrame<Bytes<'t>>,
    encoding: gimli::Encoding,
    code_align: u64,
    data_align: i64,
    returns: Register,
    state: State,
    initial: State,
    aside: [State; ASIDE_MAX],
    aside_len: usize,
    left: usize,
}

impl Tables<'_> {
    /// The rule of an address; [`Rule::GUESS`] where the tables do not have it.
    pub fn rule(&self, at: usize) -> Rule {
        let Some(offset) = self.entry(at) else { return Rule::GUESS };
        let mut section = EhFrame::new(self.entries, NativeEndian);
        section.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(self.entries_address as u64);
        let entry = section.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset);
        let Ok(entry) = entry else { return Rule::GUESS };
        if !entry.contains(at as u64) {
            return Rule::GUESS;
        }
        let cie = entry.cie();
        let nothing =
            State { caller: Caller::Register(SP, 0), fp: Saved::Nowhere, returns: Saved::Nowhere };
        let mut run = Run {
            section,
            encoding: cie.encoding(),
            code_align: cie.code_alignment_factor(),
            data_align: cie.data_alignment_factor(),
            returns: cie.return_address_register(),
            state: nothing,
            initial: nothing,
            aside: [nothing; ASIDE_MAX],
            aside_len: 0,
            left: OPERATIONS_MAX,
        };
        let mut address = entry.initial_address();
        let first = run.follow(cie.instructions(&section, &bases), &mut address, u64::MAX);
        run.initial = run.state;
        let mut address = entry.initial_address();
        let then = first.and_then(|()| {
            run.follow(entry.instructions(&section, &bases), &mut address, at as u64)
        });
        match then.and_then(|()| run.rule(entry.is_signal_trampoline())) {
            Some(rule) => rule,
            None => Rule::LOST,
        }
    }

    /// Where the entry stands that may be about this address.
    fn entry(&self, at: usize) -> Option<usize> {
        let offset = at.wrapping_sub(self.index_address) as i64;
        let after = self.index.partition_point(|[start, _]| i64::from(*start) <= offset);
        let [_, entry] = *self.index.get(after.checked_sub(1)?)?;
        let entry = self.index_address.wrapping_add_signed(entry as isize);
        entry.checked_sub(self.entries_address).filter(|offset| *offset < self.entries.len())
    }
}

impl Run<'_> {
    /// Follows operations until they are about addresses above `at`; `None` where one is not
    /// understood.
    fn follow<'t>(
        &mut self,
        mut operations: Operations<'_, Bytes<'t>>,
        address: &mut u64,
        at: u64,
    ) -> Option<()> {
        while let Some(operation) = operations.next().ok()? {
            self.left = self.left.checked_sub(1)?;
            match operation {
                Operation::SetLoc { address: to } => *address = to,
                Operation::AdvanceLoc { delta } => {
                    let bytes = u64::from(delta).checked_mul(self.code_align)?;
                    *address = address.checked_add(bytes)?;
                }
                other => self.one(&other)?,
            }
            if *address > at {
                break;
            }
        }
        Some(())
    }

    fn one(&mut self, operation: &Operation<usize>) -> Option<()> {
        let scaled = |factored: i64| factored.checked_mul(self.data_align);
        match *operation {
            Operation::DefCfa { register, offset } => {
                self.state.caller = Caller::Register(register, i64::try_from(offset).ok()?);
            }
            Operation::DefCfaSf { register, factored_offset } => {
                self.state.caller = Caller::Register(register, scaled(factored_offset)?);
            }
            Operation::DefCfaRegister { register } => {
                let Caller::Register(_, offset) = self.state.caller else { return None };
                self.state.caller = Caller::Register(register, offset);
            }
            Operation::DefCfaOffset { offset } => {
                let Caller::Register(register, _) = self.state.caller else { return None };
                self.state.caller = Caller::Register(register, i64::try_from(offset).ok()?);
            }
            Operation::DefCfaOffsetSf { factored_offset } => {
                let Caller::Register(register, _) = self.state.caller else { return None };
                self.state.caller = Caller::Register(register, scaled(factored_offset)?);
            }
            Operation::DefCfaExpression { expression } => {
                self.state.caller = Caller::By(expression);
            }
            Operation::Undefined { register } => self.set(register, Saved::Lost),
            Operation::SameValue { register } => self.set(register, Saved::Nowhere),
            Operation::Offset { register, factored_offset } => {
                let at = scaled(i64::try_from(factored_offset).ok()?)?;
                self.set(register, Saved::At(at));
            }
            Operation::OffsetExtendedSf { register, factored_offset } => {
                self.set(register, Saved::At(scaled(factored_offset)?));
            }
            Operation::Expression { register, expression } => {
                self.set(register, Saved::By(expression));
            }
            Operation::ValOffset { register, .. }
            | Operation::ValOffsetSf { register, .. }
            | Operation::Register { dest_register: register, .. }
            | Operation::ValExpression { register, .. } => self.set(register, Saved::Lost),
            Operation::Restore { register } => {
                let was = if register == FP { self.initial.fp } else { self.initial.returns };
                self.set(register, was);
            }
            Operation::RememberState => {
                *self.aside.get_mut(self.aside_len)? = self.state;
                self.aside_len += 1;
            }
            Operation::RestoreState => {
                self.aside_len = self.aside_len.checked_sub(1)?;
                self.state = *self.aside.get(self.aside_len)?;
            }
            // Sizes of arguments, signed return addresses: the bits of the address are cut off.
            _ => {}
        }
        Some(())
    }

    fn set(&mut self, register: Register, to: Saved) {
        if register == FP {
            self.state.fp = to;
        } else if register == self.returns {
            self.state.returns = to;
        }
    }

    /// The rule of the state; `None` where it is none that can be packed.
    fn rule(&self, is_signal: bool) -> Option<Rule> {
        let (base, offset, loads) = match self.state.caller {
            Caller::Register(register, offset) => (register, offset, false),
            Caller::By(expression) => self.sum(&expression)?,
        };
        let by_fp = match base {
            FP => true,
            SP => false,
            _ => return None,
        };
        let place = |saved: Saved| match saved {
            Saved::At(bytes) => Some(Place::FromCaller(bytes)),
            Saved::By(expression) => match self.sum(&expression)? {
                (register, bytes, false) if register == base => Some(Place::FromBase(bytes)),
                _ => None,
            },
            Saved::Nowhere | Saved::Lost => None,
        };
        let fp = match self.state.fp {
            Saved::Nowhere => FramePointer::Kept,
            saved => place(saved).map_or(FramePointer::Gone, FramePointer::Saved),
        };
        let return_address = match self.state.returns {
            // Nobody has called the first function of a thread.
            Saved::Lost => return Some(Rule::ROOT),
            saved => place(saved)?,
        };
        let step = Step { by_fp, offset, loads, return_address, fp, is_signal, is_guess: false };
        Some(Rule::of(&step))
    }

    /// An expression of the only form that compilers and libc make for these registers: a register
    /// and an offset, and maybe the word there.
    fn sum(&self, expression: &UnwindExpression<usize>) -> Option<(Register, i64, bool)> {
        let mut operations = expression.get(&self.section).ok()?.operations(self.encoding);
        let first = operations.next().ok()??;
        let gimli::Operation::RegisterOffset { register, offset, .. } = first else { return None };
        let loads = match operations.next().ok()? {
            None => return Some((register, offset, false)),
            Some(gimli::Operation::Deref { size: 8, space: false, .. }) => true,
            Some(_) => return None,
        };
        operations.next().ok()?.is_none().then_some((register, offset, loads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules;
    use gimli::CfaRule;
    use gimli::RegisterRule;
    use gimli::UnwindContext;
    use std::ops::ControlFlow;
    use trace::sys::loader;

    /// What gimli's own run through a function says of an address, as a rule; `None` where it says
    /// what a rule cannot.
    fn by_gimli(t: &Tables<'_>, at: usize, context: &mut UnwindContext<usize>) -> Option<Rule> {
        let section = EhFrame::new(t.entries, NativeEndian);
        let bases = BaseAddresses::default().set_eh_frame(t.entries_address as u64);
        let offset = t.entry(at).unwrap();
        let entry =
            section.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()?;
        if !entry.contains(at as u64) {
            return Some(Rule::GUESS);
        }
        let row = entry.unwind_info_for_address(&section, &bases, context, at as u64).ok()?;
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
        let returns = row.register(entry.cie().return_address_register());
        if returns == Some(RegisterRule::Undefined) {
            return Some(Rule::ROOT);
        }
        let Some(RegisterRule::Offset(returns)) = returns else { return None };
        let fp = match row.register(FP) {
            None | Some(RegisterRule::SameValue) => FramePointer::Kept,
            Some(RegisterRule::Offset(at)) => FramePointer::Saved(Place::FromCaller(at)),
            Some(_) => return None,
        };
        if register != FP && register != SP {
            return Some(Rule::LOST);
        }
        Some(Rule::of(&Step {
            by_fp: register == FP,
            offset,
            loads: false,
            return_address: Place::FromCaller(returns),
            fp,
            is_signal: entry.is_signal_trampoline(),
            is_guess: false,
        }))
    }

    /// The tables of everything that is loaded, with libstdc++ where the machine has it.
    fn all_tables() -> Vec<Tables<'static>> {
        // SAFETY: a library of the system, which stays open.
        unsafe { libc::dlopen(c"libstdc++.so.6".as_ptr(), libc::RTLD_NOW) };
        let mut all = Vec::with_capacity(64);
        loader::for_each(|m, _| {
            if all.len() < 64 {
                all.extend(modules::tables_of(m));
            }
            ControlFlow::Continue(())
        });
        assert!(all.len() >= 4, "program, C library, loader, vDSO: {}", all.len());
        all
    }

    #[test]
    fn rules_say_what_gimli_says() {
        let mut context = UnwindContext::new();
        let (mut same, mut lost, mut beyond, mut signals) = (0u32, 0u32, 0u32, 0);
        for t in all_tables() {
            let starts = t.index.windows(2).map(|w| [w[0][0], w[1][0]]);
            // Some hundred functions of each, at their first address and at places inside.
            for [start, next] in starts.step_by(t.index.len() / 1000 + 1) {
                let len = next.abs_diff(start) as usize;
                for part in [0, 1, 4, len / 4, len / 2, len.saturating_sub(1)] {
                    let at = t.index_address.wrapping_add_signed(start as isize) + part;
                    let rule = t.rule(at);
                    match by_gimli(&t, at, &mut context) {
                        Some(other) => assert_eq!(rule, other, "{at:#x}"),
                        None => beyond += 1,
                    }
                    same += 1;
                    lost += u32::from(rule == Rule::LOST);
                    signals += u32::from(rule != Rule::LOST && t.is_signal(at));
                }
            }
        }
        println!("{same} alike, of which {lost} lost; {beyond} that gimli states by expressions");
        assert!(same > 5_000, "{same}");
        // Jumps to other modules, which call nothing, and the loader's code that resolves them.
        assert!(lost * 200 < same, "{lost} of {same}");
        assert!(cfg!(not(target_arch = "x86_64")) || signals > 0, "a signal's frame was not seen");
    }

    impl Tables<'_> {
        fn is_signal(&self, at: usize) -> bool {
            let section = EhFrame::new(self.entries, NativeEndian);
            let bases = BaseAddresses::default().set_eh_frame(self.entries_address as u64);
            let entry = self.entry(at).and_then(|offset| {
                section.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()
            });
            entry.is_some_and(|e| e.is_signal_trampoline() && e.contains(at as u64))
        }
    }

    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*state >> 24) as usize
    }

    #[test]
    fn tables_made_to_do_harm() {
        let (mut state, mut answers) = (5, [0u32; 3]);
        let all = all_tables();
        let t = all.iter().max_by_key(|t| t.index.len()).unwrap();
        // A part of the tables, so that most changes are met.
        let index = &t.index[..100.min(t.index.len())];
        let first = index.iter().map(|[_, entry]| *entry).min().unwrap();
        let last = index.iter().map(|[_, entry]| *entry).max().unwrap();
        let place = |e: i32| t.index_address.wrapping_add_signed(e as isize) - t.entries_address;
        let end = (place(last) + 400).min(t.entries.len());
        println!("entries from {} to {end}", place(first));
        for round in 0..1200 {
            let (mut index, mut entries) = (index.to_vec(), t.entries[..end].to_vec());
            for _ in 0..1 + random(&mut state) % 12 {
                let at = place(first) + random(&mut state) % (end - place(first));
                let value = [0, 0xff, 0x7f, 0x80, random(&mut state) as u8];
                entries[at] = value[random(&mut state) % 5];
                if round % 3 == 0 {
                    let i = random(&mut state) % index.len();
                    let sizes = [i32::MIN, i32::MAX, 0, random(&mut state) as i32];
                    index[i][random(&mut state) % 2] = sizes[random(&mut state) % 4];
                }
            }
            if round % 7 == 0 {
                entries.truncate(random(&mut state) % entries.len());
            }
            let bad = Tables { index: &index, entries: &entries, ..*t };
            for _ in 0..40 {
                let [start, _] = t.index[random(&mut state) % index.len()];
                let start = t.index_address.wrapping_add_signed(start as isize);
                let at = start.wrapping_add(random(&mut state) % 300);
                let far = random(&mut state).is_multiple_of(50);
                let at = if far { random(&mut state) << 20 } else { at };
                match bad.rule(at) {
                    Rule::LOST => answers[0] += 1,
                    Rule::GUESS => answers[1] += 1,
                    _ => answers[2] += 1,
                }
            }
        }
        assert!(answers.iter().all(|n| *n > 100), "{answers:?}");
    }

    #[test]
    fn an_endless_entry_ends() {
        // A CIE, and a function of which each address has its own row: 200,000 of them.
        let mut entries = vec![];
        let cie = [1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1, 0, 0];
        entries.extend((cie.len() as u32 + 4).to_ne_bytes());
        entries.extend(0u32.to_ne_bytes());
        entries.extend(cie);
        let fde = entries.len();
        let body = vec![0x41u8; 200_000];
        entries.extend((body.len() as u32 + 13).to_ne_bytes());
        entries.extend((fde as u32 + 4).to_ne_bytes());
        let base = 0x10_0000usize;
        let start = base + 0x1000;
        let from = (start - (base + entries.len())) as i32;
        entries.extend(from.to_ne_bytes());
        entries.extend((body.len() as u32).to_ne_bytes());
        entries.push(0);
        entries.extend(body);
        let index = [[0x1000, fde as i32]];
        let t =
            Tables { index: &index, index_address: base, entries: &entries, entries_address: base };
        assert_ne!(t.rule(start), Rule::LOST);
        assert_ne!(t.rule(start + OPERATIONS_MAX / 2), Rule::LOST);
        assert_eq!(t.rule(start + 150_000), Rule::LOST);
        assert_eq!(t.rule(start + 200_001), Rule::GUESS, "behind the function");
        assert_eq!(t.rule(start - 1), Rule::GUESS, "before it");
    }
}
