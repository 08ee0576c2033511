//! Where the program waited, and on what: the primitive that a stack's library calls name, and the
//! first call below them, which is the program's.

use std::rc::Rc;

use serde_json::Value;
use serde_json::json;
use trace::encode::op::Op;

use crate::output::push_safe;
use crate::stacks::Call;
use crate::stacks::Stack;

/// What a thread waits for, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A lock that another thread holds.
    Lock,
    /// The disk, another machine, a device.
    Io,
    /// Another thread or process, to say or to end something.
    Other,
    /// Work: at a pool's queue, at a poll, at a socket for what comes in.
    Idle,
    /// Time.
    Sleep,
}

impl Cause {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Lock => "lock",
            Cause::Io => "I/O",
            Cause::Other => "others",
            Cause::Idle => "idle",
            Cause::Sleep => "sleep",
        }
    }
}

/// A place in the program that waits.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it waits on, in words: "mutex", "channel", "read".
    pub primitive: &'static str,
    /// What for.
    pub cause: Cause,
    /// The program's call, and where that stands; empty where it is not known.
    pub text: String,
}

impl Place {
    /// Whether a library call names what is waited on, where the call itself does not.
    pub fn is_named(&self) -> bool {
        self.primitive != Op::FutexWait.name()
    }
}

/// Library calls, by a part of their names or of the file that they stand in, and the primitive
/// that they are.
const PRIMITIVES: [(&str, &str, &str, Cause); 14] = [
    ("::mpmc::", "sync/mpmc/", "channel", Cause::Idle),
    ("::mpsc::", "sync/mpsc", "channel", Cause::Idle),
    ("crossbeam_channel::", "crossbeam-channel", "channel", Cause::Idle),
    ("rayon_core::sleep", "rayon-core", "rayon's queue", Cause::Idle),
    ("JoinInner", "thread/join_handle", "join", Cause::Other),
    ("arrier", "barrier.rs", "barrier", Cause::Other),
    ("condvar", "condvar", "condvar", Cause::Idle),
    ("Condvar", "", "condvar", Cause::Idle),
    ("raw_mutex", "raw_mutex", "mutex", Cause::Lock),
    ("rwlock", "rwlock", "rwlock", Cause::Lock),
    ("mutex::", "mutex", "mutex", Cause::Lock),
    ("once::", "/once", "once", Cause::Lock),
    ("thread::park", "", "park", Cause::Idle),
    ("thread_parking", "thread_parking", "park", Cause::Idle),
];

/// Whether a call is of a library by which programs wait, not of the program.
fn is_library(call: &Call) -> bool {
    if call.file.as_deref().is_some_and(|f| f.starts_with("/rustc/") || f.contains("/library/std/"))
    {
        return true;
    }
    let Some(function) = call.function.as_deref() else { return false };
    let name = function.trim_start_matches('<').trim_start_matches("&mut ");
    let roots = [
        "std::",
        "core::",
        "alloc::",
        "parking_lot",
        "lock_api::",
        "crossbeam_",
        "rayon_core::",
        "trace_hooks::",
        "trace::",
        "mio::",
        "polling::",
    ];
    roots.iter().any(|root| name.starts_with(root))
        || name.starts_with("__")
        || matches!(
            name,
            "syscall"
                | "pthread_mutex_lock"
                | "pthread_cond_wait"
                | "pthread_cond_timedwait"
                | "read"
                | "write"
                | "pread64"
                | "pwrite64"
                | "nanosleep"
                | "clock_nanosleep"
                | "poll"
                | "epoll_wait"
                | "select"
                | "fsync"
                | "fdatasync"
                | "recv"
                | "send"
                | "accept4"
                | "start_thread"
                | "thread_start"
                | "clone"
                | "clone3"
                | "_start"
        )
}

fn is_of_libc(call: &Call) -> bool {
    call.module.as_deref().is_some_and(is_libc)
}

/// Whether a module is the C library or its loader.
pub fn is_libc(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.starts_with("libc.so") || file.starts_with("libc-") || file.starts_with("ld-")
}

/// The program's call among these: the innermost that has a name and is no library's; else the
/// innermost that is not the C library's.
fn own(calls: &[Call]) -> Option<usize> {
    let own = calls.iter().position(|c| c.function.is_some() && !is_library(c));
    let other = || calls.iter().position(|c| c.function.is_none() && !is_of_libc(c));
    own.or_else(other).or_else(|| calls.len().checked_sub(1))
}

