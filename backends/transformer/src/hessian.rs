//! Exact Hessian-vector products, on engines that can record what they do.
//!
//! The backward pass is made of operations like the forward pass. Recorded, it is a function `g(theta, u) = J^T u`
//! from parameters and upstream weights to a gradient, linear in the weights; J is the Jacobian of the log-probs.
//! The tape pulls v back through it: the derivative of `<g, v>` with respect to theta is the Hessian of
//! `sum_i u_i log_probs[i]` times v, and that with respect to u is `J v`.

use spo_api::{Error, Result, Statistics, Tangent, TokenBatch, Upstream, Vector, VectorSpace};

use crate::engine::{Engine, Precision};
use crate::packing::Packed;
use crate::pass::log_probs_of;
use crate::session::TransformerSession;

/// [`Session::hessian_vector`](spo_api::Session::hessian_vector) of a session.
pub(crate) fn times<E: Engine>(
    session: &mut TransformerSession<E>,
    batch: &TokenBatch,
    upstream: &mut Upstream<'_>,
    v: Vector,
    into: Vector,
) -> Result<Tangent> {
    let Some(recorder) = session.engine.recording() else {
        let device = session.engine.device();
        return Err(Error::Engine(format!("{device}: there are no exact Hessian-vector products")));
    };
    let packed = Packed::new(batch, &session.decoder.architecture)?;
    if packed.targets.is_empty() {
        let nothing = log_probs_of(&Default::default(), &packed);
        upstream(&nothing)?;
        return Ok(Tangent { log_probs: nothing, derivatives: Vec::new() });
    }
    session.zero(Vector::GRADIENT)?;
    let plain = std::mem::replace(&mut session.engine, recorder);
    let done = session.recorded(&packed, upstream, v);
    let ended = [Vector::PARAMETERS, Vector::GRADIENT]
        .into_iter()
        .try_for_each(|v| session.engine.watch(&session.parts(v)?, false));
    session.engine = plain;
    let (tangent, products) = done?;
    ended?;
    let into = session.parts(into)?;
    into.into_iter().zip(&products).try_for_each(|(y, x)| session.engine.axpy(y, 1.0, x))?;
    Ok(tangent)
}

impl<E: Engine> TransformerSession<E> {
    /// The products, tensor by tensor, from a session whose engine records.
    fn recorded(
        &self,
        packed: &Packed,
        upstream: &mut Upstream<'_>,
        v: Vector,
    ) -> Result<(Tangent, Vec<E::Tensor>)> {
        let e = &self.engine;
        let parameters = self.parts(Vector::PARAMETERS)?;
        e.watch(&parameters, true)?;
        let keep = self.keep(packed.rows.ids.len());
        let pass = self.pass(packed.clone(), keep, Statistics::default())?;
        let log_probs = pass.log_probs();
        let weights = pass.weights(&log_probs, upstream)?;
        let weights =
            e.upload(weights.iter().map(|&w| w as f32).collect(), &[weights.len()], Precision::Full)?;
        e.watch(&[&weights], true)?;
        let d_hidden = e.recorded_score_backward(
            pass.hidden(),
            self.head(),
            &pass.packed.targets,
            &weights,
            self.parameters.gradient(self.decoder.head),
        )?;
        self.back(pass, d_hidden)?;
        let inputs: Vec<_> = parameters.into_iter().chain([&weights]).collect();
        let mut products = e.pull_back(&self.parts(Vector::GRADIENT)?, &self.parts(v)?, &inputs)?;
        let along = products.pop().expect("one for each input");
        let along: Vec<f64> = e.download(&along)?.into_iter().map(f64::from).collect();
        let derivatives = packed.spread(&along);
        Ok((Tangent { log_probs, derivatives }, products))
    }

    fn parts(&self, v: Vector) -> Result<Vec<&E::Tensor>> {
        Ok(self.flat(v)?.parts.iter().collect())
    }
}
