//! The parameters of a model: what each is called and how it lies on disk, its value on the device,
//! and, for those that are trained, their gradient.

use spo_api::Result;

use crate::engine::{Engine, Precision};
use crate::flat::Flat;

/// Index of a parameter.
pub(crate) type Id = usize;

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A matrix or an embedding table.
    Matrix,
    /// A bias.
    Bias,
    /// The gain of a norm.
    Gain,
    /// The reducing matrix of an adapter.
    AdapterA,
    /// The expanding matrix of an adapter.
    AdapterB,
}

impl Role {
    pub fn of_adapter(self) -> bool {
        matches!(self, Role::AdapterA | Role::AdapterB)
    }
}

/// A parameter as the architecture wants it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its name in the weight files.
    pub name: String,
    /// Its shape in memory: `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// Whether the weight files hold the transpose.
    pub transposed: bool,
    pub role: Role,
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
}

/// Values and gradients of all parameters, by [`Id`].
pub(crate) struct Parameters<E: Engine> {
    values: Vec<E::Tensor>,
    gradients: Vec<Option<E::Tensor>>,
    /// Those that are trained, in order.
    pub trained: Flat<E::Tensor>,
    /// Their gradient.
    pub gradient: Flat<E::Tensor>,
}

impl<E: Engine> Parameters<E> {
    /// Brings values, in the order of `specs`, to the device. Those that `trained` names get a gradient.
    pub fn upload(
        engine: &E,
        specs: &[Spec],
        trained: impl Fn(Role) -> bool,
        mut load: impl FnMut(Id, &Spec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (moving, resting): (Vec<&Spec>, Vec<&Spec>) = specs.iter().partition(|s| trained(s.role));
        let moved = Flat::zeros(engine, &moving, Precision::Full)?;
        let gradient = Flat::zeros(engine, &moving, Precision::Full)?;
        let frozen = Flat::zeros(engine, &resting, Precision::Compute)?;
        let (mut moving, mut resting) = (moved.parts.iter().zip(&gradient.parts), frozen.parts.iter());
        let (mut values, mut gradients) = (Vec::new(), Vec::new());
        for (id, spec) in specs.iter().enumerate() {
            let (value, gradient) = match trained(spec.role) {
                true => moving.next().map(|(value, gradient)| (value, Some(gradient))),
                false => resting.next().map(|value| (value, None)),
            }
            .expect("a part for every parameter");
            engine.copy(value, &engine.upload(load(id, spec)?, &spec.shape, Precision::Full)?)?;
            values.push(value.clone());
            gradients.push(gradient.cloned());
        }
        Ok(Parameters { values, gradients, trained: moved, gradient })
    }

    pub fn value(&self, id: Id) -> &E::Tensor {
        &self.values[id]
    }

    /// Where the gradient is collected; `None` if the parameter is frozen.
    pub fn gradient(&self, id: Id) -> Option<&E::Tensor> {
        self.gradients[id].as_ref()
    }
}
