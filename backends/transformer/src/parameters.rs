//! The parameters of a model: what each is called and how it lies on disk, its value on the device,
//! and, for those that are trained, their gradient.

mod flat;

use spo_api::Result;

use crate::engine::{Engine, Memory, Precision};
pub(crate) use flat::Flat;

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

    /// Whether weight decay usually spares it.
    pub fn of_bias_or_norm(self) -> bool {
        matches!(self, Role::Bias | Role::Gain)
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

/// How a parameter is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In f32, with a gradient.
    Trained,
    /// In the type of the activations.
    Frozen,
    /// In bf16, frozen: for what came so, which loses nothing by it.
    Half,
}

/// Values and gradients of all parameters, by [`Id`].
pub(crate) struct Parameters<E: Engine> {
    values: Vec<E::Tensor>,
    gradients: Vec<Option<E::Tensor>>,
    /// How many numbers are kept in bf16.
    pub halves: usize,
    /// Those that are trained, in order.
    pub trained: Flat<E::Tensor>,
    /// Their gradient.
    pub gradient: Flat<E::Tensor>,
}

impl<E: Engine> Parameters<E> {
    /// Brings values, in the order of `specs`, to the device. Those that are trained get a gradient.
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
        let mut parameters =
            Parameters { values: Vec::new(), gradients: Vec::new(), halves: 0, trained, gradient };
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

    /// Where the gradient is collected; `None` if the parameter is frozen.
    pub fn gradient(&self, id: Id) -> Option<&E::Tensor> {
        self.gradients[id].as_ref()
    }
}
