//! Sessions across the plugin ABI.

mod export;
mod import;

use std::ffi::c_void;

use super::layout::{TableError, both_or_none, read, table};
use super::optimizer::UpdateView;
use super::status::ErrorSink;
use super::text::{ByteSink, Text};
use super::tokens::TokensView;
use super::vectors::{RemoteSpace, VectorTable};

pub(super) use export::TABLE;
pub(super) use import::ImportedSession;

/// [`LogProbs`](crate::LogProbs) as flat arrays; the offsets are those of the completions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LogProbsView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// Number of values: all tokens of all completions.
    pub length: usize,
    /// Log-probs, nats.
    pub values: *const f64,
    /// Entropy, or null if it was not requested. The same applies to the fields below.
    pub entropy: *const f64,
    /// The collision statistic.
    pub collision: *const f64,
    /// 1 where the token was the most probable one.
    pub greedy: *const f64,
}

/// Receives log-probs from a session, once per call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShowSink {
    /// First argument of `show`.
    pub context: *mut c_void,
    /// `show` writes one number per log-prob into `gradient`, which is null in a pass without backward.
    pub show: unsafe extern "C-unwind" fn(
        context: *mut c_void,
        log_probs: *const LogProbsView,
        gradient: *mut f64,
        error: *const ErrorSink,
    ) -> i32,
}

table! {
    /// [`Session`](crate::Session) as functions. `this` is what `open` made.
    SessionTable, "table of session functions";
    data {
        /// The space of trainable parameters; first argument of its functions is the session.
        vectors: *const VectorTable;
    }
    required {
        /// Frees the session.
        destroy: fn(this: *mut c_void);
        /// Writes a [`ModelInfo`](crate::ModelInfo) as JSON.
        info: fn(this: *mut c_void, out: *const ByteSink);
        /// Scores completions. `statistics` is a sum of flags: 1 entropy, 2 collision, 4 greedy.
        log_probs: fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink
        ) -> i32;
        /// Like `log_probs`, and adds to vector 1 the gradient of the sum of log-probs times the numbers
        /// written by `show`.
        backward: fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink
        ) -> i32;
        /// Generates continuations of prompts (the batch has no completion tokens); `sampling` is a
        /// [`Sampling`](crate::Sampling) as JSON. Writes a JSON array with one array of token ids per prompt.
        generate: fn(
            this: *mut c_void,
            prompts: *const TokensView,
            sampling: Text,
            out: *const ByteSink,
            error: *const ErrorSink
        ) -> i32;
        /// Writes the model (`what` = 0) or its adapter (`what` = 1) into an existing folder.
        save: fn(this: *mut c_void, folder: Text, what: u32, error: *const ErrorSink) -> i32;
        /// Writes everything that training has changed to a file.
        save_state: fn(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32;
        /// Restores the state written by `save_state`.
        restore_state: fn(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32;
    }
    optional {
        /// Scores completions. Let L be the sum of log-probs times the numbers written by `show`: adds the
        /// Hessian of L times vector `v` to vector `into`. `derivatives` receives the derivative of each
        /// log-prob along `v`.
        hessian_vector: fn(
            this: *mut c_void,
            batch: *const TokensView,
            show: *const ShowSink,
            v: u32,
            into: u32,
            derivatives: *mut f64,
            error: *const ErrorSink
        ) -> i32;
        /// Replaces the adopted optimizer by another: a [`Kernel`](crate::Kernel) as JSON, or none. `taken`
        /// is set to 1 if the session will run it, else to 0.
        adopt_optimizer: fn(this: *mut c_void, kernel: Text, taken: *mut u32, error: *const ErrorSink) -> i32;
        /// Updates the parameters once with the adopted optimizer; present together with `adopt_optimizer`.
        optimize: fn(this: *mut c_void, update: *const UpdateView, error: *const ErrorSink) -> i32;
        /// `backward` from a gradient of zero and `optimize` in one, which keeps no whole gradient. `norm` receives the
        /// norm of the gradient.
        backward_and_optimize: fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            update: *const UpdateView,
            norm: *mut f64,
            error: *const ErrorSink
        ) -> i32;
        /// From now on, `backward` and `backward_and_optimize` add the gradient of `weight` times the load-balancing loss of
        /// the model's routers; 0 for none, as in a new session.
        weigh_router_loss: fn(this: *mut c_void, weight: f64, error: *const ErrorSink) -> i32;
        /// That loss in the last backward pass, without its weight; present together with `weigh_router_loss`.
        router_loss: fn(this: *mut c_void) -> f64;
        /// From now on, adapters with dropout drop parts of their inputs in passes over batches, drawn from `seed`; nothing, as
        /// in a new session, if `on` is 0.
        drop_out: fn(this: *mut c_void, on: u32, seed: u64, error: *const ErrorSink) -> i32;
    }
}

/// Checks a table before any of its functions is called.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn check(table: *const SessionTable) -> Result<(), TableError> {
    // SAFETY: guaranteed by the caller.
    let table = unsafe { read(table)? };
    let pair = [table.adopt_optimizer.is_some(), table.optimize.is_some()];
    both_or_none::<SessionTable>(["adopt_optimizer", "optimize"], pair)?;
    let pair = [table.weigh_router_loss.is_some(), table.router_loss.is_some()];
    both_or_none::<SessionTable>(["weigh_router_loss", "router_loss"], pair)?;
    // SAFETY: as above; no function is called.
    unsafe { RemoteSpace::new(table.vectors, std::ptr::null_mut(), None) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tables_gained_later_may_be_absent() {
        let size = std::mem::offset_of!(SessionTable, hessian_vector) as u32;
        let older = SessionTable { size, ..TABLE };
        // SAFETY: the tables are valid; the rest of them is not read.
        unsafe {
            assert!(check(&older).is_ok() && read(&older).is_ok_and(|table| table.hessian_vector.is_none()));
            let cut = check(&SessionTable { size: size - 1, ..TABLE });
            assert!(cut.unwrap_err().to_string().contains("truncated"));
            let half = check(&SessionTable { optimize: None, ..TABLE });
            assert!(half.unwrap_err().to_string().contains("without the other"));
        }
    }
}
