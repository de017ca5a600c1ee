//! Prompts shared by several completions.

use spo_api::{Group, TokenBatch};

use super::models::cases;
use super::support::{batch, distance, gradient, norm, open, worst};
use crate::engine::Engine;
use crate::session::Options;

/// Sharing a prompt changes neither log-probs nor gradients.
pub fn sharing_a_prompt_is_exact<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let (shared, log_probs) = gradient(&mut session, &batch());
        let (apart, expected) = gradient(&mut session, &unshared(&batch()));
        let (forward, backward) = (worst(&log_probs, &expected), distance(&shared, &apart) / norm(&apart));
        assert!(forward < 1e-5 && backward < 1e-4, "{name}: log-probs {forward}, gradient {backward}");
    }
}

/// The same completions, each with its own copy of the prompt.
pub(super) fn unshared(batch: &TokenBatch) -> TokenBatch {
    let alone = |group: &Group| {
        let prompt = group.prompt.clone();
        let one = move |c: &Vec<u32>| Group { prompt: prompt.clone(), completions: vec![c.clone()] };
        group.completions.iter().map(one).collect::<Vec<_>>()
    };
    TokenBatch { groups: batch.groups.iter().flat_map(alone).collect() }
}
