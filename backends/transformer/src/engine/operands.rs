//! Non-tensor arguments of operations: shapes, row ranges, kinds.

use std::ops::Range;

use spo_gguf::BlockType;

/// The type in which a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Always f32: trained parameters, their gradients, optimizer moments, snapshots.
    Full,
    /// Always bf16: frozen matrices that were read in bf16, and optimizer moments if memory matters more
    /// ([`Options::half_moments`]).
    ///
    /// [`Options::half_moments`]: crate::Options::half_moments
    Half,
    /// The type the session was opened with: activations and the other frozen weights.
    Compute,
    /// u8: the codes of [`Blockwise`](super::Blockwise) tensors, and of weights in [`Blocks`].
    Byte,
}

/// A factor of a matrix product: a matrix `[rows, columns]`, or its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    /// The matrix as stored in memory.
    pub tensor: &'a T,
    /// Whether to use the transpose.
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

/// What a norm divides a row by, and whether it first subtracts the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + epsilon)` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + epsilon)` (Ba et al. 2016).
    Layer,
}

impl NormKind {
    /// Whether the mean of a row is subtracted.
    pub fn centred(self) -> bool {
        self == NormKind::Layer
    }
}

/// A norm: rows are normalised according to `kind`, multiplied by `offset + weight` and, if there is a bias,
/// shifted by it.
///
/// `T` represents a parameter: a tensor in an [`Engine`](super::Engine), an id in a decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm<T> {
    /// How a row is normalised.
    pub kind: NormKind,
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weight: 1 where the weights are differences from 1 (Gemma), else 0.
    pub offset: f64,
    /// One factor per element of a row.
    pub weight: T,
    /// One offset per element of a row.
    pub bias: Option<T>,
}

/// An activation function of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: the tanh approximation of GELU.
    GeluTanh,
    /// `x / 2 (1 + erf(x / sqrt(2)))`: GELU (Hendrycks & Gimpel 2016).
    Gelu,
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

/// How queries attend to keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Widths of the heads.
    pub heads: Heads,
    /// Factor of the scores, `1 / sqrt(dim)` in most models.
    pub scale: f64,
    /// Where it is set, a score `s` counts as `cap tanh(s / cap)`.
    pub cap: Option<f64>,
    /// The number of keys that a query attends to at most: its own, and those directly before it in prefix
    /// and own of its [`Span`]. All if it is not set.
    pub window: Option<usize>,
}

impl Attention {
    /// Attention without a cap or a window, with scores over the root of the heads' width (Vaswani et al. 2017).
    pub fn plain(heads: Heads) -> Self {
        Attention { heads, scale: 1.0 / (heads.dim as f64).sqrt(), cap: None, window: None }
    }

    /// The keys that query `i` of a span attends to, among those of prefix and own side by side.
    pub fn visible(&self, span: &Span, i: usize) -> Range<usize> {
        let end = span.prefix.len() + span.own.len() + i + 1 - span.queries.len();
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

/// Query rows that attend to a shared range of keys, and causally to a range of their own.
///
/// The queries are the last rows of `own`: query `i` of `n` attends to all of `prefix`, and to `own` except
/// its last `n - 1 - i` rows. The rows of `own` follow those of `prefix` in the text, which is what an
/// attention [window](Attention::window) counts by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of keys and values that every query attends to.
    pub prefix: Range<usize>,
    /// Rows of keys and values that are attended to causally.
    pub own: Range<usize>,
}

/// Spans that share keys. No key belongs to two clusters, so clusters can be computed in parallel.
///
/// The spans' queries fill `queries` in order, and their keys lie within `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// All query rows.
    pub queries: Range<usize>,
    /// All key rows.
    pub keys: Range<usize>,
    /// Which queries attend to which keys.
    pub spans: Vec<Span>,
}

/// Rotary position embedding for a set of rows: cosine and sine, each `[rows, pairs]` in
/// [`Precision::Full`]. Of every head, the first `2 * pairs` elements are rotated.
#[derive(Clone, Debug)]
pub struct Rotation<T> {
    /// Cosines of each row's angles.
    pub cos: T,
    /// Sines of each row's angles.
    pub sin: T,
    /// Width of a head.
    pub dim: usize,
    /// Which elements are a pair.
    pub pairs: Pairs,
}

/// Which elements of a head are rotated against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Element `i` and element `i + pairs`.
    Halves,
    /// Elements `2 i` and `2 i + 1`.
    Neighbours,
}

/// A matrix in blocks of codes: a tensor `[rows, bytes of a row]` in [`Precision::Byte`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The type of its blocks.
    pub kind: BlockType,
    /// Its rows.
    pub rows: usize,
    /// The numbers in a row.
    pub width: usize,
}

/// The head: logits are `hidden weight^T + bias`, capped. With a low-rank addition, what it reads is `[hidden, reduced]`
/// side by side, and `reduced low_rank^T` is added to the logits before the cap.
///
/// `T` represents a parameter: a tensor in an [`Engine`](super::Engine), an id in a decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head<T> {
    /// `[vocabulary, hidden]`.
    pub weight: T,
    /// The blocks in which the weight is kept, if it is.
    pub blocks: Option<Blocks>,
    /// `[vocabulary]`.
    pub bias: Option<T>,
    /// `[vocabulary, rank]`: matrix B of an adapter.
    pub low_rank: Option<T>,
    /// Where it is set, a logit `l` counts as `cap tanh(l / cap)`.
    pub cap: Option<f64>,
}

/// Results of the log-prob head for each scored position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadScores {
    /// `log p(target)`, nats.
    pub log_probs: Vec<f64>,
    /// `log sum_v exp(logit_v)`, from which the backward pass recomputes the softmax.
    pub log_normalizers: Vec<f64>,
    /// Entropy, nats, if requested.
    pub entropy: Vec<f64>,
    /// `log sum_v p(v)^2`, nats, if requested.
    pub collision: Vec<f64>,
    /// 1 where the target is the most probable token, if requested.
    pub greedy: Vec<f64>,
}

/// One AdamW update of one tensor (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the corrected second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of this tensor.
    pub weight_decay: f64,
    /// The gradient is multiplied by this before anything else.
    pub gradient_scale: f64,
    /// Number of the update, from 1, for bias correction.
    pub count: u64,
}
