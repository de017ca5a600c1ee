//! What operations are told beside tensors: shapes, ranges of rows, kinds.

use std::ops::Range;

/// The type in which a tensor is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32, always: what is trained, its gradient, the optimizer's moments, snapshots.
    Full,
    /// bf16, always: frozen matrices that came in it, and the optimizer's moments where memory matters more
    /// ([`Options::half_moments`]).
    ///
    /// [`Options::half_moments`]: crate::Options::half_moments
    Half,
    /// The type the session was opened with: activations and other frozen weights.
    Compute,
    /// u8: the codes of [`Blockwise`](super::Blockwise) tensors, which hold whole numbers from 0 to 255.
    Byte,
}

/// A factor of a matrix product: a matrix `[rows, columns]`, or its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    /// The matrix as it lies in memory.
    pub tensor: &'a T,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a, T> Mat<'a, T> {
    /// The matrix itself.
    pub fn new(tensor: &'a T) -> Self {
        Mat { tensor, transposed: false }
    }

    /// Its transpose.
    pub fn t(tensor: &'a T) -> Self {
        Mat { tensor, transposed: true }
    }
}

/// By what a norm divides a row, and whether it centres the row first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + epsilon)` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + epsilon)` (Ba et al. 2016).
    Layer,
}

impl NormKind {
    /// Whether the mean of a row is taken away from it.
    pub fn centred(self) -> bool {
        self == NormKind::Layer
    }
}

/// A norm: rows are normalised as its kind says, multiplied by a weight, and moved by a bias if there is one.
///
/// `T` is what stands for a parameter: a tensor for an [`Engine`](super::Engine), an id in a decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm<T> {
    /// What is done to a row.
    pub kind: NormKind,
    /// Added to the mean square.
    pub epsilon: f64,
    /// One factor for each element of a row.
    pub weight: T,
    /// One summand for each element of a row.
    pub bias: Option<T>,
}

/// An activation function of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: GELU in its tanh form.
    GeluTanh,
}

/// Widths of the attention heads. Queries are `[rows, heads * dim]`, keys and values
/// `[rows, kv_heads * dim]`; query head `h` reads key head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub dim: usize,
}

/// Query rows that see a common range of keys, and causally a range of their own.
///
/// The queries are the last of `own`: query `i` of `n` sees all of `prefix`, and `own` but for its
/// last `n - 1 - i` keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of keys and values that every query sees.
    pub prefix: Range<usize>,
    /// Rows of keys and values that are seen causally.
    pub own: Range<usize>,
}

/// Spans that share keys; no key belongs to two clusters, so clusters may be computed in parallel.
///
/// The spans' queries fill `queries` in order, and their keys lie within `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// All query rows.
    pub queries: Range<usize>,
    /// All key rows.
    pub keys: Range<usize>,
    /// Who sees what.
    pub spans: Vec<Span>,
}

/// Rotary position embedding of some rows: cosine and sine, each `[rows, dim / 2]` in [`Precision::Full`].
#[derive(Clone, Debug)]
pub struct Rotation<T> {
    /// Cosine of each row's angles.
    pub cos: T,
    /// Sine of each row's angles.
    pub sin: T,
}

/// What the log-prob head says of each scored position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadScores {
    /// `log p(target)`, nats.
    pub log_probs: Vec<f64>,
    /// `log sum_v exp(logit_v)`: what the backward pass needs to recompute the softmax.
    pub log_normalizers: Vec<f64>,
    /// Entropy, nats, if asked for.
    pub entropy: Vec<f64>,
    /// `log sum_v p(v)^2`, nats, if asked for.
    pub collision: Vec<f64>,
    /// 1 where the target is the most probable token, if asked for.
    pub greedy: Vec<f64>,
}

/// One AdamW update of one tensor (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of this tensor.
    pub weight_decay: f64,
    /// The gradient is multiplied by this first.
    pub gradient_scale: f64,
    /// Number of the update, from 1, for the correction of the moments.
    pub count: u64,
}
