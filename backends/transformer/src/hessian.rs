//! Exact Hessian-vector products, for engines with a tape.
//!
//! The backward pass consists of the same kind of operations as the forward pass. When recorded, it is a
//! function `g(theta, u) = J^T u` from parameters and upstream weights to a gradient, linear in the weights;
//! J is the Jacobian of the log-probs. The tape pulls v back through this function: the derivative of
//! `<g, v>` with respect to theta is the Hessian of `sum_i u_i log_probs[i]` times v, and its derivative
//! with respect to u is `J v`.

use spo_api::{Result, Statistics, Tangent, Upstream};

use crate::decoder::Keep;
use crate::engine::{Engine, Memory, Precision, Recorder};
use crate::model::Model;
use crate::packing::Packed;
use crate::parameters::Flat;
use crate::pass::Pass;

/// The product with `v`, tensor by tensor. The batch must have at least one token to score. The gradient must
/// be zero on entry; its content afterwards is unspecified.
pub(crate) fn times<E: Engine>(
    recorder: &E::Recorder,
    model: &Model<E>,
    (packed, keep): (Packed, Keep),
    upstream: &mut Upstream<'_>,
    v: &Flat<E::Tensor>,
) -> Result<(Tangent, Vec<E::Tensor>)> {
    let done = recorded(recorder, model, (packed, keep), upstream, v);
    let ended = [&model.parameters.trained, &model.parameters.gradient]
        .into_iter()
        .try_for_each(|flat| recorder.watch(&tensors(flat), false));
    let done = done?;
    ended?;
    Ok(done)
}

fn recorded<E: Engine>(
    recorder: &E::Recorder,
    model: &Model<E>,
    (packed, keep): (Packed, Keep),
    upstream: &mut Upstream<'_>,
    v: &Flat<E::Tensor>,
) -> Result<(Tangent, Vec<E::Tensor>)> {
    let e = recorder.engine();
    let parameters = tensors(&model.parameters.trained);
    recorder.watch(&parameters, true)?;
    let pass = Pass::forward(e, model, packed.clone(), keep, Statistics::default())?;
    let log_probs = pass.log_probs();
    let weights: Vec<f32> = pass.weights(&log_probs, upstream)?.iter().map(|&w| w as f32).collect();
    let scored = weights.len();
    let weights = e.memory().upload(weights, &[scored], Precision::Full)?;
    recorder.watch(&[&weights], true)?;
    let targets = &pass.packed.targets;
    let d_hidden =
        recorder.score_backward(pass.hidden(), model.head(), targets, &weights, model.head_gradients())?;
    pass.back(e, model, d_hidden, &mut || Ok(()))?;
    let inputs: Vec<_> = parameters.into_iter().chain([&weights]).collect();
    let mut products = recorder.pull_back(&tensors(&model.parameters.gradient), &tensors(v), &inputs)?;
    let along = products.pop().expect("one for each input");
    let along: Vec<f64> = e.memory().download(&along)?.into_iter().map(f64::from).collect();
    let derivatives = packed.spread(&along);
    Ok((Tangent { log_probs, derivatives }, products))
}

fn tensors<T>(flat: &Flat<T>) -> Vec<&T> {
    flat.parts.iter().collect()
}
