//! The plugin's end of a session: a trait object behind the table.

use std::ffi::c_void;
use std::path::Path;

use super::{AdamWView, LogProbsView, SessionTable, ShowSink};
use crate::abi::status::{ErrorSink, answer, call};
use crate::abi::text::{ByteSink, Text, from_json, to_json};
use crate::abi::tokens::TokensView;
use crate::abi::vectors::{self, Owner, VectorTable};
use crate::{
    AdamW, Error, Export, LogProbs, Result, Sampling, Session, Statistics, Tangent, Vector, VectorSpace,
};

/// The table of every session written in Rust.
pub(in crate::abi) static TABLE: SessionTable = SessionTable {
    size: size_of::<SessionTable>() as u32,
    destroy: Some(destroy_session),
    info: Some(info),
    log_probs: Some(log_probs),
    backward: Some(backward),
    vectors: &VECTORS,
    optimizer_step: Some(optimizer_step),
    reset_optimizer: Some(reset_optimizer),
    generate: Some(generate),
    save: Some(save),
    save_state: Some(save_state),
    restore_state: Some(restore_state),
    hessian_vector: Some(hessian_vector),
};

static VECTORS: VectorTable = vectors::export::<Box<dyn Session>>();

impl Owner for Box<dyn Session> {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        (**self).vectors()
    }
}

unsafe extern "C-unwind" fn destroy_session(this: *mut c_void) {
    // SAFETY: it came from `open` and is not used again.
    drop(unsafe { Box::from_raw(this.cast::<Box<dyn Session>>()) });
}

/// # Safety
/// `this` came from `open` and nobody else uses it now: the contract of the table.
unsafe fn session<'a>(this: *mut c_void) -> &'a mut dyn Session {
    // SAFETY: the caller's.
    unsafe { &mut **this.cast::<Box<dyn Session>>() }
}

unsafe extern "C-unwind" fn info(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &to_json(&session(this).info())) }
}

fn statistics(bits: u32) -> Statistics {
    Statistics { entropy: bits & 1 != 0, collision: bits & 2 != 0, greedy: bits & 4 != 0 }
}

/// Shows log-probs to the caller.
///
/// # Safety
/// `sink` is valid, `gradient` null or as long as the log-probs.
unsafe fn show(sink: *const ShowSink, found: &LogProbs, gradient: *mut f64) -> Result<()> {
    let some = |values: &Vec<f64>| if values.is_empty() { std::ptr::null() } else { values.as_ptr() };
    let view = LogProbsView {
        size: size_of::<LogProbsView>() as u32,
        length: found.values.len(),
        values: found.values.as_ptr(),
        entropy: some(&found.entropy),
        collision: some(&found.collision),
        greedy: some(&found.greedy),
    };
    // SAFETY: the caller's.
    call(&"the reader of log-probs", |error| unsafe {
        ((*sink).show)((*sink).context, &view, gradient, error)
    })
}

/// Asks the caller for the upstream gradient.
///
/// # Safety
/// `sink` is valid.
unsafe fn asked(sink: *const ShowSink, found: &LogProbs) -> Result<Vec<f64>> {
    let mut gradient = vec![0.0; found.values.len()];
    // SAFETY: the caller's.
    unsafe { show(sink, found, gradient.as_mut_ptr())? };
    Ok(gradient)
}

unsafe extern "C-unwind" fn log_probs(
    this: *mut c_void,
    batch: *const TokensView,
    bits: u32,
    sink: *const ShowSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let found = session(this).log_probs(&(*batch).batch(), statistics(bits))?;
            show(sink, &found, std::ptr::null_mut())
        })
    }
}

unsafe extern "C-unwind" fn backward(
    this: *mut c_void,
    batch: *const TokensView,
    bits: u32,
    sink: *const ShowSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let mut upstream = |found: &LogProbs| asked(sink, found);
            session(this).backward(&(*batch).batch(), statistics(bits), &mut upstream)?;
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn hessian_vector(
    this: *mut c_void,
    batch: *const TokensView,
    sink: *const ShowSink,
    v: u32,
    into: u32,
    derivatives: *mut f64,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let mut upstream = |found: &LogProbs| asked(sink, found);
            let batch = (*batch).batch();
            let Tangent { log_probs, derivatives: found } =
                session(this).hessian_vector(&batch, &mut upstream, Vector(v), Vector(into))?;
            assert_eq!(found.len(), log_probs.values.len(), "one derivative per log-prob");
            std::ptr::copy_nonoverlapping(found.as_ptr(), derivatives, found.len());
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn optimizer_step(
    this: *mut c_void,
    step: *const AdamWView,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let AdamWView { lr, beta1, beta2, epsilon, weight_decay, gradient_scale, .. } = *step;
            let exempt_bias_and_norm = (*step).exempt_bias_and_norm != 0;
            session(this).optimizer_step(&AdamW {
                lr,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                exempt_bias_and_norm,
                gradient_scale,
            })
        })
    }
}

unsafe extern "C-unwind" fn reset_optimizer(this: *mut c_void) {
    // SAFETY: as above.
    unsafe { session(this).reset_optimizer() }
}

unsafe extern "C-unwind" fn generate(
    this: *mut c_void,
    prompts: *const TokensView,
    sampling: Text,
    out: *const ByteSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let prompts: Vec<_> = (*prompts).batch().groups.into_iter().map(|group| group.prompt).collect();
            let sampling: Sampling = from_json("the way of sampling", sampling.bytes())?;
            ByteSink::put(out, &to_json(&session(this).generate(&prompts, &sampling)?));
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn save(this: *mut c_void, folder: Text, what: u32, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let what = match what {
                0 => Export::Model,
                1 => Export::Adapter,
                other => return Err(Error::Engine(format!("cannot save the unknown thing {other}"))),
            };
            session(this).save(path(folder)?, what)
        })
    }
}

unsafe extern "C-unwind" fn save_state(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || session(this).save_state(path(file)?)) }
}

unsafe extern "C-unwind" fn restore_state(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || session(this).restore_state(path(file)?)) }
}

/// # Safety
/// The text is readable.
unsafe fn path<'a>(text: Text) -> Result<&'a Path> {
    // SAFETY: the caller's.
    unsafe { text.strict("a path") }.map(Path::new).map_err(Error::Engine)
}
