//! A norm layer: its weight and bias are parameters.

use spo_api::Result;

use crate::engine::{Engine, Norm};
use crate::parameters::{Id, Parameters};

impl Norm<Id> {
    pub(crate) fn forward<E: Engine>(&self, e: &E, p: &Parameters<E>, x: &E::Tensor) -> Result<E::Tensor> {
        e.norm(x, self.values(p))
    }

    pub(crate) fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        upstream: &E::Tensor,
    ) -> Result<E::Tensor> {
        let gradients = [p.gradient(self.weight), self.bias.and_then(|bias| p.gradient(bias))];
        e.norm_backward(x, self.values(p), upstream, gradients)
    }

    fn values<'p, E: Engine>(&self, p: &'p Parameters<E>) -> Norm<&'p E::Tensor> {
        let Norm { kind, epsilon, offset, weight, bias } = *self;
        Norm { kind, epsilon, offset, weight: p.value(weight), bias: bias.map(|bias| p.value(bias)) }
    }
}
