//! A session across the border.

mod export;
mod import;

use std::ffi::c_void;

use super::layout::{Table, TableError, read, required};
use super::status::ErrorSink;
use super::text::{ByteSink, Text};
use super::tokens::TokensView;
use super::vectors::{self, VectorTable};

pub(super) use export::TABLE;
pub(super) use import::Imported;

/// [`LogProbs`] as flat arrays; the offsets are those of the completions.
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

/// See [`AdamW`].
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

type ScoreFunction = unsafe extern "C-unwind" fn(
    this: *mut c_void,
    batch: *const TokensView,
    statistics: u32,
    show: *const ShowSink,
    error: *const ErrorSink,
) -> i32;

type PathFunction =
    unsafe extern "C-unwind" fn(this: *mut c_void, path: Text, error: *const ErrorSink) -> i32;

/// [`Session`] as functions. `this` is what `open` made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionTable {
    /// Bytes of this table.
    pub size: u32,
    /// Frees it.
    pub destroy: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Writes a [`ModelInfo`] as JSON.
    pub info: Option<unsafe extern "C-unwind" fn(this: *mut c_void, out: *const ByteSink)>,
    /// Scores completions. `statistics`: 1 entropy, 2 collision, 4 greedy, added up.
    pub log_probs: Option<ScoreFunction>,
    /// The same, and adds to vector 1 the gradient of the sum of log-probs times what `show` wrote.
    pub backward: Option<ScoreFunction>,
    /// The space of trainable parameters; first argument of its functions is the session.
    pub vectors: *const VectorTable,
    /// One optimizer step from vector 1.
    pub optimizer_step: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            step: *const AdamWView,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Forgets the optimizer's moments and step count.
    pub reset_optimizer: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Continues prompts (the completions of the batch are empty); `sampling` is a [`Sampling`] as JSON.
    /// Writes a JSON array with an array of token ids per prompt.
    pub generate: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            prompts: *const TokensView,
            sampling: Text,
            out: *const ByteSink,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Writes the model (`what` 0) or its adapter (1) into an existing folder.
    pub save: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            folder: Text,
            what: u32,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Writes everything that training has changed into a file.
    pub save_state: Option<PathFunction>,
    /// Takes it back.
    pub restore_state: Option<PathFunction>,
    /// Optional: scores completions and adds to vector `into` the Hessian of the sum of log-probs times what
    /// `show` wrote, times vector `v`; `derivatives`, a number per log-prob, are those of the log-probs along v.
    pub hessian_vector: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            batch: *const TokensView,
            show: *const ShowSink,
            v: u32,
            into: u32,
            derivatives: *mut f64,
            error: *const ErrorSink,
        ) -> i32,
    >,
}

// SAFETY: repr(C), begins with its size, absent functions and pointers are null.
unsafe impl Table for SessionTable {
    const NAME: &'static str = "table of session functions";
    const REQUIRED: usize = std::mem::offset_of!(Self, hessian_vector);
}

// SAFETY: as for the table of a backend.
unsafe impl Sync for SessionTable {}

/// Makes sure of a table before anything is called.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn check(table: *const SessionTable) -> Result<SessionTable, TableError> {
    // SAFETY: the caller's.
    unsafe {
        let table = read(table)?;
        required!(
            table,
            SessionTable,
            destroy,
            info,
            log_probs,
            backward,
            optimizer_step,
            reset_optimizer,
            generate,
            save,
            save_state,
            restore_state,
        );
        vectors::Imported::new(table.vectors, std::ptr::null_mut())?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tables_gained_later_may_be_absent() {
        let size = std::mem::offset_of!(SessionTable, hessian_vector) as u32;
        let older = SessionTable { size, ..TABLE };
        // SAFETY: a valid table, of which the end is not to be read.
        let table = unsafe { check(&older) }.unwrap();
        assert!(table.hessian_vector.is_none() && table.restore_state.is_some());
        // SAFETY: as above.
        let cut = unsafe { check(&SessionTable { size: size - 1, ..TABLE }) };
        assert!(cut.err().unwrap().to_string().contains("truncated"));
    }
}
