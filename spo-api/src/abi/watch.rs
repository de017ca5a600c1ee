//! Records which loaded part is running, for crash handlers and watchdogs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A loaded part, for messages. It lives as long as the program, as does its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Kind and name, such as "objective `my-loss`".
    pub part: String,
    /// The file of the library.
    pub library: String,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.part, self.library)
    }
}

static CURRENT: AtomicPtr<At> = AtomicPtr::new(std::ptr::null_mut());
static CALLS: AtomicU64 = AtomicU64::new(0);

/// The loaded part that is running now, if any, and a number that changes with every call into a part. Safe
/// to call from a signal handler.
pub fn current() -> (Option<&'static At>, u64) {
    // SAFETY: only `enter` stores here, and only references that live as long as the program.
    let at = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    (at, CALLS.load(Ordering::Relaxed))
}

/// Marks a part, or the program itself, as running until the result is dropped. Calls can be nested: a step
/// calls back into the program, which may in turn call a loaded part.
pub(super) fn enter(at: Option<&'static At>) -> Inside {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let here = at.map(|_| Here::now());
    let at = at.map_or(std::ptr::null_mut(), |at| std::ptr::from_ref(at).cast_mut());
    Inside { before: CURRENT.swap(at, Ordering::AcqRel), _here: here }
}

/// See [`enter`].
pub(super) struct Inside {
    before: *mut At,
    _here: Option<Here>,
}

/// The current folder. When dropped, it is the current one again: the program's paths are relative to it, and a loaded
/// part may have changed it.
pub struct Here(Option<PathBuf>);

impl Here {
    /// The folder that is current now.
    pub fn now() -> Self {
        Here(std::env::current_dir().ok())
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(folder) =
            self.0.take().filter(|folder| std::env::current_dir().ok().as_ref() != Some(folder))
        {
            // If the folder is gone, so are the files of the program in it.
            let _ = std::env::set_current_dir(folder);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        CURRENT.store(self.before, Ordering::Release);
    }
}

/// Calls code of a plugin so that nothing can unwind out of it. A C++ exception or panic that escapes the
/// plugin aborts the program here, where [`current`] still identifies the plugin, instead of unwinding
/// through frames that do not expect it.
pub(super) fn fence<R, F: FnOnce() -> R>(call: F) -> R {
    // Unwinding out of an `extern "C"` function aborts the program, which is intended here.
    extern "C" fn run<R, F: FnOnce() -> R>(slot: &mut (Option<F>, Option<R>)) {
        slot.1 = slot.0.take().map(|call| call());
    }
    let mut slot = (Some(call), None);
    run(&mut slot);
    slot.1.expect("it ran")
}
