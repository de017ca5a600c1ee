//! Comparing two engines.

use spo_api::{Session, Statistics};

use super::models::{adapter, cases, configurations, random};
use super::support::{batch, distance, gradient, norm, open, worst};
use crate::engine::Engine;
use crate::session::Options;

/// Two engines give the same log-probs, statistics and gradients.
pub fn engines_agree<A: Engine, B: Engine>(one: impl Fn() -> A, other: impl Fn() -> B) {
    let all = Statistics { entropy: true, collision: true, greedy: true };
    for (name, spec) in cases() {
        let mut one = open(one(), &spec, Options::default());
        let mut other = open(other(), &spec, Options::default());
        let ((a, _), (b, _)) = (gradient(&mut one, &batch()), gradient(&mut other, &batch()));
        let error = distance(&a, &b) / norm(&b);
        assert!(error < 1e-4, "{name}: gradient {error}");
        let (a, b) =
            (one.log_probs(&batch(), all).expect("valid"), other.log_probs(&batch(), all).expect("valid"));
        assert_eq!(a.offsets, b.offsets);
        let error = worst(&a.values, &b.values)
            .max(worst(&a.entropy, &b.entropy))
            .max(worst(&a.collision, &b.collision))
            .max(worst(&a.greedy, &b.greedy));
        assert!(error < 5e-5, "{name}: statistics {error}");
    }
}

/// A half-precision engine agrees with a full-precision one to within its precision.
pub fn half_stays_near_full<A: Engine, B: Engine>(full: impl Fn() -> A, half: impl Fn() -> B) {
    for (name, config) in configurations() {
        for adapter in [None, Some(adapter())] {
            let spec = random(&config, adapter);
            let (full, expected) = gradient(&mut open(full(), &spec, Options::default()), &batch());
            let (half, log_probs) = gradient(&mut open(half(), &spec, Options::default()), &batch());
            let worst = log_probs.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
            };
            let cosine = dot(&half, &full) / (dot(&half, &half) * dot(&full, &full)).sqrt();
            assert!(worst < 1.0 && cosine > 0.95, "{name}: log-probs {worst}, cosine {cosine}");
        }
    }
}
