use std::collections::BTreeMap;

use crate::{Layout, PreferenceBatch, Result};

/// Named metrics, ordered by name. Under gradient accumulation the runtime averages them over rows.
pub type Metrics = BTreeMap<String, f64>;

/// What an objective needs in addition to the policy's log-probs:
/// `Requirements::of(Layout::Unpaired).reference(true)`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Requirements {
    /// The kind of data.
    pub data: Layout,
    /// Log-probs under the reference.
    pub reference: bool,
    /// The collision statistic `log sum_v p(v)^2` at each position.
    pub collision: bool,
    /// For unpaired data: log-probs of each prompt with the answer of another row
    /// ([`PreferenceBatch::mismatched`]).
    pub mismatched: bool,
    /// For pairs: the difference between the scores of the two answers ([`PreferenceBatch::gaps`]).
    pub gaps: bool,
    /// The loss couples the rows of a batch (it sorts them, or averages over them), so it must be evaluated
    /// on the whole optimizer batch at once. The runtime then runs all forward passes before the first
    /// backward pass.
    pub whole_batch: bool,
    /// The least number of rows with which the loss means what it says, for losses that compare rows with each
    /// other. 0 and 1 are the same. The runtime refuses smaller batches before training.
    pub least_rows: usize,
    /// Numbers of each row ([`PreferenceBatch::column`]), each column once.
    pub columns: Vec<Column>,
}

/// A column of the data that holds a number in each row: `Column::new("margin")`, `Column::new("confidence").or(1.0)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Column {
    /// The name; a recipe's `columns` may map it to the file's own.
    pub name: String,
    /// The number of a row without one. If there is none, such a row is an error.
    pub default: Option<f64>,
}

impl Column {
    /// A column that every row must have.
    pub fn new(name: impl Into<String>) -> Self {
        Column { name: name.into(), default: None }
    }

    /// Sets the number of rows without one.
    pub fn or(self, default: f64) -> Self {
        Column { default: Some(default), ..self }
    }
}

impl Requirements {
    /// Data of this layout, and nothing else.
    pub fn of(data: Layout) -> Self {
        Requirements { data, ..Requirements::default() }
    }

    /// Sets [`reference`](field@Self::reference).
    pub fn reference(self, reference: bool) -> Self {
        Requirements { reference, ..self }
    }

    /// Sets [`collision`](field@Self::collision).
    pub fn collision(self, collision: bool) -> Self {
        Requirements { collision, ..self }
    }

    /// Sets [`mismatched`](field@Self::mismatched).
    pub fn mismatched(self, mismatched: bool) -> Self {
        Requirements { mismatched, ..self }
    }

    /// Sets [`gaps`](field@Self::gaps).
    pub fn gaps(self, gaps: bool) -> Self {
        Requirements { gaps, ..self }
    }

    /// Sets [`whole_batch`](field@Self::whole_batch).
    pub fn whole_batch(self, whole_batch: bool) -> Self {
        Requirements { whole_batch, ..self }
    }

    /// Sets [`least_rows`](field@Self::least_rows).
    pub fn least_rows(self, least_rows: usize) -> Self {
        Requirements { least_rows, ..self }
    }

    /// Adds one to [`columns`](field@Self::columns).
    pub fn column(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    /// Combines the requirements with those of another objective.
    ///
    /// Where one of them uses demonstrations, the other's layout applies. The runtime rejects a mix of
    /// pairs and unpaired data. A column that one of them requires is required; the runtime rejects two
    /// [different defaults](Self::disagreement).
    pub fn union(self, other: Requirements) -> Requirements {
        let mut columns = self.columns;
        for column in other.columns {
            match columns.iter_mut().find(|known| known.name == column.name) {
                Some(known) => known.default = known.default.and(column.default).and(known.default),
                None => columns.push(column),
            }
        }
        Requirements {
            data: if self.data == Layout::Demonstrations { other.data } else { self.data },
            reference: self.reference || other.reference,
            collision: self.collision || other.collision,
            mismatched: self.mismatched || other.mismatched,
            gaps: self.gaps || other.gaps,
            whole_batch: self.whole_batch || other.whole_batch,
            least_rows: self.least_rows.max(other.least_rows),
            columns,
        }
    }

    /// A column for which the two have different defaults.
    pub fn disagreement(&self, other: &Requirements) -> Option<&str> {
        let differs = |a: &Column, b: &Column| {
            a.name == b.name && a.default.zip(b.default).is_some_and(|(a, b)| a.to_bits() != b.to_bits())
        };
        let column = self.columns.iter().find(|a| other.columns.iter().any(|b| differs(a, b)));
        column.map(|column| column.name.as_str())
    }
}

/// The implicit reward of each answer, as defined by the objective (DPO: `beta * log-ratio`), for the
/// `rewards/...` metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewards {
    /// One reward per chosen answer.
    pub chosen: Vec<f64>,
    /// One reward per rejected answer.
    pub rejected: Vec<f64>,
}

/// The result of evaluating an objective on a batch. The caller owns the buffers and reuses them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The loss of each row; see [`EvaluationMut::losses`].
    pub losses: Vec<f64>,
    /// See [`EvaluationMut::grad_chosen`].
    pub grad_chosen: Vec<f64>,
    /// See [`EvaluationMut::grad_rejected`].
    pub grad_rejected: Vec<f64>,
    /// The implicit reward of each answer; empty if the objective does not define one.
    pub rewards: Rewards,
    /// Additional metrics.
    pub metrics: Metrics,
}

