//! LoRA: an adapter begins as nothing, trains apart from the model, and is merged into the weights as it is.

use spo_api::{Adapter, Export, Lora, ModelSource, Session, Statistics, Vector};

use super::super::Outcome;
use super::saved::Scratch;
use super::{Subject, batch, weighted};

/// The linear layers that some tiny models have.
const TARGETS: [&str; 2] = ["q_proj", "down_proj"];

fn apart(one: &mut dyn Session, other: &mut dyn Session) -> Result<f64, Outcome> {
    let values = |session: &mut dyn Session| session.log_probs(&batch(), Statistics::default());
    let (one, other) = (values(one)?.values, values(other)?.values);
    Ok(one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}

pub(super) fn adapters(subject: &Subject) -> Result<String, Outcome> {
    let base = Scratch::new()?;
    let mut plain = subject.open_sharp()?;
    plain.save(&base.0, Export::Model)?;
    let of = |adapter| subject.open_from(ModelSource::Folder(base.0.clone()), Some(adapter));
    let mut adapted = match of(Adapter::New(Lora::new(2, 6.0, TARGETS))) {
        Ok(session) => session,
        Err(e) => {
            return Err(Outcome::Skipped(format!("it opens no adapter on {}: {e}", TARGETS.join(", "))));
        }
    };
    let trainable = adapted.info().trainable;
    if trainable >= plain.info().trainable || trainable != adapted.vectors().dimension() {
        return Err(format!(
            "with an adapter of rank 2, {trainable} parameters are trained and vectors have {}: only the adapter is to be",
            adapted.vectors().dimension()
        )
        .into());
    }
    let off = apart(&mut *plain, &mut *adapted)?;
    if off > 1e-5 {
        return Err(format!("a new adapter changes log-probs by {off:.1e} nats: B must begin at 0").into());
    }
    // Two steps: in the first the gradient of A is 0.
    for _ in 0..2 {
        adapted.vectors().zero(Vector::GRADIENT)?;
        weighted(&mut *adapted, &batch())?;
        let norm = adapted.vectors().norm(Vector::GRADIENT)?;
        adapted.vectors().axpy(1.0 / norm, Vector::GRADIENT, Vector::PARAMETERS)?;
    }
    let moved = apart(&mut *plain, &mut *adapted)?;
    if moved < 1e-3 {
        return Err(format!(
            "two steps of length 1 along its gradient move log-probs by {moved:.1e} nats only"
        )
        .into());
    }
    let [merged, own] = [Scratch::new()?, Scratch::new()?];
    adapted.save(&merged.0, Export::Model)?;
    let mut merged =
        subject.open_from(ModelSource::Folder(merged.0.clone()), None).map_err(Outcome::Failed)?;
    adapted.save(&own.0, Export::Adapter)?;
    let mut again = of(Adapter::Saved { path: own.0.clone() })
        .map_err(|e| format!("it cannot open the adapter that it saved: {e}"))?;
    for (what, other) in [("merged into the weights", &mut merged), ("saved and opened again", &mut again)] {
        let off = apart(&mut *adapted, &mut **other)?;
        if off.is_nan() || off > 1e-2 * moved {
            return Err(format!(
                "{what}, the adapter scores {off:.1e} nats off, where it moves log-probs by {moved:.1e}"
            )
            .into());
        }
    }
    Ok(format!("{trainable} parameters; merged, and saved and opened again, as in training"))
}
