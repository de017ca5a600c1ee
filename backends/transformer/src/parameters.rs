//! The parameters of a model: their names and layout on disk, their values on the device and, for the trained
//! ones, their gradients.

mod flat;

use std::collections::BTreeMap;

use spo_api::Result;
use spo_gguf::BlockType;

use crate::decoder::{Dropout, Dropping, RowNorms};
use crate::engine::{Blocks, Engine, Memory, Precision};
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
    /// What an adapter of the embedding table has for each token, as rows; zero at first.
    EmbeddingA,
    /// What brings these to the width of the embeddings.
    EmbeddingB,
    /// The norms that an adapter gives to the rows of a matrix.
    Magnitude,
}

impl Role {
    pub fn of_adapter(self) -> bool {
        match self {
            Role::Matrix | Role::Bias | Role::Gain | Role::GainFromOne => false,
            Role::AdapterA | Role::AdapterB | Role::EmbeddingA | Role::EmbeddingB | Role::Magnitude => true,
        }
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

    /// Bytes of a matrix that is kept in blocks.
    pub fn bytes_in(&self, kind: BlockType) -> usize {
        self.shape[0].saturating_mul(kind.bytes(self.shape[1]).unwrap_or(usize::MAX))
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
    /// Frozen, in blocks that are decoded where they are used.
    Blocks(BlockType),
}

/// Blocks from the rows of a matrix, on all threads: a block is never in two rows.
fn encode(kind: BlockType, values: &[f32], width: usize) -> Vec<u8> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let rows = (values.len() / width).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            values.chunks(rows * width).map(|part| scope.spawn(move || kind.encode(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("encoding does not panic")).collect()
    })
}

/// What a parameter is read as.
pub(crate) enum Loaded {
    Values(Vec<f32>),
    /// In the type that it is kept in.
    Blocks(Vec<u8>),
}

/// Values and gradients of all parameters, by [`Id`].
pub(crate) struct Parameters<E: Engine> {
    values: Vec<E::Tensor>,
    gradients: Vec<Option<E::Tensor>>,
    /// For each matrix whose rows are given another norm, what that takes.
    pub row_norms: BTreeMap<Id, RowNorms<E::Tensor>>,
    /// What adapters drop in the present pass; `None` where they drop nothing.
    pub dropping: Option<Dropping>,
    blocks: Vec<Option<Blocks>>,
    /// Number of elements kept in bf16.
    pub halves: usize,
    /// Number of elements kept in blocks, and the bytes of these.
    pub quantised: [usize; 2],
    /// The trained parameters, in order.
    pub trained: Flat<E::Tensor>,
    /// Their gradient.
    pub gradient: Flat<E::Tensor>,
    /// Number of elements of the memory that the gradients are in.
    pub gradient_elements: usize,
    /// Whether they share it, because not all are needed at a time: see [`lay_out_gradients`](Self::lay_out_gradients).
    pub released: bool,
}

impl<E: Engine> Parameters<E> {
    /// Uploads values to the device, in the order of `specs`. Trained parameters get a gradient.
    pub fn upload(
        engine: &E,
        specs: &[Spec],
        kept: impl Fn(Id, &Spec) -> Kept,
        mut load: impl FnMut(Id, &Spec) -> Result<Loaded>,
    ) -> Result<Self> {
        let flat = |those: Kept, precision| {
            let specs = specs.iter().enumerate().filter(|(id, spec)| kept(*id, spec) == those);
            Flat::zeros(engine, specs.map(|(_, spec)| &spec.shape[..]), precision)
        };
        let trained = flat(Kept::Trained, Precision::Full)?;
        let gradient = flat(Kept::Trained, Precision::Full)?;
        let (frozen, half) = (flat(Kept::Frozen, Precision::Compute)?, flat(Kept::Half, Precision::Half)?);
        let mut parameters = Parameters {
            values: Vec::new(),
            gradients: Vec::new(),
            row_norms: BTreeMap::new(),
            dropping: None,
            blocks: Vec::new(),
            halves: 0,
            quantised: [0; 2],
            trained,
            gradient,
            gradient_elements: 0,
            released: false,
        };
        let [mut trained, mut gradients, mut frozen, mut half] =
            [&parameters.trained, &parameters.gradient, &frozen, &half]
                .map(|flat| flat.parts.iter().cloned());
        for (id, spec) in specs.iter().enumerate() {
            let (part, gradient) = match kept(id, spec) {
                Kept::Blocks(kind) => {
                    let blocks = match load(id, spec)? {
                        Loaded::Blocks(blocks) => blocks,
                        Loaded::Values(values) => encode(kind, &values, spec.shape[1]),
                    };
                    parameters.quantised[0] += spec.elements();
                    parameters.quantised[1] += blocks.len();
                    let shape = [spec.shape[0], blocks.len() / spec.shape[0]];
                    parameters.values.push(engine.memory().upload_bytes(blocks, &shape)?);
                    parameters.gradients.push(None);
                    let [rows, width] = [spec.shape[0], spec.shape[1]];
                    parameters.blocks.push(Some(Blocks { kind, rows, width }));
                    continue;
                }
                Kept::Trained => {
                    parameters.gradient_elements += spec.elements();
                    (trained.next(), gradients.next())
                }
                Kept::Frozen => (frozen.next(), None),
                Kept::Half => {
                    parameters.halves += spec.elements();
                    (half.next(), None)
                }
            };
            let value = part.expect("a part for every parameter");
            let values = match load(id, spec)? {
                Loaded::Values(values) => values,
                Loaded::Blocks(_) => unreachable!("only what is kept in blocks is read so"),
            };
            engine.memory().copy(&value, &engine.memory().upload(values, &spec.shape, Precision::Full)?)?;
            parameters.values.push(value);
            parameters.gradients.push(gradient);
            parameters.blocks.push(None);
        }
        Ok(parameters)
    }

