//! The asymmetric barrier as loom can see it; the twin of `barrier.rs`.
//!
//! loom knows no membarrier. A full fence on both sides would prove too much: it orders two light
//! sides as well, which membarrier does not. So a heavy side posts a request to every thread that
//! takes part and waits until each has executed one full fence between the post and the return,
//! wherever it then stands. That is what the kernel promises. A thread looks for a request at
//! each [`light`], which stands between two accesses of the protocol, and when it ends.
//! The words of the request itself are relaxed, so that they order nothing on their own. The
//! heavy side sleeps until the answer: loom runs a spinning thread only when no other can run,
//! and would never show it going on while the light thread is still inside its section.

use std::cell::RefCell;
// Not loom's: an execution that fails drops its thread locals after the model is gone.
use std::sync::Arc;

use loom::thread::Thread;

use crate::sync::AtomicU32;
use crate::sync::Ordering;
use crate::sync::fence;
use crate::sync::thread;

/// A fence is asked for and was not executed yet.
const ASKED: u32 = 1;
/// The thread has ended.
const GONE: u32 = 2;

/// What a heavy side and one light thread tell each other.
#[derive(Debug)]
pub struct Post {
    /// [`ASKED`] and [`GONE`]. Only relaxed read-modify-writes, which see the newest value.
    word: AtomicU32,
    asker: Thread,
}

impl Post {
    /// Nothing asked; the calling thread is the one that will.
    pub fn of_this_asker() -> Post {
        Post { word: AtomicU32::new(0), asker: thread::current() }
    }
}

loom::thread_local! {
    static OWN: RefCell<Option<Arc<Post>>> = RefCell::new(None);
}

/// Makes the calling thread take part in the barriers of a post until the value is dropped.
#[must_use]
pub struct Taking(());

impl Taking {
    /// Joins; one thread a post.
    pub fn part(post: Arc<Post>) -> Taking {
        OWN.with(|own| *own.borrow_mut() = Some(post));
        Taking(())
    }
}

impl Drop for Taking {
    // A thread that does not run any more has executed a full fence: the switch away from it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let post = OWN.with(|own| own.borrow_mut().take());
        let post = post.expect("nobody else leaves");
        // Tells nothing. loom tries other orders only around accesses to one word, and a fence is
        // none: this lets the asker go on before the fence as well.
        post.word.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Woken only if it asked: loom orders a woken thread behind everything done here.
        if post.word.fetch_or(GONE, Ordering::Relaxed) & ASKED != 0 {
            post.asker.unpark();
        }
    }
}

/// Executes a full fence if a heavy side asks this thread for one, otherwise nothing.
pub fn light() {
    OWN.with(|own| {
        let own = own.borrow();
        let Some(post) = own.as_ref() else { return };
        if post.word.load(Ordering::Relaxed) & ASKED != 0 {
            fence(Ordering::SeqCst);
            post.word.fetch_and(!ASKED, Ordering::Relaxed);
            post.asker.unpark();
        }
    });
}

/// Returns when the thread of `post` has executed a full fence after the call.
pub fn heavy(post: &Post) {
    fence(Ordering::SeqCst);
    let mut word = post.word.fetch_or(ASKED, Ordering::Relaxed) | ASKED;
    while word == ASKED {
        thread::park();
        word = post.word.load(Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
}

/// A full fence.
pub fn full() {
    fence(Ordering::SeqCst);
}
