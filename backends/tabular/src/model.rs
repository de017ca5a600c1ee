//! The models: the logits of the next token given a window of tokens, and their gradient.
//!
//! Both passes are generic over the scalar type. With dual numbers, a direction for the parameters gives the
//! directional derivative of every result, including the gradient.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use spo_api::Scalar;

/// What the windows share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: each window has its own row of logits.
    Table,
    /// `logits = bias + sum_j W_j[token j]`.
    Linear,
    /// `logits = V tanh(sum_j U_j E[token j] + a) + b`.
    Mlp { embedding: usize, hidden: usize },
}

/// The shape of a model, without its parameters.
///
/// A window holds `order` tokens; the symbol `vocabulary` fills the positions before the start of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub kind: Kind,
    pub order: usize,
    pub vocabulary: usize,
}

/// A named slice of the parameter vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub bias: bool,
}

impl Tensor {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Model {
    /// The parameter tensors in order; `None` if a shape overflows.
    fn shapes(&self) -> Option<Vec<Tensor>> {
        let (v, order) = (self.vocabulary, self.order);
        let symbols = v + 1;
        let weight = |name, shape: &[usize]| Tensor { name, shape: shape.to_vec(), bias: false };
        let bias = |name, n| Tensor { name, shape: vec![n], bias: true };
        let tensors = match self.kind {
            Kind::Table => {
                vec![weight("table", &[symbols.checked_pow(u32::try_from(order).ok()?)?, v])]
            }
            Kind::Linear => vec![weight("weight", &[order, symbols, v]), bias("bias", v)],
            Kind::Mlp { embedding, hidden } => vec![
                weight("embedding", &[symbols, embedding]),
                weight("hidden.weight", &[order, embedding, hidden]),
                bias("hidden.bias", hidden),
                weight("head.weight", &[hidden, v]),
                bias("head.bias", v),
            ],
        };
        let countable = |t: &Tensor| t.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_some();
        tensors.iter().all(countable).then_some(tensors)
    }

    /// The parameter tensors in order.
    ///
    /// # Panics
    /// If [`size`](Self::size) is `None`.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.shapes().expect("the configuration was checked")
    }

    /// Number of parameters; `None` if it overflows.
    pub fn size(&self) -> Option<usize> {
        self.shapes()?.iter().try_fold(0usize, |sum, t| sum.checked_add(t.elements()))
    }

