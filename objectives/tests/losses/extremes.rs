//! Losses stay finite where the textbook formulas overflow.

use spo_api::{Error, Layout};

use crate::batches::{Answers, Batch, Rows};
use crate::specimens::all;

/// Single-token answers at all combinations of these log-probs: margins up to 2e4 nats either way.
const LOG_PROBS: [f64; 4] = [-1e4, -700.0, -0.5, 0.0];

fn corners() -> Vec<[f64; 4]> {
    let mut corners = vec![];
    for w in LOG_PROBS {
        for l in LOG_PROBS {
            corners.extend(LOG_PROBS.into_iter().flat_map(|rw| LOG_PROBS.map(|rl| [w, l, rw, rl])));
        }
    }
    corners
}

fn batch(layout: Layout, corners: &[[f64; 4]]) -> Batch {
    let rows = |column: usize| Rows::new(&corners.iter().map(|c| vec![c[column]]).collect::<Vec<_>>());
    let side = |policy, reference| Answers {
        policy: rows(policy),
        reference: rows(reference),
        // A model that is certain of one token, this one or another.
        collision: Some(Rows::new(&vec![vec![0.0]; corners.len()])),
    };
    let (chosen, rejected) = (side(0, 2), side(1, 3));
    let (rejected, mismatched) = match layout {
        Layout::Pairs => (rejected, None),
        Layout::Demonstrations => (rejected.select(&[]), None),
        Layout::Unpaired => {
            let rows: Vec<_> = (0..corners.len()).chain(0..corners.len()).collect();
            (rejected, Some(chosen.select(&rows)))
        }
    };
    let gaps = if layout == Layout::Pairs { vec![1.0; corners.len()] } else { vec![] };
    Batch { layout, chosen, rejected, mismatched, margins: gaps.clone(), gaps }
}

#[test]
fn losses_and_gradients_are_finite_at_extreme_margins() {
    let mut overflowed = std::collections::BTreeMap::<String, usize>::new();
    for specimen in all() {
        let needs = specimen.build().requirements();
        let layout = needs.data;
        let corners = corners();
        let parts: Vec<_> = if needs.whole_batch { vec![&corners[..]] } else { corners.chunks(1).collect() };
        for part in parts {
            match batch(layout, part).evaluate(&mut *specimen.build()) {
                Ok(out) => {
                    let figures = [&out.losses, &out.grad_chosen, &out.grad_rejected];
                    assert!(figures.into_iter().flatten().all(|x| x.is_finite()), "{specimen} at {part:?}");
                }
                Err(Error::NonFinite(message)) => {
                    assert!(message.contains("log-probs of the chosen answer: "), "{message}");
                    *overflowed.entry(specimen.to_string()).or_default() += 1;
                }
                Err(other) => panic!("{specimen} at {part:?}: {other}"),
            }
        }
    }
    // These have an exponential of the log-probs in their definition: the true loss is beyond f64, and
    // the error says at which pair.
    let overflowed: Vec<_> =
        overflowed.iter().map(|(specimen, corners)| format!("{specimen}: {corners}")).collect();
    insta::assert_snapshot!(overflowed.join("\n"), @r#"
    alphapo {"label_smoothing":0.1}: 112
    alphapo {}: 112
    cpo {"alpha":0.25}: 112
    discopop {"f_divergence":"forward_kl"}: 87
    dpo {"f_divergence":"forward_kl"}: 87
    exo_pair {"f_divergence":"forward_kl"}: 87
    hinge {"f_divergence":"forward_kl"}: 87
    ipo {"f_divergence":"forward_kl"}: 133
    robust {"f_divergence":"forward_kl"}: 87
    sigmoid_norm {"f_divergence":"forward_kl"}: 87
    "#);
}
