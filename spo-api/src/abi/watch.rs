//! Which loaded part is at work: what a crash handler or a watchdog wants to know.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A loaded part, for messages. Lives as long as the program, as its library does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// "objective `my-loss`".
    pub part: String,
    /// The library's file.
    pub library: String,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.part, self.library)
    }
}

static CURRENT: AtomicPtr<At> = AtomicPtr::new(std::ptr::null_mut());
static CALLS: AtomicU64 = AtomicU64::new(0);

/// The loaded part at work now, if any, and a number that changes with every call into one. Safe to ask
/// from a signal handler.
pub fn current() -> (Option<&'static At>, u64) {
    // SAFETY: only `enter` stores here, from references that live as long as the program.
    let at = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    (at, CALLS.load(Ordering::Relaxed))
}

/// Marks a part, or the program itself, as being at work until the result is dropped. Calls nest: a step calls
/// back, and what it calls may be loaded too.
pub(super) fn enter(at: Option<&'static At>) -> Inside {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let at = at.map_or(std::ptr::null_mut(), |at| std::ptr::from_ref(at).cast_mut());
    Inside { before: CURRENT.swap(at, Ordering::AcqRel) }
}

/// See [`enter`].
pub(super) struct Inside {
    before: *mut At,
}

impl Drop for Inside {
    fn drop(&mut self) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        CURRENT.store(self.before, Ordering::Release);
    }
}

/// Calls code of a plugin in a place that nothing can unwind out of. A C++ exception or a panic that escapes
/// the plugin ends the program here, where [`current`] still tells whose it was, and not in the middle of
/// frames that do not expect it.
pub(super) fn fence<R, F: FnOnce() -> R>(call: F) -> R {
    // Unwinding out of an `extern "C"` function aborts: that is what it is here for.
    extern "C" fn run<R, F: FnOnce() -> R>(slot: &mut (Option<F>, Option<R>)) {
        slot.1 = slot.0.take().map(|call| call());
    }
    let mut slot = (Some(call), None);
    run(&mut slot);
    slot.1.expect("it ran")
}
