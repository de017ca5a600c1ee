//! Metrics of a batch, under TRL's names.

use spo_api::{Evaluation, Layout, Metrics, Result, Rewards, Side};

use crate::train::step::rows::Assembled;

/// A running mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, values: &[f64]) {
        self.sum += values.iter().sum::<f64>();
        self.count += values.len() as f64;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// Sums over a batch or a part of it, from which its metrics are computed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    rows: f64,
    loss: f64,
    log_prob_chosen: Mean,
    log_prob_rejected: Mean,
    reward_chosen: Mean,
    reward_rejected: Mean,
    accurate: Mean,
    tied: Mean,
    entropy: Mean,
    greedy: Mean,
    router_loss: Mean,
    own: Metrics,
}

impl Observation {
    /// Adds a part of the batch and its evaluation.
    pub(crate) fn add(&mut self, part: &Assembled, evaluation: &Evaluation) -> Result<()> {
        let batch = part.batch()?;
        let rows = batch.rows() as f64;
        self.rows += rows;
        self.loss += evaluation.loss(&batch);
        let sums = |side: &Side<'_>| side.policy.iter().map(|row| row.iter().sum()).collect::<Vec<f64>>();
        self.log_prob_chosen.add(&sums(&batch.chosen));
        self.log_prob_rejected.add(&sums(&batch.rejected));
        let Rewards { chosen, rejected } = &evaluation.rewards;
        self.reward_chosen.add(chosen);
        self.reward_rejected.add(rejected);
        if batch.layout == Layout::Pairs {
            let wins = chosen.iter().zip(rejected).map(|(c, r)| f64::from(c > r));
            self.accurate.add(&wins.collect::<Vec<_>>());
            let ties = chosen.iter().zip(rejected).map(|(c, r)| f64::from(c == r));
            self.tied.add(&ties.collect::<Vec<_>>());
        }
        self.entropy.add(&part.entropy);
        self.greedy.add(&part.greedy);
        for (name, value) in &evaluation.metrics {
            *self.own.entry(name.clone()).or_default() += value * rows;
        }
        Ok(())
    }

    /// Adds the routers' loss of a backward pass; 0 for none.
    pub(crate) fn add_router_loss(&mut self, loss: f64) {
        if loss != 0.0 {
            self.router_loss.add(&[loss]);
        }
    }

    /// Metrics under TRL's names, and the objective's own metrics. `logps/...` are what the objective reads, if that
    /// is not the sum over an answer's tokens; `sum_logps/...` are the sums in any case. TRL counts pairs with equal
    /// rewards as wrong (`rewards/accuracies`); where there are some, `rewards/ties` is their share.
    pub(crate) fn metrics(&self) -> Metrics {
        let mut metrics: Metrics =
            self.own.iter().map(|(name, sum)| (name.clone(), sum / self.rows)).collect();
        let sums = [("chosen", self.log_prob_chosen.value()), ("rejected", self.log_prob_rejected.value())];
        for (side, sum) in sums.into_iter().filter_map(|(side, sum)| Some((side, sum?))) {
            metrics.entry(format!("logps/{side}")).or_insert(sum);
            metrics.insert(format!("sum_logps/{side}"), sum);
        }
        let (chosen, rejected) = (self.reward_chosen.value(), self.reward_rejected.value());
        for (name, value) in [
            ("loss", Some(self.loss)),
            ("rewards/chosen", chosen),
            ("rewards/rejected", rejected),
            ("rewards/margins", chosen.zip(rejected).map(|(c, r)| c - r)),
            ("rewards/accuracies", self.accurate.value()),
            ("rewards/ties", self.tied.value().filter(|share| *share > 0.0)),
            ("entropy", self.entropy.value()),
            ("mean_token_accuracy", self.greedy.value()),
            ("aux_loss", self.router_loss.value()),
        ] {
            if let Some(value) = value {
                metrics.insert(name.to_owned(), value);
            }
        }
        metrics
    }
}
