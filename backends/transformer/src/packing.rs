//! A token batch as packed rows, without padding and with each prompt only once.

use spo_api::{Error, Result, TokenBatch};

use crate::config::Architecture;
use crate::decoder::{Rows, follow};
use crate::engine::{Cluster, Span};

/// A batch ready for the decoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Packed {
    pub rows: Rows,
    /// The row that predicts each scored token.
    pub scored: Vec<u32>,
    /// The scored tokens.
    pub targets: Vec<u32>,
    /// For each token of the completions, its index in `targets`. Tokens in the common prefix of all
    /// completions of a prompt are scored once.
    pub places: Vec<usize>,
    /// Start of each completion in `places`, followed by the end of the last completion.
    pub offsets: Vec<usize>,
    /// Whether last tokens are read and copies counted.
    routed: bool,
}

/// Where some rows begin.
#[derive(Clone, Copy)]
struct Reading {
    /// Of the first row.
    position: usize,
    /// Length of the sequence.
    length: usize,
    /// Number of sequences that the rows are part of.
    copies: usize,
    /// A number for the tokens before.
    history: u64,
}

impl Packed {
    /// Packs a batch. The last token of a completion is scored and predicts nothing, so it has no row.
    ///
    /// # Errors
    /// [`Error::Batch`] for a batch that the architecture cannot read.
    pub fn new(batch: &TokenBatch, architecture: &Architecture) -> Result<Self> {
        Self::with(batch, architecture, false)
    }

