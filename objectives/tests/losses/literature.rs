//! Losses of papers that TRL does not have, against a few lines of PyTorch and its automatic differentiation. Two batches
//! follow one another, because some losses remember the first.

use serde_json::{Value, json};
use spo_api::Layout;

use crate::batches::{Answers, Batch, build};
use crate::goldens::{numbers, read, rows};

fn batch(sides: &Value) -> Batch {
    let answers = |side: &str| Answers {
        policy: rows(&sides[side]["policy"]),
        reference: rows(&sides[side]["reference"]),
        collision: None,
    };
    Batch {
        layout: Layout::Pairs,
        chosen: answers("chosen"),
        rejected: answers("rejected"),
        mismatched: None,
        gaps: vec![],
        margins: vec![],
    }
}

#[test]
fn losses_and_gradients_are_those_of_automatic_differentiation() {
    let file = read("literature_losses.json");
    let batches: Vec<Batch> = file["batches"].as_array().unwrap().iter().map(batch).collect();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let name = case["objective"].as_str().unwrap();
        let mut objective = build(name, &json!({}));
        let evaluations = case["evaluations"].as_array().unwrap();
        assert_eq!(evaluations.len(), batches.len());
        for (at, (batch, expected)) in batches.iter().zip(evaluations).enumerate() {
            let out = batch.evaluate(&mut *objective).unwrap();
            for (ours, theirs) in [
                (&out.losses, numbers(&expected["losses"])),
                (&out.grad_chosen, rows(&expected["grad_chosen"]).values),
                (&out.grad_rejected, rows(&expected["grad_rejected"]).values),
            ] {
                assert_eq!(ours.len(), theirs.len());
                for (a, b) in ours.iter().zip(theirs) {
                    assert!((a - b).abs() <= 1e-14 + 1e-12 * b.abs(), "{name}, batch {at}: {a} against {b}");
                }
            }
        }
    }
}
