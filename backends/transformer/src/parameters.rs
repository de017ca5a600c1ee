//! The parameters of a model: their names and layout on disk, their values on the device and, for the trained
//! ones, their gradients.

mod flat;

use std::collections::BTreeMap;

use spo_api::Result;

use crate::decoder::RowNorms;
use crate::engine::{Engine, Memory, Precision};
use crate::files::transposed;
pub(crate) use flat::Flat;

/// Index of a parameter.
pub(crate) type Id = usize;

/// The role of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A matrix or an embedding table.
    Matrix,
    /// A bias.
    Bias,
    /// The gain of a norm.
    Gain,
    /// The gain of a norm, as its difference from 1.
    GainFromOne,
    /// The down-projection matrix of an adapter.
    AdapterA,
    /// The up-projection matrix of an adapter.
    AdapterB,
    /// The norms that an adapter gives to the rows of a matrix.
    Magnitude,
}

impl Role {
    pub fn of_adapter(self) -> bool {
        matches!(self, Role::AdapterA | Role::AdapterB | Role::Magnitude)
    }

    /// Whether the parameter is usually exempt from weight decay.
    pub fn of_bias_or_norm(self) -> bool {
        matches!(self, Role::Bias | Role::Gain | Role::GainFromOne)
    }
}

/// The specification of a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its name in the weight files.
    pub name: String,
    /// Its shape in memory: `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// Whether the weight files hold the transpose.
    pub transposed: bool,
    pub role: Role,
    /// Whether training changes it.
    pub trained: bool,
}

impl Spec {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape in the weight files.
    pub fn stored_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// Its values in the layout of the weight files, given those in memory.
    pub fn in_file(&self, values: Vec<f32>) -> Vec<f32> {
        match self.transposed {
            true => transposed(&values, self.shape[0], self.shape[1]),
            false => values,
        }
    }
}

/// How a parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In f32, with a gradient.
    Trained,
    /// Frozen, in the type of the activations.
    Frozen,
    /// Frozen, in bf16: for weights read in bf16, which lose no precision.
    Half,
}

/// Values and gradients of all parameters, by [`Id`].
pub(crate) struct Parameters<E: Engine> {
    values: Vec<E::Tensor>,
    gradients: Vec<Option<E::Tensor>>,
    /// For each matrix whose rows are given another norm, what that takes.
    pub rows: BTreeMap<Id, RowNorms<E::Tensor>>,
    /// Number of elements kept in bf16.
    pub halves: usize,
    /// The trained parameters, in order.
    pub trained: Flat<E::Tensor>,
    /// Their gradient.
    pub gradient: Flat<E::Tensor>,
}

impl<E: Engine> Parameters<E> {
    /// Uploads values to the device, in the order of `specs`. Trained parameters get a gradient.
    pub fn upload(
        engine: &E,
        specs: &[Spec],
        kept: impl Fn(&Spec) -> Kept,
        mut load: impl FnMut(Id, &Spec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let flat = |those: Kept, precision| {
            let specs = specs.iter().filter(|spec| kept(spec) == those);
            Flat::zeros(engine, specs.map(|spec| &spec.shape[..]), precision)
        };
        let trained = flat(Kept::Trained, Precision::Full)?;
        let gradient = flat(Kept::Trained, Precision::Full)?;
        let (frozen, half) = (flat(Kept::Frozen, Precision::Compute)?, flat(Kept::Half, Precision::Half)?);
        let mut parameters = Parameters {
            values: Vec::new(),
            gradients: Vec::new(),
            rows: BTreeMap::new(),
            halves: 0,
            trained,
            gradient,
        };
        let [mut trained, mut gradients, mut frozen, mut half] =
            [&parameters.trained, &parameters.gradient, &frozen, &half]
                .map(|flat| flat.parts.iter().cloned());
        for (id, spec) in specs.iter().enumerate() {
            let (part, gradient) = match kept(spec) {
                Kept::Trained => (trained.next(), gradients.next()),
                Kept::Frozen => (frozen.next(), None),
                Kept::Half => {
                    parameters.halves += spec.elements();
                    (half.next(), None)
                }
            };
            let value = part.expect("a part for every parameter");
            engine
                .memory()
                .copy(&value, &engine.memory().upload(load(id, spec)?, &spec.shape, Precision::Full)?)?;
            parameters.values.push(value);
            parameters.gradients.push(gradient);
        }
        Ok(parameters)
    }

    pub fn value(&self, id: Id) -> &E::Tensor {
        &self.values[id]
    }

    /// The gradient of a parameter; `None` if it is frozen.
    pub fn gradient(&self, id: Id) -> Option<&E::Tensor> {
        self.gradients[id].as_ref()
    }
}