/// What is waited for where no library call says it.
fn by_call(op: Op) -> (&'static str, Cause) {
    let cause = match op {
        Op::MutexLock | Op::RwlockRead | Op::RwlockWrite | Op::SpinLock | Op::FileLock => {
            Cause::Lock
        }
        // A semaphore is a lock more often than not: Python's are.
        Op::SemWait => Cause::Lock,
        Op::FutexWait | Op::CondWait => Cause::Other,
        Op::BarrierWait | Op::Join | Op::WaitProcess => Cause::Other,
        Op::Sleep | Op::Yield => Cause::Sleep,
        Op::Poll
        | Op::Select
        | Op::EpollWait
        | Op::Accept
        | Op::Receive
        | Op::WaitSignal
        | Op::Ring => Cause::Idle,
        _ => Cause::Io,
    };
    let name = match op {
        Op::MutexLock => "mutex",
        Op::RwlockRead | Op::RwlockWrite => "rwlock",
        Op::SemWait => "semaphore",
        Op::CondWait => "condvar",
        Op::BarrierWait => "barrier",
        _ => op.name(),
    };
    (name, cause)
}

/// The place of a wait by `op` from this stack.
pub fn place(op: Op, stack: Option<&Rc<Stack>>) -> Place {
    let (mut primitive, mut cause) = by_call(op);
    let calls = stack.map_or(&[][..], |s| s.shown(false));
    let own = calls.iter().position(|c| c.function.is_some() && !is_library(c));
    if matches!(op, Op::FutexWait | Op::CondWait | Op::MutexLock) {
        for call in &calls[..own.unwrap_or(calls.len())] {
            // The outermost one says what the program asked for. An inlined function may be known
            // by its own name only: then by the file that it stands in.
            let name = call.function.as_deref().unwrap_or_default();
            let file = call.file.as_deref().unwrap_or_default();
            let is = |(part, in_file, ..): &&(&str, &str, &str, Cause)| {
                name.contains(part) || (!in_file.is_empty() && file.contains(in_file))
            };
            if let Some((_, _, what, why)) = PRIMITIVES.iter().find(is) {
                (primitive, cause) = (what, *why);
            }
        }
    }
    let text = self::own(calls).map(|i| call_text(&calls[i])).unwrap_or_default();
    Place { primitive, cause, text }
}

/// The program's call of a stack: below what libraries do.
pub fn own_call(stack: Option<&Rc<Stack>>) -> String {
    let calls = stack.map_or(&[][..], |s| s.shown(false));
    own(calls).map(|i| call_text(&calls[i])).unwrap_or_default()
}

/// The functions of a stack's innermost call and of the program's own one.
pub fn functions(stack: Option<&Rc<Stack>>) -> (String, String) {
    let calls = stack.map_or(&[][..], |s| s.shown(false));
    let name = |call: &Call| call_text(&Call { file: None, ..call.clone() });
    let own = own(calls).map(|i| name(&calls[i])).unwrap_or_default();
    (calls.first().map(name).unwrap_or_default(), own)
}

/// A call as function, file and line.
fn call_text(call: &Call) -> String {
    let mut text = String::new();
    match (&call.function, &call.module) {
        (Some(function), _) => push_safe(function.as_bytes(), &mut text),
        (None, Some(module)) => {
            push_safe(module.rsplit('/').next().unwrap_or(module).as_bytes(), &mut text);
            text.push_str(&format!("+{:#x}", call.in_file.unwrap_or(call.address)));
        }
        (None, None) => text.push_str(&format!("{:#x}", call.address)),
    }
    if let Some(file) = &call.file {
        text.push_str(" at ");
        let short: Vec<&str> = file.rsplit('/').take(2).collect();
        push_safe(short.into_iter().rev().collect::<Vec<_>>().join("/").as_bytes(), &mut text);
        if let Some(line) = call.line {
            text.push_str(&format!(":{line}"));
        }
    }
    text
}

/// A stack as JSON; null where the trace has none.
pub fn stack_json(stack: Option<&Rc<Stack>>) -> Value {
    stack.map_or(Value::Null, |s| json!(s.json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn call(function: Option<&str>, module: &str) -> Call {
        Call {
            function: function.map(Arc::from),
            file: None,
            line: None,
            inlined: false,
            address: 0x7000_1234,
            in_file: Some(0x1234),
            module: Some(Arc::from(module)),
        }
    }

    #[test]
    fn the_programs_call_is_the_innermost_that_says_something() {
        let shown = |calls: &[Call]| own(calls).map(|i| call_text(&calls[i])).unwrap_or_default();
        let libc = || call(None, "/lib/libc.so.6");
        let unnamed = || call(None, "/usr/bin/xz");
        let named = |name| call(Some(name), "");
        assert_eq!(shown(&[libc(), unnamed(), named("work"), named("main")]), "work");
        assert_eq!(
            shown(&[libc(), unnamed(), named("start_thread"), named("clone3")]),
            "xz+0x1234"
        );
        assert_eq!(shown(&[unnamed(), named("__libc_start_main_impl"), unnamed()]), "xz+0x1234");
        assert_eq!(shown(&[libc(), named("start_thread")]), "start_thread");
        assert_eq!(shown(&[]), "");
    }
}
