//! Threads that say who made them and what they run.
//!
//! Threads of `std::thread` are recorded too, with their start, name and end, from their first
//! event on; these functions add the creator and the function.

use std::any::type_name;
use std::io;
use std::thread::JoinHandle;

use crate::emit;
use crate::emit::Emission;
use crate::encode::schema::Kind;
use crate::encode::varint;
use crate::registry;
use crate::registry::local;
use crate::registry::local::Local;
use crate::site::Site;
use crate::site::Types;
use crate::sync::Ordering::Relaxed;

/// As [`std::thread::spawn`]; the trace says who created the thread, with the stack, and what it
/// runs.
///
/// # Panics
///
/// As [`std::thread::spawn`], where the system has no thread left.
///
/// ```
/// let answer = trace::thread::spawn(|| 42).join().unwrap();
/// assert_eq!(answer, 42);
/// ```
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::spawn(prepared(f))
}

/// As [`std::thread::Builder`]; the trace says who created the thread and what it runs.
#[derive(Debug)]
#[must_use = "a Builder does nothing until it spawns"]
pub struct Builder(std::thread::Builder);

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// As [`std::thread::Builder::new`].
    pub fn new() -> Builder {
        Builder(std::thread::Builder::new())
    }

    /// As [`std::thread::Builder::name`].
    pub fn name(self, name: String) -> Builder {
        Builder(self.0.name(name))
    }

    /// As [`std::thread::Builder::stack_size`].
    pub fn stack_size(self, bytes: usize) -> Builder {
        Builder(self.0.stack_size(bytes))
    }

    /// As [`std::thread::Builder::spawn`].
    ///
    /// # Errors
    ///
    /// Where the system has no thread left.
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.0.spawn(prepared(f))
    }
}

/// Sets a number aside for the thread that will run `f`, says that it is created, and gives what
/// it runs in place of `f`.
fn prepared<F, T>(f: F) -> impl FnOnce() -> T + Send + 'static
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (number, creator) = announce_creation();
    move || {
        local::with(|l| {
            l.number.set(number);
            l.creator.set(creator);
            l.function.set(Some(type_name::<F>()));
        });
        if registry::is_on() {
            emit::announce();
        }
        f()
    }
}

/// Sets a number aside for a thread that the caller makes, and says so; gives it and the caller's
/// own, or 0 while nothing is recorded.
pub(crate) fn announce_creation() -> (u32, u32) {
    let Some(m) = registry::mapping().filter(|_| registry::has_session()) else { return (0, 0) };
    let number = registry::next_number(m);
    emit::emit(Create { thread: number.into() });
    (number, local::with(|l| l.record().map_or(0, |r| r.thread.load(Relaxed))))
}

/// The event of a thread that creates another one.
#[derive(Clone, Copy)]
struct Create {
    thread: u64,
}

impl Emission for Create {
    fn len_max(&self) -> usize {
        2 * varint::LEN_MAX
    }

    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        None
    }

    fn cold_kind(&self, _l: &Local) -> Option<(u32, usize)> {
        Some((Kind::ThreadCreate as u32, 1))
    }

    fn wants_stack(&self) -> bool {
        true
    }

    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller has checked room for a varint.
        unsafe { emit::put_varint(p, self.thread) }
    }

    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}
