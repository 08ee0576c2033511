//! A wait that a hook surrounds: begun before the call, ended after it, also where `pthread_cancel`
//! unwinds the call.

use trace::block;
use trace::block::Wait;
use trace::encode::op::Op;

use crate::settings;
use crate::settings::Classes;

/// A wait that is over when this goes.
#[must_use]
pub struct Waiting(Option<Wait>);

impl Waiting {
    /// Says what the calling thread is about to wait for, where its class is recorded.
    #[inline]
    pub fn begin(class: Classes, op: Op, object: u64) -> Waiting {
        if !settings::wants(class) {
            return Waiting(None);
        }
        Waiting(block::begin(op, object, settings::stacks()))
    }

    /// The same where no other thread is waited for: the stack is captured at the end, where the
    /// wait is written.
    #[inline]
    pub fn begin_late(class: Classes, op: Op, object: u64) -> Waiting {
        if !settings::wants(class) {
            return Waiting(None);
        }
        Waiting(block::begin_late(op, object, settings::stacks()))
    }

    /// It is over, with this result or this error.
    #[inline]
    pub fn end(mut self, result: u64, error: i32) {
        if let Some(wait) = self.0.take() {
            wait.end(result, error as u32);
        }
    }

    /// Says who has what is waited for, where that is known.
    #[inline]
    pub fn is_for(&self, by: u64) {
        if let Some(wait) = self.0.as_ref().filter(|_| by != 0) {
            wait.is_for(by);
        }
    }

    /// Whether anything is recorded of it.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is to be written: always, or where the thread slept.
    #[inline]
    pub fn is_kept(&self, always: bool) -> bool {
        self.0.as_ref().is_some_and(|wait| always || wait.age() >= settings::slept_ticks())
    }

    /// It is over and of no interest.
    #[inline]
    pub fn forget(mut self) {
        if let Some(wait) = self.0.take() {
            wait.forget();
        }
    }

    /// The same wait with another object.
    pub fn of(mut self, object: u64) -> Waiting {
        Waiting(self.0.take().map(|wait| wait.of(object)))
    }

    /// The same wait, which began earlier, at this time of the trace's clock.
    pub fn since(mut self, ticks: u64) -> Waiting {
        Waiting(self.0.take().map(|wait| wait.since(ticks)))
    }

    /// It is over; where it was shorter than a thread sleeps, nothing is written.
    #[inline]
    pub fn end_if_slept(self, result: u64, error: i32) {
        if self.is_kept(false) { self.end(result, error) } else { self.forget() }
    }
}

impl Drop for Waiting {
    /// The thread is cancelled.
    fn drop(&mut self) {
        if let Some(wait) = self.0.take() {
            wait.end(0, libc::ECANCELED as u32);
        }
    }
}
