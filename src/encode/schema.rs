//! THE event table: one row for each static kind.
//!
//! Encoder, decoder, JSON names, `docs/format.md`, the schema in the file and the frozen list of
//! released rows are made from these rows. Ids are written, never counted. Ranges: structure from
//! 0x01, threads from 0x10, annotations from 0x20, async tasks from 0x30. Kinds from 64 up are
//! sites and are defined in the trace.
//!
//! A structural event is its kind and its fields; a timed event is kind, fields, and the ticks
//! since the event before it in the batch. The ticks stand last: what stands before them is stored
//! at addresses that do not depend on the counter, so that the thread's next event need not wait.

use super::field::Addr;
use super::field::Bool;
use super::field::Bytes;
use super::field::Field;
use super::field::FieldList;
use super::field::Flags;
use super::field::Frames;
use super::field::KindRef;
use super::field::Nanos;
use super::field::Numbers;
use super::field::Reader;
use super::field::StackRef;
use super::field::Str;
use super::field::StringRef;
use super::field::TaskRef;
use super::field::ThreadRef;
use super::field::Ticks;
use super::field::U64;
use super::field::Writer;

/// What an event means for the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Carries tables or accounts; has no tick delta.
    Structure,
    /// Happens at a moment.
    Instant,
    /// Begins a range of this name.
    Begin(&'static str),
    /// Ends a range of this name.
    End(&'static str),
}

impl Phase {
    /// The number that stands for the phase in a `Schema` event.
    pub fn code(self) -> u64 {
        match self {
            Phase::Structure => 0,
            Phase::Instant => 1,
            Phase::Begin(_) => 2,
            Phase::End(_) => 3,
        }
    }

    /// The name of the range that begins or ends here; empty without one.
    pub fn pair(self) -> &'static str {
        match self {
            Phase::Begin(name) | Phase::End(name) => name,
            _ => "",
        }
    }
}

/// One row of the event table.
#[derive(Clone, Copy, Debug)]
pub struct EventSpec {
    /// The kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What it means, in one line.
    pub doc: &'static str,
    /// First version of the format that has it.
    pub since: u8,
    /// What it means for the time line.
    pub phase: Phase,
    /// Name and type of each field.
    pub fields: &'static [(&'static str, u64)],
}

