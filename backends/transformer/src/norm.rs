//! The two kinds of normalisation as one layer.

use spo_api::Result;

use crate::engine::Engine;
use crate::parameters::{Id, Parameters};

/// RMS norm without a bias, layer norm with one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub weight: Id,
    pub bias: Option<Id>,
    pub epsilon: f64,
}

impl Norm {
    pub fn forward<E: Engine>(&self, e: &E, p: &Parameters<E>, x: &E::Tensor) -> Result<E::Tensor> {
        match self.bias {
            None => e.rms_norm(x, p.value(self.weight), self.epsilon),
            Some(bias) => e.layer_norm(x, p.value(self.weight), p.value(bias), self.epsilon),
        }
    }

    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        upstream: &E::Tensor,
    ) -> Result<E::Tensor> {
        let (weight, d_weight) = (p.value(self.weight), p.gradient(self.weight));
        match self.bias {
            None => e.rms_norm_backward(x, weight, self.epsilon, upstream, d_weight),
            Some(bias) => {
                let gradients = d_weight.zip(p.gradient(bias)).map(|(w, b)| [w, b]);
                e.layer_norm_backward(x, weight, self.epsilon, upstream, gradients)
            }
        }
    }
}
