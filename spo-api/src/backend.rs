//! The engine that runs the transformer, seen as token batches in and log-probs out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Kernel, Result, Update, Vector, VectorSpace};

/// Where a model comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSource {
    /// A Hugging Face folder: `config.json` and safetensors weights.
    Folder(PathBuf),
    /// The content of a `config.json`, to be initialised at random from [`ModelSpec::seed`].
    Random(serde_json::Value),
}

/// A low-rank adapter on a frozen model (Hu et al. 2021): `W x + (alpha / rank) B A x`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Adapter {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Names of the linear layers it wraps, as PEFT's `target_modules`: `q_proj`, `c_attn`, ...
    pub targets: Vec<String>,
    /// An existing adapter in PEFT's layout to start from, instead of `B = 0`.
    pub path: Option<PathBuf>,
}

/// The model a session is opened on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModelSpec {
    /// Where weights and shape come from.
    pub source: ModelSource,
    /// Train this adapter and freeze the rest; `None` trains every parameter.
    pub adapter: Option<Adapter>,
    /// Seed of every random initialisation.
    pub seed: u64,
    /// `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"metal"`: what a backend offers is its own.
    pub device: String,
    /// `"f32"`, `"bf16"`: the type of weights and activations.
    pub dtype: String,
}

/// What a session says of its model.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ModelInfo {
    /// `model_type` of the configuration: `llama`, `qwen2`, ...
    pub architecture: String,
    /// All parameters.
    pub parameters: usize,
    /// Those that training moves.
    pub trainable: usize,
    /// Number of token ids the model can score.
    pub vocabulary: usize,
    /// Longest sequence it was made for, in tokens.
    pub context: usize,
    /// The device in use, in words.
    pub device: String,
    /// The type of weights and activations.
    pub dtype: String,
    /// Whether the session has [`Session::hessian_vector`].
    #[serde(default)]
    pub hessian_vectors: bool,
}

/// A prompt with the completions that share it.
///
/// The prompt must not be empty: a completion's first token is predicted from its last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// Token ids that are read, not scored.
    pub prompt: Vec<u32>,
    /// Token ids that are scored, each after the prompt and blind to the others.
    pub completions: Vec<Vec<u32>>,
}

/// What a session scores in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Prompts with their completions.
    pub groups: Vec<Group>,
}

impl TokenBatch {
    /// All completions in the order in which [`LogProbs`] lists them: group by group.
    pub fn completions(&self) -> impl Iterator<Item = &Vec<u32>> {
        self.groups.iter().flat_map(|g| &g.completions)
    }

    /// Tokens the model must read: each prompt once, and every completion.
    pub fn tokens(&self) -> usize {
        self.groups.iter().map(|g| g.prompt.len() + g.completions.iter().map(Vec::len).sum::<usize>()).sum()
    }
}

/// Which per-token statistics to compute beside the log-probs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Entropy of the next-token distribution, nats.
    pub entropy: bool,
    /// Collision: `log sum_v p(v)^2`, nats.
    pub collision: bool,
    /// Whether the token was the model's most probable one.
    pub greedy: bool,
}

/// Log-probs of the completions of a [`TokenBatch`], ragged: completion `i` is
/// `values[offsets[i]..offsets[i + 1]]`, in the order of [`TokenBatch::completions`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogProbs {
    /// `log p(token | everything before it)`, nats.
    pub values: Vec<f64>,
    /// Where each completion begins, and the end of the last.
    pub offsets: Vec<usize>,
    /// Entropy of each position, if asked for; else empty.
    pub entropy: Vec<f64>,
    /// Collision statistic of each position, if asked for; else empty.
    pub collision: Vec<f64>,
    /// 1 where the token was the most probable one, else 0, if asked for; else empty.
    pub greedy: Vec<f64>,
}

/// Log-probs, and how they change along a direction in parameter space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tangent {
    /// The log-probs.
    pub log_probs: LogProbs,
    /// `J v`: the derivative of each of their values along v, in the layout of the values.
    pub derivatives: Vec<f64>,
}

impl LogProbs {
    /// Asks for the upstream gradient of these log-probs, and makes sure of it.
    ///
    /// # Errors
    /// Those of `upstream`; [`Error::Batch`] when it gives another number of values, [`Error::NonFinite`] when one
    /// is not finite.
    pub fn upstream(&self, upstream: &mut Upstream<'_>) -> Result<Vec<f64>> {
        let given = upstream(self)?;
        if given.len() != self.values.len() {
            return Err(Error::Batch(format!(
                "the upstream gradient must have one number per log-prob ({}), got {}",
                self.values.len(),
                given.len()
            )));
        }
        match given.iter().position(|w| !w.is_finite()) {
            None => Ok(given),
            Some(i) => Err(Error::NonFinite(format!(
                "the upstream gradient of token {i} is {}, where its log-prob is {}",
                given[i], self.values[i]
            ))),
        }
    }
}

/// Computes the upstream gradient: one number per value of the [`LogProbs`] it is shown.
pub type Upstream<'a> = dyn FnMut(&LogProbs) -> Result<Vec<f64>> + 'a;

