//! Ctrl-C and SIGTERM: a run ends at the next good moment. A second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::Interrupted;

/// Whether the run was asked to stop.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Takes over SIGINT and SIGTERM.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let stop = Stop::default();
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, and raises it.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .and_then(|_| flag::register_usize(signal, stop.0.clone(), signal as usize))
                .context("cannot listen to signals")?;
        }
        Ok(stop)
    }

    /// The signal that came.
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
