//! A model on an engine as a [`Session`]: batches in, log-probs out, gradients collected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::Value;
use spo_api::{
    AdamW, Adapter, Error, Export, LogProbs, ModelInfo, ModelSource, ModelSpec, Result, Sampling, Session,
    Statistics, Tangent, TokenBatch, Upstream, Vector, VectorSpace,
};

use crate::adapter;
use crate::config::Architecture;
use crate::decoder::{Decoder, Keep};
use crate::engine::{AdamWStep, Engine, HeadScores, Precision};
use crate::files::read_json;
use crate::flat::Flat;
use crate::init::random;
use crate::packing::Packed;
use crate::parameters::{Id, Kept, Parameters, Role};
use crate::pass::log_probs_of;
use crate::{generate, hessian, save, state};

/// What a session trades computation, memory and precision for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Keep only the input of each block and compute the rest again in the backward pass: a third more
    /// computation for a fraction of the activations.
    pub checkpoint: bool,
    /// GiB. A batch whose [`forecast`](TransformerSession::forecast) exceeds them is computed as with
    /// [`checkpoint`](Self::checkpoint).
    pub memory: Option<f64>,
    /// Keep the optimizer's moments in bf16: half their memory, and other numbers. Only for engines whose
    /// [`Engine::adamw`] can.
    pub half_moments: bool,
}

/// A decoder opened on an engine.
pub struct TransformerSession<E: Engine> {
    pub(crate) engine: E,
    pub(crate) decoder: Decoder,
    pub(crate) parameters: Parameters<E>,
    pub(crate) adapter: Option<Adapter>,
    /// The configuration as it was given.
    pub(crate) config: Value,
    /// The folder the weights came from, if they did.
    pub(crate) source: Option<PathBuf>,
    /// Names and types of the base parameters on disk. Base parameters come first among the ids.
    pub(crate) stored: Vec<(String, Dtype)>,
    options: Options,
    /// The trained parameters, in order: what a vector is made of.
    pub(crate) trained: Vec<Id>,
    pub(crate) vectors: BTreeMap<u32, Flat<E::Tensor>>,
    pub(crate) moments: Option<[Flat<E::Tensor>; 2]>,
    pub(crate) steps: u64,
}

impl<E: Engine> TransformerSession<E> {
    /// Opens the model of `spec` on an engine that was made for its device and dtype.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder, the configuration or the adapter cannot be used.
    pub fn open(engine: E, spec: &ModelSpec, options: Options) -> Result<Self> {
        let (config, source) = match &spec.source {
            ModelSource::Random(config) => (config.clone(), None),
            ModelSource::Folder(folder) => (read_json(&folder.join("config.json"))?, Some(folder.clone())),
        };
        let origin = match &source {
            Some(folder) => folder.join("config.json").display().to_string(),
            None => "model configuration".to_owned(),
        };
        let mut decoder = Decoder::new(Architecture::parse(&config, &origin)?);
        if let Some(adapter) = &spec.adapter {
            adapter::attach(&mut decoder, adapter)?;
        }
        let weights =
            source.as_deref().map(|folder| save::BaseWeights::open(folder, &decoder)).transpose()?;
        let tuned = spec.adapter.as_ref().and_then(|a| a.path.as_deref());
        let tuned = tuned.map(|folder| adapter::open(folder, &decoder)).transpose()?;
        let adapted = spec.adapter.is_some();
        let range = decoder.architecture.initializer_range;
        let parameters = Parameters::upload(
            &engine,
            &decoder.specs,
            |wanted| match &weights {
                _ if wanted.role.of_adapter() == adapted => Kept::Trained,
                Some(weights) if wanted.role == Role::Matrix && weights.in_half(wanted) => Kept::Half,
                _ => Kept::Frozen,
            },
            |id, wanted| match (wanted.role.of_adapter(), &weights, &tuned) {
                (true, _, Some(tuned)) => tuned.read(&adapter::peft_name(&wanted.name), wanted),
                (false, Some(weights), _) => weights.read(wanted),
                _ => Ok(random(wanted, id, spec.seed, range)),
            },
        )?;
        let trained = (0..decoder.specs.len()).filter(|&id| parameters.gradient(id).is_some()).collect();
        let stored = save::stored(&decoder, weights.as_ref());
        Ok(TransformerSession {
            engine,
            decoder,
            parameters,
            adapter: spec.adapter.clone(),
            config,
            source,
            stored,
            options,
            trained,
            vectors: BTreeMap::new(),
            moments: None,
            steps: 0,
        })
    }