/// AdamW (Loshchilov & Hutter 2019), one step, from the gradient in
/// [`Vector::GRADIENT`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Leave biases and norms undecayed.
    pub exempt_bias_and_norm: bool,
    /// The gradient is multiplied by this first (clipping).
    pub gradient_scale: f64,
}

/// How to continue a prompt.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sampling {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// 0 takes the most probable token every time.
    pub temperature: f64,
    /// Sample from the smallest set of tokens with at least this probability.
    pub top_p: f64,
    /// Seed of the sampling.
    pub seed: u64,
    /// A continuation ends with any of these tokens, which is kept as its last.
    pub stop: Vec<u32>,
}

/// What [`Session::save`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// The whole model as a Hugging Face folder, an adapter merged into its weights.
    Model,
    /// The adapter alone, in PEFT's layout.
    Adapter,
}

/// An engine that can open models.
pub trait Backend: Send {
    /// Opens a model.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder or configuration cannot be used,
    /// [`Error::Engine`] when the device or dtype is not to be had.
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>>;
}

/// A model on a device: its parameters, their gradient, the optimizer's moments.
pub trait Session: Send {
    /// What was opened.
    fn info(&self) -> ModelInfo;

    /// Scores the completions, without gradient.
    ///
    /// # Errors
    /// [`Error::Batch`] for token ids outside the vocabulary, sequences longer
    /// than the model can take, or empty prompts.
    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs>;

    /// Scores the completions, shows the log-probs to `upstream`, and *adds* the gradient of
    /// `sum_i upstream[i] * log_probs[i]` to [`Vector::GRADIENT`].
    ///
    /// # Errors
    /// As [`log_probs`](Self::log_probs), and those of `upstream`.
    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs>;

    /// Scores the completions, shows the log-probs to `upstream`, and *adds* `sum_i upstream[i] H_i v` to `into`,
    /// `H_i` the Hessian of `log_probs[i]`: exactly, not by differences. The numbers of `upstream` are held
    /// fixed, so this is a loss's own Hessian where the loss is linear in log-probs; what another one adds is
    /// `J^T L'' J v`, and `J v` is in the answer. Neither vector may be one of the two well-known ones;
    /// [`Vector::GRADIENT`] is left with nothing of use.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`Error::Engine`] where [`ModelInfo::hessian_vectors`] is false.
    fn hessian_vector(
        &mut self,
        _batch: &TokenBatch,
        _upstream: &mut Upstream<'_>,
        _v: Vector,
        _into: Vector,
    ) -> Result<Tangent> {
        Err(Error::Engine("the backend has no exact Hessian-vector products".into()))
    }

    /// The space of trainable parameters.
    fn vectors(&mut self) -> &mut dyn VectorSpace;

    /// Moves the parameters by one optimizer step.
    ///
    /// # Errors
    /// When the engine fails.
    fn optimizer_step(&mut self, _step: &AdamW) -> Result<()> {
        Err(Error::Engine("the session has no step of this kind".into()))
    }

    /// Forgets the optimizer's moments and step count.
    fn reset_optimizer(&mut self) {}

    /// Forgets the optimizer before, its state and its count, and takes on another. True if the session has a
    /// kernel for it and will run it: [`optimize`](Self::optimize) then moves the parameters. False if not, or
    /// if there is none to run (`None`): the program then moves the parameters itself, by operations of the
    /// vector space.
    ///
    /// # Errors
    /// When the session knows the rule, and cannot run it with these hyper-parameters.
    fn adopt_optimizer(&mut self, _kernel: Option<&Kernel>) -> Result<bool> {
        Ok(false)
    }

    /// Moves the parameters once, by the rule it adopted, from the gradient in [`Vector::GRADIENT`].
    ///
    /// # Errors
    /// When the engine fails, or no rule was adopted.
    fn optimize(&mut self, _update: &Update) -> Result<()> {
        Err(Error::Engine("the session has adopted no optimizer".into()))
    }

    /// Continues each prompt. Only the new tokens are returned.
    ///
    /// # Errors
    /// As [`log_probs`](Self::log_probs).
    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>>;

    /// Writes `config.json` and weights (or the adapter) into an existing folder.
    ///
    /// # Errors
    /// When a file cannot be written, or there is no adapter to export.
    fn save(&mut self, folder: &Path, what: Export) -> Result<()>;

    /// Writes everything that training has changed: the trainable parameters, the state and count of the
    /// optimizer that the session runs, and every vector that is allocated. The gradient is left out: it is of no use
    /// between steps.
    ///
    /// # Errors
    /// When the file cannot be written. It is then as it was.
    fn save_state(&mut self, file: &Path) -> Result<()>;

    /// Takes back what [`save_state`](Self::save_state) wrote, bit for bit, from a session on the same
    /// model that had adopted the same optimizer. Vectors are found again under their handles; those the file does
    /// not hold are released.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is damaged or of another model. The session
    /// is then as it was.
    fn restore_state(&mut self, file: &Path) -> Result<()>;
}
