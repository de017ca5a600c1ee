//! Generation.

use std::collections::BTreeMap;

use spo_api::{Group, Sampling, Session, Statistics, TokenBatch};

use super::models::{VOCABULARY, cases, random, tiny};
use super::support::open;
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::Options;

/// Generation with a cache gives the same continuations as rereading the whole text for every token, whatever
/// else is in the batch. A stop token ends a continuation and is kept.
pub fn generation_is_that_of_recomputation<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let prompts = vec![vec![5, 9, 2], vec![1], vec![8; 30], vec![4, 4, 30, 12]];
        let greedy = Sampling::greedy(9, &[]);
        let together = session.generate(&prompts, &greedy).expect("valid prompts");
        for (prompt, new) in prompts.iter().zip(&together) {
            assert_eq!(new.len(), 9);
            let greedy = Statistics { greedy: true, ..Statistics::default() };
            let group = Group { prompt: prompt.clone(), completions: vec![new.clone()] };
            let scores = session.log_probs(&TokenBatch { groups: vec![group] }, greedy).expect("valid");
            assert!(scores.greedy.iter().all(|&g| g == 1.0), "{name}: {new:?} {:?}", scores.greedy);
        }
        let stop = together[0][1];
        let stopped = session
            .generate(&prompts[..1], &Sampling { stop: vec![stop], ..greedy.clone() })
            .expect("valid prompts");
        let end = together[0].iter().position(|&t| t == stop).expect("it is the second") + 1;
        assert_eq!(stopped[0], together[0][..end], "{name}");
        let nucleus = Sampling { temperature: 1.0, top_p: 1e-9, seed: 3, ..greedy };
        assert_eq!(session.generate(&prompts, &nucleus).expect("valid prompts"), together, "{name}");
    }
}

/// Samples follow the distribution defined by temperature and top_p, and the same seed gives the same
/// samples.
pub fn sampling_follows_the_distribution<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&tiny(ModelType::Llama), None), Options::default());
    let prompt = vec![3, 1, 4];
    let group = Group { prompt: prompt.clone(), completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
    let scores =
        session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).expect("valid");
    let (temperature, top_p) = (0.7, 0.8);
    let mut p: Vec<(usize, f64)> =
        scores.values.iter().map(|l| (l / temperature).exp()).enumerate().collect();
    let total: f64 = p.iter().map(|(_, p)| p).sum();
    p.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut mass = 0.0;
    p.retain(|(_, q)| {
        let wanted = mass < top_p * total;
        mass += q;
        wanted
    });
    let kept: f64 = p.iter().map(|(_, p)| p).sum();
    let expected: BTreeMap<u32, f64> = p.iter().map(|&(t, q)| (t as u32, q / kept)).collect();

    let n = 4000;
    let sampling = Sampling { temperature, top_p, seed: 11, ..Sampling::greedy(1, &[]) };
    let drawn = session.generate(&vec![prompt; n], &sampling).expect("valid prompts");
    let mut counts = BTreeMap::<u32, f64>::new();
    drawn.iter().for_each(|new| *counts.entry(new[0]).or_default() += 1.0 / n as f64);
    assert!(counts.keys().all(|t| expected.contains_key(t)), "{counts:?} {expected:?}");
    for (token, p) in expected {
        let share = counts.get(&token).copied().unwrap_or(0.0);
        let deviation = (p * (1.0 - p) / n as f64).sqrt();
        assert!(
            (share - p).abs() < 5.0 * deviation + 1e-3,
            "token {token}: {share} of the samples, expected {p}"
        );
    }
}
