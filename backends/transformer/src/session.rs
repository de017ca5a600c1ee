//! A [`Session`] that runs a model on an engine.

use std::path::Path;

use spo_api::{
    Combine, Error, Export, Kernel, LogProbs, Map, ModelInfo, ModelSpec, Result, Sampling, Session,
    Statistics, Tangent, TokenBatch, Update, Upstream, Vector, VectorSpace, Watch, WeightType,
};

use crate::decoder::{Completed, Dropping, Keep};
use crate::engine::{Engine, HeadScores, Memory, Precision};
use crate::model::Model;
use crate::optimizer::Adopted;
use crate::packing::Packed;
use crate::parameters::{Flat, Spec};
use crate::pass::{Pass, log_probs_of};
use crate::state::State;
use crate::{export, generate, hessian, state};

/// Trade-offs between computation, memory and precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Keep only the input of each block and recompute the rest in the backward pass: a third more
    /// computation, but a fraction of the memory for activations.
    pub checkpoint: bool,
    /// Memory budget in GiB. A batch whose [`forecast`](TransformerSession::forecast) exceeds it is computed
    /// as with [`checkpoint`](Self::checkpoint).
    pub memory: Option<f64>,
    /// Keep AdamW's moments in bf16: half the memory, but different results. Only for engines whose
    /// [`Engine::adamw`] supports it.
    pub half_moments: bool,
}

/// A decoder opened on an engine.
pub struct TransformerSession<E: Engine> {
    pub(crate) engine: E,
    pub(crate) model: Model<E>,
    options: Options,
    state: State<E::Tensor>,
    router_loss: RouterLoss,
    /// The seed of what adapters drop; `None` for nothing.
    dropout: Option<u64>,
}

/// The loss of the routers.
#[derive(Clone, Copy, Debug, Default)]
struct RouterLoss {
    /// Its weight in backward passes.
    weight: f64,
    /// Its value in the last one.
    value: f64,
}

impl<E: Engine> TransformerSession<E> {
    /// Opens the model of `spec` on an engine created for its device and dtype.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder, the configuration or the adapter cannot be used.
    pub fn open(engine: E, spec: &ModelSpec, options: Options) -> Result<Self> {
        let model = Model::open(&engine, spec)?;
        Ok(TransformerSession {
            engine,
            model,
            options,
            state: State::default(),
            router_loss: RouterLoss::default(),
            dropout: None,
        })
    }

    /// Names and element counts of the trained parameters, in the order in which vectors hold them.
    pub fn trained(&self) -> impl Iterator<Item = (&str, usize)> {
        self.model.trained().map(|spec| (spec.name.as_str(), spec.elements()))
    }

    /// Number of tokens computed in a pass over a batch. Each prompt, including the common prefix of its
    /// completions, counts once.
    ///
    /// # Errors
    /// The errors of [`Session::log_probs`].
    pub fn packed(&self, batch: &TokenBatch) -> Result<usize> {
        Ok(self.pack(batch)?.rows.ids.len())
    }

    /// Memory in bytes for training on a batch of this many packed tokens: weights, gradient, moments,
    /// vectors, and the activations needed by the backward pass. Temporary memory within an operation is not
    /// included.
    pub fn forecast(&self, tokens: usize) -> u64 {
        let compute = if self.engine.memory().dtype() == "f32" { 4 } else { 2 };
        let Model { decoder, parameters, .. } = &self.model;
        let trained = self.model.dimension();
        let all: usize = decoder.specs.iter().map(Spec::elements).sum();
        let moments = self.state.optimizer.as_ref().map_or(0, |rule| rule.bytes(self.model.trained()));
        let vectors = 1 + self.state.vectors.len();
        let gradient = 4 * parameters.gradient_elements;
        let activations = tokens * decoder.traced_per_token();
        let (halves, [quantised, blocks]) = (parameters.halves, parameters.quantised);
        let frozen = all - trained - halves - quantised;
        (trained * 4 * vectors + gradient + moments + blocks + 2 * halves + (frozen + activations) * compute)
            as u64
    }

    pub(crate) fn keep(&self, tokens: usize) -> Keep {
        let exceeded = |gib: f64| self.forecast(tokens) as f64 > gib * f64::from(1 << 30);
        match self.options.checkpoint || self.options.memory.is_some_and(exceeded) {
            true => Keep::Inputs,
            false => Keep::All,
        }
    }

    /// All values of a vector, one parameter after another.
    ///
    /// # Errors
    /// If the vector does not exist.
    pub fn read(&self, v: Vector) -> Result<Vec<f32>> {
        self.engine.memory().download(&self.flat(v)?.all)
    }