    /// The value of a parameter; of a matrix that is kept in blocks, the blocks.
    pub fn value(&self, id: Id) -> &E::Tensor {
        &self.values[id]
    }

    /// The mask of an adapter's input and its shape, in a pass with dropout; `rows` are those of the input, if it does not
    /// have them all.
    pub fn mask(
        &self,
        engine: &E,
        dropout: Option<Dropout>,
        rows: Option<&[u32]>,
    ) -> Result<Option<(E::Tensor, [usize; 2])>> {
        dropout
            .zip(self.dropping.as_ref())
            .map(|(dropout, dropping)| dropout.mask(engine, dropping, rows))
            .transpose()
    }

    /// The blocks that a parameter is kept in, if any.
    pub fn blocks(&self, id: Id) -> Option<Blocks> {
        self.blocks[id]
    }

    /// A matrix, decoded if it is kept in blocks.
    pub fn matrix(&self, engine: &E, id: Id) -> Result<E::Tensor> {
        match self.blocks[id] {
            None => Ok(self.values[id].clone()),
            Some(blocks) => engine.decode(&self.values[id], blocks, None),
        }
    }

    /// Rows of a matrix.
    pub fn rows(&self, engine: &E, id: Id, rows: &[u32]) -> Result<E::Tensor> {
        match self.blocks[id] {
            None => engine.gather(&self.values[id], rows),
            Some(blocks) => engine.decode(&self.values[id], blocks, Some(rows)),
        }
    }

    /// Lays out the gradients anew, all 0, given the groups of trained parameters whose gradients are complete at the same time. All groups
    /// are in one place, except for one in which `early` is, whose gradient is added to before the others are complete. Of a single group
    /// no two share memory: it is the whole gradient as one vector.
    pub fn lay_out_gradients(
        &mut self,
        engine: &E,
        specs: &[Spec],
        groups: &[Vec<Id>],
        early: Option<Id>,
    ) -> Result<()> {
        let ids: Vec<Id> = (0..specs.len()).filter(|&id| self.gradients[id].is_some()).collect();
        self.gradients.iter_mut().for_each(|gradient| *gradient = None);
        // The old gradient is freed before the new one is allocated.
        self.gradient = Flat::zeros(engine, std::iter::empty(), Precision::Full)?;
        let size = |group: &&Vec<Id>| group.iter().map(|&id| specs[id].elements()).sum::<usize>();
        let (apart, together): (Vec<_>, Vec<_>) =
            groups.iter().partition(|group| early.is_some_and(|id| group.contains(&id)));
        let shared = together.iter().map(size).max().unwrap_or(0);
        self.gradient_elements = shared + apart.iter().map(size).sum::<usize>();
        let all = engine.memory().zeros(&[self.gradient_elements.max(1)], Precision::Full)?;
        let mut starts = vec![0; specs.len()];
        for (groups, begin) in [(together, 0), (apart, shared)] {
            for group in groups {
                let mut start = begin;
                for &id in group {
                    starts[id] = start;
                    start += specs[id].elements();
                }
            }
        }
        let view = |&id: &Id| engine.memory().view(&all, starts[id], &specs[id].shape);
        self.gradient = Flat { parts: ids.iter().map(view).collect::<Result<_>>()?, all };
        for (&id, part) in ids.iter().zip(&self.gradient.parts) {
            self.gradients[id] = Some(part.clone());
        }
        self.released = groups.len() > 1;
        Ok(())
    }

    /// The gradient of a parameter; `None` if it is frozen.
    pub fn gradient(&self, id: Id) -> Option<&E::Tensor> {
        self.gradients[id].as_ref()
    }
}
