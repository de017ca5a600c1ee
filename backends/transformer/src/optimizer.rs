//! The optimizers that a session runs with kernels of its engine, and their moments.

use safetensors::Dtype;
use serde::Deserialize;
use spo_api::{Error, Kernel, Result, Update};

use crate::engine::{AdamWStep, BLOCK, Blockwise, Engine, Precision};
use crate::files::TensorEntry;
use crate::model::Model;
use crate::parameters::{Flat, Id, Spec};

/// Tensors with fewer elements keep f32 moments when the others use 8 bits, as in bitsandbytes: they take
/// little memory.
const LEAST_IN_BLOCKS: usize = 4096;

/// The names of the two moments in a saved state.
const MOMENTS: [&str; 2] = ["moment1", "moment2"];

/// AdamW's hyper-parameters, under the names used by a [`Kernel`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hyper {
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    decay_bias_and_norm: bool,
}

/// How moments are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// In f32 or bf16.
    In(Precision),
    /// In 8 bits, except for small tensors.
    InBlocks,
}

/// One moment of one parameter.
enum Moment<T> {
    Plain(T),
    Blocks(Blockwise<T>),
}

/// An optimizer that the session runs, with its moments once they are allocated.
pub(crate) struct Adopted<T> {
    pub kernel: Kernel,
    hyper: Hyper,
    keeping: Keeping,
    /// The moments of each trained parameter, in order.
    moments: Option<Vec<[Moment<T>; 2]>>,
}

impl<T: Clone> Adopted<T> {
    /// The optimizer for a kernel, or `None` if the session does not implement it. `half` requests moments in
    /// bf16.
    ///
    /// # Errors
    /// If the kernel has no such hyper-parameters, or if bf16 moments are requested for an optimizer other
    /// than AdamW.
    pub fn new(kernel: &Kernel, half: bool) -> Result<Option<Self>> {
        let keeping = match (kernel.name.as_str(), half) {
            ("adamw", false) => Keeping::In(Precision::Full),
            ("adamw", true) => Keeping::In(Precision::Half),
            (other, true) => {
                return Err(Error::Engine(format!(
                    "moments = \"bf16\" works with the optimizer `adamw` only, not with `{other}`"
                )));
            }
            ("adamw-8bit", false) => Keeping::InBlocks,
            (_, false) => return Ok(None),
        };
        let hyper = Hyper::deserialize(&kernel.config).map_err(|e| {
            Error::Engine(format!("`{}` cannot be run with these hyper-parameters: {e}", kernel.name))
        })?;
        Ok(Some(Adopted { kernel: kernel.clone(), hyper, keeping, moments: None }))
    }

    pub fn is_laid_out(&self) -> bool {
        self.moments.is_some()
    }

    fn in_blocks(&self, spec: &Spec) -> bool {
        self.keeping == Keeping::InBlocks && spec.elements() >= LEAST_IN_BLOCKS
    }

