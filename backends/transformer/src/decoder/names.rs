//! Assigns parameter ids and records the specification of each parameter.

use super::block::Block;
use super::linear::Linear;
use crate::engine::{Norm, NormKind};
use crate::parameters::{Id, Role, Spec};

/// The parameters named so far, in the order of their ids.
#[derive(Default)]
pub(super) struct Names {
    pub specs: Vec<Spec>,
}

/// The parameters and blocks between the tokens and the head.
pub(super) struct Layout {
    /// The embedding table.
    pub tokens: Id,
    /// The table of learned positions.
    pub positions: Option<Id>,
    pub blocks: Vec<Block>,
    /// The final norm.
    pub norm: Norm<Id>,
}

impl Names {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role, transposed: bool) -> Id {
        self.specs.push(Spec { name, shape, role, transposed });
        self.specs.len() - 1
    }

    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Id {
        self.add(name.to_owned(), vec![rows, columns], Role::Matrix, false)
    }

    pub fn rms_norm(&mut self, name: &str, width: usize, epsilon: f64) -> Norm<Id> {
        let weight = self.add(format!("{name}.weight"), vec![width], Role::Gain, false);
        Norm { kind: NormKind::Rms, epsilon, weight, bias: None }
    }

    pub fn layer_norm(&mut self, name: &str, width: usize, epsilon: f64) -> Norm<Id> {
        let weight = self.add(format!("{name}.weight"), vec![width], Role::Gain, false);
        let bias = self.add(format!("{name}.bias"), vec![width], Role::Bias, false);
        Norm { kind: NormKind::Layer, epsilon, weight, bias: Some(bias) }
    }

    /// A linear layer with `width = [input, output]`.
    pub fn linear(&mut self, name: String, width: [usize; 2], bias: bool) -> Linear {
        self.projection(name, width, bias, false)
    }

    /// A linear layer with a bias whose matrix is stored transposed in the weight files.
    pub fn transposed(&mut self, name: String, width: [usize; 2]) -> Linear {
        self.projection(name, width, true, true)
    }

    fn projection(
        &mut self,
        name: String,
        [input, output]: [usize; 2],
        bias: bool,
        transposed: bool,
    ) -> Linear {
        let weight = self.add(format!("{name}.weight"), vec![output, input], Role::Matrix, transposed);
        let bias = bias.then(|| self.add(format!("{name}.bias"), vec![output], Role::Bias, false));
        Linear { name, weight, bias, adapter: None }
    }
}
