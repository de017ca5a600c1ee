//! A tabular model as a [`Session`].

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardUniform};
use serde_json::Value;
use spo_api::{
    Dual, Error, Export, LogProbs, MemorySpace, ModelInfo, Result, Sampling, Scalar, Session, Statistics,
    Tangent, TokenBatch, Upstream, Vector, VectorSpace, Watch,
};

use crate::config::Config;
use crate::model::Model;
use crate::storage;
use crate::windows::{Limits, Windows};

/// A model with its parameters, their gradient and the vectors allocated in this session.
pub(crate) struct TabularSession {
    pub model: Model,
    /// The configuration as it was passed in.
    pub config: Value,
    limits: Limits,
    pub space: MemorySpace,
}

impl TabularSession {
    pub fn new(parsed: Config, config: Value, parameters: Vec<f64>) -> Self {
        let limits = Limits {
            vocabulary: parsed.vocab_size,
            context: parsed.max_position_embeddings,
            order: parsed.order,
        };
        let model = parsed.model();
        let biases = model.tensors();
        let biases = biases.iter().flat_map(|t| std::iter::repeat_n(t.bias, t.elements()));
        let space = MemorySpace::new(parameters).sparing(biases);
        TabularSession { model, config, limits, space }
    }

    pub fn parameters(&self) -> &[f64] {
        &self.space.vectors()[&Vector::PARAMETERS.0]
    }

    /// `log p(token)` for every token after each distinct window, `[windows, vocabulary]`.
    fn log_distributions<S: Scalar>(&self, parameters: &[S], windows: &Windows) -> Vec<S> {
        let mut scores = self.model.logits(parameters, &windows.distinct);
        for row in scores.chunks_exact_mut(self.model.vocabulary) {
            let greatest = row.iter().map(|x| x.value()).fold(f64::NEG_INFINITY, f64::max);
            let sum = row.iter().fold(S::from(0.0), |sum, x| sum + (*x - greatest).exp());
            let normalizer = sum.ln() + greatest;
            row.iter_mut().for_each(|x| *x = *x - normalizer);
        }
        scores
    }

    /// Adds the gradient of the weighted sum of log-probs to `gradient`, given the log-distributions.
    fn collect<S: Scalar + PartialEq>(
        &self,
        parameters: &[S],
        windows: &Windows,
        mut scores: Vec<S>,
        weights: &[f64],
        gradient: &mut [S],
    ) {
        // d log p(t) / d logits = e_t - p, summed over the tokens that each window predicts.
        let v = self.model.vocabulary;
        let mut totals = vec![0.0; windows.distinct.len()];
        for (&(window, _), weight) in windows.scored.iter().zip(weights) {
            totals[window] += weight;
        }
        for (row, total) in scores.chunks_exact_mut(v).zip(&totals) {
            row.iter_mut().for_each(|x| *x = x.exp() * -total);
        }
        for (&(window, token), weight) in windows.scored.iter().zip(weights) {
            let slope = &mut scores[window * v + token as usize];
            *slope = *slope + *weight;
        }
        self.model.backward(parameters, &windows.distinct, &scores, gradient);
    }

    fn scored(&self, windows: &Windows, log_distributions: &[f64], wanted: Statistics) -> LogProbs {
        let v = self.model.vocabulary;
        let rows: Vec<&[f64]> = log_distributions.chunks_exact(v).collect();
        let of = |wanted: bool, statistic: &dyn Fn(&[f64], u32) -> f64| -> Vec<f64> {
            let scored = windows.scored.iter().filter(|_| wanted);
            scored.map(|&(window, token)| statistic(rows[window], token)).collect()
        };
        let mut found = LogProbs::new(of(true, &|row, token| row[token as usize]), windows.offsets.clone());
        found.entropy = of(wanted.entropy, &|row, _| -row.iter().map(|l| l.exp() * l).sum::<f64>());
        found.collision =
            of(wanted.collision, &|row, _| row.iter().map(|l| (2.0 * l).exp()).sum::<f64>().ln());
        found.greedy = of(wanted.greedy, &|row, token| f64::from(u8::from(best(row) == token as usize)));
        found
    }
}

