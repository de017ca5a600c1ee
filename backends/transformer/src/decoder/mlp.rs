//! The MLP of a block: `down(f(up(x)))`, or gated, `down(f(gate(x)) * up(x))`.

use spo_api::Result;

use super::linear::Linear;
use crate::engine::{Activation, Engine};

use crate::parameters::Parameters;

#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    pub activation: Activation,
    /// Width between the projections.
    pub width: usize,
    /// Up; or gate and up; or one whose result holds gate and up side by side.
    pub inner: Vec<Linear>,
    /// Whether it is one for gate and up.
    pub joint: bool,
    pub down: Linear,
}

/// What the backward pass of the MLP needs: the results of the gate and up projections.
pub(crate) struct MlpTrace<T> {
    gate: Option<T>,
    up: T,
}

impl Mlp {
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.inner.iter_mut().chain([&mut self.down])
    }

    /// Elements per token that the backward pass needs.
    pub fn traced(&self) -> usize {
        self.width * if self.joint { 2 } else { self.inner.len() }
    }

    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
    ) -> Result<(E::Tensor, MlpTrace<E::Tensor>)> {
        let trace = self.project(e, p, x)?;
        Ok((self.down.forward(e, p, &self.activated(e, &trace)?)?, trace))
    }

    /// The results of the gate and up projections.
    pub fn project<E: Engine>(&self, e: &E, p: &Parameters<E>, x: &E::Tensor) -> Result<MlpTrace<E::Tensor>> {
        let mut results = self.inner.iter().map(|l| l.forward(e, p, x)).collect::<Result<Vec<_>>>()?;
        let mut last = results.pop().expect("an MLP has a projection");
        if self.joint {
            results.push(e.columns(&last, 1, 0..self.width)?);
            last = e.columns(&last, 1, self.width..2 * self.width)?;
        }
        Ok(MlpTrace { gate: results.pop(), up: last })
    }

    /// `x` must be the input of the forward pass.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        trace: MlpTrace<E::Tensor>,
        upstream: &E::Tensor,
    ) -> Result<E::Tensor> {
        let d_activated = self.down.backward(e, p, &self.activated(e, &trace)?, upstream, None)?;
        self.project_backward(e, p, x, &trace, &d_activated)
    }

    /// The gradient of `x`, given that of the activated results.
    pub fn project_backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        trace: &MlpTrace<E::Tensor>,
        d_activated: &E::Tensor,
    ) -> Result<E::Tensor> {
        let slopes = match &trace.gate {
            None => vec![e.activate_backward(self.activation, &trace.up, d_activated)?],
            Some(gate) => {
                let [d_gate, d_up] = e.gate_backward(self.activation, gate, &trace.up, d_activated)?;
                if self.joint { vec![e.join_columns(&[&d_gate, &d_up], 1)?] } else { vec![d_gate, d_up] }
            }
        };
        let mut dx = None;
        for (linear, slopes) in self.inner.iter().zip(&slopes) {
            dx = Some(linear.backward(e, p, x, slopes, dx)?);
        }
        Ok(dx.expect("an MLP has a projection"))
    }

    /// What the down projection reads.
    pub fn activated<E: Engine>(&self, e: &E, trace: &MlpTrace<E::Tensor>) -> Result<E::Tensor> {
        match &trace.gate {
            Some(gate) => e.gate(self.activation, gate, &trace.up),
            None => e.activate(self.activation, &trace.up),
        }
    }
}