/// The buffers into which an objective writes its result.
#[derive(Debug)]
pub struct EvaluationMut<'a> {
    /// The loss of each row, not reduced, in nats unless the objective's paper uses another unit. The loss
    /// of the batch is their sum divided by [`Totals::rows`](crate::Totals::rows). Losses and gradients are
    /// initially zero.
    pub losses: &'a mut [f64],
    /// Gradient of the *batch loss* with respect to each policy log-prob of the chosen answers, flat, in
    /// the layout of `batch.chosen.policy`.
    pub grad_chosen: &'a mut [f64],
    /// The same for the rejected answers.
    pub grad_rejected: &'a mut [f64],
    /// The implicit reward of each answer. Initially empty, and may stay empty.
    pub rewards: &'a mut Rewards,
    /// Additional metrics. Initially empty.
    pub metrics: &'a mut Metrics,
}

impl Evaluation {
    /// Evaluates an objective on a batch, reusing the buffers.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    pub fn compute(&mut self, objective: &mut dyn Objective, batch: &PreferenceBatch<'_>) -> Result<()> {
        objective.evaluate(batch, &mut self.cleared(batch))
    }

    /// Evaluates an objective on `batch` with the constants of its gradient held at `at`
    /// ([`Objective::evaluate_held`]), reusing the buffers. Only the losses are meaningful.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate_held`].
    pub fn compute_held(
        &mut self,
        objective: &mut dyn Objective,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
    ) -> Result<()> {
        objective.evaluate_held(at, batch, &mut self.cleared(batch))
    }

    /// The buffers, of the size of a batch and zero.
    fn cleared(&mut self, batch: &PreferenceBatch<'_>) -> EvaluationMut<'_> {
        let zeros = |v: &mut Vec<f64>, n| {
            v.clear();
            v.resize(n, 0.0);
        };
        zeros(&mut self.losses, batch.rows());
        zeros(&mut self.grad_chosen, batch.chosen.policy.values().len());
        zeros(&mut self.grad_rejected, batch.rejected.policy.values().len());
        self.rewards.chosen.clear();
        self.rewards.rejected.clear();
        self.metrics.clear();
        let Evaluation { losses, grad_chosen, grad_rejected, rewards, metrics } = self;
        EvaluationMut { losses, grad_chosen, grad_rejected, rewards, metrics }
    }

    /// The batch loss, or the contribution of this part of the batch.
    pub fn loss(&self, batch: &PreferenceBatch<'_>) -> f64 {
        self.losses.iter().sum::<f64>() / batch.whole.rows as f64
    }
}

/// A loss over the log-probs of answers.
///
/// Most objectives are a formula on one pair. They implement [`PairLoss`](crate::PairLoss) instead, which
/// provides this trait with an exact gradient.
pub trait Objective: Send {
    /// What the objective needs in addition to the policy's log-probs.
    fn requirements(&self) -> Requirements;

    /// Computes losses and gradients into `out`, whose buffers have the size of the batch. Callers use
    /// [`Evaluation::compute`].
    ///
    /// # Errors
    /// When the batch lacks something listed in [`requirements`](Self::requirements).
    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()>;

    /// Computes the losses of `batch` with everything that the gradient treats as a constant (a running
    /// mean, a weight, a detached term) as it is for `at`, a batch of the same shape. So the derivative of
    /// these losses with respect to the log-probs of `batch`, where `batch` equals `at`, is exactly the
    /// gradient of [`evaluate`](Self::evaluate).
    ///
    /// Implement it if the loss holds something constant. Certification takes finite differences of it;
    /// training never calls it. Only `out.losses` is read. The state advances as in
    /// [`evaluate`](Self::evaluate), by `at`.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn evaluate_held(
        &mut self,
        _at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        self.evaluate(batch, out)
    }

    /// Called at the start of each training step, with the number of steps done. For losses that change
    /// during training.
    fn begin(&mut self, _steps_done: usize) {}

    /// State that must survive a resume (such as running means), in a format of the objective's choice.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Restores what [`state`](Self::state) returned.
    ///
    /// # Errors
    /// When the bytes are not a valid state.
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::Batch(format!("this objective keeps no state, got {} bytes", state.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_required_if_one_objective_requires_it() {
        let needs = |column: Column| Requirements::default().column(column);
        let (required, one, two) = (Column::new("x"), Column::new("x").or(1.0), Column::new("x").or(2.0));
        let union = |a: &Column, b: &Column| needs(a.clone()).union(needs(b.clone())).columns;
        assert_eq!(union(&required, &one), std::slice::from_ref(&required));
        assert_eq!(union(&one, &required), std::slice::from_ref(&required));
        assert_eq!(union(&one, &one), std::slice::from_ref(&one));
        assert_eq!(union(&one, &Column::new("y")), [one.clone(), Column::new("y")]);
        let disagree = |a: &Column, b: &Column| needs(a.clone()).disagreement(&needs(b.clone())).is_some();
        assert!(disagree(&one, &two) && !disagree(&one, &one) && !disagree(&one, &required));
    }
}
