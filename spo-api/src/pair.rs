use crate::batch::sum;
use crate::scalar::Held;
use crate::{
    Column, Dual, Error, EvaluationMut, Layout, Metrics, Objective, PreferenceBatch, Ragged, Requirements,
    Result, Scalar, Side,
};

/// One answer, as seen by a pair loss.
#[derive(Clone, Copy, Debug)]
pub struct Answer<S> {
    /// Log-prob of the whole answer under the policy in nats: the sum over its tokens, weighted as
    /// specified by the loss's [`Reading`].
    pub policy: S,
    /// The same under the reference; 0 if the objective requires no reference.
    pub reference: f64,
    /// Number of tokens, including the end token.
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

/// A preferred and a dispreferred answer to the same prompt.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a, S> {
    /// The preferred answer.
    pub chosen: Answer<S>,
    /// The dispreferred answer.
    pub rejected: Answer<S>,
    /// Score of the preferred answer minus score of the dispreferred one; 0 unless the loss requires it.
    pub gap: f64,
    /// The numbers of the row in the loss's [columns](PairLoss::columns), in their order.
    pub columns: &'a [f64],
}

impl<S: Scalar> Pair<'_, S> {
    /// Difference of the log-ratios, chosen minus rejected, nats.
    pub fn margin(&self) -> S {
        self.chosen.log_ratio() - self.rejected.log_ratio()
    }
}

/// How the token log-probs of a pair are combined for a [`PairLoss`], and the weight of the pair:
/// `Reading::default().ld_alpha(0.5)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// Length desensitisation (Liu et al. 2024, LD-DPO): weight of the tokens beyond the length of the
    /// pair's shorter answer, under both policy and reference. 1 gives the plain sum.
    pub ld_alpha: f64,
    /// Weight each pair by the current probability of its answers under the policy (Zhou et al. 2024, WPO):
    /// `exp(c_w + c_l)`, where `c` is the mean of `log p(token) - log sum_v p(v)^2` over the tokens of an
    /// answer. The gradient treats the weight as a constant. The weights of a batch are not normalised.
    pub weighting: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { ld_alpha: 1.0, weighting: false }
    }
}

impl Reading {
    /// Sets [`ld_alpha`](field@Self::ld_alpha).
    pub fn ld_alpha(self, ld_alpha: f64) -> Self {
        Reading { ld_alpha, ..self }
    }

    /// Sets [`weighting`](field@Self::weighting).
    pub fn weighting(self, weighting: bool) -> Self {
        Reading { weighting, ..self }
    }

    /// Pair `i` of a batch, read in this way.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch does not consist of pairs, or lacks a required reference.
    pub fn pair(
        &self,
        batch: &PreferenceBatch<'_>,
        i: usize,
        with_reference: bool,
    ) -> Result<Pair<'static, f64>> {
        if batch.layout != Layout::Pairs {
            return Err(Error::Batch(format!("this objective needs pairs, got {:?}", batch.layout)));
        }
        let shared = shared_length(batch, i);
        let read = |row: &[f64]| {
            let (head, tail) = row.split_at(shared);
            sum(head) + self.ld_alpha * sum(tail)
        };
        let answer = |side: &Side<'_>| -> Result<_> {
            let reference = if with_reference { read(side.reference()?.row(i)) } else { 0.0 };
            let policy = read(side.policy.row(i));
            Ok(Answer { policy, reference, tokens: side.policy.tokens(i) as f64 })
        };
        Ok(Pair {
            chosen: answer(&batch.chosen)?,
            rejected: answer(&batch.rejected)?,
            gap: 0.0,
            columns: &[],
        })
    }

    /// The factor of pair `i` in the loss: 1 unless [`weighting`](Self::weighting) is set.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch lacks the collision statistic.
    pub fn weight(&self, batch: &PreferenceBatch<'_>, i: usize) -> Result<f64> {
        if !self.weighting {
            return Ok(1.0);
        }
        let mean = |r: Ragged<'_>| r.sum(i) / r.tokens(i) as f64;
        let confidence = |side: &Side<'_>| -> Result<_> { Ok(mean(side.policy) - mean(side.collision()?)) };
        Ok((confidence(&batch.chosen)? + confidence(&batch.rejected)?).exp())
    }

    /// Logs the batch's mean log-probs as `logps/chosen` and `logps/rejected`, if the loss reads something else than
    /// their sums over the tokens: `ld_alpha` gives some tokens less weight, and `per_token` takes means. Under these
    /// names TRL logs what its loss reads. The runtime logs the sums in any case.
    ///
    /// # Errors
    /// Those of [`pair`](Self::pair).
    pub fn log(&self, batch: &PreferenceBatch<'_>, per_token: bool, metrics: &mut Metrics) -> Result<()> {
        if self.ld_alpha == 1.0 && !per_token {
            return Ok(());
        }
        let mut means = [0.0; 2];
        for i in 0..batch.rows() {
            let Pair { chosen, rejected, .. } = self.pair(batch, i, false)?;
            for (mean, answer) in means.iter_mut().zip([chosen, rejected]) {
                *mean += if per_token { answer.mean() } else { answer.policy } / batch.rows() as f64;
            }
        }
        metrics.extend(["logps/chosen", "logps/rejected"].map(str::to_owned).into_iter().zip(means));
        Ok(())
    }

    /// Distributes the gradient with respect to the two sequence log-probs of pair `i` over their tokens.
    pub fn spread(
        &self,
        batch: &PreferenceBatch<'_>,
        i: usize,
        gradient: [f64; 2],
        out: &mut EvaluationMut<'_>,
    ) {
        let shared = shared_length(batch, i);
        let rows = [
            &mut out.grad_chosen[batch.chosen.policy.range(i)],
            &mut out.grad_rejected[batch.rejected.policy.range(i)],
        ];
        for (row, d) in rows.into_iter().zip(gradient) {
            let (head, tail) = row.split_at_mut(shared);
            head.fill(d);
            tail.fill(self.ld_alpha * d);
        }
    }
}

