use crate::{
    Data, Dual, Error, Evaluation, Layout, Objective, PreferenceBatch, Ragged, Requirements, Result, Scalar,
    Side,
};

/// One answer as a pair loss sees it.
#[derive(Clone, Copy, Debug)]
pub struct Answer<S> {
    /// Log-probability of the whole answer under the policy: the sum over its tokens, nats, weighted
    /// as the loss's [`Reading`] says.
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

/// How the token log-probs of a pair become what a [`PairLoss`] sees, and how much the pair counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Length desensitisation (Liu et al. 2024, LD-DPO, eq. 9): tokens beyond the length of the pair's
    /// shorter answer count this much, under policy and reference alike. 1 is the plain sum.
    pub ld_alpha: f64,
    /// Weigh each pair by how probable its answers are under the policy now (Zhou et al. 2024, WPO):
    /// `exp(c_w + c_l)`, where `c` is the mean over an answer's tokens of `log p(token) - log sum_v
    /// p(v)^2`. A constant for the gradient; the weights of a batch are not normalised.
    pub weighting: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { ld_alpha: 1.0, weighting: false }
    }
}

impl Reading {
    fn sum(&self, row: &[f64], shared: usize) -> f64 {
        let (head, tail) = row.split_at(shared);
        head.iter().sum::<f64>() + self.ld_alpha * tail.iter().sum::<f64>()
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

    /// How token log-probs are read.
    fn reading(&self) -> Reading {
        Reading::default()
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
        Requirements {
            data: Data::Pairs,
            reference: self.needs_reference(),
            collision: self.reading().weighting,
            ..Requirements::default()
        }
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut Evaluation) -> Result<()> {
        if batch.layout != Layout::Pairs {
            return Err(Error::Batch(format!("a pair loss needs pairs, got {:?}", batch.layout)));
        }
        let reading = self.reading();
        let sides = [&batch.chosen, &batch.rejected];
        let references = match self.needs_reference() {
            true => [Some(batch.chosen.reference()?), Some(batch.rejected.reference()?)],
            false => [None, None],
        };
        for i in 0..batch.rows() {
            let shared = sides[0].policy.tokens(i).min(sides[1].policy.tokens(i));
            let answers = [0, 1].map(|side| Answer {
                policy: reading.sum(sides[side].policy.row(i), shared),
                reference: references[side].map_or(0.0, |r| reading.sum(r.row(i), shared)),
                tokens: sides[side].policy.tokens(i) as f64,
            });
            out.rewards.chosen.push(self.reward(&answers[0]));
            out.rewards.rejected.push(self.reward(&answers[1]));

            let lift = |side: usize| Answer {
                policy: Dual::<2>::input(answers[side].policy, side),
                reference: answers[side].reference,
                tokens: answers[side].tokens,
            };
            let mut loss = self.loss(&Pair { chosen: lift(0), rejected: lift(1) });
            if reading.weighting {
                loss = loss * (confidence(sides[0], i)? + confidence(sides[1], i)?).exp();
            }
            if !loss.value.is_finite() || loss.partials.iter().any(|p| !p.is_finite()) {
                let [w, l] = &answers;
                return Err(Error::NonFinite(format!(
                    "the loss of pair {i} is {} and its gradient {:?}; log-probs of the chosen answer: {} \
                     (reference {}), of the rejected: {} (reference {})",
                    loss.value, loss.partials, w.policy, w.reference, l.policy, l.reference
                )));
            }
            out.losses[i] = loss.value;
            // A sequence log-prob is a sum, so all tokens of one weight get the same gradient.
            for (policy, gradient, partial) in [
                (sides[0].policy, &mut out.grad_chosen, loss.partials[0]),
                (sides[1].policy, &mut out.grad_rejected, loss.partials[1]),
            ] {
                let partial = partial / batch.whole.rows as f64;
                let (head, tail) = gradient[policy.range(i)].split_at_mut(shared);
                head.fill(partial);
                tail.fill(reading.ld_alpha * partial);
            }
        }
        Ok(())
    }
}

/// WPO's `c` of answer `i`.
fn confidence(side: &Side<'_>, i: usize) -> Result<f64> {
    let mean = |r: Ragged<'_>| r.sum(i) / r.tokens(i) as f64;
    Ok(mean(side.policy) - mean(side.collision()?))
}