    /// Size of the moments in bytes.
    pub fn bytes<'a>(&self, trained: impl Iterator<Item = &'a Spec>) -> usize {
        let of = |spec: &Spec| match self.keeping {
            Keeping::In(Precision::Half) => 2 * spec.elements(),
            _ if self.in_blocks(spec) => spec.elements() + 4 * spec.elements().div_ceil(BLOCK),
            _ => 4 * spec.elements(),
        };
        2 * trained.map(of).sum::<usize>()
    }

    /// Allocates zero moments, if there are none yet.
    pub fn lay_out<E: Engine<Tensor = T>>(&mut self, engine: &E, model: &Model<E>) -> Result<()> {
        if self.moments.is_none() {
            let [first, second] = [self.zeros(engine, model)?, self.zeros(engine, model)?];
            self.moments = Some(first.into_iter().zip(second).map(<[_; 2]>::from).collect());
        }
        Ok(())
    }

    /// One moment for every trained parameter. Moments of the same precision share one allocation.
    fn zeros<E: Engine<Tensor = T>>(&self, engine: &E, model: &Model<E>) -> Result<Vec<Moment<T>>> {
        let precision = match self.keeping {
            Keeping::In(precision) => precision,
            Keeping::InBlocks => Precision::Full,
        };
        let plain = model.trained().filter(|spec| !self.in_blocks(spec)).map(|spec| &spec.shape[..]);
        let mut plain = Flat::zeros(engine, plain, precision)?.parts.into_iter();
        let blocks: Vec<[usize; 2]> = model
            .trained()
            .filter(|spec| self.in_blocks(spec))
            .map(|spec| [spec.elements(), spec.elements().div_ceil(BLOCK)])
            .collect();
        let codes = Flat::zeros(engine, blocks.iter().map(|n| &n[..1]), Precision::Byte)?;
        let scales = Flat::zeros(engine, blocks.iter().map(|n| &n[1..]), Precision::Full)?;
        let mut blocks = codes.parts.into_iter().zip(scales.parts);
        let moment = |spec: &Spec| match self.in_blocks(spec) {
            true => blocks.next().map(|(codes, scales)| Moment::Blocks(Blockwise { codes, scales })),
            false => plain.next().map(Moment::Plain),
        };
        Ok(model.trained().map(moment).map(|moment| moment.expect("one for every parameter")).collect())
    }

    /// Updates the trained parameters from their gradient.
    pub fn update<E: Engine<Tensor = T>>(
        &mut self,
        engine: &E,
        model: &Model<E>,
        update: &Update,
    ) -> Result<()> {
        self.lay_out(engine, model)?;
        self.update_those(engine, model, update, |_| true)
    }

    /// Updates those of the trained parameters, given by their ids. Moments must have been allocated.
    pub fn update_those<E: Engine<Tensor = T>>(
        &mut self,
        engine: &E,
        model: &Model<E>,
        update: &Update,
        those: impl Fn(Id) -> bool,
    ) -> Result<()> {
        let Hyper { betas, epsilon, weight_decay, decay_bias_and_norm } = self.hyper;
        let [trained, gradient] = [&model.parameters.trained, &model.parameters.gradient];
        let operands = model.trained_ids().zip(trained.parts.iter().zip(&gradient.parts));
        for ((id, (into, gradient)), moments) in operands.zip(self.moments.iter().flatten()) {
            if !those(id) {
                continue;
            }
            let spec = &model.decoder.specs[id];
            let spared = !decay_bias_and_norm && spec.role.of_bias_or_norm();
            let step = AdamWStep {
                lr: update.lr,
                betas,
                epsilon,
                weight_decay: if spared { 0.0 } else { weight_decay },
                gradient_scale: update.gradient_scale,
                count: update.count,
            };
            match moments {
                [Moment::Plain(first), Moment::Plain(second)] => {
                    engine.adamw(into, gradient, [first, second], &step)?;
                }
                [Moment::Blocks(first), Moment::Blocks(second)] => {
                    engine.adamw_8bit(into, gradient, [first.as_ref(), second.as_ref()], &step)?;
                }
                _ => unreachable!("both moments of a parameter are kept alike"),
            }
        }
        Ok(())
    }

    /// The moment tensors as a saved state lists them; empty if there are no moments.
    pub fn tensors<'a>(&'a self, trained: impl Iterator<Item = &'a Spec>) -> Vec<(TensorEntry, &'a T)> {
        let mut tensors = Vec::new();
        for (spec, moments) in trained.zip(self.moments.iter().flatten()) {
            for (kind, moment) in MOMENTS.iter().zip(moments) {
                let entry = |part: &str, shape: &[usize], dtype| TensorEntry {
                    name: format!("{kind}{part}/{}", spec.name),
                    shape: shape.to_vec(),
                    dtype,
                };
                let n = spec.elements();
                match moment {
                    Moment::Plain(values) => tensors.push((entry("", &spec.shape, Dtype::F32), values)),
                    Moment::Blocks(Blockwise { codes, scales }) => {
                        tensors.push((entry(".codes", &[n], Dtype::U8), codes));
                        tensors.push((entry(".scales", &[n.div_ceil(BLOCK)], Dtype::F32), scales));
                    }
                }
            }
        }
        tensors
    }
}