    /// Weights drawn from N(0, `range`^2), each tensor with its own random stream; biases are zero.
    pub fn random(&self, seed: u64, range: f64) -> Vec<f64> {
        let mut parameters = Vec::new();
        for (i, tensor) in self.tensors().iter().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(i as u64);
            let scale = if tensor.bias { 0.0 } else { range };
            let normal = StandardNormal.sample_iter(rng).take(tensor.elements());
            parameters.extend(normal.map(|z: f64| scale * z));
        }
        parameters
    }

    /// Splits a vector of parameter size into tensors.
    fn split<'t, S>(&self, values: &'t [S]) -> Vec<&'t [S]> {
        let mut rest = values;
        let take = |tensor: &Tensor| {
            let (own, later) = rest.split_at(tensor.elements());
            rest = later;
            own
        };
        self.tensors().iter().map(take).collect()
    }

    /// The table row of a window.
    fn row(&self, window: &[u32]) -> usize {
        window.iter().fold(0, |row, &token| row * (self.vocabulary + 1) + token as usize)
    }

    /// Logits of the token after each window, `[windows, vocabulary]`.
    pub fn logits<S: Scalar>(&self, parameters: &[S], windows: &[Vec<u32>]) -> Vec<S> {
        let (v, tensors) = (self.vocabulary, self.split(parameters));
        let mut logits = Vec::with_capacity(windows.len() * v);
        for window in windows {
            match self.kind {
                Kind::Table => logits.extend(rows(tensors[0], self.row(window), v)),
                Kind::Linear => {
                    let start = logits.len();
                    logits.extend(tensors[1]);
                    for (j, &token) in window.iter().enumerate() {
                        let row = rows(tensors[0], j * (v + 1) + token as usize, v);
                        add(S::from(1.0), row, &mut logits[start..]);
                    }
                }
                Kind::Mlp { embedding, hidden } => {
                    let start = logits.len();
                    logits.extend(tensors[4]);
                    let h = hidden_layer(&tensors, window, embedding, hidden);
                    for (i, h) in h.iter().enumerate() {
                        add(*h, rows(tensors[3], i, v), &mut logits[start..]);
                    }
                }
            }
        }
        logits
    }

    /// Adds the gradient of `<upstream, logits>` to `gradient`.
    pub fn backward<S: Scalar + PartialEq>(
        &self,
        parameters: &[S],
        windows: &[Vec<u32>],
        upstream: &[S],
        gradient: &mut [S],
    ) {
        let (zero, one) = (S::from(0.0), S::from(1.0));
        let (v, tensors) = (self.vocabulary, self.split(parameters));
        let starts: Vec<usize> = tensors
            .iter()
            .scan(0, |end, t| {
                *end += t.len();
                Some(*end - t.len())
            })
            .collect();
        for (window, d_logits) in windows.iter().zip(upstream.chunks_exact(v)) {
            // Skip windows that do not contribute to the loss.
            if d_logits.iter().all(|d| *d == zero) {
                continue;
            }
            let mut add_to = |tensor: usize, row: usize, a: S, values: &[S]| {
                let start = starts[tensor] + row * values.len();
                add(a, values, &mut gradient[start..start + values.len()]);
            };
            match self.kind {
                Kind::Table => add_to(0, self.row(window), one, d_logits),
                Kind::Linear => {
                    add_to(1, 0, one, d_logits);
                    for (j, &token) in window.iter().enumerate() {
                        add_to(0, j * (v + 1) + token as usize, one, d_logits);
                    }
                }
                Kind::Mlp { embedding, hidden } => {
                    add_to(4, 0, one, d_logits);
                    let h = hidden_layer(&tensors, window, embedding, hidden);
                    let mut d_hidden = Vec::with_capacity(hidden);
                    for (i, h) in h.iter().enumerate() {
                        add_to(3, i, *h, d_logits);
                        d_hidden.push((one - *h * *h) * dot(rows(tensors[3], i, v), d_logits));
                    }
                    add_to(2, 0, one, &d_hidden);
                    for (j, &token) in window.iter().enumerate() {
                        let mut d_embedding = Vec::with_capacity(embedding);
                        for (k, e) in rows(tensors[0], token as usize, embedding).iter().enumerate() {
                            let row = j * embedding + k;
                            add_to(1, row, *e, &d_hidden);
                            d_embedding.push(dot(rows(tensors[1], row, hidden), &d_hidden));
                        }
                        add_to(0, token as usize, one, &d_embedding);
                    }
                }
            }
        }
    }
}

/// `tanh(sum_j U_j E[token j] + a)`.
fn hidden_layer<S: Scalar>(tensors: &[&[S]], window: &[u32], embedding: usize, hidden: usize) -> Vec<S> {
    let mut sum = tensors[2].to_vec();
    for (j, &token) in window.iter().enumerate() {
        for (k, e) in rows(tensors[0], token as usize, embedding).iter().enumerate() {
            add(*e, rows(tensors[1], j * embedding + k, hidden), &mut sum);
        }
    }
    let tanh = |x: &S| {
        let y = x.value().tanh();
        x.chain(y, 1.0 - y * y)
    };
    sum.iter().map(tanh).collect()
}

/// Row `i` of a matrix with `width` columns.
fn rows<S>(matrix: &[S], i: usize, width: usize) -> &[S] {
    &matrix[i * width..(i + 1) * width]
}

/// `y <- y + a x`.
pub(crate) fn add<S: Scalar>(a: S, x: &[S], y: &mut [S]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = *y + a * *x);
}

fn dot<S: Scalar>(x: &[S], y: &[S]) -> S {
    x.iter().zip(y).fold(S::from(0.0), |sum, (x, y)| sum + *x * *y)
}
