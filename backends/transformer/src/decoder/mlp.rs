//! The MLP of a block: `down(f(up(x)))`, or gated, `down(f(gate(x)) * up(x))`.

use spo_api::Result;

use super::linear::Linear;
use crate::engine::{Activation, Engine};

use crate::parameters::Parameters;

#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    pub activation: Activation,
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

/// What the backward pass of the MLP needs: the results of the gate and up projections.
pub(crate) struct MlpTrace<T> {
    gate: Option<T>,
    up: T,
}

impl Mlp {
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }

    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
    ) -> Result<(E::Tensor, MlpTrace<E::Tensor>)> {
        let gate = self.gate.as_ref().map(|gate| gate.forward(e, p, x)).transpose()?;
        let trace = MlpTrace { gate, up: self.up.forward(e, p, x)? };
        Ok((self.down.forward(e, p, &self.activated(e, &trace)?)?, trace))
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
        match self.gate.as_ref().zip(trace.gate) {
            Some((gate, gated)) => {
                let [d_gate, d_up] = e.gate_backward(self.activation, &gated, &trace.up, &d_activated)?;
                let dx = gate.backward(e, p, x, &d_gate, None)?;
                self.up.backward(e, p, x, &d_up, Some(dx))
            }
            None => {
                let d_up = e.activate_backward(self.activation, &trace.up, &d_activated)?;
                self.up.backward(e, p, x, &d_up, None)
            }
        }
    }

    fn activated<E: Engine>(&self, e: &E, trace: &MlpTrace<E::Tensor>) -> Result<E::Tensor> {
        match &trace.gate {
            Some(gate) => e.gate(self.activation, gate, &trace.up),
            None => e.activate(self.activation, &trace.up),
        }
    }
}