    /// Names and numbers of elements of the trained parameters, in the order in which vectors hold them.
    pub fn trained(&self) -> impl Iterator<Item = (&str, usize)> {
        self.trained.iter().map(|&id| {
            let spec = &self.decoder.specs[id];
            (spec.name.as_str(), spec.elements())
        })
    }

    /// Tokens that a pass over a batch computes: each prompt once, and with it what its completions begin with alike.
    ///
    /// # Errors
    /// As [`Session::log_probs`].
    pub fn packed(&self, batch: &TokenBatch) -> Result<usize> {
        Ok(Packed::new(batch, &self.decoder.architecture)?.rows.ids.len())
    }

    /// Bytes that training on a batch of so many packed tokens will hold: weights, gradient, moments and
    /// vectors, and the activations that the backward pass needs. What comes and goes within an operation
    /// is not in it.
    pub fn forecast(&self, tokens: usize) -> u64 {
        let moment = if self.options.half_moments { 2 } else { 4 };
        let compute = if self.engine.dtype() == "f32" { 4 } else { 2 };
        let trained: usize = self.trained().map(|(_, elements)| elements).sum();
        let all: usize = self.decoder.specs.iter().map(|s| s.elements()).sum();
        let per_trained = 4 + 4 + 2 * moment + 4 * self.vectors.len();
        let activations = tokens * self.decoder.traced_per_token();
        let halves = self.parameters.halves;
        (trained * per_trained + 2 * halves + (all - trained - halves + activations) * compute) as u64
    }

    pub(crate) fn keep(&self, tokens: usize) -> Keep {
        let exceeded = |gib: f64| self.forecast(tokens) as f64 > gib * f64::from(1 << 30);
        match self.options.checkpoint || self.options.memory.is_some_and(exceeded) {
            true => Keep::Inputs,
            false => Keep::All,
        }
    }

    /// All values of a vector, parameter after parameter.
    ///
    /// # Errors
    /// For a vector that is not there.
    pub fn read(&self, v: Vector) -> Result<Vec<f32>> {
        self.engine.download(&self.flat(v)?.all)
    }

    /// Overwrites a vector.
    ///
    /// # Errors
    /// For a vector that is not there, or values of another number.
    pub fn write(&mut self, v: Vector, values: &[f32]) -> Result<()> {
        let expected = self.dimension();
        if values.len() != expected {
            return Err(Error::Engine(format!("a vector has {expected} values, got {}", values.len())));
        }
        let values = self.engine.upload(values.to_vec(), &[expected], Precision::Full)?;
        self.engine.copy(&self.flat(v)?.all, &values)
    }

    pub(crate) fn flat(&self, v: Vector) -> Result<&Flat<E::Tensor>> {
        match v {
            Vector::PARAMETERS => Ok(&self.parameters.trained),
            Vector::GRADIENT => Ok(&self.parameters.gradient),
            other => self.vectors.get(&other.0).ok_or_else(|| {
                Error::Engine(format!("vector {} was never allocated, or was released", other.0))
            }),
        }
    }

    pub(crate) fn new_vector(&self, precision: Precision) -> Result<Flat<E::Tensor>> {
        let specs: Vec<_> = self.trained.iter().map(|&id| &self.decoder.specs[id]).collect();
        Flat::zeros(&self.engine, &specs, precision)
    }

    fn allocate_moments(&mut self) -> Result<()> {
        if self.moments.is_none() {
            let new = || self.new_vector(self.moment_precision());
            self.moments = Some([new()?, new()?]);
        }
        Ok(())
    }

    /// How the optimizer's moments are kept.
    pub(crate) fn moment_precision(&self) -> Precision {
        if self.options.half_moments { Precision::Half } else { Precision::Full }
    }

    /// Hidden states of some rows of the last block's output, before and after the final norm.
    pub(crate) fn hidden(&self, last: &E::Tensor, rows: &[u32]) -> Result<[E::Tensor; 2]> {
        let before = self.engine.gather(last, rows)?;
        let after = self.decoder.norm().forward(&self.engine, &self.parameters, &before)?;
        Ok([before, after])
    }

    pub(crate) fn head(&self) -> &E::Tensor {
        self.parameters.value(self.decoder.head)
    }
}

