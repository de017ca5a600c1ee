//! Reports crashes and hangs of loaded parts.
//!
//! A plugin runs inside the program, so a crash in it ends the program. The user is then told which part of
//! which library crashed, saved files stay intact (they are written to a temporary file and renamed), and
//! the exit code says that the run failed. A part that does not return cannot be stopped, only reported.

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use spo_api::abi;

/// How long a part may run before the user is warned. The warning is repeated at this interval.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether code of a library may end the program: one has been loaded, and the program is not done.
static LOADED: AtomicBool = AtomicBool::new(false);

/// Makes it a failure if a loaded part ends the program, whatever status it gives. To be called once, by the program.
pub fn watch_exit() {
    #[cfg(unix)]
    crash::watch_exit();
}

/// Says that the program ends by itself from now on.
pub fn stand_down() {
    LOADED.store(false, Ordering::Release);
}

/// Starts watching loaded parts. Further calls do nothing.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        LOADED.store(true, Ordering::Release);
        #[cfg(unix)]
        crash::install();
        std::thread::Builder::new()
            .name("spo-watchdog".into())
            .spawn(watch)
            .expect("a thread can be started");
    });
}

/// Warns about a part that has been running for a long time.
fn watch() {
    let (mut since, mut last) = (Duration::ZERO, 0);
    let tick = Duration::from_secs(1);
    loop {
        std::thread::sleep(tick);
        match abi::current() {
            (Some(at), call) if call == last => {
                since += tick;
                if since.as_secs().is_multiple_of(PATIENCE.as_secs()) {
                    let seconds = since.as_secs();
                    // If nobody can read the warning, that is no reason to end.
                    let _ = writeln!(
                        std::io::stderr(),
                        "warning: {at} has not returned for {seconds} s; interrupt the run if it hangs"
                    );
                }
            }
            (_, call) => (since, last) = (Duration::ZERO, call),
        }
    }
}

#[cfg(unix)]
mod crash {
    use std::ffi::c_int;

    use spo_api::abi;

    const SIGNALS: [(c_int, &str); 5] = [
        (libc::SIGSEGV, "it touched memory that is not its own"),
        (libc::SIGBUS, "it touched memory that is not there"),
        (libc::SIGILL, "it ran into an instruction this processor does not have"),
        (libc::SIGFPE, "it divided an integer by zero"),
        (libc::SIGABRT, "it aborted, or let an exception out"),
    ];

    pub(super) fn install() {
        for (signal, _) in SIGNALS {
            // SAFETY: a zeroed sigaction is valid; the handler calls only async-signal-safe functions, on
            // the alternative stack that Rust's runtime set up for the main thread.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = crashed as extern "C" fn(c_int) as libc::sighandler_t;
                action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }

    pub(super) fn watch_exit() {
        // SAFETY: the handler may run at any time: it reads two atomics, writes, and ends the process.
        unsafe { libc::atexit(exiting) };
    }

    extern "C" fn exiting() {
        if !super::LOADED.load(super::Ordering::Acquire) {
            return;
        }
        match abi::current().0 {
            Some(at) => {
                say(&["\nerror: ", &at.part, " of the plugin ", &at.library, " ended the program", REST]);
            }
            None => say(&["\nerror: code of a plugin ended the program", REST]),
        }
        // SAFETY: ends the process without running anything else.
        unsafe { libc::_exit(1) };
    }

    /// The end of a message.
    const REST: &str = ". The run ends here; what it saved before is whole.\n";

    /// Writes to standard error from a signal handler.
    fn say(texts: &[&str]) {
        for text in texts {
            // SAFETY: `write` is async-signal-safe, and the text is valid memory.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        }
    }

    extern "C" fn crashed(signal: c_int) {
        let (Some(at), _) = abi::current() else {
            // No plugin was running: die as without this handler.
            // SAFETY: both calls are async-signal-safe; SA_RESETHAND restored the default action.
            unsafe { libc::raise(signal) };
            return;
        };
        let why = SIGNALS.iter().find(|(number, _)| *number == signal).map_or("it crashed", |(_, why)| why);
        say(&["\nerror: ", &at.part, " of the plugin ", &at.library, " crashed: ", why, REST]);
        // SAFETY: async-signal-safe. Nothing else may run, because memory may be in any state.
        unsafe { libc::_exit(1) };
    }
}
