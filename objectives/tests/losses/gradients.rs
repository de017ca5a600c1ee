//! The gradient is that of the loss, for every token of every objective.

use spo_api::Objective;

use crate::batches::{Answers, Batch};
use crate::specimens::{Specimen, all, batch};

/// A running mean that has seen so much that a batch does not move it: for the gradient it is a
/// constant, so for the differences it must be one.
fn settled(specimen: &Specimen) -> Box<dyn Objective> {
    let mut objective = specimen.build();
    if !objective.state().is_empty() {
        objective.restore(&[0.1f64.to_le_bytes(), 1e18f64.to_le_bytes()].concat()).unwrap();
    }
    objective
}

fn loss(specimen: &Specimen, batch: &Batch) -> f64 {
    batch.evaluate(&mut *settled(specimen)).unwrap().loss(&batch.view())
}

/// Moves a token's log-prob, and its collision statistic along with it: WPO's weight, another constant
/// for the gradient, depends on their difference only.
fn nudge(answers: &mut Answers, token: usize, by: f64) {
    answers.policy.values[token] += by;
    answers.collision.as_mut().unwrap().values[token] += by;
}

#[test]
fn gradients_agree_with_central_differences() {
    type Pick = fn(&mut Batch) -> &mut Answers;
    let sides: [Pick; 2] = [|b| &mut b.chosen, |b| &mut b.rejected];
    let step = 1e-5;
    let mut checked = 0;
    for specimen in all() {
        let data = specimen.build().requirements().data;
        for seed in 0..3 {
            let mut batch = batch(data, 4, seed);
            let out = batch.evaluate(&mut *settled(&specimen)).unwrap();
            for (pick, gradient) in sides.into_iter().zip([&out.grad_chosen, &out.grad_rejected]) {
                for (token, exact) in gradient.iter().enumerate() {
                    nudge(pick(&mut batch), token, step);
                    let above = loss(&specimen, &batch);
                    nudge(pick(&mut batch), token, -2.0 * step);
                    let below = loss(&specimen, &batch);
                    nudge(pick(&mut batch), token, step);
                    let difference = (above - below) / (2.0 * step);
                    assert!(
                        (exact - difference).abs() <= 1e-6 * (1.0 + exact.abs()),
                        "{specimen}, seed {seed}, token {token}: gradient {exact}, difference {difference}"
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 8_000, "{checked} tokens only");
}
