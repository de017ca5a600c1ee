//! Shared setup of the checks: a batch that covers all cases, a model whose gradients are nonzero, and
//! distances.

use spo_api::{Group, ModelSpec, Session, Statistics, TokenBatch, Vector, VectorSpace};

use super::models::VOCABULARY;
use crate::decoder::Keep;
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// Shared prompts, with completions of very different lengths, including 1 and 0 tokens. Some have a common
/// prefix, some are a prefix of another, and some are equal.
pub fn batch() -> TokenBatch {
    let tokens =
        |n: u32, salt: u32| -> Vec<u32> { (0..n).map(|i| (i * i * 5 + i * 3 + salt) % VOCABULARY).collect() };
    let alike = |end: u32| [tokens(4, 10), vec![end, 1, 2]].concat();
    TokenBatch {
        groups: vec![
            Group { prompt: tokens(5, 1), completions: vec![tokens(7, 2), tokens(1, 3), tokens(4, 4)] },
            Group { prompt: tokens(1, 5), completions: vec![tokens(3, 6), vec![]] },
            Group { prompt: tokens(70, 7), completions: vec![tokens(6, 8), tokens(20, 9)] },
            Group { prompt: tokens(3, 11), completions: vec![alike(6), alike(7)] },
            Group { prompt: tokens(3, 12), completions: vec![tokens(6, 13), tokens(2, 13)] },
            Group { prompt: tokens(2, 14), completions: vec![tokens(3, 15), tokens(3, 15)] },
        ],
    }
}

/// Weights of the loss `sum_i w_i log_prob_i`: positive, negative and zero.
pub(super) fn weights(n: usize) -> Vec<f64> {
    (0..n).map(|i| [0.7, -1.1, 0.0, 0.4, 1.3, -0.2][i % 6]).collect()
}

/// Opens a model, and moves an adapter away from its initial value, where B = 0 makes half of the gradient
/// zero.
pub fn open<E: Engine>(engine: E, spec: &ModelSpec, options: Options) -> TransformerSession<E> {
    let mut session = TransformerSession::open(engine, spec, options).expect("a valid model");
    if spec.adapter.is_some() {
        let values = wave(session.dimension(), 0.2);
        session.write(Vector::PARAMETERS, &values).expect("as many values as parameters");
    }
    session
}

/// Lets the experts that compute each row of a batch stay those that do so now: where another is chosen, a loss jumps,
/// and differences say nothing of its slope.
pub(super) fn hold_choices<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) {
    let packed = session.pack_trained(batch).expect("a valid batch");
    let TransformerSession { engine, model, .. } = session;
    model.refresh(engine).expect("an engine");
    let rows = packed.rows;
    let wiring = model.decoder.wiring(engine, &rows).expect("an engine");
    let pass = model.decoder.forward(engine, &model.parameters, &rows, &wiring, Keep::All);
    model.decoder.hold_choices(&pass.expect("an engine").traces);
}

pub(super) fn wave(n: usize, size: f64) -> Vec<f32> {
    (0..n).map(|i| (size * (i as f64 * 0.7 + (i as f64).sqrt()).sin()) as f32).collect()
}

pub(super) fn loss<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) -> f64 {
    let log_probs = session.log_probs(batch, Statistics::default()).expect("a valid batch");
    log_probs.values.iter().zip(weights(log_probs.values.len())).map(|(l, w)| l * w).sum()
}

/// The gradient, and the log-probs it belongs to.
pub fn gradient<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) -> (Vec<f32>, Vec<f64>) {
    session.zero(Vector::GRADIENT).expect("a gradient");
    let log_probs = session
        .backward(batch, Statistics::default(), &mut |l| Ok(weights(l.values.len())))
        .expect("a valid batch");
    (session.read(Vector::GRADIENT).expect("a gradient"), log_probs.values)
}

pub(super) fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

pub(super) fn distance(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

pub(super) fn worst(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A temporary folder that is deleted when dropped.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a writable folder")
}

/// The derivative at 0, by central differences of fourth order: with second order, a step large enough to dominate f32 noise
/// is too large.
pub(super) fn derivative(mut at: impl FnMut(f64) -> f64) -> f64 {
    let h = 4e-3;
    (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
}

/// The same of a figure of the model, along a direction in the space of parameters, which is taken to have length 1.
pub(super) fn derivative_along<E: Engine>(
    session: &mut TransformerSession<E>,
    direction: &[f32],
    mut figure: impl FnMut(&mut TransformerSession<E>) -> f64,
) -> f64 {
    let start = session.read(Vector::PARAMETERS).expect("parameters");
    let scale = 1.0 / norm(direction);
    let found = derivative(|step| {
        let moved = start.iter().zip(direction).map(|(x, &d)| x + (step * scale * f64::from(d)) as f32);
        session.write(Vector::PARAMETERS, &moved.collect::<Vec<_>>()).expect("as many values");
        figure(session)
    });
    session.write(Vector::PARAMETERS, &start).expect("as many values");
    found
}
