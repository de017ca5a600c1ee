//! Decoders whose blocks differ.

use spo_api::{Group, Sampling, Session, Statistics, TokenBatch, Vector};

use super::models::{random, tiny};
use super::support::{batch, gradient, loss, norm, open};
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
    let (start, size) = (session.read(Vector::PARAMETERS).expect("parameters"), norm(&gradient));
    let mut at = |step: f64| {
        let moved = start.iter().zip(&gradient).map(|(p, g)| p + (step / size * f64::from(*g)) as f32);
        session.write(Vector::PARAMETERS, &moved.collect::<Vec<_>>()).expect("as many values");
        loss(&mut session, &batch())
    };
    let h = 4e-3;
    let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
    assert!((difference - size).abs() < 1e-2 * size, "gradient {size}, finite difference {difference}");

    let greedy = Sampling::greedy(9, &[]);
    let prompt = vec![5, 9, 2];
    let completions = session.generate(std::slice::from_ref(&prompt), &greedy).expect("a valid prompt");
    let statistics = Statistics { greedy: true, ..Statistics::default() };
    let again = TokenBatch { groups: vec![Group { prompt, completions }] };
    let scores = session.log_probs(&again, statistics).expect("a valid batch");
    assert!(scores.greedy.iter().all(|&g| g == 1.0), "{:?}", scores.greedy);
}