    /// Overwrites a vector.
    ///
    /// # Errors
    /// If the vector does not exist, or the number of values is wrong.
    pub fn write(&mut self, v: Vector, values: &[f32]) -> Result<()> {
        let expected = self.dimension();
        if values.len() != expected {
            return Err(Error::Engine(format!("a vector has {expected} values, got {}", values.len())));
        }
        let values = self.engine.memory().upload(values.to_vec(), &[expected], Precision::Full)?;
        self.engine.memory().copy(&self.flat(v)?.all, &values)
    }

    /// Makes room for the whole gradient, if there is none.
    fn keep_gradient(&mut self) -> Result<()> {
        if !self.model.parameters.released {
            return Ok(());
        }
        let whole = [self.model.trained_ids().collect()];
        let Model { parameters, decoder, .. } = &mut self.model;
        parameters.lay_out_gradients(&self.engine, &decoder.specs, &whole, None)
    }

    fn flat(&self, v: Vector) -> Result<&Flat<E::Tensor>> {
        match v {
            Vector::GRADIENT if self.model.parameters.released => Err(Error::Engine(
                "the gradient was not kept: each parameter was updated in the backward pass".into(),
            )),
            Vector::PARAMETERS => Ok(&self.model.parameters.trained),
            Vector::GRADIENT => Ok(&self.model.parameters.gradient),
            other => self.state.vectors.get(&other.0).ok_or_else(|| {
                Error::Engine(format!("vector {} was never allocated, or was released", other.0))
            }),
        }
    }

    /// The engine with a tape.
    fn recorder(&self) -> Result<E::Recorder> {
        let none = |why: String| Error::Engine(format!("{why}: there are no exact Hessian-vector products"));
        if !self.model.parameters.row_norms.is_empty() {
            return Err(none(
                "an adapter with magnitudes (DoRA) has a gradient with norms held constant".into(),
            ));
        }
        if self.model.decoder.adapted.iter().any(|(_, low_rank)| low_rank.dropout.is_some()) {
            return Err(none("what an adapter drops is not recorded".into()));
        }
        if self.model.decoder.architecture.experts.is_some() {
            return Err(none("the choice of experts is not recorded".into()));
        }
        self.engine.recorder().ok_or_else(|| none(self.engine.memory().device()))
    }

    fn save_model(&self, folder: &Path, kind: Option<WeightType>) -> Result<()> {
        self.model.refresh(&self.engine)?;
        export::save_model(&self.engine, &self.model, folder, kind)
    }

    fn pack(&self, batch: &TokenBatch) -> Result<Packed> {
        Packed::new(batch, &self.model.decoder.architecture)
    }

    /// Lets the next pass, over these rows, drop what it is to drop.
    fn prepare(&mut self, packed: &Packed) -> Result<()> {
        let histories = || packed.rows.histories.clone();
        self.model.parameters.dropping = self.dropout.map(|seed| Dropping { seed, histories: histories() });
        self.model.refresh(&self.engine)
    }

    /// A batch for a backward pass, to which the routers' loss may belong.
    pub(crate) fn pack_trained(&self, batch: &TokenBatch) -> Result<Packed> {
        match self.router_loss.weight {
            0.0 => self.pack(batch),
            _ => Packed::routed(batch, &self.model.decoder.architecture),
        }
    }

    /// Forward to the log-probs and backward from `upstream`, adding to the gradients. `completed` is called after each
    /// [group](crate::decoder::Decoder::completed_together) of gradients. Returns whether there was a backward pass:
    /// there is none where the log-probs have no influence on the loss, and the routers have no loss.
    fn there_and_back(
        (e, model, router_loss): (&E, &Model<E>, &mut RouterLoss),
        (packed, keep): (Packed, Keep),
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
        completed: &mut Completed<'_>,
    ) -> Result<(LogProbs, bool)> {
        if packed.targets.is_empty() {
            let nothing = log_probs_of(&HeadScores::default(), &packed);
            upstream(&nothing)?;
            return Ok((nothing, false));
        }
        let mut pass = Pass::forward(e, model, packed, keep, statistics)?;
        let log_probs = pass.log_probs();
        let mut weights = pass.weights(&log_probs, upstream)?;
        // Tokens without influence on the loss (one side of a pair, for example) need no backward pass.
        let active: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] != 0.0).collect();
        let of_routers = pass.balance(router_loss.weight);
        router_loss.value = of_routers.unwrap_or(0.0);
        if active.is_empty() && of_routers.is_none() {
            return Ok((log_probs, false));
        }
        if !active.is_empty() && active.len() < weights.len() {
            weights = active.iter().map(|&i| weights[i]).collect();
            pass.narrow(e, model, &active)?;
        }
        let d_hidden = e.score_backward(
            pass.hidden(),
            model.head(),
            &pass.packed.targets,
            &pass.scores.log_normalizers,
            &weights,
            model.head_gradients(),
        )?;
        pass.back(e, model, d_hidden, completed)?;
        Ok((log_probs, true))
    }
}

