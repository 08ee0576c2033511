//! Any bytes: all readers, all accessors. They must agree, and no byte is unaccounted for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trace_testkit::expect::everything;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says in which pieces the rest is pushed.
    let Some((piece, bytes)) = bytes.split_first() else { return };
    everything(bytes, 1 + usize::from(*piece) * 16);
});
