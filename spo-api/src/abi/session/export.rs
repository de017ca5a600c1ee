//! Export of sessions: a table for a trait object, on the plugin's side.

use std::ffi::c_void;
use std::path::Path;

use super::{LogProbsView, SessionTable, ShowSink};
use crate::abi::optimizer::UpdateView;
use crate::abi::plugin;
use crate::abi::status::{ErrorSink, answer, answers, call};
use crate::abi::text::{ByteSink, Text, from_json, to_json};
use crate::abi::tokens::TokensView;
use crate::abi::vectors::{self, Owner, VectorTable};
use crate::{
    Error, Export, Kernel, LogProbs, Result, Sampling, Session, Statistics, Tangent, Vector, VectorSpace,
    WeightType,
};

/// The table for all sessions written in Rust.
pub(in crate::abi) static TABLE: SessionTable = SessionTable {
    size: size_of::<SessionTable>() as u32,
    vectors: &VECTORS,
    destroy: plugin::destroy::<dyn Session>,
    info,
    log_probs,
    backward,
    generate,
    save,
    save_state,
    restore_state,
    hessian_vector: Some(hessian_vector),
    adopt_optimizer: Some(adopt_optimizer),
    optimize: Some(optimize),
    backward_and_optimize: Some(backward_and_optimize),
    weigh_router_loss: Some(weigh_router_loss),
    router_loss: Some(router_loss),
    drop_out: Some(drop_out),
};

static VECTORS: VectorTable = vectors::export::<Box<dyn Session>>();

impl Owner for Box<dyn Session> {
    unsafe fn answer(
        owner: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut dyn VectorSpace) -> Result<()>,
    ) -> i32 {
        // SAFETY: guaranteed by the caller.
        unsafe { answer(error, || body(session(owner).vectors())) }
    }

    unsafe fn ask<R: Default>(owner: *mut c_void, body: impl FnOnce(&mut dyn VectorSpace) -> R) -> R {
        // SAFETY: guaranteed by the caller.
        body(unsafe { session(owner).vectors() })
    }
}

/// # Safety
/// `this` came from `open`, and nothing else uses it now. The contract of the table guarantees this.
unsafe fn session<'a>(this: *mut c_void) -> &'a mut dyn Session {
    // SAFETY: guaranteed by the caller.
    unsafe { plugin::part::<dyn Session>(this) }
}

unsafe extern "C-unwind" fn info(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &to_json(&session(this).info())) }
}

unsafe extern "C-unwind" fn router_loss(this: *mut c_void) -> f64 {
    // SAFETY: as above.
    unsafe { session(this).router_loss() }
}

fn statistics(bits: u32) -> Statistics {
    Statistics { entropy: bits & 1 != 0, collision: bits & 2 != 0, greedy: bits & 4 != 0 }
}

/// Passes log-probs to the caller.
///
/// # Safety
/// `sink` is valid; `gradient` is null or as long as the log-probs.
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
    // SAFETY: guaranteed by the caller.
    call(&"the reader of log-probs", |error| unsafe {
        ((*sink).show)((*sink).context, &view, gradient, error)
    })
}

/// Requests the upstream gradient from the caller.
///
/// # Safety
/// `sink` is valid.
unsafe fn asked(sink: *const ShowSink, found: &LogProbs) -> Result<Vec<f64>> {
    let mut gradient = vec![0.0; found.values.len()];
    // SAFETY: guaranteed by the caller.
    unsafe { show(sink, found, gradient.as_mut_ptr())? };
    Ok(gradient)
}

answers! { Box<dyn Session>:
    fn log_probs(session, batch: *const TokensView, bits: u32, sink: *const ShowSink) {
        let found = session.log_probs(&(*batch).batch(), statistics(bits))?;
        show(sink, &found, std::ptr::null_mut())
    }
    fn backward(session, batch: *const TokensView, bits: u32, sink: *const ShowSink) {
        let mut upstream = |found: &LogProbs| asked(sink, found);
        session.backward(&(*batch).batch(), statistics(bits), &mut upstream).map(drop)
    }
    fn hessian_vector(
        session,
        batch: *const TokensView,
        sink: *const ShowSink,
        v: u32,
        into: u32,
        derivatives: *mut f64
    ) {
        let mut upstream = |found: &LogProbs| asked(sink, found);
        let Tangent { log_probs, derivatives: found } =
            session.hessian_vector(&(*batch).batch(), &mut upstream, Vector(v), Vector(into))?;
        assert_eq!(found.len(), log_probs.values.len(), "one derivative per log-prob");
        std::ptr::copy_nonoverlapping(found.as_ptr(), derivatives, found.len());
        Ok(())
    }
    fn adopt_optimizer(session, kernel: Text, taken: *mut u32) {
        let kernel: Option<Kernel> = match kernel.bytes() {
            [] => None,
            text => Some(from_json("the kernel", text)?),
        };
        *taken = session.adopt_optimizer(kernel.as_ref())?.into();
        Ok(())
    }
    fn optimize(session, update: *const UpdateView) { session.optimize(&(*update).update()) }
    fn backward_and_optimize(
        session,
        batch: *const TokensView,
        bits: u32,
        sink: *const ShowSink,
        update: *const UpdateView,
        norm: *mut f64
    ) {
        let (batch, update) = ((*batch).batch(), (*update).update());
        let mut upstream = |found: &LogProbs| asked(sink, found);
        (_, *norm) = session.backward_and_optimize(&batch, statistics(bits), &mut upstream, &update)?;
        Ok(())
    }
    fn weigh_router_loss(session, weight: f64) { session.weigh_router_loss(weight) }
    fn drop_out(session, on: u32, seed: u64) { session.drop_out((on != 0).then_some(seed)) }
    fn generate(session, prompts: *const TokensView, sampling: Text, out: *const ByteSink) {
        let prompts: Vec<_> = (*prompts).batch().groups.into_iter().map(|group| group.prompt).collect();
        let sampling: Sampling = from_json("the way of sampling", sampling.bytes())?;
        ByteSink::put(out, &to_json(&session.generate(&prompts, &sampling)?));
        Ok(())
    }
    fn save(session, folder: Text, what: u32) {
        let what = match what {
            0 => Export::Model,
            1 => Export::Adapter,
            2 => Export::ModelIn(WeightType::F32),
            3 => Export::ModelIn(WeightType::F16),
            4 => Export::ModelIn(WeightType::Bf16),
            other => return Err(Error::Engine(format!("cannot save the unknown thing {other}"))),
        };
        session.save(path(folder)?, what)
    }
    fn save_state(session, file: Text) { session.save_state(path(file)?) }
    fn restore_state(session, file: Text) { session.restore_state(path(file)?) }
}

/// # Safety
/// The text is readable.
unsafe fn path<'a>(text: Text) -> Result<&'a Path> {
    // SAFETY: guaranteed by the caller.
    unsafe { text.strict("a path") }.map(Path::new).map_err(Error::Engine)
}