impl<E: Engine> Session for TransformerSession<E> {
    fn info(&self) -> ModelInfo {
        let decoder = &self.model.decoder;
        let mut info = ModelInfo::default();
        info.architecture = decoder.architecture.model_type.name().to_owned();
        info.parameters = decoder.specs.iter().map(Spec::elements).sum();
        info.trainable = self.dimension();
        info.vocabulary = decoder.architecture.vocabulary;
        info.context = decoder.architecture.context;
        info.context_key = decoder.architecture.context_key.to_owned();
        info.device = self.engine.memory().device();
        info.dtype = self.engine.memory().dtype().to_owned();
        info.hessian_vectors = self.recorder().is_ok();
        // The gradient of an adapter is small.
        info.updates_in_backward = self.model.adapter.is_none();
        info.router_loss = decoder.architecture.experts.map(|experts| experts.loss_weight);
        info.remarks.clone_from(&self.model.remarks);
        info
    }

    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        let packed = self.pack(batch)?;
        if packed.targets.is_empty() {
            return Ok(log_probs_of(&HeadScores::default(), &packed));
        }
        self.prepare(&packed)?;
        Ok(Pass::forward(&self.engine, &self.model, packed, Keep::Nothing, statistics)?.log_probs())
    }

    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        let packed = self.pack_trained(batch)?;
        self.prepare(&packed)?;
        self.keep_gradient()?;
        // Allocate the moments before the first activations. Allocated later, they would fill gaps left by
        // freed activations, so the next activations would not fit there.
        if let Some(optimizer) = &mut self.state.optimizer {
            optimizer.lay_out(&self.engine, &self.model)?;
        }
        let keep = self.keep(packed.rows.ids.len());
        let with = (&self.engine, &self.model, &mut self.router_loss);
        let found = Self::there_and_back(with, (packed, keep), statistics, upstream, &mut || Ok(()));
        Ok(found?.0)
    }

    fn backward_and_optimize(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
        update: &Update,
    ) -> Result<(LogProbs, f64)> {
        let packed = self.pack_trained(batch)?;
        let Some(optimizer) = &mut self.state.optimizer else {
            return Err(Error::Engine("the session has adopted no optimizer".into()));
        };
        if self.model.adapter.is_some() {
            return Err(Error::Engine("the gradient of an adapter is small, and is kept".into()));
        }
        optimizer.lay_out(&self.engine, &self.model)?;
        self.prepare(&packed)?;
        let groups = self.model.decoder.completed_together();
        let Model { parameters, decoder, .. } = &mut self.model;
        if !parameters.released {
            let tied = decoder.architecture.tied.then_some(decoder.head.weight);
            parameters.lay_out_gradients(&self.engine, &decoder.specs, &groups, tied)?;
        }
        let keep = self.keep(packed.rows.ids.len());
        let (e, model, router_loss) = (&self.engine, &self.model, &mut self.router_loss);
        let optimizer = self.state.optimizer.as_mut().expect("it was adopted");
        let (mut order, mut squared) = (groups.iter(), 0.0);
        let mut completed = || {
            let group = order.next().expect("as many groups as are completed");
            for &id in group {
                let Some(gradient) = model.parameters.gradient(id) else { continue };
                let own = e.dot(gradient, gradient)?;
                if !own.is_finite() {
                    return Err(Error::NonFinite(format!(
                        "the gradient of {} has the norm {}",
                        model.decoder.specs[id].name,
                        own.sqrt()
                    )));
                }
                squared += own;
            }
            optimizer.update_those(e, model, update, |id| group.contains(&id))?;
            group.iter().filter_map(|&id| model.parameters.gradient(id)).try_for_each(|g| e.scale(g, 0.0))
        };
        let (log_probs, back) = Self::there_and_back(
            (e, model, router_loss),
            (packed, keep),
            statistics,
            upstream,
            &mut completed,
        )?;
        // Parameters whose gradient is 0 are updated as well: moments and weights decay.
        if !back {
            groups.iter().try_for_each(|_| completed())?;
        }
        Ok((log_probs, squared.sqrt()))
    }

    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        let recorder = self.recorder()?;
        let packed = self.pack(batch)?;
        if packed.targets.is_empty() {
            let nothing = log_probs_of(&HeadScores::default(), &packed);
            upstream(&nothing)?;
            return Ok(Tangent { log_probs: nothing, derivatives: Vec::new() });
        }
        self.zero(Vector::GRADIENT)?;
        let keep = self.keep(packed.rows.ids.len());
        let (tangent, products) =
            hessian::times(&recorder, &self.model, (packed, keep), upstream, self.flat(v)?)?;
        let into = &self.flat(into)?.parts;
        into.iter().zip(&products).try_for_each(|(y, x)| self.engine.axpy(y, 1.0, x))?;
        Ok(tangent)
    }

    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self
    }

    fn adopt_optimizer(&mut self, kernel: Option<&Kernel>) -> Result<bool> {
        let adopted = kernel.map(|kernel| Adopted::new(kernel, self.options.half_moments)).transpose()?;
        self.state.optimizer = adopted.flatten();
        Ok(self.state.optimizer.is_some())
    }

    fn optimize(&mut self, update: &Update) -> Result<()> {
        match &mut self.state.optimizer {
            Some(optimizer) => optimizer.update(&self.engine, &self.model, update),
            None => Err(Error::Engine("the session has adopted no optimizer".into())),
        }
    }

    fn drop_out(&mut self, seed: Option<u64>) -> Result<()> {
        self.dropout = seed;
        Ok(())
    }

    fn weigh_router_loss(&mut self, weight: f64) -> Result<()> {
        if weight != 0.0 && self.model.decoder.architecture.experts.is_none() {
            return Err(Error::Engine("the model has no routers".into()));
        }
        self.router_loss = RouterLoss { weight, value: 0.0 };
        Ok(())
    }

    fn router_loss(&self) -> f64 {
        self.router_loss.value
    }

    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        self.generate_watched(prompts, sampling, &mut |_, _| true)
    }

    fn generate_watched(
        &mut self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        self.model.parameters.dropping = None;
        self.model.refresh(&self.engine)?;
        generate::generate(&self.engine, &self.model, prompts, sampling, watch)
    }

    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        match what {
            Export::Model => self.save_model(folder, None),
            Export::ModelIn(kind) => self.save_model(folder, Some(kind)),
            Export::Adapter => export::save_adapter(&self.engine, &self.model, folder),
        }
    }

    fn save_state(&mut self, file: &Path) -> Result<()> {
        state::save(&self.engine, &self.model, &self.state, file)
    }

    fn restore_state(&mut self, file: &Path) -> Result<()> {
        state::restore(&self.engine, &self.model, self.options.half_moments, &mut self.state, file)
    }
}

