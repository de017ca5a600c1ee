//! Ctrl-C and SIGTERM. Until training begins, a signal ends the program at once, because there is nothing to save. Then
//! the first one stops the run at the next safe point, and a second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::error::Interrupted;

/// Makes a write beyond a limit on the size of files (`ulimit -f`) an error, as it is on a full disk.
pub(crate) fn survive_file_limits() -> anyhow::Result<()> {
    flag::register(SIGXFSZ, Arc::default()).context("cannot listen to signals")?;
    Ok(())
}

#[derive(Clone, Default)]
pub(crate) struct Stop {
    /// The signal received; 0 for none.
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the program at once.
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Installs the handlers.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let stop = Stop { at_once: Arc::new(AtomicBool::new(true)), ..Stop::default() };
        for signal in [SIGINT, SIGTERM] {
            // The order matters: on the first signal of a training run the flag is still false.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.at_once.clone())
                .and_then(|_| flag::register(signal, stop.at_once.clone()))
                .and_then(|_| flag::register_usize(signal, stop.signal.clone(), signal as usize))
                .context("cannot listen to signals")?;
        }
        Ok(stop)
    }

    /// From now on there is something to save, and the next signal is heard at the next [`check`](Self::check).
    pub(crate) fn begin(&self) {
        self.at_once.store(false, Ordering::Relaxed);
    }

    /// The signal received, if any.
    pub(crate) fn asked(&self) -> Option<Interrupted> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(Interrupted { signal: signal as i32 }),
        }
    }

    /// Fails if the run was asked to stop.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        self.asked().map_or(Ok(()), Err)
    }
}