/// Hands the rows of the event table to the macro that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! __events { ($($with:tt)*) => { $($with)*! {
    /// Begins a session; the first event of its first batch.
    0x01 Session since 1, phase Structure {
        format: U64, recorder: Str, tick_shift: U64, tick_rate: U64, clock: U64, start: Ticks,
        pid: U64, program: Str, arch: Str, mode: U64 }
    /// Describes a static kind, so that an older reader can step over it.
    0x02 Schema since 1, phase Structure {
        kind: KindRef, name: Str, phase: U64, pair: Str, fields: FieldList }
    /// Defines a string of the table epoch.
    0x03 String since 1, phase Structure { id: StringRef, text: Str }
    /// Defines a stack of the table epoch: return addresses, innermost first.
    0x04 Stack since 1, phase Structure { id: StackRef, flags: Flags, frames: Frames }
    /// Defines a dynamic kind of the table epoch: a place in the source that emits.
    0x05 Site since 1, phase Structure {
        kind: KindRef, class: U64, flags: Flags, name: StringRef, module: StringRef,
        file: StringRef, line: U64, fields: FieldList }
    /// Defines a thread of the session.
    0x06 Thread since 1, phase Structure {
        thread: ThreadRef, tid: U64, creator: ThreadRef, name: Str, function: Str, entry: Addr,
        registered: Ticks }
    /// Defines a loaded module of the table epoch: where its code stands and how to know it again.
    0x07 Module since 1, phase Structure {
        base: Addr, size: U64, bias: Addr, build_id: Bytes, path: Str, file_size: U64, mtime: U64 }
    /// A thread has a new name.
    0x08 ThreadName since 1, phase Structure { thread: ThreadRef, at: Ticks, name: Str }
    /// The clocks read together; `error` is how far apart the reads of ticks stood.
    0x09 ClockSnapshot since 1, phase Structure {
        at: Ticks, mono_ns: U64, wall_ns: U64, boot_ns: U64, error: Ticks }
    /// All batches of this generation stand before this event, but those of the late threads.
    0x0a GenerationEnd since 1, phase Structure {
        generation: U64, at: Ticks, late: Numbers }
    /// Events of a thread lost for one cause since the session began.
    0x0b Loss since 1, phase Structure { thread: ThreadRef, cause: U64, count: U64 }
    /// What a thread was doing when a snapshot was taken.
    0x0c ThreadState since 1, phase Structure {
        thread: ThreadRef, tid: U64, name: Str, at: Ticks, state: U64, task: TaskRef,
        spans: Numbers }
    /// A task that was alive when a snapshot was taken.
    0x0d TaskState since 1, phase Structure {
        task: TaskRef, parent: TaskRef, kind: KindRef, begun: Ticks }
    /// Ends a session: its counts, with everything that stands in this trace included.
    0x0e End since 1, phase Structure {
        at: Ticks, events: U64, lost: U64, threads: U64, generations: U64, batches: U64,
        pause_max: Nanos, reason: U64 }
    /// A fact about the environment or the recorder, for people.
    0x0f Note since 1, phase Structure { name: Str, text: Str }
    /// The thread is known to the recorder from here on.
    0x10 ThreadStart since 1, phase Begin("thread") { }
    /// The thread ends.
    0x11 ThreadEnd since 1, phase End("thread") { }
    /// This thread created another one.
    0x12 ThreadCreate since 1, phase Instant { thread: ThreadRef, stack: StackRef }
    /// A call that may block has returned: what (the table of calls), on which object, with which
    /// result or `errno`, and how many ticks ago it was called.
    0x13 Wait since 1, phase Instant {
        op: U64, object: U64, result: U64, error: U64, began: U64, stack: StackRef }
    /// A call that wakes others has returned: `woken` is what the kernel or the lock says of how
    /// many it woke.
    0x14 Wake since 1, phase Instant {
        op: U64, object: U64, woken: U64, began: U64, stack: StackRef }
    /// What a file descriptor is from here on: a path, addresses of a socket, a pipe.
    0x15 Descriptor since 1, phase Instant { fd: U64, text: Str }
    /// A process was made, becomes another program, or is not followed.
    0x16 Process since 1, phase Instant { step: U64, pid: U64, text: Str }
    /// What the kernel has counted for this thread so far: switches that it asked for and those
    /// that it did not, and its time on a CPU.
    0x17 Usage since 1, phase Instant {
        voluntary: U64, involuntary: U64, user: Nanos, system: Nanos }
    /// The kernel took the CPU from the thread: it waits for something, or was preempted and could
    /// go on.
    0x18 SwitchOut since 1, phase Instant { preempted: Bool }
    /// The kernel gave the thread this CPU.
    0x19 SwitchIn since 1, phase Instant { cpu: U64 }
    /// The thread ran in code of its own, on this CPU, with this stack.
    0x1a Sample since 1, phase Instant { cpu: U64, stack: StackRef }
    /// What the kernel has counted for this thread so far: time on a CPU, time in which it could
    /// run and had none, and how often it got one.
    0x1b RunDelay since 1, phase Instant { ran: Nanos, waited: Nanos, turns: U64 }
    /// Memory of the process, in bytes: resident now, of that shared, and the most that was
    /// resident so far; its page faults so far, without and with a read from disk.
    0x1c Memory since 1, phase Instant {
        resident: U64, shared: U64, peak: U64, minor_faults: U64, major_faults: U64 }
    /// The kernel's counts of a thread beside those of its recorded waits, until `at`: switches
    /// that it asked for, pages that it waited for, recorded waits that slept, other recorded calls
    /// of 5 us and more with their time; and of its last `over` how long it was blocked and how
    /// long in recorded waits.
    0x1e Coverage since 1, phase Structure {
        thread: ThreadRef, at: Ticks, switches: U64, faults: U64, slept: U64, longer: U64,
        longer_time: Nanos, over: Nanos, blocked: Nanos, waited: Nanos }
    /// What a thread was waiting for when the recording ended, and since when; `by` is what
    /// `Wait::result` would be, as far as that was known when the wait began.
    0x1f Blocked since 1, phase Structure {
        thread: ThreadRef, op: U64, object: U64, since: Ticks, stack: StackRef, by: U64 }
    /// Opens a batch where the thread has a task or open spans, outermost first; `deeper` counts
    /// the open spans that are not listed.
    0x20 State since 1, phase Instant { task: TaskRef, spans: Numbers, deeper: U64 }
    /// The innermost open span of this lane ended.
    0x21 SpanEnd since 1, phase End("span") { }
    /// A span that is not the innermost ended: `depth` spans were opened before it on this lane
    /// and are still open.
    0x22 SpanEndAt since 1, phase End("span") { depth: U64 }
    /// From here on the thread works for this task; 0 for none.
    0x23 TaskSwitch since 1, phase Instant { task: TaskRef }
    /// The task ended.
    0x24 TaskEnd since 1, phase End("task") { task: TaskRef }
} } }

