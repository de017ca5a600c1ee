//! What a schedule owes: a share of the peak at every step, the same whenever it is asked.

use serde_json::Value;
use spo_api::{Constructor, Schedule, Span};

use super::{Check, Outcome};

/// Stages of all lengths, with and without a warm-up.
const SPANS: [Span; 6] = [
    Span { warmup: 0, total: 1 },
    Span { warmup: 1, total: 2 },
    Span { warmup: 0, total: 10 },
    Span { warmup: 3, total: 10 },
    Span { warmup: 9, total: 10 },
    Span { warmup: 100, total: 1000 },
];

pub(super) fn checks<'a>(build: Constructor<dyn Schedule>, config: Value) -> Vec<Check<'a>> {
    vec![("factors", Box::new(move || factors(build, &config)))]
}

fn factors(build: Constructor<dyn Schedule>, config: &Value) -> Result<String, Outcome> {
    let make = || build(config).map_err(|e| Outcome::Failed(e.to_string()));
    let (one, other) = (make()?, make()?);
    let (mut least, mut greatest) = (f64::INFINITY, 0.0f64);
    for span in SPANS {
        let steps = span.warmup..span.total;
        let along: Vec<f64> = steps.clone().map(|step| one.factor(step, span)).collect();
        let back: Vec<f64> = steps.clone().rev().map(|step| other.factor(step, span)).collect();
        for ((step, factor), again) in steps.zip(&along).zip(back.iter().rev()) {
            let Span { warmup, total } = span;
            let place = format!("at step {step} of {total}, {warmup} of them warm-up");
            if !(0.0..=1.0).contains(factor) {
                return Err(format!("{place}, it is {factor}: a share of the peak is from 0 to 1").into());
            }
            if factor.to_bits() != again.to_bits() {
                return Err(format!("{place}, it is {factor}, or {again} if asked in another order").into());
            }
            (least, greatest) = (least.min(*factor), greatest.max(*factor));
        }
    }
    Ok(format!("from {least:.3} to {greatest:.3} of the peak, in whatever order it is asked"))
}