impl<E: Engine> VectorSpace for TransformerSession<E> {
    fn dimension(&self) -> usize {
        self.model.dimension()
    }

    fn allocate(&mut self) -> Result<Vector> {
        let last = self.state.vectors.keys().next_back().copied().unwrap_or(Vector::GRADIENT.0);
        self.state.vectors.insert(last + 1, self.model.new_vector(&self.engine, Precision::Full)?);
        Ok(Vector(last + 1))
    }

    fn release(&mut self, v: Vector) {
        self.state.vectors.remove(&v.0);
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        if v == Vector::GRADIENT {
            self.keep_gradient()?;
        }
        self.scale(0.0, v)
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.engine.memory().copy(&self.flat(to)?.all, &self.flat(from)?.all)
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

    fn map(&mut self, f: Map, v: Vector) -> Result<()> {
        self.engine.map(f, &self.flat(v)?.all)
    }

    fn combine(&mut self, op: Combine, x: Vector, y: Vector) -> Result<()> {
        if x == y {
            // Engines require that an operand is not the output tensor.
            let copy = self.model.new_vector(&self.engine, Precision::Full)?;
            self.engine.memory().copy(&copy.all, &self.flat(x)?.all)?;
            return self.engine.combine(op, &self.flat(y)?.all, &copy.all);
        }
        self.engine.combine(op, &self.flat(y)?.all, &self.flat(x)?.all)
    }

    fn decay(&mut self, a: f64, v: Vector) -> Result<()> {
        let parts = self.model.trained().zip(&self.flat(v)?.parts);
        let decayed = parts.filter(|(spec, _)| !spec.role.of_bias_or_norm());
        decayed.map(|(_, part)| part).try_for_each(|part| self.engine.scale(part, a))
    }
}