macro_rules! define_schema { ($(
    $(#[doc = $doc:literal])* $id:literal $name:ident since $since:literal,
    phase $phase:ident $(($pair:literal))? { $($f:ident : $t:ty),* $(,)? } )*) => {
    /// The static kinds.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    pub enum Kind { $( $(#[doc = $doc])* $name = $id ),* }

    impl Kind {
        /// The static kind with this number.
        #[inline]
        pub fn from_u64(v: u64) -> Option<Kind> {
            match v { $( $id => Some(Kind::$name), )* _ => None }
        }
    }

    /// The event table.
    pub static SPECS: &[EventSpec] = &[$( EventSpec {
        kind: Kind::$name, name: stringify!($name), doc: concat!($($doc),*), since: $since,
        phase: Phase::$phase $(($pair))?,
        fields: &[$( (stringify!($f), <$t as Field>::TYPE) ),*],
    } ),*];

    $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)] // The fields are described in docs/format.md.
        pub struct $name<'a> {
            $(pub $f: <$t as Field>::Out<'a>,)*
            #[doc(hidden)]
            pub _life: Life<'a>,
        }

        impl<'a> $name<'a> {
            /// Reads the fields.
            #[inline(always)]
            #[allow(unused_variables)]
            pub fn read(r: &mut Reader<'a>) -> Option<Self> {
                $( let $f = <$t as Field>::read(r)?; )*
                Some($name { $($f,)* _life: LIFE })
            }
        }

        define_schema!(@put $name $phase { $($f : $t),* });
    )*
};
(@put $name:ident Structure { $($f:ident : $t:ty),* }) => {
    impl $name<'_> {
        /// Writes the kind and the fields; `None` without room.
        #[allow(clippy::too_many_arguments)]
        pub fn put(w: &mut Writer<'_>, $($f: <$t as Field>::In<'_>),*) -> Option<()> {
            w.varint(Kind::$name as u64)?;
            $( <$t as Field>::write(w, $f)?; )*
            Some(())
        }
    }
};
(@put $name:ident $phase:ident { $($f:ident : $t:ty),* }) => {
    impl $name<'_> {
        /// Writes the kind, the fields and the ticks since the event before; `None` without room.
        #[allow(clippy::too_many_arguments)]
        pub fn put(w: &mut Writer<'_>, delta: u64, $($f: <$t as Field>::In<'_>),*) -> Option<()> {
            w.varint(Kind::$name as u64)?;
            $( <$t as Field>::write(w, $f)?; )*
            w.varint(delta)
        }
    }
};
}

