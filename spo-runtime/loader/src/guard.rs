//! Reports crashes and hangs of loaded parts.
//!
//! A plugin runs inside the program, so a crash in it ends the program. The user is then told which part of
//! which library crashed, saved files stay intact (they are written to a temporary file and renamed), and
//! the exit code says that the run failed. A part that does not return cannot be stopped, only reported.

use std::sync::Once;
use std::time::Duration;

use spo_api::abi;

/// How long a part may run before the user is warned. The warning is repeated at this interval.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts watching loaded parts. Further calls do nothing.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
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
                    eprintln!(
                        "warning: {at} has not returned for {} s; interrupt the run if it hangs",
                        since.as_secs()
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

    extern "C" fn crashed(signal: c_int) {
        let (Some(at), _) = abi::current() else {
            // No plugin was running: die as without this handler.
            // SAFETY: both calls are async-signal-safe; SA_RESETHAND restored the default action.
            unsafe { libc::raise(signal) };
            return;
        };
        let why = SIGNALS.iter().find(|(number, _)| *number == signal).map_or("it crashed", |(_, why)| why);
        for text in [
            "\nerror: ",
            &at.part,
            " of the plugin ",
            &at.library,
            " crashed: ",
            why,
            ". The run ends here; what it saved before is whole.\n",
        ] {
            // SAFETY: `write` is async-signal-safe, and the text is valid memory.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: async-signal-safe. Nothing else may run, because memory may be in any state.
        unsafe { libc::_exit(1) };
    }
}