impl<E: Engine> Session for TransformerSession<E> {
    fn info(&self) -> ModelInfo {
        let specs = &self.decoder.specs;
        ModelInfo {
            architecture: self.decoder.architecture.model_type.clone(),
            parameters: specs.iter().map(|s| s.elements()).sum(),
            trainable: self.dimension(),
            vocabulary: self.decoder.architecture.vocabulary,
            context: self.decoder.architecture.context,
            device: self.engine.device(),
            dtype: self.engine.dtype().to_owned(),
            hessian_vectors: self.engine.recording().is_some(),
        }
    }

    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        let packed = Packed::new(batch, &self.decoder.architecture)?;
        if packed.targets.is_empty() {
            return Ok(log_probs_of(&HeadScores::default(), &packed));
        }
        Ok(self.pass(packed, Keep::Nothing, statistics)?.log_probs())
    }

    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        let packed = Packed::new(batch, &self.decoder.architecture)?;
        if packed.targets.is_empty() {
            let nothing = log_probs_of(&HeadScores::default(), &packed);
            upstream(&nothing)?;
            return Ok(nothing);
        }
        // Before the first activations: allocated into the gaps that these leave behind, the moments would keep
        // the next activations from them.
        self.allocate_moments()?;
        let keep = self.keep(packed.rows.ids.len());
        let mut pass = self.pass(packed, keep, statistics)?;
        let log_probs = pass.log_probs();
        let mut weights = pass.weights(&log_probs, upstream)?;
        // Tokens that do not matter to the loss (one side of a pair, say) cost no backward pass.
        let active: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] != 0.0).collect();
        if active.is_empty() {
            return Ok(log_probs);
        }
        if active.len() < weights.len() {
            weights = active.iter().map(|&i| weights[i]).collect();
            self.narrow(&mut pass, &active)?;
        }
        let d_hidden = self.engine.score_backward(
            pass.hidden(),
            self.head(),
            &pass.packed.targets,
            &pass.scores.log_normalizers,
            &weights,
            self.parameters.gradient(self.decoder.head),
        )?;
        self.back(pass, d_hidden)?;
        Ok(log_probs)
    }

    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        hessian::times(self, batch, upstream, v, into)
    }

    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self
    }

    fn optimizer_step(&mut self, hyper: &AdamW) -> Result<()> {
        self.allocate_moments()?;
        self.steps += 1;
        let Some([first, second]) = &self.moments else { unreachable!("allocated above") };
        let Parameters { trained, gradient, .. } = &self.parameters;
        for (i, &id) in self.trained.iter().enumerate() {
            let exempt =
                hyper.exempt_bias_and_norm && matches!(self.decoder.specs[id].role, Role::Bias | Role::Gain);
            let weight_decay = if exempt { 0.0 } else { hyper.weight_decay };
            let step = AdamWStep { hyper: *hyper, weight_decay, count: self.steps };
            let moments = [&first.parts[i], &second.parts[i]];
            self.engine.adamw(&trained.parts[i], &gradient.parts[i], moments, &step)?;
        }
        Ok(())
    }

    fn reset_optimizer(&mut self) {
        self.moments = None;
        self.steps = 0;
    }

    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        generate::generate(&self.engine, &self.decoder, &self.parameters, prompts, sampling)
    }

    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        match what {
            Export::Model => save::model(self, folder),
            Export::Adapter => adapter::save(self, folder),
        }
    }

    fn save_state(&mut self, file: &Path) -> Result<()> {
        state::save(self, file)
    }

    fn restore_state(&mut self, file: &Path) -> Result<()> {
        state::restore(self, file)
    }
}

impl<E: Engine> VectorSpace for TransformerSession<E> {
    fn dimension(&self) -> usize {
        self.trained.iter().map(|&id| self.decoder.specs[id].elements()).sum()
    }

    fn allocate(&mut self) -> Result<Vector> {
        let last = self.vectors.keys().next_back().copied().unwrap_or(Vector::GRADIENT.0);
        self.vectors.insert(last + 1, self.new_vector(Precision::Full)?);
        Ok(Vector(last + 1))
    }

    fn release(&mut self, v: Vector) {
        self.vectors.remove(&v.0);
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        self.scale(0.0, v)
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.engine.copy(&self.flat(to)?.all, &self.flat(from)?.all)
    }

    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        self.engine.scale(&self.flat(v)?.all, a)
    }

    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        if x == y {
            return self.scale(1.0 + a, y);
        }
        self.engine.axpy(&self.flat(y)?.all, a, &self.flat(x)?.all)
    }

    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        self.engine.dot(&self.flat(x)?.all, &self.flat(y)?.all)
    }
}
