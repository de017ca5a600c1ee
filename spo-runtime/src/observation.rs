//! What is logged of a batch, under TRL's metric names.

use spo_api::{Evaluation, LogProbs, Metrics, PreferenceBatch};

/// Sums over a batch or a part of it, from which its metrics follow.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    rows: f64,
    loss: f64,
    chosen_rows: f64,
    rejected_rows: f64,
    log_prob_chosen: f64,
    log_prob_rejected: f64,
    rewarded_rows: f64,
    reward_chosen: f64,
    reward_rejected: f64,
    accurate: f64,
    tokens: f64,
    entropy: Option<f64>,
    greedy: Option<f64>,
    own: Metrics,
}

impl Observation {
    /// Takes note of a part and its evaluation.
    pub fn add<'a>(
        &mut self,
        batch: &PreferenceBatch<'_>,
        evaluation: &Evaluation,
        scored: impl IntoIterator<Item = &'a LogProbs>,
    ) {
        let rows = batch.rows() as f64;
        self.rows += rows;
        self.loss += evaluation.loss(batch);
        let [chosen, rejected] = batch.sides().map(|side| side.policy);
        self.chosen_rows += chosen.rows() as f64;
        self.rejected_rows += rejected.rows() as f64;
        self.log_prob_chosen += chosen.values().iter().sum::<f64>();
        self.log_prob_rejected += rejected.values().iter().sum::<f64>();
        let rewards = &evaluation.rewards;
        self.rewarded_rows += rewards.chosen.len() as f64;
        self.reward_chosen += rewards.chosen.iter().sum::<f64>();
        self.reward_rejected += rewards.rejected.iter().sum::<f64>();
        self.accurate += rewards.chosen.iter().zip(&rewards.rejected).filter(|(c, r)| c > r).count() as f64;
        for part in scored {
            self.tokens += part.values.len() as f64;
            let add = |sum: &mut Option<f64>, values: &[f64]| {
                if !values.is_empty() {
                    *sum = Some(sum.unwrap_or(0.0) + values.iter().sum::<f64>());
                }
            };
            add(&mut self.entropy, &part.entropy);
            add(&mut self.greedy, &part.greedy);
        }
        for (name, value) in &evaluation.metrics {
            *self.own.entry(name.clone()).or_default() += value * rows;
        }
    }

    /// The batch loss, in the objective's units.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// Metrics under TRL's names, and the objective's own.
    pub fn metrics(&self) -> Metrics {
        let mut metrics: Metrics = self.own.iter().map(|(k, v)| (k.clone(), v / self.rows)).collect();
        let mut put = |name: &str, value: f64| metrics.insert(name.to_owned(), value);
        put("loss", self.loss);
        put("logps/chosen", self.log_prob_chosen / self.chosen_rows);
        if self.rejected_rows > 0.0 {
            put("logps/rejected", self.log_prob_rejected / self.rejected_rows);
        }
        if self.rewarded_rows > 0.0 {
            put("rewards/chosen", self.reward_chosen / self.rewarded_rows);
            put("rewards/rejected", self.reward_rejected / self.rewarded_rows);
            put("rewards/margins", (self.reward_chosen - self.reward_rejected) / self.rewarded_rows);
            put("rewards/accuracies", self.accurate / self.rewarded_rows);
        }
        if let Some(entropy) = self.entropy {
            put("entropy", entropy / self.tokens);
        }
        if let Some(greedy) = self.greedy {
            put("mean_token_accuracy", greedy / self.tokens);
        }
        metrics
    }
}