/// Index of the maximum; the first in case of ties.
fn best(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

impl Session for TabularSession {
    fn info(&self) -> ModelInfo {
        let mut info = ModelInfo::default();
        info.architecture = "tabular".into();
        (info.parameters, info.trainable) = (self.parameters().len(), self.parameters().len());
        (info.vocabulary, info.context) = (self.limits.vocabulary, self.limits.context);
        info.context_key = "max_position_embeddings".into();
        info.device = "CPU, one thread".into();
        info.dtype = "f64".into();
        info.hessian_vectors = true;
        info
    }

    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        let windows = Windows::new(batch, self.limits)?;
        Ok(self.scored(&windows, &self.log_distributions(self.parameters(), &windows), statistics))
    }

    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        let windows = Windows::new(batch, self.limits)?;
        let scores = self.log_distributions(self.parameters(), &windows);
        let log_probs = self.scored(&windows, &scores, statistics);
        let weights = log_probs.upstream(upstream)?;
        let mut gradient = std::mem::take(self.space.get_mut(Vector::GRADIENT)?);
        self.collect(self.parameters(), &windows, scores, &weights, &mut gradient);
        *self.space.get_mut(Vector::GRADIENT)? = gradient;
        Ok(log_probs)
    }

    /// Forward-mode differentiation of `backward`, using dual numbers.
    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        let windows = Windows::new(batch, self.limits)?;
        let moving = |(&value, &velocity): (&f64, &f64)| Dual { value, partials: [velocity] };
        let parameters: Vec<Dual<1>> = self.parameters().iter().zip(self.space.get(v)?).map(moving).collect();
        let scores = self.log_distributions(&parameters, &windows);
        let values: Vec<f64> = scores.iter().map(|x| x.value).collect();
        let log_probs = self.scored(&windows, &values, Statistics::default());
        let place = |&(window, token): &(usize, u32)| window * self.model.vocabulary + token as usize;
        let derivatives = windows.scored.iter().map(|scored| scores[place(scored)].partials[0]).collect();
        let weights = log_probs.upstream(upstream)?;
        let mut gradient = vec![Dual::from(0.0); parameters.len()];
        self.collect(&parameters, &windows, scores, &weights, &mut gradient);
        let into = self.space.get_mut(into)?;
        into.iter_mut().zip(gradient).for_each(|(y, g)| *y += g.partials[0]);
        Ok(Tangent { log_probs, derivatives })
    }

    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }

    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        self.generate_watched(prompts, sampling, &mut |_, _| true)
    }

    fn generate_watched(
        &mut self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        sampling.check()?;
        let mut answers = Vec::with_capacity(prompts.len());
        for (i, prompt) in prompts.iter().enumerate() {
            self.limits.check(prompt, 0, || format!("prompt {i}"))?;
            let length = prompt.len() + sampling.max_new_tokens.saturating_sub(1);
            if length > self.limits.context {
                return Err(Error::Batch(format!(
                    "prompt {i} with {} new tokens: the model was made for at most {} (max_position_embeddings)",
                    sampling.max_new_tokens, self.limits.context
                )));
            }
            // One random stream per prompt, so that a sample does not depend on the other prompts.
            let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
            rng.set_stream(i as u64);
            let mut text = prompt.clone();
            while text.len() < prompt.len() + sampling.max_new_tokens {
                let logits = self.model.logits(self.parameters(), &[self.limits.window(&text)]);
                let token = sampling.choose(logits, text.iter(), || StandardUniform.sample(&mut rng))?;
                text.push(token);
                if !watch(i, token) || text.last().is_some_and(|token| sampling.stop.contains(token)) {
                    break;
                }
            }
            answers.push(text.split_off(prompt.len()));
        }
        Ok(answers)
    }

    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        match what {
            Export::Model => storage::save(self, folder),
            Export::ModelIn(_) => Err(Error::Model("the tabular backend saves in f64 alone".into())),
            Export::Adapter => Err(Error::Model("the tabular backend has no adapters".into())),
        }
    }

    fn save_state(&mut self, file: &Path) -> Result<()> {
        storage::save_state(self, file)
    }

    fn restore_state(&mut self, file: &Path) -> Result<()> {
        storage::restore_state(self, file)
    }
}
