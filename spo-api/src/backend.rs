//! Backends: the engines that run the transformer. They take token batches and return log-probs.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Adapter, Error, Kernel, Result, Sampling, Update, Vector, VectorSpace};

/// The source of a model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSource {
    /// A Hugging Face folder (`config.json` and safetensors weights), a GGUF file, or a folder with one.
    Folder(PathBuf),
    /// The content of a `config.json`. The weights are initialised at random from [`ModelSpec::seed`].
    Random(serde_json::Value),
}

/// In what frozen weights below an adapter are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Quantize {
    /// In the type of the activations, or the bf16 they came in.
    #[default]
    #[serde(rename = "none")]
    Off,
    /// What a file has in blocks stays in them.
    #[serde(rename = "file")]
    File,
    /// Quantised at loading: blocks of 32 with 8 bits each (llama.cpp).
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Quantised at loading: blocks of 256 with 4 bits each, in 8 groups with scales of their own (llama.cpp).
    #[serde(rename = "q4_k")]
    Q4K,
    /// Quantised at loading: blocks of 64 in 4-bit NormalFloat (Dettmers et al. 2023).
    #[serde(rename = "nf4")]
    Nf4,
}

impl Quantize {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Quantize::Off => "none",
            Quantize::File => "file",
            Quantize::Q8_0 => "q8_0",
            Quantize::Q4K => "q4_k",
            Quantize::Nf4 => "nf4",
        }
    }
}

/// The model that a session opens.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModelSpec {
    /// The source of the weights and the architecture.
    pub source: ModelSource,
    /// Train this adapter and freeze the rest; `None` trains every parameter.
    pub adapter: Option<Adapter>,
    /// In what the frozen weights below the adapter are kept. `None` for [`Quantize::File`] if there is an adapter.
    #[serde(default)]
    pub quantize: Option<Quantize>,
    /// Whether weights may be read from a `pytorch_model.bin`, which is a pickle.
    #[serde(default)]
    pub allow_pickle: bool,
    /// Seed for all random initialisation.
    pub seed: u64,
    /// `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"metal"`. Each backend decides which devices it supports.
    pub device: String,
    /// Type of weights and activations: `"f32"`, `"bf16"`.
    pub dtype: String,
}

/// Description of an open model. To create one, start from the default and set every field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// `model_type` of the configuration: `llama`, `qwen2`, ...
    pub architecture: String,
    /// Number of parameters.
    pub parameters: usize,
    /// Number of trainable parameters.
    pub trainable: usize,
    /// Number of token ids the model can score.
    pub vocabulary: usize,
    /// Longest supported sequence, in tokens.
    pub context: usize,
    /// The key of the model's configuration that sets [`context`](Self::context), for messages:
    /// `max_position_embeddings`, `n_positions`. Empty if there is none.
    #[serde(default)]
    pub context_key: String,
    /// Name of the device in use.
    pub device: String,
    /// The type of weights and activations.
    pub dtype: String,
    /// Whether the session supports [`Session::hessian_vector`].
    #[serde(default)]
    pub hessian_vectors: bool,
    /// Whether the session supports [`Session::backward_and_optimize`], with every optimizer that it adopts.
    #[serde(default)]
    pub updates_in_backward: bool,
    /// The weight that the model's configuration gives the loss of its routers in training, 0 for none. Absent if the model has
    /// no routers, or the session cannot add that loss.
    #[serde(default)]
    pub router_loss: Option<f64>,
    /// What the user should know about how the model's files were read, one sentence each.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// A prompt and the completions that share it.
///
/// The prompt must not be empty: the first token of a completion is predicted from the last token of the
/// prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// Token ids that are read but not scored.
    pub prompt: Vec<u32>,
    /// Token ids that are scored. Each completion follows the prompt and does not see the others.
    pub completions: Vec<Vec<u32>>,
}

/// Prompts and completions that a session scores in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// The prompts with their completions.
    pub groups: Vec<Group>,
}

impl TokenBatch {
    /// All completions in the order of [`LogProbs`]: group by group.
    pub fn completions(&self) -> impl Iterator<Item = &Vec<u32>> {
        self.groups.iter().flat_map(|g| &g.completions)
    }

    /// Number of tokens the model has to read: each prompt once, and every completion.
    pub fn tokens(&self) -> usize {
        self.groups.iter().map(|g| g.prompt.len() + g.completions.iter().map(Vec::len).sum::<usize>()).sum()
    }
}

