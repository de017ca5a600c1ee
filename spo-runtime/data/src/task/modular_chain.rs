use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;
use spo_api::{ConfigError, Part};

use crate::error::{At, Place};
use crate::random::Random;
use crate::row::{Answers, Row, Text};
use crate::task::Generated;

/// Chains of single-digit additions modulo 10, with the running sums as the reasoning:
/// `3+4+8+1=` is answered by `7,5,6`.
///
/// The rejected answer slips at one random addition, by one too many, one too few, or by leaving the term
/// out, and is consistent from there on: `7,4,5`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModularChain {
    /// Pairs to train on.
    #[schemars(range(min = 1))]
    pub train: usize,
    /// Pairs held out; their prompts are not trained on.
    #[schemars(range(min = 1))]
    pub held_out: usize,
    /// Fewest terms of a chain.
    #[schemars(range(min = 2))]
    pub min_terms: usize,
    /// Most terms of a chain: more terms are harder.
    #[schemars(range(max = 64))]
    pub max_terms: usize,
}

impl Default for ModularChain {
    fn default() -> Self {
        ModularChain { train: 4000, held_out: 200, min_terms: 3, max_terms: 6 }
    }
}

impl Part for ModularChain {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.max_terms < self.min_terms {
            return Err(ConfigError::at(
                "max_terms",
                format!("must be at least min_terms ({}), got {}", self.min_terms, self.max_terms),
            ));
        }
        // Prompts are drawn until they are new: with half of them free this ends soon.
        let prompts = (self.min_terms..=self.max_terms)
            .map(|terms| 10usize.saturating_pow(terms as u32))
            .fold(0, usize::saturating_add);
        if self.train.saturating_add(self.held_out) > prompts / 2 {
            return Err(ConfigError::at(
                "train",
                format!(
                    "train + held_out must be at most {}, half of the {prompts} chains of {} to {} terms",
                    prompts / 2,
                    self.min_terms,
                    self.max_terms
                ),
            ));
        }
        Ok(())
    }
}

impl ModularChain {
    pub(crate) const NAME: &str = "modular-chain";

    /// Makes the data; the configuration must be [valid](Part::validate).
    pub(crate) fn generate(&self, seed: u64) -> Generated {
        let file: Arc<Path> = Path::new(Self::NAME).into();
        let mut random = Random::new(seed, 0);
        let mut seen = HashSet::new();
        let mut rows = Vec::new();
        while rows.len() < self.train + self.held_out {
            let terms = self.min_terms + random.below(self.max_terms - self.min_terms + 1);
            let terms: Vec<_> = (0..terms).map(|_| random.below(10)).collect();
            if !seen.insert(terms.clone()) {
                continue;
            }
            let place = Place { file: file.clone(), at: At::Row(rows.len() + 1) };
            rows.push(row(place, &terms, &mut random));
        }
        let held_out = rows.split_off(self.train);
        Generated { train: rows, held_out, alphabet: "0123456789+=," }
    }
}

fn row(place: Place, terms: &[usize], random: &mut Random) -> Row {
    let sums = running_sums(terms);
    let slip = random.below(sums.len());
    // One too many, one too few, or the term left out (of which 0 would be no slip).
    let off = match random.below(3) {
        0 => 1,
        1 => 9,
        _ => match terms[slip + 1] {
            0 => 1,
            term => 10 - term,
        },
    };
    let slipped: Vec<_> =
        sums.iter().enumerate().map(|(i, sum)| if i < slip { *sum } else { (sum + off) % 10 }).collect();
    Row {
        place,
        prompt: Text::Plain(joined(terms, "+") + "="),
        answers: Answers::Pair {
            chosen: Text::Plain(joined(&sums, ",")),
            rejected: Text::Plain(joined(&slipped, ",")),
        },
        variables: Map::new(),
    }
}

fn running_sums(terms: &[usize]) -> Vec<usize> {
    let mut sum = terms[0];
    terms[1..]
        .iter()
        .map(|term| {
            sum = (sum + term) % 10;
            sum
        })
        .collect()
}

fn joined(digits: &[usize], separator: &str) -> String {
    digits.iter().map(usize::to_string).collect::<Vec<_>>().join(separator)
}
