//! Ctrl-C and SIGTERM. The first signal stops the run at the next safe point; a second one ends it
//! immediately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::Interrupted;

#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Installs the handlers for SIGINT and SIGTERM.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let stop = Stop::default();
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: on the first signal the flag is still false, so the process is not shut
            // down.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .and_then(|_| flag::register_usize(signal, stop.0.clone(), signal as usize))
                .context("cannot listen to signals")?;
        }
        Ok(stop)
    }

    /// The signal received, if any.
    pub(crate) fn asked(&self) -> Option<Interrupted> {
        match self.0.load(Ordering::Relaxed) {
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
