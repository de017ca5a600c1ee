//! Before the first step the policy equals the reference, so every margin must be zero. A nonzero margin
//! means that the reference is wrong, and training against it would be meaningless.

use anyhow::bail;
use spo_api::{Session, Statistics};
use spo_data::Dataset;

use crate::store::scores::Scores;
use crate::train::step::loss::score;
use crate::train::step::rows::Batch;

/// The largest allowed difference between two computations of a log-prob, in nats.
fn tolerance(dtype: &str) -> f64 {
    // In bf16, the other rows of the batch affect the second digit.
    if matches!(dtype, "f32" | "f64") { 1e-3 } else { 0.25 }
}

/// A token whose log-probs under the policy and under the reference differ.
struct Mismatch {
    row: usize,
    side: &'static str,
    token: usize,
    policy: f64,
    reference: f64,
}

/// Scores a batch and compares its log-probs with the reference's, which come from the same parameters.
pub(crate) fn check(
    session: &mut dyn Session,
    batch: &Batch,
    data: &Dataset,
    reference: &Scores,
) -> anyhow::Result<()> {
    let tolerance = tolerance(&session.info().dtype);
    let mut scores = |batch: &Batch| -> spo_api::Result<Scores> {
        let mut scores = Scores::empty(data);
        batch.store(&score(session, &batch.passes, Statistics::default())?, &mut scores);
        Ok(scores)
    };
    let policy = scores(batch)?;
    let rows = batch.rows();
    let Some(found) = mismatch(&policy, reference, &rows, tolerance) else { return Ok(()) };
    let again = scores(batch)?;
    let alone = scores(&Batch::new(data, &[found.row], batch.view, None)?)?;
    let cause = if mismatch(&policy, &again, &rows, tolerance).is_some() {
        "the backend gives other log-probs every time it is asked for the same"
    } else if mismatch(&alone, &policy, &[found.row], tolerance).is_some() {
        "the backend's log-probs of a row depend on what else is in the batch: masks or positions are wrong"
    } else {
        "the reference's log-probs are of other parameters or of other rows. If they came from the cache, delete it"
    };
    let gap = |scores: &Scores| {
        let [(_, chosen), (_, rejected)] = scores.answers(found.row);
        chosen.iter().sum::<f64>() - rejected.iter().sum::<f64>()
    };
    bail!(
        "before the first step the policy is the reference and all margins are zero, but that of {} is {:.4} nats: \
         token {} of its {} answer has log-prob {:.4} under the policy and {:.4} under the reference. Likely cause: {cause}",
        data.examples[found.row].place,
        gap(&policy) - gap(reference),
        found.token,
        found.side,
        found.policy,
        found.reference
    )
}

/// The first token whose log-probs differ by more than the tolerance. Non-finite values are left to the step,
/// whose error is more specific.
fn mismatch(policy: &Scores, reference: &Scores, rows: &[usize], tolerance: f64) -> Option<Mismatch> {
    let answers = |row: usize| policy.answers(row).into_iter().zip(reference.answers(row));
    let mut both = rows.iter().flat_map(|&row| answers(row).map(move |answer| (row, answer)));
    both.find_map(|(row, ((side, policy), (_, reference)))| {
        let apart = |&token: &usize| match (policy.get(token), reference.get(token)) {
            (Some(p), Some(r)) => (p - r).abs() > tolerance * r.abs().max(1.0),
            _ => true,
        };
        let token = (0..policy.len().max(reference.len())).find(apart)?;
        let at = |values: &[f64]| values.get(token).copied().unwrap_or(f64::NAN);
        Some(Mismatch { row, side, token, policy: at(policy), reference: at(reference) })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spo_api::{Export, Layout, LogProbs, ModelInfo, Result, Sampling, TokenBatch, Upstream, VectorSpace};
    use spo_data::{Dataset, Fit, Source, Tokenizer};

    use super::*;
    use crate::plan::view::View;

    /// A backend whose log-probs depend only on the tokens, or also on something they must not depend on.
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        Neighbours,
        Time,
    }

    struct Fake {
        fault: Fault,
        calls: usize,
    }

    impl Session for Fake {
        fn info(&self) -> ModelInfo {
            let mut info = ModelInfo::default();
            info.dtype = "f32".into();
            info
        }

        fn log_probs(&mut self, batch: &TokenBatch, _: Statistics) -> Result<LogProbs> {
            self.calls += 1;
            let shift = match self.fault {
                Fault::None => 0.0,
                Fault::Neighbours => 0.1 * batch.groups.len() as f64,
                Fault::Time => 0.1 * self.calls as f64,
            };
            let mut log_probs = LogProbs::new(vec![], vec![0]);
            for completion in batch.completions() {
                log_probs.values.extend(completion.iter().map(|&id| -f64::from(id) - shift));
                log_probs.offsets.push(log_probs.values.len());
            }
            Ok(log_probs)
        }

        fn backward(&mut self, _: &TokenBatch, _: Statistics, _: &mut Upstream<'_>) -> Result<LogProbs> {
            unreachable!("the check trains nothing")
        }
        fn vectors(&mut self) -> &mut dyn VectorSpace {
            unreachable!("the check trains nothing")
        }
        fn generate(&mut self, _: &[Vec<u32>], _: &Sampling) -> Result<Vec<Vec<u32>>> {
            unreachable!("the check trains nothing")
        }
        fn save(&mut self, _: &Path, _: Export) -> Result<()> {
            unreachable!("the check trains nothing")
        }
        fn save_state(&mut self, _: &Path) -> Result<()> {
            unreachable!("the check trains nothing")
        }
        fn restore_state(&mut self, _: &Path) -> Result<()> {
            unreachable!("the check trains nothing")
        }
    }

    /// The check's result when the reference was scored three rows at a time and the batch has two.
    fn said(fault: Fault, spoil: impl FnOnce(&mut Scores)) -> String {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("rows.jsonl");
        let row = r#"{"prompt": "ab", "chosen": "ba", "rejected": "bb"}"#;
        std::fs::write(&path, [row; 3].join("\n")).unwrap();
        let tokenizer = Tokenizer::characters("ab");
        let data = Dataset::load(&[Source::new(path)], Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
        let mut session = Fake { fault, calls: 0 };
        let view = View { layout: Layout::Pairs, mismatched: None };
        let all = Batch::new(&data, &[0, 1, 2], view, None).unwrap();
        let mut reference = Scores::empty(&data);
        let scored = score(&mut session, &all.passes, Statistics::default()).unwrap();
        all.store(&scored, &mut reference);
        spoil(&mut reference);
        let batch = Batch::new(&data, &[2, 1], view, None).unwrap();
        check(&mut session, &batch, &data, &reference)
            .map_or_else(|e| e.to_string(), |()| "all is well".into())
    }

    #[test]
    fn margins_that_are_not_zero_are_found_and_explained() {
        assert_eq!(said(Fault::None, |_| {}), "all is well");
        let stale = said(Fault::None, |reference| reference.rejected[1][1] -= 0.5);
        for part in ["rows.jsonl:2", "is -0.5000 nats", "token 1 of its rejected answer", "the cache"] {
            assert!(stale.contains(part), "{part}: {stale}");
        }
        let short = said(Fault::None, |reference| reference.chosen[2].truncate(1));
        assert!(short.contains("of other rows"), "{short}");
        assert!(said(Fault::Neighbours, |_| {}).contains("what else is in the batch"));
        assert!(said(Fault::Time, |_| {}).contains("every time"));
        let nan = said(Fault::None, |reference| reference.chosen[2][0] = f64::NAN);
        assert_eq!(nan, "all is well", "left to the step");
    }
}
