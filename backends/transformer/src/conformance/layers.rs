//! Decoders whose blocks differ.

use spo_api::{Group, Sampling, Session, Statistics, TokenBatch};

use super::models::{random, tiny};
use super::support::{batch, derivative_along, gradient, loss, norm, open};
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::Options;

/// A decoder in which only some blocks use rotary positions has correct values, gradients and continuations.
pub fn layers_may_differ<E: Engine>(engine: impl Fn() -> E) {
    let spec = random(&tiny(ModelType::Llama), None);
    let mut alike = open(engine(), &spec, Options::default());
    let mut session = open(engine(), &spec, Options::default());
    let layers = &mut session.model.decoder.architecture.layers;
    layers[1].rope = None;
    assert!(loss(&mut session, &batch()) != loss(&mut alike, &batch()));

    let (gradient, _) = gradient(&mut session, &batch());
    let size = norm(&gradient);
    let difference = derivative_along(&mut session, &gradient, |session| loss(session, &batch()));
    assert!((difference - size).abs() < 1e-2 * size, "gradient {size}, finite difference {difference}");

    let greedy = Sampling::greedy(9, &[]);
    let prompt = vec![5, 9, 2];
    let completions = session.generate(std::slice::from_ref(&prompt), &greedy).expect("a valid prompt");
    let statistics = Statistics { greedy: true, ..Statistics::default() };
    let again = TokenBatch { groups: vec![Group { prompt, completions }] };
    let scores = session.log_probs(&again, statistics).expect("a valid batch");
    assert!(scores.greedy.iter().all(|&g| g == 1.0), "{:?}", scores.greedy);
}
