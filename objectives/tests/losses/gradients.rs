//! The gradient is that of the loss, for every token of every objective, relative to the largest of the batch.

use serde_json::json;
use spo_api::{Evaluation, Objective};
use spo_objectives::losses::{Component, Mix};

use crate::batches::{Answers, Batch, build};
use crate::specimens::{all, batch};

/// The batch loss of `moved`, with what the gradient holds constant held at `at`; the objective is in this state.
fn loss(make: &dyn Fn() -> Box<dyn Objective>, state: &[u8], at: &Batch, moved: &Batch) -> f64 {
    let mut objective = make();
    objective.restore(state).unwrap();
    let mut out = Evaluation::default();
    out.compute_held(&mut *objective, &at.view(), &moved.view()).unwrap();
    out.loss(&moved.view())
}

/// Compares every token's derivative with central differences, and returns how many there are.
fn check(what: &str, make: &dyn Fn() -> Box<dyn Objective>) -> usize {
    type Pick = fn(&mut Batch) -> &mut Answers;
    let sides: [Pick; 2] = [|b| &mut b.chosen, |b| &mut b.rejected];
    let data = make().requirements().data;
    let mut checked = 0;
    for seed in 0..3 {
        let at = batch(data, 4, seed);
        // The second batch that it sees, so that a running value is not that of this batch alone.
        let mut objective = make();
        batch(data, 3, seed + 100).evaluate(&mut *objective).unwrap();
        let state = objective.state();
        let out = at.evaluate(&mut *objective).unwrap();
        let largest = out.grad_chosen.iter().chain(&out.grad_rejected).fold(0.0, |m: f64, g| m.max(g.abs()));
        assert_eq!(loss(make, &state, &at, &at), out.loss(&at.view()), "{what}: held where it is");
        for (pick, gradient) in sides.into_iter().zip([&out.grad_chosen, &out.grad_rejected]) {
            for (token, exact) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = at.clone();
                    pick(&mut moved).policy.values[token] += by;
                    loss(make, &state, &at, &moved)
                };
                let step = 1e-4;
                let difference = (8.0 * (moved(step) - moved(-step))
                    - (moved(2.0 * step) - moved(-2.0 * step)))
                    / (12.0 * step);
                assert!(
                    (exact - difference).abs() <= 1e-7 * largest,
                    "{what}, seed {seed}, token {token}: gradient {exact}, difference {difference}"
                );
                checked += 1;
            }
        }
    }
    checked
}

#[test]
fn gradients_agree_with_central_differences() {
    let checked: usize = all().iter().map(|s| check(&s.to_string(), &|| s.build())).sum();
    assert!(checked > 8_000, "{checked} tokens only");
}

#[test]
fn so_do_those_of_a_sum_that_holds_what_its_terms_hold() {
    for terms in [
        &[("bco", json!({})), ("kto", json!({}))][..],
        &[("dpo", json!({"use_weighting": true})), ("sft", json!({}))],
    ] {
        let component = |(name, config): &(&str, serde_json::Value)| Component {
            name: (*name).into(),
            weight: 0.7,
            schedule: None,
            objective: build(name, config),
        };
        check("a sum", &|| Box::new(Mix::new(terms.iter().map(component).collect()).unwrap()));
    }
}
