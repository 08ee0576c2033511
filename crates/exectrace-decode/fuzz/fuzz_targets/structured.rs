//! Bodies of batches: headers and CRCs are put right, so that the input reaches the events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trace_testkit::expect::everything;
use trace_testkit::sample;

fuzz_target!(|input: &[u8]| {
    everything(&sample::sealed_from(input), 4096);
});