/// The gap of pair `i`, which must not contradict the preference.
fn gap(batch: &PreferenceBatch<'_>, i: usize) -> Result<f64> {
    let gaps = batch.gaps.ok_or_else(|| {
        Error::Batch("this objective needs the scores of both answers of each pair, and got none".into())
    })?;
    match gaps.get(i) {
        Some(&gap) if gap >= 0.0 && gap.is_finite() => Ok(gap),
        Some(gap) => Err(Error::Batch(format!(
            "pair {i}: the score of the chosen answer exceeds that of the rejected by {gap}, expected 0 or more"
        ))),
        None => Err(Error::Batch(format!("{} score gaps for {} pairs", gaps.len(), batch.rows()))),
    }
}

fn shared_length(batch: &PreferenceBatch<'_>, i: usize) -> usize {
    batch.chosen.policy.tokens(i).min(batch.rejected.policy.tokens(i))
}

/// A loss that is a formula on the sequence log-probs of one pair.
///
/// The formula is written once, generic over [`Scalar`]. Evaluated on dual numbers, it yields the exact
/// gradient.
pub trait PairLoss: Send {
    /// Whether the formula uses the reference log-probs.
    fn needs_reference(&self) -> bool {
        true
    }

    /// Whether the formula uses the gap between the scores of the two answers.
    fn needs_gaps(&self) -> bool {
        false
    }

    /// The columns of the data that the formula uses, as [`Pair::columns`].
    fn columns(&self) -> Vec<Column> {
        Vec::new()
    }

    /// How the token log-probs are combined.
    fn reading(&self) -> Reading {
        Reading::default()
    }

    /// Whether the loss compares mean log-probs per token without a reference, as SimPO does. `logps/...` are then
    /// those means, as in TRL.
    fn reads_means(&self) -> bool {
        false
    }

    /// The loss of one pair.
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S;

    /// The implicit reward of an answer, for the metrics. By default this is the log-ratio.
    fn reward(&self, answer: &Answer<f64>) -> f64 {
        answer.log_ratio()
    }
}

impl<L: PairLoss> Objective for L {
    fn requirements(&self) -> Requirements {
        let needs = Requirements::of(Layout::Pairs)
            .reference(self.needs_reference())
            .collision(self.reading().weighting)
            .gaps(self.needs_gaps());
        Requirements { columns: self.columns(), ..needs }
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let reading = self.reading();
        let rows = Rows::new(self, batch)?;
        let mut numbers = Vec::new();
        for i in 0..batch.rows() {
            let pair = rows.pair(i, &mut numbers)?;
            out.rewards.chosen.push(self.reward(&pair.chosen));
            out.rewards.rejected.push(self.reward(&pair.rejected));

            let lift = |a: Answer<f64>, input| Answer {
                policy: Dual::<2>::input(a.policy, input),
                reference: a.reference,
                tokens: a.tokens,
            };
            let (chosen, rejected) = (lift(pair.chosen, 0), lift(pair.rejected, 1));
            let lifted = Pair { chosen, rejected, gap: pair.gap, columns: pair.columns };
            let loss = self.loss(&lifted) * reading.weight(batch, i)?;
            if !loss.value.is_finite() || loss.partials.iter().any(|p| !p.is_finite()) {
                let (w, l) = (pair.chosen, pair.rejected);
                return Err(Error::NonFinite(format!(
                    "the loss of pair {i} is {} and its gradient {:?}; log-probs of the chosen answer: {} \
                     (reference {}), of the rejected: {} (reference {})",
                    loss.value, loss.partials, w.policy, w.reference, l.policy, l.reference
                )));
            }
            out.losses[i] = loss.value;
            reading.spread(batch, i, loss.partials.map(|p| p / batch.whole.rows as f64), out);
        }
        reading.log(batch, self.reads_means(), out.metrics)
    }

