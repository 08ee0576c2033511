//! What is asked of `perf_event_open`: the structure that it takes, as `linux/perf_event.h` has it.

/// `PERF_TYPE_SOFTWARE`.
const TYPE_SOFTWARE: u32 = 1;
/// `PERF_COUNT_SW_CPU_CLOCK`.
const CPU_CLOCK: u64 = 0;
/// `PERF_COUNT_SW_DUMMY`: counts nothing, and carries the records of threads and switches.
const DUMMY: u64 = 9;

/// `PERF_SAMPLE_TID`, `PERF_SAMPLE_TIME` and `PERF_SAMPLE_CALLCHAIN`.
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;

/// Bits of `Attr::bits`, by their place in the structure.
const DISABLED: u64 = 1 << 0;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HV: u64 = 1 << 6;
const FREQ: u64 = 1 << 10;
const ENABLE_ON_EXEC: u64 = 1 << 12;
const TASK: u64 = 1 << 13;
const SAMPLE_ID_ALL: u64 = 1 << 18;
const EXCLUDE_CALLCHAIN_KERNEL: u64 = 1 << 21;
const USE_CLOCKID: u64 = 1 << 25;
const CONTEXT_SWITCH: u64 = 1 << 26;

/// `struct perf_event_attr` up to version 5, which every kernel since 4.8 knows. Rows that are
/// not asked for are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period_or_frequency: u64,
    sample_type: u64,
    read_format: u64,
    bits: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
    branches: u64,
    user_registers: u64,
    user_stack: u32,
    clock: i32,
    interrupt_registers: u64,
    aux_watermark: u32,
    frames_max: u16,
    reserved: u16,
}

/// The size of version 5 of the structure.
const SIZE: u32 = 112;
const _: () = assert!(std::mem::size_of::<Attr>() == SIZE as usize);

impl Attr {
    fn new(config: u64, bits: u64, sample_type: u64) -> Attr {
        let always = DISABLED | INHERIT | EXCLUDE_KERNEL | EXCLUDE_HV | ENABLE_ON_EXEC;
        Attr {
            kind: TYPE_SOFTWARE,
            size: SIZE,
            config,
            sample_type: sample_type | SAMPLE_TID | SAMPLE_TIME,
            // The times are the monotonic clock's: the trace's clock is tied to that.
            bits: bits | always | SAMPLE_ID_ALL | USE_CLOCKID,
            clock: libc::CLOCK_MONOTONIC,
            ..Attr::default()
        }
    }

    /// The switches of threads, and their ends.
    pub fn switches() -> Attr {
        Attr::new(DUMMY, CONTEXT_SWITCH | TASK, 0)
    }

    /// Stacks of threads that run in code of their own, so often a second of their time on a CPU.
    pub fn samples(hz: u32, depth: u16) -> Attr {
        Attr {
            period_or_frequency: hz.into(),
            frames_max: depth,
            ..Attr::new(CPU_CLOCK, FREQ | EXCLUDE_CALLCHAIN_KERNEL, SAMPLE_CALLCHAIN)
        }
    }
}
