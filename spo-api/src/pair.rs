use crate::{Data, Dual, Evaluation, Layout, Objective, PreferenceBatch, Requirements, Result, Scalar};

/// One answer as a pair loss sees it.
#[derive(Clone, Copy, Debug)]
pub struct Answer<S> {
    /// Log-probability of the whole answer under the policy: the sum over its tokens, nats.
    pub policy: S,
    /// The same under the reference; 0 when the objective asked for no reference.
    pub reference: f64,
    /// Number of tokens, the end token included.
    pub tokens: f64,
}

impl<S: Scalar> Answer<S> {
    /// `log p_policy - log p_reference`, nats.
    pub fn log_ratio(&self) -> S {
        self.policy - self.reference
    }

    /// Mean log-prob per token under the policy, nats per token.
    pub fn mean(&self) -> S {
        self.policy / self.tokens
    }

    /// Mean over tokens of the log-ratio, nats per token.
    pub fn mean_log_ratio(&self) -> S {
        self.log_ratio() / self.tokens
    }
}

/// A preferred and a dispreferred answer to one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Pair<S> {
    /// The preferred answer.
    pub chosen: Answer<S>,
    /// The dispreferred answer.
    pub rejected: Answer<S>,
}

impl<S: Scalar> Pair<S> {
    /// Difference of the log-ratios, chosen minus rejected, nats.
    pub fn margin(&self) -> S {
        self.chosen.log_ratio() - self.rejected.log_ratio()
    }
}

/// A loss that is a formula on the sequence log-probs of one pair.
///
/// Written once, generic over [`Scalar`]: evaluated on dual numbers it yields the exact gradient.
pub trait PairLoss: Send {
    /// Whether the formula reads the reference log-probs.
    fn needs_reference(&self) -> bool {
        true
    }

    /// The loss of one pair.
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S;

    /// The implicit reward of an answer, for the metrics; the log-ratio unless the loss has another
    /// notion of it.
    fn reward(&self, answer: &Answer<f64>) -> f64 {
        answer.log_ratio()
    }
}

impl<L: PairLoss> Objective for L {
    fn requirements(&self) -> Requirements {
        Requirements { data: Data::Pairs, reference: self.needs_reference(), ..Requirements::default() }
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut Evaluation) -> Result<()> {
        if batch.layout != Layout::Pairs {
            return Err(crate::Error::Batch(format!("a pair loss needs pairs, got {:?}", batch.layout)));
        }
        let references = match self.needs_reference() {
            true => [Some(batch.chosen.reference()?), Some(batch.rejected.reference()?)],
            false => [None, None],
        };
        let (chosen, rejected) = (batch.chosen.policy, batch.rejected.policy);
        for i in 0..batch.rows() {
            let answers =
                [(chosen, references[0]), (rejected, references[1])].map(|(policy, reference)| Answer {
                    policy: policy.sum(i),
                    reference: reference.map_or(0.0, |r| r.sum(i)),
                    tokens: policy.tokens(i) as f64,
                });
            let [chosen_answer, rejected_answer] = answers.map(|a| (a, self.reward(&a)));
            out.rewards.chosen.push(chosen_answer.1);
            out.rewards.rejected.push(rejected_answer.1);
            let lift = |a: Answer<f64>, input| Answer {
                policy: Dual::<2>::input(a.policy, input),
                reference: a.reference,
                tokens: a.tokens,
            };
            let loss =
                self.loss(&Pair { chosen: lift(chosen_answer.0, 0), rejected: lift(rejected_answer.0, 1) });
            out.losses[i] = loss.value;
            // A sequence log-prob is a plain sum, so each of its tokens gets the same gradient.
            let [d_chosen, d_rejected] = loss.partials.map(|p| p / batch.whole.rows as f64);
            out.grad_chosen[chosen.range(i)].fill(d_chosen);
            out.grad_rejected[rejected.range(i)].fill(d_rejected);
        }
        Ok(())
    }
}