    /// Holds the weight of each pair, and what the formula [detaches](Scalar::detach).
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let (before, after) = (Rows::new(self, at)?, Rows::new(self, batch)?);
        let (mut unmoved, mut numbers) = (Vec::new(), Vec::new());
        for i in 0..batch.rows() {
            let (was, is) = (before.pair(i, &mut unmoved)?, after.pair(i, &mut numbers)?);
            let moved = |was: Answer<f64>, is: Answer<f64>| Answer {
                policy: Held::moved(was.policy, is.policy),
                reference: is.reference,
                tokens: is.tokens,
            };
            let pair = Pair {
                chosen: moved(was.chosen, is.chosen),
                rejected: moved(was.rejected, is.rejected),
                gap: is.gap,
                columns: is.columns,
            };
            out.losses[i] = self.loss(&pair).value() * self.reading().weight(at, i)?;
        }
        Ok(())
    }
}

/// The pairs of a batch, with everything that the loss asks for.
struct Rows<'a, L> {
    loss: &'a L,
    batch: &'a PreferenceBatch<'a>,
    columns: Vec<&'a [f64]>,
}

impl<'a, L: PairLoss> Rows<'a, L> {
    fn new(loss: &'a L, batch: &'a PreferenceBatch<'a>) -> Result<Self> {
        let columns =
            loss.columns().iter().map(|column| batch.column(&column.name)).collect::<Result<_>>()?;
        Ok(Rows { loss, batch, columns })
    }

