//! The parameters of a model: what each is called and how it lies on disk, its value on the device,
//! and, for those that are trained, their gradient.

use spo_api::Result;

use crate::engine::{Engine, Precision};

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
}

impl<E: Engine> Parameters<E> {
    /// Brings values, in the order of `specs`, to the device. Those that `trained` names get a gradient.
    pub fn upload(
        engine: &E,
        specs: &[Spec],
        trained: impl Fn(Role) -> bool,
        mut load: impl FnMut(Id, &Spec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let mut parameters = Parameters { values: Vec::new(), gradients: Vec::new() };
        for (id, spec) in specs.iter().enumerate() {
            let trained = trained(spec.role);
            let precision = if trained { Precision::Full } else { Precision::Compute };
            parameters.values.push(engine.upload(load(id, spec)?, &spec.shape, precision)?);
            parameters
                .gradients
                .push(trained.then(|| engine.zeros(&spec.shape, Precision::Full)).transpose()?);
        }
        Ok(parameters)
    }

    pub fn value(&self, id: Id) -> &E::Tensor {
        &self.values[id]
    }

    /// Where the gradient is collected; `None` if the parameter is frozen.
    pub fn gradient(&self, id: Id) -> Option<&E::Tensor> {
        self.gradients[id].as_ref()
    }

    /// The trained parameters, in order.
    pub fn trained(&self) -> impl Iterator<Item = Id> + '_ {
        self.gradients.iter().enumerate().filter(|(_, g)| g.is_some()).map(|(id, _)| id)
    }
}
