//! The pool gives no buffer to two owners, and its `free` never promises too much.

use loom::sync::Arc;
use loom::thread;

use super::Misuse;
use super::arena::Model;
use super::check;
use trace::sync::Mutant;

/// Takes a buffer that must be there, and uses it.
fn take(m: &Model, who: u64) -> u32 {
    let index = m.pool.pop(m, 0).expect("what is counted as free is there");
    m.write(index, 0, who);
    index
}

/// One takes two; the other takes two and gives the first back while the one is in mid-pop.
fn two_owners(_: Misuse) {
    let m = Arc::new(Model::new(4, 1));
    let other = {
        let m = Arc::clone(&m);
        thread::spawn(move || {
            let first = take(&m, 1);
            let second = take(&m, 1);
            m.pool.push(&*m, first);
            m.write(second, 0, 11);
            second
        })
    };
    let mine = [take(&m, 2), take(&m, 2)];
    m.write(mine[0], 0, 22);
    let theirs = other.join().unwrap();
    assert!(mine[0] != mine[1] && !mine.contains(&theirs));
    assert_eq!(m.pool.free(), 1);
    let last = take(&m, 3);
    assert!(last != theirs && !mine.contains(&last));
    assert_eq!(m.pool.pop(&*m, 0), None);
}

#[test]
fn no_buffer_has_two_owners() {
    check("pool", 3, &[Mutant::PoolTag, Mutant::PoolPushOrder], &[], two_owners);
}
