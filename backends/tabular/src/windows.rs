//! A token batch as the distinct windows that occur in it, so that shared windows are computed once.

use std::collections::HashMap;

use spo_api::{Error, Result, TokenBatch};

/// Limits on what a model can read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub vocabulary: usize,
    /// Maximum length of prompt plus answer, in tokens.
    pub context: usize,
    pub order: usize,
}

/// The distinct windows of a batch, and which window predicts which token.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// The distinct windows, in order of first occurrence.
    pub distinct: Vec<Vec<u32>>,
    /// For each scored token: the index of its window, and the token.
    pub scored: Vec<(usize, u32)>,
    /// Start of each completion in `scored`, followed by the end of the last completion.
    pub offsets: Vec<usize>,
}

impl Windows {
    pub fn new(batch: &TokenBatch, limits: Limits) -> Result<Self> {
        let mut windows = Windows { offsets: vec![0], ..Windows::default() };
        let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
        for (index, group) in batch.groups.iter().enumerate() {
            limits.check(&group.prompt, 0, || format!("the prompt of group {index}"))?;
            for (i, completion) in group.completions.iter().enumerate() {
                let what = || format!("completion {i} of group {index}");
                limits.check(completion, group.prompt.len(), what)?;
                let mut text = group.prompt.clone();
                for &token in completion {
                    let window = limits.window(&text);
                    let next = windows.distinct.len();
                    let place = *known.entry(window.clone()).or_insert(next);
                    if place == next {
                        windows.distinct.push(window);
                    }
                    windows.scored.push((place, token));
                    text.push(token);
                }
                windows.offsets.push(windows.scored.len());
            }
        }
        Ok(windows)
    }
}

impl Limits {
    /// The last `order` tokens of a text.
    pub fn window(&self, text: &[u32]) -> Vec<u32> {
        let seen = &text[text.len().saturating_sub(self.order)..];
        let mut window = vec![self.vocabulary as u32; self.order - seen.len()];
        window.extend(seen);
        window
    }

    /// Checks that a model can read `tokens` after `before` other tokens. An empty prompt is an error.
    pub fn check(&self, tokens: &[u32], before: usize, what: impl Fn() -> String) -> Result<()> {
        let fault = |message: String| Err(Error::Batch(format!("{}: {message}", what())));
        if before == 0 && tokens.is_empty() {
            return fault("is empty, but an answer's first token is predicted from the prompt".into());
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.vocabulary) {
            return fault(format!("token id {id} is outside the model's vocabulary of {}", self.vocabulary));
        }
        match before + tokens.len() {
            length if length > self.context => fault(format!(
                "{length} tokens, but the model was made for at most {} (max_position_embeddings)",
                self.context
            )),
            _ => Ok(()),
        }
    }
}
