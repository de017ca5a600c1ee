//! Assigns parameter ids and records the specification of each parameter.

use super::linear::Linear;
use crate::config::NormShape;
use crate::engine::Norm;
use crate::parameters::{Id, Role, Spec};

/// The parameters named so far, in the order of their ids. Names are without `.weight` and `.bias`.
#[derive(Default)]
pub(super) struct Names {
    pub specs: Vec<Spec>,
}

impl Names {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role, transposed: bool) -> Id {
        self.specs.push(Spec { name, shape, role, transposed, trained: true });
        self.specs.len() - 1
    }

    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Id {
        self.add(format!("{name}.weight"), vec![rows, columns], Role::Matrix, false)
    }

    pub fn bias(&mut self, name: &str, width: usize) -> Id {
        self.add(format!("{name}.bias"), vec![width], Role::Bias, false)
    }

    pub fn norm(&mut self, name: &str, width: usize, shape: &NormShape) -> Norm<Id> {
        let NormShape { kind, epsilon, offset, bias } = *shape;
        let role = if offset == 0.0 { Role::Gain } else { Role::GainFromOne };
        let weight = self.add(format!("{name}.weight"), vec![width], role, false);
        Norm { kind, epsilon, offset, weight, bias: bias.then(|| self.bias(name, width)) }
    }

    /// A linear layer. If `transposed`, the weight files hold the transpose of its matrix.
    pub fn linear(
        &mut self,
        name: String,
        [input, output]: [usize; 2],
        bias: bool,
        transposed: bool,
    ) -> Linear {
        let weight = self.add(format!("{name}.weight"), vec![output, input], Role::Matrix, transposed);
        let bias = bias.then(|| self.bias(&name, output));
        Linear { name, weight, bias, adapter: None }
    }
}
