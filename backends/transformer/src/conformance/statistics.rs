//! Statistics of the next-token distribution.

use spo_api::{Group, Session, Statistics, TokenBatch};

use super::models::{VOCABULARY, random, tiny};
use super::support::{batch, open};
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::Options;

/// The statistics agree with their definitions, computed from the log-probs of all tokens.
pub fn statistics_follow_their_definitions<E: Engine>(engine: impl Fn() -> E) {
    let all = Statistics { entropy: true, collision: true, greedy: true };
    let mut session = open(engine(), &random(&tiny(ModelType::Llama), None), Options::default());
    let group = Group { prompt: vec![3, 1, 4], completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
    let scores = session.log_probs(&TokenBatch { groups: vec![group] }, all).expect("a valid batch");
    let p: Vec<f64> = scores.values.iter().map(|l| l.exp()).collect();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    let entropy: f64 = -p.iter().zip(&scores.values).map(|(p, l)| p * l).sum::<f64>();
    let collision = p.iter().map(|p| p * p).sum::<f64>().ln();
    let best = (0..p.len()).max_by(|&i, &j| p[i].total_cmp(&p[j])).expect("tokens");
    for i in 0..p.len() {
        assert!((scores.entropy[i] - entropy).abs() < 1e-5, "{} {entropy}", scores.entropy[i]);
        assert!((scores.collision[i] - collision).abs() < 1e-5, "{} {collision}", scores.collision[i]);
        assert_eq!(scores.greedy[i], f64::from(u8::from(i == best)));
    }
    let none = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
    assert!(none.entropy.is_empty() && none.collision.is_empty() && none.greedy.is_empty());
}
