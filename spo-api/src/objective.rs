use std::collections::BTreeMap;

use crate::{Layout, PreferenceBatch, Result};

/// Named figures, in the order of their names. Under gradient accumulation the runtime averages them
/// over rows.
pub type Metrics = BTreeMap<String, f64>;

/// What an objective needs beside the policy's log-probs: `Requirements::of(Layout::Unpaired).reference(true)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// The kind of data.
    pub data: Layout,
    /// Log-probs under the reference model.
    pub reference: bool,
    /// The collision statistic `log sum_v p(v)^2` of each position.
    pub collision: bool,
    /// Unpaired data: log-probs of each prompt with the answer of another row
    /// ([`PreferenceBatch::mismatched`]).
    pub mismatched: bool,
    /// Pairs: how far the scores of the two answers are apart ([`PreferenceBatch::gaps`]).
    pub gaps: bool,
    /// The loss couples the rows of a batch (it sorts them, or averages over them), so it must see the
    /// whole optimizer batch at once: the runtime then forwards all parts before the first backward.
    pub whole_batch: bool,
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

    /// Adds the needs of another objective.
    ///
    /// Demonstrations yield to the more demanding kind of data; the runtime rejects a mix of pairs
    /// and unpaired data.
    pub fn union(self, other: Requirements) -> Requirements {
        Requirements {
            data: if self.data == Layout::Demonstrations { other.data } else { self.data },
            reference: self.reference || other.reference,
            collision: self.collision || other.collision,
            mismatched: self.mismatched || other.mismatched,
            gaps: self.gaps || other.gaps,
            whole_batch: self.whole_batch || other.whole_batch,
        }
    }
}

/// The implicit reward of each answer, as the objective defines it (DPO: `beta * log-ratio`), for the
/// `rewards/...` metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewards {
    /// One reward per chosen answer.
    pub chosen: Vec<f64>,
    /// One reward per rejected answer.
    pub rejected: Vec<f64>,
}

/// What an objective says of a batch. The buffers belong to the caller and are reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The loss of each row; see [`EvaluationMut::losses`].
    pub losses: Vec<f64>,
    /// See [`EvaluationMut::grad_chosen`].
    pub grad_chosen: Vec<f64>,
    /// See [`EvaluationMut::grad_rejected`].
    pub grad_rejected: Vec<f64>,
    /// The implicit reward of each answer; empty when the objective has no such notion.
    pub rewards: Rewards,
    /// Further figures worth a look.
    pub metrics: Metrics,
}

/// Where an objective writes what it says of a batch.
#[derive(Debug)]
pub struct EvaluationMut<'a> {
    /// The loss of each row, not reduced, in nats unless the objective's paper says otherwise. The
    /// loss of the batch is their sum divided by [`Totals::rows`](crate::Totals::rows). Zeros at first,
    /// as are the gradients.
    pub losses: &'a mut [f64],
    /// Gradient of the *batch loss* with respect to each policy log-prob of the chosen answers, flat,
    /// in the layout of `batch.chosen.policy`.
    pub grad_chosen: &'a mut [f64],
    /// The same for the rejected answers.
    pub grad_rejected: &'a mut [f64],
    /// The implicit reward of each answer. Empty at first; may stay so.
    pub rewards: &'a mut Rewards,
    /// Further figures worth a look. Empty at first.
    pub metrics: &'a mut Metrics,
}

impl Evaluation {
    /// Evaluates an objective on a batch, keeping the memory of what was here before.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    pub fn compute(&mut self, objective: &mut dyn Objective, batch: &PreferenceBatch<'_>) -> Result<()> {
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
        objective.evaluate(batch, &mut EvaluationMut { losses, grad_chosen, grad_rejected, rewards, metrics })
    }

    /// The batch loss, or this part's share of it.
    pub fn loss(&self, batch: &PreferenceBatch<'_>) -> f64 {
        self.losses.iter().sum::<f64>() / batch.whole.rows as f64
    }
}

/// A loss over the log-probabilities of answers.
///
/// Most objectives are a formula on one pair and implement [`PairLoss`](crate::PairLoss) instead,
/// which gives them this trait with an exact gradient for free.
pub trait Objective: Send {
    /// What it needs beside the policy's log-probs.
    fn requirements(&self) -> Requirements;

    /// Computes losses and gradient into `out`, whose buffers have the batch's size. Callers use
    /// [`Evaluation::compute`].
    ///
    /// # Errors
    /// When the batch lacks what [`requirements`](Self::requirements) asked for.
    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()>;

    /// A training step begins, after this many others. For losses that change on the way.
    fn begin(&mut self, _steps_done: usize) {}

    /// State that must survive a resume (running means), as the objective likes to write it.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When the bytes are not such a state.
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::Batch(format!("this objective keeps no state, got {} bytes", state.len())))
        }
    }
}