/// Which per-token statistics to compute in addition to the log-probs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Entropy of the next-token distribution, in nats.
    pub entropy: bool,
    /// Collision statistic `log sum_v p(v)^2`, in nats.
    pub collision: bool,
    /// Whether the token was the model's most probable one.
    pub greedy: bool,
}

/// Ragged log-probs of the completions of a [`TokenBatch`], in the order of [`TokenBatch::completions`].
/// Completion `i` is `values[offsets[i]..offsets[i + 1]]`. Created by [`LogProbs::new`]; any requested
/// statistics are set afterwards.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LogProbs {
    /// `log p(token | all previous tokens)`, in nats.
    pub values: Vec<f64>,
    /// The start of each completion, followed by the end of the last one.
    pub offsets: Vec<usize>,
    /// Entropy at each position if requested, otherwise empty.
    pub entropy: Vec<f64>,
    /// Collision statistic at each position if requested, otherwise empty.
    pub collision: Vec<f64>,
    /// If requested, 1 where the token was the most probable one and 0 elsewhere; otherwise empty.
    pub greedy: Vec<f64>,
}

/// Log-probs and their directional derivatives in parameter space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tangent {
    /// The log-probs.
    pub log_probs: LogProbs,
    /// `J v`: the derivative of each log-prob along v, in the layout of the values.
    pub derivatives: Vec<f64>,
}

impl LogProbs {
    /// Log-probs without statistics.
    pub fn new(values: Vec<f64>, offsets: Vec<usize>) -> Self {
        LogProbs { values, offsets, ..LogProbs::default() }
    }

    /// Calls `upstream` with these log-probs and checks the gradient it returns.
    ///
    /// # Errors
    /// Those of `upstream`; [`Error::Batch`] when it returns the wrong number of values,
    /// [`Error::NonFinite`] when a value is not finite.
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

/// Computes the upstream gradient: one number per value of the given [`LogProbs`].
pub type Upstream<'a> = dyn FnMut(&LogProbs) -> Result<Vec<f64>> + 'a;

/// Called with the index of a prompt and each token that is added to it. Returns whether to go on with that prompt; if not,
/// its continuation ends with that token.
pub type Watch<'a> = dyn FnMut(usize, u32) -> bool + 'a;

/// What [`Session::save`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// The whole model as a Hugging Face folder, with any adapter merged into the weights.
    Model,
    /// The same, with all weights in this type. [`Model`](Self::Model) keeps the types that they were read in.
    ModelIn(WeightType),
    /// Only the adapter, in PEFT's format.
    Adapter,
}

/// The type in which weights are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

/// An engine that can open models.
pub trait Backend: Send {
    /// Opens a model.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder or configuration cannot be used, [`Error::Engine`] when the device
    /// or dtype is not available.
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>>;
}

/// A model on a device, with its parameters, their gradient, and the state of the optimizer it runs.
pub trait Session: Send {
    /// Describes the open model.
    fn info(&self) -> ModelInfo;

    /// Scores the completions, without a gradient.
    ///
    /// # Errors
    /// [`Error::Batch`] for token ids outside the vocabulary, sequences that are too long for the model, or
    /// empty prompts.
    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs>;

    /// Scores the completions, passes the log-probs to `upstream`, and *adds* the gradient of `sum_i
    /// upstream[i] * log_probs[i]` to [`Vector::GRADIENT`].
    ///
    /// # Errors
    /// As [`log_probs`](Self::log_probs), and those of `upstream`.
    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs>;

    /// Scores the completions, passes the log-probs to `upstream`, and *adds* `sum_i upstream[i] H_i v` to
    /// `into`, where `H_i` is the Hessian of `log_probs[i]`. The product is exact, not a finite difference.
    /// The upstream gradient is held constant, so the result is the Hessian product of a loss that is
    /// linear in the log-probs. For any other loss the term `J^T L'' J v` is missing; the returned
    /// [`Tangent`] contains `J v`. Neither vector may be [`Vector::PARAMETERS`] or [`Vector::GRADIENT`].
    /// The content of [`Vector::GRADIENT`] is undefined afterwards.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`Error::Engine`] if [`ModelInfo::hessian_vectors`] is false.
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

    /// Adopts an optimizer and discards the previous one with its state and its count. Returns true if the
    /// session has a kernel for it and will run it; [`optimize`](Self::optimize) then updates the
    /// parameters. Returns false if it has none, or if `kernel` is `None`; the program then updates the
    /// parameters itself with operations of the vector space.
    ///
    /// # Errors
    /// When the session knows the rule but cannot run it with these hyper-parameters.
    fn adopt_optimizer(&mut self, _kernel: Option<&Kernel>) -> Result<bool> {
        Ok(false)
    }

