//! Activation checkpointing.

use super::models::cases;
use super::support::{batch, gradient, open};
use crate::decoder::Keep;
use crate::engine::Engine;
use crate::session::Options;

/// Recomputing blocks instead of keeping their activations gives bit-identical results; so does repeating the
/// pass.
pub fn recomputation_is_exact<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let kept = gradient(&mut open(engine(), &spec, Options::default()), &batch());
        let mut session = open(engine(), &spec, Options { checkpoint: true, ..Options::default() });
        for _ in 0..2 {
            assert_eq!(gradient(&mut session, &batch()), kept, "{name}");
        }
        // With a memory budget, only batches that would exceed it are recomputed.
        let gib = session.forecast(20) as f64 / f64::from(1 << 30);
        let budget = Options { memory: Some(gib), ..Options::default() };
        let mut session = open(engine(), &spec, budget);
        assert_eq!((session.keep(20), session.keep(21)), (Keep::All, Keep::Inputs), "{name}");
        assert_eq!(gradient(&mut session, &batch()), kept, "{name}");
    }
}
