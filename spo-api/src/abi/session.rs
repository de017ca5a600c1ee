//! A session across the border.

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
    /// Bytes of this struct.
    pub size: u32,
    /// Number of values: all tokens of all completions.
    pub length: usize,
    /// Log-probs, nats.
    pub values: *const f64,
    /// Entropy, or null if it was not asked for; so below.
    pub entropy: *const f64,
    /// The collision statistic.
    pub collision: *const f64,
    /// 1 where the token was the most probable one.
    pub greedy: *const f64,
}

/// Where a session shows log-probs, once per call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShowSink {
    /// For `show`.
    pub context: *mut c_void,
    /// `gradient` has room for one number per log-prob, which `show` fills; null in a pass without
    /// backward.
    pub show: unsafe extern "C-unwind" fn(
        context: *mut c_void,
        log_probs: *const LogProbsView,
        gradient: *mut f64,
        error: *const ErrorSink,
    ) -> i32,
}

/// See [`AdamW`](crate::AdamW).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AdamWView {
    /// Bytes of this struct.
    pub size: u32,
    /// 1 to leave biases and norms undecayed.
    pub exempt_bias_and_norm: u32,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor of the gradient.
    pub gradient_scale: f64,
}

table! {
    /// [`Session`](crate::Session) as functions. `this` is what `open` made.
    SessionTable, "table of session functions";
    data {
        /// The space of trainable parameters; first argument of its functions is the session.
        vectors: *const VectorTable;
    }
    required {
        /// Frees it.
        destroy: fn(this: *mut c_void);
        /// Writes a [`ModelInfo`](crate::ModelInfo) as JSON.
        info: fn(this: *mut c_void, out: *const ByteSink);
        /// Scores completions. `statistics`: 1 entropy, 2 collision, 4 greedy, added up.
        log_probs: fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink
        ) -> i32;
        /// The same, and adds to vector 1 the gradient of the sum of log-probs times what `show` wrote.
        backward: fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink
        ) -> i32;
        /// One optimizer step from vector 1.
        optimizer_step: fn(this: *mut c_void, step: *const AdamWView, error: *const ErrorSink) -> i32;
        /// Forgets the optimizer's moments and step count.
        reset_optimizer: fn(this: *mut c_void);
        /// Continues prompts (the completions of the batch are empty); `sampling` is a [`Sampling`](crate::Sampling)
        /// as JSON. Writes a JSON array with an array of token ids per prompt.
        generate: fn(
            this: *mut c_void,
            prompts: *const TokensView,
            sampling: Text,
            out: *const ByteSink,
            error: *const ErrorSink
        ) -> i32;
        /// Writes the model (`what` 0) or its adapter (1) into an existing folder.
        save: fn(this: *mut c_void, folder: Text, what: u32, error: *const ErrorSink) -> i32;
        /// Writes everything that training has changed into a file.
        save_state: fn(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32;
        /// Takes it back.
        restore_state: fn(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32;
    }
    optional {
        /// Scores completions and adds to vector `into` the Hessian of the sum of log-probs times what `show` wrote,
        /// times vector `v`; `derivatives`, a number per log-prob, are those of the log-probs along v.
        hessian_vector: fn(
            this: *mut c_void,
            batch: *const TokensView,
            show: *const ShowSink,
            v: u32,
            into: u32,
            derivatives: *mut f64,
            error: *const ErrorSink
        ) -> i32;
        /// Forgets the optimizer before and takes on another: a [`Kernel`](crate::Kernel) as JSON, or none.
        /// `taken` becomes 1 if the session will run it, else 0.
        adopt_optimizer: fn(this: *mut c_void, kernel: Text, taken: *mut u32, error: *const ErrorSink) -> i32;
        /// Goes with `adopt_optimizer`: moves the parameters once, by the rule it adopted.
        optimize: fn(this: *mut c_void, update: *const UpdateView, error: *const ErrorSink) -> i32;
    }
}

/// Makes sure of a table before anything is called.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn check(table: *const SessionTable) -> Result<(), TableError> {
    // SAFETY: the caller's.
    let table = unsafe { read(table)? };
    let pair = [table.adopt_optimizer.is_some(), table.optimize.is_some()];
    both_or_none::<SessionTable>(["adopt_optimizer", "optimize"], pair)?;
    // SAFETY: as above; nothing is called.
    unsafe { RemoteSpace::new(table.vectors, std::ptr::null_mut(), None) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tables_gained_later_may_be_absent() {
        let size = std::mem::offset_of!(SessionTable, hessian_vector) as u32;
        let older = SessionTable { size, ..TABLE };
        // SAFETY: valid tables, of which the end is not to be read.
        unsafe {
            assert!(check(&older).is_ok() && read(&older).is_ok_and(|table| table.hessian_vector.is_none()));
            let cut = check(&SessionTable { size: size - 1, ..TABLE });
            assert!(cut.unwrap_err().to_string().contains("truncated"));
            let half = check(&SessionTable { optimize: None, ..TABLE });
            assert!(half.unwrap_err().to_string().contains("without the other"));
        }
    }
}
