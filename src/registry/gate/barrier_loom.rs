//! The asymmetric barrier as loom can see it; the twin of `barrier.rs`.
//!
//! loom knows no membarrier. A full fence on both sides would prove too much: it orders two light
//! sides as well, which membarrier does not. So a heavy side posts a request to every thread that
//! takes part and waits until each has executed one full fence between the post and the return,
//! wherever it then stands. That is what the kernel promises. A thread looks for a request at
//! each [`light`], which stands between two accesses of the protocol, and when it ends.
//! The words of the request itself are relaxed, so that they order nothing on their own.

use std::cell::RefCell;

use loom::sync::Arc;
use loom::thread;

use crate::sync::AtomicU32;
use crate::sync::Ordering;
use crate::sync::fence;

/// What a heavy side and one light thread tell each other.
#[derive(Debug, Default)]
pub struct Post {
    requested: AtomicU32,
    fenced: AtomicU32,
}

loom::thread_local! {
    static OWN: RefCell<Option<Arc<Post>>> = RefCell::new(None);
}

/// Makes the calling thread take part in the barriers of `post` until the value is dropped.
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
        let post = OWN.with(|own| own.borrow_mut().take());
        let post = post.expect("nobody else leaves");
        fence(Ordering::SeqCst);
        post.fenced.store(u32::MAX, Ordering::Relaxed);
    }
}

/// Executes a full fence if a heavy side asks this thread for one, otherwise nothing.
pub fn light() {
    OWN.with(|own| {
        let own = own.borrow();
        let Some(post) = own.as_ref() else { return };
        let requested = post.requested.load(Ordering::Relaxed);
        if requested > post.fenced.load(Ordering::Relaxed) {
            fence(Ordering::SeqCst);
            post.fenced.store(requested, Ordering::Relaxed);
        }
    });
}

/// Returns when the thread of `post` has executed a full fence after the call.
pub fn heavy(post: &Post) {
    fence(Ordering::SeqCst);
    let ticket = post.requested.load(Ordering::Relaxed) + 1;
    post.requested.store(ticket, Ordering::Relaxed);
    while post.fenced.load(Ordering::Relaxed) < ticket {
        thread::yield_now();
    }
    fence(Ordering::SeqCst);
}

/// A full fence.
pub fn full() {
    fence(Ordering::SeqCst);
}
