//! What the program lends to a part on the other side, for the time of a call.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::status::{ErrorSink, Status, answer};
use super::watch::{self, At};
use crate::{Error, Result};

/// Something of the program while it is lent. What it throws or returns must not be lost in translation: a panic
/// goes on where it began, an error keeps its type.
pub(super) struct Lent<'a, T: ?Sized> {
    thing: &'a mut T,
    /// The part that has it.
    pub(super) borrower: &'static At,
    failure: Option<Failure>,
}

enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl<'a, T: ?Sized> Lent<'a, T> {
    pub(super) fn to(borrower: &'static At, thing: &'a mut T) -> Self {
        Lent { thing, borrower, failure: None }
    }

    /// What the borrower gives back with every call.
    pub(super) fn context(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    /// Answers a call of the borrower, keeping the original of a failure. It is the program that is at work then.
    ///
    /// # Safety
    /// `context` is that of such a loan, which is still going on; `error` is null or valid.
    pub(super) unsafe fn answer(
        context: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut T, &'static At) -> Result<()>,
    ) -> i32 {
        // SAFETY: the caller's.
        let lent = unsafe { &mut *context.cast::<Lent<'_, T>>() };
        let _home = watch::enter(None);
        let told = match catch_unwind(AssertUnwindSafe(|| body(lent.thing, lent.borrower))) {
            Ok(Ok(())) => return Status::OK,
            Ok(Err(e)) => {
                let text = e.to_string();
                lent.failure = Some(Failure::Error(e));
                Error::Engine(text)
            }
            Err(panic) => {
                lent.failure = Some(Failure::Panic(panic));
                Error::Engine("the program panicked".into())
            }
        };
        // SAFETY: the caller's.
        unsafe { answer(error, || Err(told)) }
    }

    /// The same for a question that has no way to fail: a panic is kept, and the answer is a default.
    ///
    /// # Safety
    /// As [`answer`](Self::answer).
    pub(super) unsafe fn ask<R: Default>(context: *mut c_void, body: impl FnOnce(&mut T) -> R) -> R {
        let mut told = R::default();
        // SAFETY: the caller's.
        unsafe {
            Self::answer(context, std::ptr::null(), |thing, _| {
                told = body(thing);
                Ok(())
            })
        };
        told
    }

    /// How the borrower's call ended. If it failed after the program did, that is why, whatever it says itself.
    pub(super) fn settle(self, result: Result<()>) -> Result<()> {
        match (self.failure, result) {
            (Some(Failure::Panic(panic)), _) => resume_unwind(panic),
            (Some(Failure::Error(error)), Err(_)) => Err(error),
            (_, result) => result,
        }
    }
}