/// Lets a row without borrowed fields have the lifetime that all rows have.
#[doc(hidden)]
pub type Life<'a> = std::marker::PhantomData<&'a ()>;
#[doc(hidden)]
pub const LIFE: Life<'static> = std::marker::PhantomData;

__events!(define_schema);

/// What a site emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Something happened.
    Instant = 1,
    /// A value at a moment; the first field is the value.
    Counter = 2,
    /// A text with a category (the site's name); the field `text` is the text.
    Log = 3,
    /// A span begins on this thread.
    Span = 4,
    /// A task begins; the first field is its id, the second its parent.
    Task = 5,
}

impl Class {
    /// The class with this number.
    pub fn from_u64(v: u64) -> Option<Class> {
        Some(match v {
            1 => Class::Instant,
            2 => Class::Counter,
            3 => Class::Log,
            4 => Class::Span,
            5 => Class::Task,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Class::Instant => "instant",
            Class::Counter => "counter",
            Class::Log => "log",
            Class::Span => "span",
            Class::Task => "task",
        }
    }
}

/// `Stack::flags`: the walk met the configured depth, there were more frames.
pub const STACK_TRUNCATED: u64 = 1;
/// `Stack::flags`: frames were found by unwind tables. Without this flag and the next, all were
/// found by frame pointers.
pub const STACK_TABLES: u64 = 2;
/// `Stack::flags`: for some frames there were no unwind tables, and they were gone through as if
/// they kept frame pointers: what is further out may be wrong or missing.
pub const STACK_GUESSED: u64 = 4;
/// `Stack::flags`: further out there are frames that were not found.
pub const STACK_LOST: u64 = 8;
/// The bits of `Stack::flags` that have a meaning.
pub const STACK_FLAGS: u64 = 15;

/// Why an event is missing from the trace, or what of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// The memory bound was reached and no buffer was free.
    PoolEmpty = 1,
    /// The thread waited for a free buffer for as long as it may.
    WaitTimeout = 2,
    /// Nested in another event, and the side buffer was full or already in use.
    Nested = 3,
    /// The event was left by a `longjmp` before it was complete.
    Abandoned = 4,
    /// Emitted in a pause, by an event that may not wait for its end or has waited for a second.
    InPause = 5,
    /// The thread could not be registered.
    Unregistered = 6,
    /// The writer had failed, or the reader went away.
    Sink = 7,
    /// The event does not fit a batch.
    TooBig = 8,
    /// Formatting the text panicked.
    Panicked = 9,
    /// The thread had not let go of its buffer when the session's stop reached its deadline.
    StopTimeout = 10,
    /// The kernel's ring was full: what it saw of threads meanwhile is not in the trace.
    KernelRing = 12,
    /// Not an event: a stack could not be kept, the event has stack 0.
    StackTable = 32,
    /// Not an event: a string could not be kept.
    StringTable = 33,
    /// Not an event: the clock went back, the event has the time of the one before.
    ClockBack = 34,
    /// Not an event: a live task is not in checkpoints.
    TaskTable = 35,
    /// Not an event: more than 32 spans were open; deeper ones are counted, not listed.
    SpanDepth = 36,
    /// The site could not be defined.
    SiteTable = 11,
}

/// One more than the largest number of a cause.
pub const CAUSES: usize = 40;

