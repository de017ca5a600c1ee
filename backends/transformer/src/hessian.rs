//! Exact Hessian-vector products, on engines that can record what they do.
//!
//! The backward pass is made of operations like the forward pass. Recorded, it is a function from parameters to
//! their gradient, which the tape differentiates once more: `d <g(theta), v> / d theta = H v`.

use spo_api::{Error, LogProbs, Result, Session, Statistics, TokenBatch, Upstream, Vector, VectorSpace};

use crate::engine::Engine;
use crate::session::TransformerSession;

impl<E: Engine> TransformerSession<E> {
    /// Adds `H v` to `into`, where `H` is the Hessian of `sum_i upstream[i] * log_probs[i]`, the upstream
    /// gradient held fixed: for a loss that is linear in log-probs, as SFT's, the Hessian of the loss.
    /// [`Vector::GRADIENT`] is left with the gradient of the same sum.
    ///
    /// # Errors
    /// Where the engine cannot record; else those of [`Session::backward`].
    pub fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<LogProbs> {
        let Some(recorder) = self.engine.recording() else {
            let device = self.engine.device();
            return Err(Error::Engine(format!("{device}: exact Hessian-vector products are not supported")));
        };
        self.zero(Vector::GRADIENT)?;
        let plain = std::mem::replace(&mut self.engine, recorder);
        let done = self.recorded(batch, upstream, v);
        let ended = [Vector::PARAMETERS, Vector::GRADIENT]
            .into_iter()
            .try_for_each(|v| self.engine.watch(&self.parts(v)?, false));
        self.engine = plain;
        let (log_probs, products) = done?;
        ended?;
        let into = self.parts(into)?;
        into.into_iter().zip(&products).try_for_each(|(y, x)| self.engine.axpy(y, 1.0, x))?;
        Ok(log_probs)
    }

    fn recorded(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
    ) -> Result<(LogProbs, Vec<E::Tensor>)> {
        self.engine.watch(&self.parts(Vector::PARAMETERS)?, true)?;
        let log_probs = self.backward(batch, Statistics::default(), upstream)?;
        let [parameters, gradient] = [Vector::PARAMETERS, Vector::GRADIENT].map(|v| self.parts(v));
        let products = self.engine.pull_back(&gradient?, &self.parts(v)?, &parameters?)?;
        Ok((log_probs, products))
    }

    fn parts(&self, v: Vector) -> Result<Vec<&E::Tensor>> {
        Ok(self.flat(v)?.parts.iter().collect())
    }
}