    /// Packs a batch of which the routers see every token: last tokens have a row, and [`Rows::copies`] are counted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn routed(batch: &TokenBatch, architecture: &Architecture) -> Result<Self> {
        Self::with(batch, architecture, true)
    }

    fn with(batch: &TokenBatch, architecture: &Architecture, routed: bool) -> Result<Self> {
        let mut packed = Packed { offsets: vec![0], routed, ..Packed::default() };
        for (index, group) in batch.groups.iter().enumerate() {
            let longest = group.completions.iter().map(Vec::len).max().unwrap_or(0);
            check(&group.prompt, longest, architecture, || format!("group {index}"))?;
            for (i, completion) in group.completions.iter().enumerate() {
                check_ids(completion, architecture, || format!("completion {i} of group {index}"))?;
            }
            if longest == 0 && !routed {
                packed.offsets.extend(group.completions.iter().map(|_| packed.places.len()));
                continue;
            }
            packed.add(&group.prompt, &group.completions, architecture);
        }
        Ok(packed)
    }

    /// Completions share the prompt's rows unless their lengths make its rotations differ.
    fn add(&mut self, prompt: &[u32], completions: &[Vec<u32>], architecture: &Architecture) {
        let mut sharing: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for (i, completion) in completions.iter().enumerate() {
            let regime = architecture.regime(prompt.len() + completion.len());
            match sharing.iter_mut().find(|(known, _)| *known == regime) {
                Some((_, members)) => members.push(i),
                None => sharing.push((regime, vec![i])),
            }
        }
        let mut places = vec![Vec::new(); completions.len()];
        for (_, members) in sharing {
            let together: Vec<&[u32]> = members.iter().map(|&i| &completions[i][..]).collect();
            for (i, found) in members.iter().zip(self.share(prompt, &together)) {
                places[*i] = found;
            }
        }
        for found in places {
            self.places.extend(found);
            self.offsets.push(self.places.len());
        }
    }

    /// Packs completions that share the rows of a prompt. Returns for each the places of its tokens in
    /// `targets`.
    fn share(&mut self, prompt: &[u32], completions: &[&[u32]]) -> Vec<Vec<usize>> {
        let longest = completions.iter().map(|completion| completion.len()).max().unwrap_or(0);
        // Up to here, tokens of a completion are read.
        let last = if self.routed { Some(longest) } else { longest.checked_sub(1) };
        let Some(last) = last else { return vec![Vec::new(); completions.len()] };
        let length = prompt.len() + longest;
        let common = &completions[0][..common_length(completions)];
        // The common prefix of all completions is read as part of the prompt, except for a last token.
        let shared = &common[..common.len().min(last)];
        let start = self.rows.ids.len();
        let begin = Reading { position: 0, length, copies: completions.len(), history: 0 };
        let after = self.read(prompt, begin);
        let after = self.read(shared, after);
        let prefix = start..self.rows.ids.len();
        let scored = self.targets.len();
        self.scored.extend((start + prompt.len() - 1..).map(|row| row as u32).take(common.len()));
        self.targets.extend(common);

        let mut spans = vec![Span { queries: prefix.clone(), prefix: start..start, own: prefix.clone() }];
        let mut places = Vec::with_capacity(completions.len());
        for completion in completions {
            let begin = self.rows.ids.len();
            let rest = &completion[common.len()..];
            places
                .push((scored..).take(common.len()).chain((self.targets.len()..).take(rest.len())).collect());
            if let [predictors @ .., _] = rest {
                let read = if self.routed { rest } else { predictors };
                self.read(read, Reading { copies: 1, ..after });
                let predictors = std::iter::once(prefix.end - 1).chain(begin..begin + predictors.len());
                self.scored.extend(predictors.map(|row| row as u32));
            }
            self.targets.extend(rest);
            let own = begin..self.rows.ids.len();
            if !own.is_empty() {
                spans.push(Span { queries: own.clone(), prefix: prefix.clone(), own });
            }
        }
        let all = start..self.rows.ids.len();
        self.rows.clusters.push(Cluster { queries: all.clone(), keys: all, spans });
        places
    }

    /// Maps values per scored token to values per completion token. Empty for a statistic that was not
    /// requested.
    pub fn spread(&self, found: &[f64]) -> Vec<f64> {
        match found {
            [] => Vec::new(),
            _ => self.places.iter().map(|&place| found[place]).collect(),
        }
    }

    /// Adds rows. Returns where those after them begin.
    fn read(&mut self, ids: &[u32], from: Reading) -> Reading {
        let Reading { position, length, copies, mut history } = from;
        if self.routed {
            self.rows.copies.extend(ids.iter().map(|_| copies as u32));
        }
        self.rows.histories.extend(ids.iter().map(|&id| {
            history = follow(history, id);
            history
        }));
        self.rows.ids.extend(ids);
        self.rows.lengths.extend(ids.iter().map(|_| length as u32));
        self.rows.positions.extend((position..position + ids.len()).map(|p| p as u32));
        Reading { position: position + ids.len(), history, ..from }
    }
}

/// Length of the common prefix of all completions.
fn common_length(completions: &[&[u32]]) -> usize {
    let Some((first, others)) = completions.split_first() else { return 0 };
    let alike = |other: &&[u32]| first.iter().zip(other.iter()).take_while(|(a, b)| a == b).count();
    others.iter().map(alike).min().unwrap_or(0)
}

/// Checks that a model can read `prompt` and `more` tokens after it.
pub(crate) fn check(
    prompt: &[u32],
    more: usize,
    architecture: &Architecture,
    what: impl Fn() -> String,
) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Batch(format!(
            "{}: the prompt is empty, but a completion's first token is predicted from the prompt's last",
            what()
        )));
    }
    check_ids(prompt, architecture, || format!("prompt of {}", what()))?;
    let length = prompt.len() + more;
    if length > architecture.context {
        return Err(Error::Batch(format!(
            "{}: {length} tokens, but the model reads at most {} ({})",
            what(),
            architecture.context,
            architecture.context_key
        )));
    }
    Ok(())
}

fn check_ids(ids: &[u32], architecture: &Architecture, what: impl Fn() -> String) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= architecture.vocabulary) {
        None => Ok(()),
        Some(id) => Err(Error::Batch(format!(
            "{}: token id {id} is outside the model's vocabulary of {}",
            what(),
            architecture.vocabulary
        ))),
    }
}
