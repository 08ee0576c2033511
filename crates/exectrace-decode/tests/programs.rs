//! Random programs of events: what goes into a trace comes out of every reader, value by value.

use trace_testkit::program::hold_to;
use trace_testkit::program::program;

#[test]
fn what_a_program_emits_is_what_a_reader_gives() {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let (mut events, mut most) = (0, 0);
    for round in 0..400 {
        let len = next() % 3000;
        // Bytes of all sizes, and in turn mostly small ones, as lengths and choices are.
        let mask = if round % 2 == 0 { 0xff } else { 0x1f };
        let input: Vec<u8> = (0..len).map(|_| next() as u8 & mask).collect();
        let p = program(&input);
        let n = hold_to(&p, 1 + next() % 5000);
        events += n;
        most = most.max(n);
    }
    assert!(events > 10_000 && most > 100, "{events} events, {most} at most");
    println!("{events} events");
}
