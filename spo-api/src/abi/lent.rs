//! Objects of the program that a part on the other side may use during a call.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::status::{ErrorSink, Status, answer};
use super::watch::{self, At};
use crate::{Error, Result};

/// A borrowed object of the program. Its failures must survive the way through the plugin unchanged: a panic
/// is resumed in the program, and an error keeps its type.
pub(super) struct Lent<'a, T: ?Sized> {
    thing: &'a mut T,
    /// The part that borrows the object.
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

    /// The pointer that the borrower passes back with every call.
    pub(super) fn context(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    /// Handles a call from the borrower and keeps the original error or panic. Meanwhile the program, not the
    /// plugin, counts as running.
    ///
    /// # Safety
    /// `context` belongs to a loan of this type that is still active; `error` is null or valid.
    pub(super) unsafe fn answer(
        context: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut T, &'static At) -> Result<()>,
    ) -> i32 {
        // SAFETY: guaranteed by the caller.
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
        // SAFETY: guaranteed by the caller.
        unsafe { answer(error, || Err(told)) }
    }

    /// The same for a call that cannot return an error: a panic is kept, and a default value is returned.
    ///
    /// # Safety
    /// As [`answer`](Self::answer).
    pub(super) unsafe fn ask<R: Default>(context: *mut c_void, body: impl FnOnce(&mut T) -> R) -> R {
        let mut told = R::default();
        // SAFETY: guaranteed by the caller.
        unsafe {
            Self::answer(context, std::ptr::null(), |thing, _| {
                told = body(thing);
                Ok(())
            })
        };
        told
    }

    /// The result of the borrower's call. If the call failed after a failure in the program, that failure is
    /// the cause and replaces the borrower's own error.
    pub(super) fn settle(self, result: Result<()>) -> Result<()> {
        match (self.failure, result) {
            (Some(Failure::Panic(panic)), _) => resume_unwind(panic),
            (Some(Failure::Error(error)), Err(_)) => Err(error),
            (_, result) => result,
        }
    }
}
