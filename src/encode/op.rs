//! What a thread waits for or wakes: the calls that `Wait`, `Wake` and `Blocked` events name.
//!
//! Numbers are written, never counted. Those below 64 may block, those from 64 on wake others.

/// What a call's object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The address of a lock, or of whatever else the thread waits on.
    Address,
    /// A file descriptor.
    Descriptor,
    /// One more than the first file descriptor that was found ready to be read; 0: none.
    Ready,
    /// What the C library calls the thread.
    Thread,
    /// A process.
    Process,
    /// Nanoseconds.
    Nanos,
    /// Nothing.
    None,
}

impl Object {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Object::Address => "address",
            Object::Descriptor => "descriptor",
            Object::Ready => "ready descriptor + 1",
            Object::Thread => "thread",
            Object::Process => "process",
            Object::Nanos => "nanoseconds",
            Object::None => "none",
        }
    }
}

macro_rules! ops { ($( $id:literal $name:ident $text:literal $class:literal $object:ident; )*) => {
    /// A call that may block, or wakes others.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    #[allow(missing_docs)] // The names are those of the calls.
    pub enum Op { $( $name = $id ),* }

    impl Op {
        /// Every call.
        pub const ALL: &'static [Op] = &[ $( Op::$name ),* ];

        /// The call with this number.
        pub fn from_u64(v: u64) -> Option<Op> {
            match v { $( $id => Some(Op::$name), )* _ => None }
        }

        /// Its name, as the trace's readers show it.
        pub fn name(self) -> &'static str {
            match self { $( Op::$name => $text ),* }
        }

        /// The class with which recording is chosen: locks, io, net, sleep, sched, process.
        pub fn class(self) -> &'static str {
            match self { $( Op::$name => $class ),* }
        }

        /// What its object is.
        pub fn object(self) -> Object {
            match self { $( Op::$name => Object::$object ),* }
        }
    }
} }

ops! {
    1 FutexWait "futex wait" "locks" Address;
    2 MutexLock "mutex lock" "locks" Address;
    3 RwlockRead "rwlock read" "locks" Address;
    4 RwlockWrite "rwlock write" "locks" Address;
    5 CondWait "condvar wait" "locks" Address;
    6 SemWait "semaphore wait" "locks" Address;
    7 BarrierWait "barrier wait" "locks" Address;
    8 Join "join" "locks" Thread;
    9 SpinLock "spin lock" "locks" Address;
    12 Sleep "sleep" "sleep" Nanos;
    13 Yield "yield" "sched" None;
    16 Read "read" "io" Descriptor;
    17 Write "write" "io" Descriptor;
    18 Open "open" "io" Descriptor;
    19 Sync "sync" "io" Descriptor;
    20 FileLock "file lock" "io" Descriptor;
    21 Copy "copy" "io" Descriptor;
    22 Control "ioctl" "io" Descriptor;
    23 Ring "io_uring enter" "io" Descriptor;
    24 Accept "accept" "net" Descriptor;
    25 Connect "connect" "net" Descriptor;
    26 Receive "receive" "net" Descriptor;
    27 Send "send" "net" Descriptor;
    28 Resolve "getaddrinfo" "net" None;
    29 Remove "remove" "io" None;
    30 Rename "rename" "io" None;
    31 MakeFolder "mkdir" "io" None;
    32 Poll "poll" "net" Ready;
    33 Select "select" "net" Ready;
    34 EpollWait "epoll wait" "net" Descriptor;
    35 Resize "resize" "io" Descriptor;
    40 WaitProcess "wait for process" "process" Process;
    41 WaitSignal "wait for signal" "process" None;
    64 FutexWake "futex wake" "locks" Address;
    65 MutexUnlock "mutex unlock" "locks" Address;
    66 RwlockUnlock "rwlock unlock" "locks" Address;
    67 CondSignal "condvar signal" "locks" Address;
    68 CondBroadcast "condvar broadcast" "locks" Address;
    69 SemPost "semaphore post" "locks" Address;
}

impl Op {
    /// Whether a call that waits is one sleep, nearly always. Others may sleep any number of times,
    /// as a write to disk does, or take their time on a CPU.
    pub fn sleeps_once(self) -> bool {
        match self.class() {
            "locks" | "sleep" | "process" => !self.wakes(),
            "net" => !matches!(self, Op::Connect | Op::Send | Op::Resolve),
            _ => false,
        }
    }

    /// The file descriptor that an object of it names.
    pub fn descriptor(self, object: u64) -> Option<u64> {
        match self.object() {
            Object::Descriptor => Some(object),
            Object::Ready => object.checked_sub(1),
            _ => None,
        }
    }

    /// Whether it wakes others, and never blocks.
    pub fn wakes(self) -> bool {
        self as u8 >= 64
    }
}

/// What happened to a process, in a `Process` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// It made another one, whose number is `pid`; `text` says how.
    Child = 1,
    /// It becomes the program `text`.
    Exec = 2,
    /// It made a process or becomes a program that is not recorded; `text` says which and why.
    NotFollowed = 3,
}

impl Step {
    /// Its name.
    pub fn name(v: u64) -> Option<&'static str> {
        match v {
            1 => Some("child"),
            2 => Some("exec"),
            3 => Some("not followed"),
            _ => None,
        }
    }
}