    /// Pair `i`; `numbers` holds its columns.
    fn pair<'n>(&self, i: usize, numbers: &'n mut Vec<f64>) -> Result<Pair<'n, f64>> {
        numbers.clear();
        numbers.extend(self.columns.iter().map(|column| column[i]));
        let mut pair: Pair<'n, f64> = self.loss.reading().pair(self.batch, i, self.loss.needs_reference())?;
        pair.columns = numbers;
        if self.loss.needs_gaps() {
            pair.gap = gap(self.batch, i)?;
        }
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Evaluation;
    use crate::Totals;

    /// The margin itself as the loss, with a given reading.
    struct Margin(Reading);

    impl PairLoss for Margin {
        fn reading(&self) -> Reading {
            self.0
        }
        fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
            pair.margin()
        }
    }

    const OFFSETS: [[usize; 2]; 2] = [[0, 2], [0, 3]];
    const POLICY: [&[f64]; 2] = [&[-1.0, -2.0], &[-1.5, -0.5, -4.0]];
    const REFERENCE: [&[f64]; 2] = [&[-1.25, -1.0], &[-1.0, -1.0, -2.0]];
    const COLLISION: [&[f64]; 2] = [&[-0.5, -0.25], &[-1.0, -1.0, -0.25]];

    fn batch() -> PreferenceBatch<'static> {
        let ragged = |of: &[&'static [f64]; 2], side: usize| Ragged::new(of[side], &OFFSETS[side]).unwrap();
        let [chosen, rejected] = [0, 1].map(|side| Side {
            policy: ragged(&POLICY, side),
            reference: Some(ragged(&REFERENCE, side)),
            collision: Some(ragged(&COLLISION, side)),
        });
        PreferenceBatch::new(Layout::Pairs, chosen, rejected).unwrap()
    }

    fn evaluate(reading: Reading, batch: &PreferenceBatch<'_>) -> Result<Evaluation> {
        let mut out = Evaluation::default();
        out.compute(&mut Margin(reading), batch)?;
        Ok(out)
    }

    #[test]
    fn a_plain_reading_sums_all_tokens() {
        let out = evaluate(Reading::default(), &batch()).unwrap();
        // (-3 + 2.25) - (-6 + 4)
        assert_eq!(out.losses, [1.25]);
        assert_eq!((out.grad_chosen, out.grad_rejected), (vec![1.0; 2], vec![-1.0; 3]));
        assert_eq!((out.rewards.chosen, out.rewards.rejected), (vec![-0.75], vec![-2.0]));
    }

    #[test]
    fn tokens_beyond_the_shorter_answer_count_less_when_desensitised() {
        let out = evaluate(Reading { ld_alpha: 0.25, ..Reading::default() }, &batch()).unwrap();
        // The third token of the rejected answer, -4 + 2, has weight 1/4: (-0.75) - (0 - 0.5).
        assert_eq!(out.losses, [-0.25]);
        assert_eq!((out.grad_chosen, out.grad_rejected), (vec![1.0; 2], vec![-1.0, -1.0, -0.25]));
    }

    #[test]
    fn the_log_probs_that_a_loss_reads_are_logged_where_they_are_not_the_sums() {
        assert!(evaluate(Reading::default(), &batch()).unwrap().metrics.is_empty());
        let logged = evaluate(Reading::default().ld_alpha(0.25), &batch()).unwrap().metrics;
        assert_eq!((logged["logps/chosen"], logged["logps/rejected"]), (-3.0, -3.0));
        let mut metrics = Metrics::new();
        Reading::default().log(&batch(), true, &mut metrics).unwrap();
        assert_eq!((metrics["logps/chosen"], metrics["logps/rejected"]), (-1.5, -2.0));
    }

    #[test]
    fn weighting_scales_loss_and_gradient_by_a_constant() {
        let out = evaluate(Reading { weighting: true, ..Reading::default() }, &batch()).unwrap();
        // Means of log p - log sum p^2: (-0.5 - 1.75) / 2 and (-0.5 + 0.5 - 3.75) / 3.
        let weight = f64::exp(-1.125 - 1.25);
        assert_eq!(out.losses, [1.25 * weight]);
        assert_eq!((out.grad_chosen, out.grad_rejected), (vec![weight; 2], vec![-weight; 3]));
    }

    /// `detach(m) m`: half of what its square would have for a gradient.
    struct Detached;

    impl PairLoss for Detached {
        fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
            pair.margin().squared().exp_m1().detach() * pair.margin()
        }
    }

    #[test]
    fn differences_of_the_held_loss_are_the_gradient_where_the_formula_detaches() {
        let at = batch();
        let mut out = Evaluation::default();
        out.compute(&mut Detached, &at).unwrap();
        let (loss, gradient) = (out.losses[0], out.grad_chosen[1]);
        let mut held = |by: f64| {
            let policy = [POLICY[0][0], POLICY[0][1] + by];
            let policy = Ragged::new(&policy, &OFFSETS[0]).unwrap();
            let moved = PreferenceBatch { chosen: Side { policy, ..at.chosen }, ..at };
            out.compute_held(&mut Detached, &at, &moved).unwrap();
            out.losses[0]
        };
        assert_eq!(held(0.0), loss);
        let difference = (held(1e-4) - held(-1e-4)) / 2e-4;
        assert!((difference - gradient).abs() < 1e-6 * gradient.abs(), "{difference} {gradient}");
    }

    #[test]
    fn a_part_counts_as_its_share_of_the_whole() {
        let part = PreferenceBatch { whole: Totals { rows: 4, chosen_tokens: 9 }, ..batch() };
        let out = evaluate(Reading::default(), &part).unwrap();
        assert_eq!((out.loss(&part), out.grad_chosen), (1.25 / 4.0, vec![0.25; 2]));
    }

    #[test]
    fn what_is_missing_or_not_finite_is_named() {
        let message =
            |batch: PreferenceBatch<'_>, reading| evaluate(reading, &batch).unwrap_err().to_string();
        let weighting = Reading { weighting: true, ..Reading::default() };
        let unscored = batch();
        assert!(gap(&unscored, 0).unwrap_err().to_string().contains("needs the scores"));
        let scored = |gaps| PreferenceBatch { gaps: Some(gaps), ..batch() };
        assert_eq!(gap(&scored(&[0.5]), 0).unwrap(), 0.5);
        assert!(gap(&scored(&[-0.5]), 0).unwrap_err().to_string().contains("by -0.5, expected 0 or more"));
        assert!(gap(&scored(&[]), 0).unwrap_err().to_string().contains("0 score gaps for 1 pairs"));

        let bare = Side { reference: None, collision: None, ..batch().rejected };
        let without = PreferenceBatch { rejected: bare, ..batch() };
        assert!(message(without, Reading::default()).contains("needs reference log-probs"));
        let without = PreferenceBatch { rejected: Side { collision: None, ..batch().rejected }, ..batch() };
        assert!(message(without, weighting).contains("needs the collision statistic"));
        let apart = PreferenceBatch { layout: Layout::Unpaired, ..batch() };
        assert!(message(apart, Reading::default()).contains("needs pairs"));

        let policy = Ragged::new(&[-1.0, f64::NEG_INFINITY], &OFFSETS[0]).unwrap();
        let impossible = PreferenceBatch { chosen: Side { policy, ..batch().chosen }, ..batch() };
        let said = message(impossible, Reading::default());
        assert!(said.contains("the loss of pair 0 is -inf"), "{said}");
        assert!(said.contains("log-probs of the chosen answer: -inf (reference -2.25)"), "{said}");
    }
}
