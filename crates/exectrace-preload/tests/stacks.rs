//! Stacks of programs that keep no frame pointers: each function of a known chain is there, in its
//! order.

mod recorded;

use std::process::Command;

use recorded::Event;
use recorded::Ran;
use recorded::said;
use recorded::same_without;
use trace::encode::op::Op;
use trace::encode::schema::STACK_GUESSED;
use trace::encode::schema::STACK_TABLES;
use trace::encode::schema::STACK_TRUNCATED;

/// The functions of `deep.c`, in the order in which it prints them.
struct Functions(Vec<u64>);

const ON_TRAP: usize = 21;
const MAIN: usize = 25;
/// The functions of `odd_stacks.c`.
const ODD: [usize; 6] = [0, 1, 2, 3, 4, 5];

impl Functions {
    /// The functions of a stack; frames of other modules are left out.
    fn of(&self, e: &Event, program: &str) -> Vec<usize> {
        let own = e.stack.iter().zip(&e.modules).filter(|(_, module)| *module == program);
        // A return address stands behind its call, which may end the function.
        let at = own.map(|(address, _)| address - 1);
        at.filter_map(|at| {
            let below = self.0.iter().enumerate().filter(|(_, begin)| **begin <= at);
            below.max_by_key(|(_, begin)| **begin).map(|(i, _)| i)
        })
        .collect()
    }
}

/// The wait on the `n`th condition variable.
fn wait(ran: &Ran, n: usize) -> Event {
    let cond = said(ran, "cond")[n];
    let waits = ran.traces.iter().flat_map(|t| t.waits(Op::CondWait));
    let waits: Vec<_> = waits.filter(|w| w.object == cond).collect();
    assert_eq!(waits.len(), 1, "{waits:?}");
    waits[0].clone()
}

fn chains(name: &str, options: &str, flags: &[&str]) -> Option<[(Vec<usize>, Event); 3]> {
    let program = recorded::compiled_as("deep.c", flags)?;
    let ran = recorded::run(name, Command::new(&program), options)?;
    same_without(&ran, Command::new(&program), &["function", "cond"]);
    let functions = Functions(said(&ran, "function"));
    assert_eq!(functions.0.len(), MAIN + 1);
    Some([0, 1, 2].map(|n| {
        let e = wait(&ran, n);
        (functions.of(&e, program.to_str().unwrap()), e)
    }))
}

#[test]
fn without_frame_pointers_every_function_of_the_chain_is_there() {
    let levels: Vec<usize> = (0..=20).collect();
    let [first, second, handler] = [
        [&levels[..], &[MAIN]].concat(),
        levels.clone(),
        vec![0, ON_TRAP, ON_TRAP + 1, ON_TRAP + 2, ON_TRAP + 3, MAIN],
    ];
    for flags in [["-O2", "-fomit-frame-pointer"], ["-Os", "-fomit-frame-pointer"]] {
        let Some(found) = chains("deep", "classes=locks", &flags) else { return };
        for ((chain, e), expected) in found.iter().zip([&first, &second, &handler]) {
            // The library's own `_start` has no name here: it may stand for the function below it.
            assert_eq!(chain[..expected.len()], expected[..], "{flags:?} {e:?}");
            assert!(chain.len() <= expected.len() + 1, "{flags:?} {e:?}");
            // By tables alone, to the thread's first function.
            assert_eq!(e.stack_flags, STACK_TABLES, "{flags:?} {e:?}");
            assert!(!e.modules.iter().any(|m| m.contains("libexectrace_preload")), "{e:?}");
        }
    }
}

#[test]
fn by_frame_pointers_it_is_not() {
    let flags = ["-O2", "-fomit-frame-pointer"];
    let Some([(chain, e), ..]) = chains("deep-fp", "classes=locks;tables=0", &flags) else {
        return;
    };
    let levels: Vec<usize> = (0..=20).collect();
    assert_eq!(e.stack_flags & STACK_TABLES, 0);
    assert_ne!(chain.get(..levels.len()), Some(&levels[..]));
}

#[test]
fn stacks_out_of_the_ordinary() {
    let flags = ["-O2", "-fomit-frame-pointer"];
    let Some(program) = recorded::compiled_as("odd_stacks.c", &flags) else { return };
    let library = [&flags[..], &["-shared", "-fPIC"]].concat();
    let Some(library) = recorded::compiled_as("late.c", &library) else { return };
    let mut command = Command::new(&program);
    command.arg(&library);
    let Some(ran) = recorded::run("odd", command, "classes=locks") else { return };
    assert!(ran.status.success(), "{} {}", ran.status, ran.stderr);
    assert_eq!(ran.traces.len(), 2, "the program's and its child's");
    let functions = Functions(said(&ran, "function"));
    let [waits, caller, made_code, _, deep, main] = ODD;
    let chain = |n: usize| {
        let e = wait(&ran, n);
        (functions.of(&e, program.to_str().unwrap()), e)
    };

    let (made, e) = chain(0);
    assert_eq!(made[..3], [waits, made_code, main], "{e:?}");
    if let [code] = said(&ran, "code")[..] {
        // The frame of the code that the program made, which no table knows.
        assert!(e.stack[1].wrapping_sub(code) < 8, "{e:?}");
        assert_eq!(e.stack_flags, STACK_TABLES | STACK_GUESSED, "{e:?}");
    }

    let (_, coroutine) = chain(1);
    assert_eq!(coroutine.stack, [], "nothing is known of a stack that is not the thread's own");

    let (late, e) = chain(2);
    assert_eq!(late[..2], [waits, main], "{e:?}");
    let of_library = e.modules.iter().filter(|m| *m == library.to_str().unwrap()).count();
    assert_eq!((of_library, e.stack_flags), (2, STACK_TABLES), "{e:?}");

    let (many, e) = chain(3);
    assert_eq!((e.stack.len(), e.stack_flags), (128, STACK_TABLES | STACK_TRUNCATED), "{e:?}");
    assert_eq!(many[..2], [waits, caller]);
    assert!(many[2..].iter().all(|f| *f == deep) && many.len() == 128, "{many:?}");

    let (child, e) = chain(4);
    assert_eq!((&child[..3], e.stack_flags), (&[waits, caller, main][..], STACK_TABLES), "{e:?}");
}
