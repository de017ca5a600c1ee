//! Scores passes and evaluates objectives, and checks that the results are finite.

use spo_api::{Error, Evaluation, LogProbs, Objective, PreferenceBatch, Result, Session, Statistics};
use spo_data::Dataset;

use crate::train::step::rows::{Assembled, Pass};

/// Evaluates an objective, checks that the results are finite, and multiplies the loss of each row by its weight.
///
/// # Errors
/// [`Error::NonFinite`] naming the offending rows.
pub(crate) fn evaluate(
    objective: &mut dyn Objective,
    assembled: &Assembled,
    rows: &Dataset,
) -> Result<Evaluation> {
    let batch = assembled.batch()?;
    for (name, side) in [("chosen", &batch.chosen), ("rejected", &batch.rejected)] {
        if let Some(i) = side.policy.values().iter().position(|x| !x.is_finite()) {
            let answer = side.policy.offsets().partition_point(|&start| start <= i) - 1;
            let row = place(rows, assembled.row(name == "chosen", answer));
            return Err(Error::NonFinite(format!(
                "token {} of the {name} answer of {row} has log-prob {}: the model's numbers are not finite; try a lower \
                 learning rate, or f32",
                i - side.policy.offsets()[answer],
                side.policy.values()[i],
            )));
        }
    }
    let mut evaluation = Evaluation::default();
    evaluation.compute(objective, &batch)?;
    if let Some(i) = evaluation.losses.iter().position(|x| !x.is_finite()) {
        return Err(Error::NonFinite(format!(
            "the loss of {} is {}, though its log-probs are finite: this is a fault of the objective",
            place(rows, assembled.row_of_loss(i)),
            evaluation.losses[i]
        )));
    }
    if evaluation.grad_chosen.iter().chain(&evaluation.grad_rejected).any(|g| !g.is_finite()) {
        let message =
            "the gradient with respect to a log-prob is not finite: this is a fault of the objective";
        return Err(Error::NonFinite(message.into()));
    }
    weigh(&mut evaluation, &batch, assembled, rows);
    Ok(evaluation)
}

/// Multiplies the loss of each row of an assembled batch by its weight.
pub(crate) fn weigh(
    evaluation: &mut Evaluation,
    batch: &PreferenceBatch<'_>,
    assembled: &Assembled,
    rows: &Dataset,
) {
    let weight = |row: usize| rows.examples[row].weight;
    for (i, loss) in evaluation.losses.iter_mut().enumerate() {
        *loss *= weight(assembled.row_of_loss(i));
    }
    // A loss of one row depends on the log-probs of this row alone: `plan` refuses weights with any other.
    let sides = [
        (true, &batch.chosen, &mut evaluation.grad_chosen),
        (false, &batch.rejected, &mut evaluation.grad_rejected),
    ];
    for (chosen, side, gradient) in sides {
        for answer in 0..side.policy.rows() {
            let weight = weight(assembled.row(chosen, answer));
            gradient[side.policy.range(answer)].iter_mut().for_each(|g| *g *= weight);
        }
    }
}

/// Scores passes without computing gradients.
pub(crate) fn score(
    session: &mut dyn Session,
    passes: &[Pass],
    statistics: Statistics,
) -> Result<Vec<LogProbs>> {
    passes.iter().map(|pass| session.log_probs(&pass.tokens, statistics)).collect()
}

/// A row's location in its file.
pub(super) fn place(rows: &Dataset, index: usize) -> String {
    rows.examples[index].place.to_string()
}