    /// Updates the parameters once with the adopted rule, from the gradient in [`Vector::GRADIENT`].
    ///
    /// # Errors
    /// When the engine fails, or no rule was adopted.
    fn optimize(&mut self, _update: &Update) -> Result<()> {
        Err(Error::Engine("the session has adopted no optimizer".into()))
    }

    /// [`backward`](Self::backward) from a gradient of zero and [`optimize`](Self::optimize) in one: a parameter is updated as
    /// soon as its gradient is complete, which is then dropped. This saves the memory of the gradient and gives the same
    /// parameters, bit for bit. The content of [`Vector::GRADIENT`] is undefined afterwards. Returns the norm of the gradient as
    /// well.
    ///
    /// # Errors
    /// As those two, and [`Error::Engine`] if [`ModelInfo::updates_in_backward`] is false. With [`Error::NonFinite`] some
    /// parameters have been updated.
    fn backward_and_optimize(
        &mut self,
        _batch: &TokenBatch,
        _statistics: Statistics,
        _upstream: &mut Upstream<'_>,
        _update: &Update,
    ) -> Result<(LogProbs, f64)> {
        Err(Error::Engine("the backend keeps the whole gradient".into()))
    }

    /// From now on, adapters with [`Lora::dropout`](crate::Lora::dropout) drop parts of their inputs in passes over batches,
    /// drawn from this seed; `None` for nothing, as in a new session. What is dropped depends on the seed and the tokens alone, not
    /// on how a batch is split. Generation drops nothing. [`save_state`](Self::save_state) does not keep the seed.
    ///
    /// # Errors
    /// When the engine fails.
    fn drop_out(&mut self, _seed: Option<u64>) -> Result<()> {
        Ok(())
    }

    /// From now on, backward passes add the gradient of `weight` times the routers' load-balancing loss (Fedus et al. 2022) over
    /// all tokens of the batch, each prompt once per completion: `experts * sum_e share_e * probability_e`. It changes neither
    /// log-probs nor what they are weighted with. A new session has the weight 0, and [`save_state`](Self::save_state) does not
    /// keep it.
    ///
    /// # Errors
    /// [`Error::Engine`] if the weight is not 0 and [`ModelInfo::router_loss`] is absent.
    fn weigh_router_loss(&mut self, weight: f64) -> Result<()> {
        match weight {
            0.0 => Ok(()),
            _ => Err(Error::Engine("the backend has no loss of routers".into())),
        }
    }

    /// The routers' loss in the last backward pass, without its weight; 0 if it had none.
    fn router_loss(&self) -> f64 {
        0.0
    }

    /// Generates a continuation of each prompt. Only the new tokens are returned.
    ///
    /// # Errors
    /// As [`log_probs`](Self::log_probs).
    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>>;

    /// The same, watched token by token. The continuations are those of [`generate`](Self::generate), up to where the
    /// watch ended them. A session that does not override this tells of all tokens at the end.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    fn generate_watched(
        &mut self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut continuations = self.generate(prompts, sampling)?;
        for (i, tokens) in continuations.iter_mut().enumerate() {
            if let Some(last) = tokens.iter().position(|token| !watch(i, *token)) {
                tokens.truncate(last + 1);
            }
        }
        Ok(continuations)
    }

    /// Writes `config.json` and the weights (or the adapter) into an existing folder.
    ///
    /// # Errors
    /// When a file cannot be written, or there is no adapter to export.
    fn save(&mut self, folder: &Path, what: Export) -> Result<()>;

    /// Writes everything that training has changed: the trainable parameters, the state and count of the
    /// optimizer that the session runs, and every allocated vector. The gradient is left out because it is
    /// not needed between steps.
    ///
    /// # Errors
    /// When the file cannot be written. An existing file is then left unchanged.
    fn save_state(&mut self, file: &Path) -> Result<()>;

    /// Restores what [`save_state`](Self::save_state) wrote, bit for bit. It must come from a session on
    /// the same model that had adopted the same optimizer. Vectors keep their handles; vectors that are not
    /// in the file are released.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is damaged or belongs to another model. The session is then left
    /// unchanged.
    fn restore_state(&mut self, file: &Path) -> Result<()>;
}