impl Cause {
    /// Every cause.
    pub const ALL: &'static [Cause] = &[
        Cause::PoolEmpty,
        Cause::WaitTimeout,
        Cause::Nested,
        Cause::Abandoned,
        Cause::InPause,
        Cause::Unregistered,
        Cause::Sink,
        Cause::TooBig,
        Cause::Panicked,
        Cause::StopTimeout,
        Cause::SiteTable,
        Cause::KernelRing,
        Cause::StackTable,
        Cause::StringTable,
        Cause::ClockBack,
        Cause::TaskTable,
        Cause::SpanDepth,
    ];

    /// The cause with this number.
    pub fn from_u64(v: u64) -> Option<Cause> {
        Cause::ALL.iter().copied().find(|c| *c as u64 == v)
    }

    /// Whether an event is missing; otherwise one is there, with less in it.
    pub fn is_event(self) -> bool {
        (self as u8) < 32
    }

    /// Its name in output and in `docs/format.md`.
    pub fn name(self) -> &'static str {
        match self {
            Cause::PoolEmpty => "pool_empty",
            Cause::WaitTimeout => "wait_timeout",
            Cause::Nested => "nested",
            Cause::Abandoned => "abandoned",
            Cause::InPause => "in_pause",
            Cause::Unregistered => "unregistered",
            Cause::Sink => "sink",
            Cause::TooBig => "too_big",
            Cause::Panicked => "panicked",
            Cause::StopTimeout => "stop_timeout",
            Cause::SiteTable => "site_table",
            Cause::KernelRing => "kernel_ring",
            Cause::StackTable => "stack_table",
            Cause::StringTable => "string_table",
            Cause::ClockBack => "clock_back",
            Cause::TaskTable => "task_table",
            Cause::SpanDepth => "span_depth",
        }
    }
}

/// `Session::clock`.
pub const CLOCK_TSC: u64 = 1;
/// `Session::clock`.
pub const CLOCK_CNTVCT: u64 = 2;
/// `Session::clock`.
pub const CLOCK_MONOTONIC: u64 = 3;

/// `Session::mode`: threads are seen out by membarrier.
pub const MODE_MEMBARRIER: u64 = 1;
/// `Session::mode`: every event fences, since membarrier is refused here.
pub const MODE_FENCE: u64 = 2;

/// `ThreadState::state`.
pub const STATE_UNKNOWN: u64 = 0;
/// `ThreadState::state`: runs, or waits in a way that no hook saw.
pub const STATE_RUNNING: u64 = 1;
/// `ThreadState::state`: was inside the recorder while the snapshot was taken.
pub const STATE_LATE: u64 = 2;
/// `ThreadState::state`: exists, but has never used the recorder.
pub const STATE_UNREGISTERED: u64 = 3;

/// `End::reason`: `stop()` was called.
pub const END_STOP: u64 = 1;
/// `End::reason`: the process ended.
pub const END_EXIT: u64 = 2;
/// `End::reason`: asked for by `request_stop()`.
pub const END_REQUEST: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_static_and_round_trip() {
        for s in SPECS {
            assert!((s.kind as u64) < super::super::wire::KIND_DYNAMIC);
            assert_eq!(Kind::from_u64(s.kind as u64), Some(s.kind));
            for (name, ty) in s.fields {
                assert!(super::super::field::type_name(*ty).is_some(), "{}.{name}", s.name);
            }
        }
        assert!(SPECS.len() > 20);
    }

    #[test]
    fn every_cause_has_a_number_of_its_own() {
        for c in Cause::ALL {
            assert!((*c as usize) < CAUSES);
            assert_eq!(Cause::from_u64(*c as u64), Some(*c));
        }
    }

    #[test]
    fn a_structural_row_reads_back() {
        let mut b = [0u8; 64];
        let mut w = Writer::new(&mut b);
        Stack::put(&mut w, 9, STACK_TRUNCATED, &[0x5000, 0x4ff0, u64::MAX]).unwrap();
        let n = w.len();
        let mut r = Reader::new(&b[..n]);
        assert_eq!(r.varint(), Some(Kind::Stack as u64));
        let s = Stack::read(&mut r).unwrap();
        assert!(r.rest().is_empty());
        assert_eq!((s.id, s.flags), (9, STACK_TRUNCATED));
        assert_eq!(s.frames.iter().collect::<Vec<_>>(), [0x5000, 0x4ff0, u64::MAX]);
        for cut in 0..n - 1 {
            assert!(Stack::read(&mut Reader::new(&b[1..1 + cut])).is_none());
        }
    }
}
