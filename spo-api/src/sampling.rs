//! How a continuation is drawn from a model's logits.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How to continue a prompt. The settings and their order are those of transformers' logits processors: the repetition
/// penalty, the temperature, then `top_k`, `top_p` and `min_p`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sampling {
    /// Maximum number of tokens to add.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most probable token.
    pub temperature: f64,
    /// Sample from this many of the most probable tokens, and from those that are as probable as the last of them; 0 for
    /// all.
    #[serde(default)]
    pub top_k: usize,
    /// Sample from the smallest set of tokens with at least this total probability.
    pub top_p: f64,
    /// Sample from the tokens with at least this share of the greatest probability.
    #[serde(default)]
    pub min_p: f64,
    /// Logits of tokens that the prompt or the continuation holds are divided by this where they are positive, and
    /// multiplied by it where they are negative (Keskar et al. 2019); 1 changes nothing.
    #[serde(default = "unchanged")]
    pub repetition_penalty: f64,
    /// Seed of the sampling.
    pub seed: u64,
    /// A continuation ends with the first of these tokens, which is kept.
    pub stop: Vec<u32>,
}

fn unchanged() -> f64 {
    1.0
}

impl Sampling {
    /// The most probable token every time, up to a number of tokens or the first of `stop`.
    pub fn greedy(max_new_tokens: usize, stop: &[u32]) -> Self {
        Sampling {
            max_new_tokens,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: stop.to_vec(),
        }
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Batch`] that names the setting.
    pub fn check(&self) -> Result<()> {
        let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = self;
        let problem = if !(*temperature >= 0.0 && temperature.is_finite()) {
            format!("a temperature of at least 0, got {temperature}")
        } else if !(*top_p > 0.0 && *top_p <= 1.0) {
            format!("0 < top_p <= 1, got {top_p}")
        } else if !(*min_p >= 0.0 && *min_p <= 1.0) {
            format!("0 <= min_p <= 1, got {min_p}")
        } else if !(*repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            format!("a repetition_penalty greater than 0, got {repetition_penalty}")
        } else {
            return Ok(());
        };
        Err(Error::Batch(format!("sampling needs {problem}")))
    }

    /// The next token after the tokens of `text`: drawn, or the most probable one (the first in case of ties). `uniform`
    /// gives a random number from 0 to 1; it is called once, and only if the token is drawn.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a logit is not finite.
    pub fn choose<'a>(
        &self,
        mut logits: Vec<f64>,
        text: impl Iterator<Item = &'a u32>,
        uniform: impl FnOnce() -> f64,
    ) -> Result<u32> {
        if let Some(bad) = logits.iter().find(|l| !l.is_finite()) {
            return Err(Error::NonFinite(format!("a logit is {bad} while generating")));
        }
        self.penalize(&mut logits, text);
        let best = greatest(&logits);
        if self.temperature == 0.0 {
            return Ok(best as u32);
        }
        let candidates = self.candidates(&logits);
        let mut left = uniform() * candidates.iter().map(|c| c.1).sum::<f64>();
        let drawn = candidates.iter().find(|c| {
            left -= c.1;
            left < 0.0
        });
        Ok(drawn.map_or(best, |c| c.0) as u32)
    }

    /// Applies the repetition penalty, once to each token of `text`.
    fn penalize<'a>(&self, logits: &mut [f64], text: impl Iterator<Item = &'a u32>) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let mut tokens: Vec<usize> = text.map(|token| *token as usize).collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            if let Some(logit) = logits.get_mut(token) {
                *logit *= if *logit > 0.0 { 1.0 / self.repetition_penalty } else { self.repetition_penalty };
            }
        }
    }

    /// The tokens that can be drawn, with weights in proportion to their probabilities.
    fn candidates(&self, logits: &[f64]) -> Vec<(usize, f64)> {
        let best = logits[greatest(logits)];
        let weight = |logit: &f64| ((logit - best) / self.temperature).exp();
        let mut candidates: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
        if self.top_k == 0 && self.top_p == 1.0 && self.min_p == 0.0 {
            return candidates;
        }
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if let Some((_, least)) = self.top_k.checked_sub(1).and_then(|last| candidates.get(last)).copied() {
            candidates.truncate(candidates.partition_point(|c| c.1 >= least));
        }
        if self.top_p < 1.0 {
            let mut left = self.top_p * candidates.iter().map(|c| c.1).sum::<f64>();
            let kept = candidates.iter().take_while(|c| {
                let wanted = left > 0.0;
                left -= c.1;
                wanted
            });
            candidates.truncate(kept.count());
        }
        // The greatest weight is 1.
        candidates.truncate(candidates.partition_point(|c| c.1 >= self.min_p));
        candidates
    }
}

/// The index of the greatest value, the first of equals.
fn greatest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_of_transformers() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/sampling.json")).unwrap();
        let list = |value: &serde_json::Value| serde_json::from_value::<Vec<f64>>(value.clone()).unwrap();
        let text: Vec<u32> = serde_json::from_value(golden["text"].clone()).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let mut settings = serde_json::to_value(Sampling::greedy(1, &[])).unwrap();
            settings["temperature"] = 1.0.into();
            settings.as_object_mut().unwrap().extend(case["settings"].as_object().unwrap().clone());
            let sampling: Sampling = serde_json::from_value(settings).unwrap();
            let mut logits = list(&golden["logits"]);
            sampling.penalize(&mut logits, text.iter());
            let candidates = sampling.candidates(&logits);
            let total: f64 = candidates.iter().map(|c| c.1).sum();
            let mut found = vec![0.0; logits.len()];
            candidates.iter().for_each(|(token, weight)| found[*token] = weight / total);
            for (found, expected) in found.iter().zip(list(&case["probabilities"])) {
                let same = (found - expected).abs() < 1e-6 && (*found == 0.0) == (expected == 0.0);
                assert!(same, "{}: {found} is not {expected}", case["settings"]);
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let said = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        let greedy = || Sampling::greedy(1, &[]);
        assert!(greedy().check().is_ok());
        assert!(said(Sampling { temperature: f64::NAN, ..greedy() }).contains("temperature"));
        assert!(said(Sampling { top_p: 0.0, ..greedy() }).contains("top_p"));
        assert!(said(Sampling { min_p: 1.5, ..greedy() }).contains("min_p"));
        assert!(said(Sampling { repetition_penalty: 0.0, ..greedy() }).contains("repetition_penalty"));
    }
}
