use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;
use spo_api::{ConfigError, Part};

use crate::error::Place;
use crate::random::Random;
use crate::row::{Answers, Row, Text};
use crate::task::{Generated, distinct, swap_answers};

/// Chains of single-digit additions modulo 10, with the running sums as the reasoning:
/// `3+4+8+1=` is answered by `7,5,6`.
///
/// The rejected answer slips at one random addition, by one too many, one too few, or by leaving the term
/// out, and is consistent from there on: `7,4,5`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModularChain {
    /// Pairs to train on.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub train: usize,
    /// Pairs held out; their prompts are not trained on.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub held_out: usize,
    /// Fewest terms of a chain.
    #[schemars(range(min = 2))]
    pub min_terms: usize,
    /// Most terms of a chain: more terms are harder.
    #[schemars(range(max = 64))]
    pub max_terms: usize,
    /// Probability that a training pair has its answers exchanged: mistaken labels, and mistaken
    /// demonstrations for SFT. Held-out pairs have none.
    #[schemars(range(min = 0, max = 1))]
    pub swapped: f64,
}

impl Default for ModularChain {
    fn default() -> Self {
        ModularChain { train: 4000, held_out: 200, min_terms: 3, max_terms: 6, swapped: 0.0 }
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
        // Prompts are redrawn until they are new. With at least half of them free, this ends quickly.
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

    /// Generates the data; the configuration must be [valid](Part::validate).
    pub(crate) fn generate(&self, seed: u64) -> Generated {
        let draw = |random: &mut Random| -> Vec<usize> {
            let terms = self.min_terms + random.below(self.max_terms - self.min_terms + 1);
            (0..terms).map(|_| random.below(10)).collect()
        };
        let count = self.train + self.held_out;
        let mut rows = distinct(Self::NAME, count, &mut Random::new(seed, 0), draw, |at, terms, random| {
            row(at, terms, random)
        });
        let held_out = rows.split_off(self.train);
        swap_answers(&mut rows, self.swapped, seed);
        Generated { train: rows, held_out, alphabet: "0123456789+=,".to_owned() }
    }
}

fn row(place: Place, terms: &[usize], random: &mut Random) -> Row {
    let sums = running_sums(terms);
    let slip = random.below(sums.len());
    // One too many, one too few, or the term left out. A term of 0 cannot be left out: that would not be an
    // error.
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
        gap: None,
        weight: 1.0,
        columns: Vec::new(),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::task::{first_rows, generate, texts};

    #[test]
    fn the_data_are_the_same_for_the_same_seed() {
        assert_snapshot!(first_rows(|seed| ModularChain::default().generate(seed), 4), @r#"
    5+6+0+6+7= | 1,1,7,4 | 1,2,8,5
    9+6+4+6+4= | 5,9,5,9 | 9,3,9,3
    4+3+4+1+5+7= | 7,1,2,7,4 | 7,2,3,8,5
    8+0+8+2+0+8= | 8,6,8,8,6 | 8,6,8,8,5
    "#);
    }

    #[test]
    fn chosen_answers_are_right_and_rejected_ones_slip_once() {
        let data = ModularChain::default().generate(7);
        assert_eq!((data.train.len(), data.held_out.len()), (4000, 200));
        let mut prompts = HashSet::new();
        for row in data.train.iter().chain(&data.held_out) {
            let [prompt, chosen, rejected] = texts(row);
            assert!(prompts.insert(prompt.to_owned()), "{prompt} comes twice");
            assert!([prompt, chosen, rejected].concat().chars().all(|c| data.alphabet.contains(c)));
            let digits = |text: &str, separator| {
                text.split(separator).map(|digit| digit.parse::<usize>().unwrap()).collect::<Vec<_>>()
            };
            let terms = digits(prompt.strip_suffix('=').unwrap(), '+');
            let expected: Vec<_> = (2..=terms.len()).map(|n| terms[..n].iter().sum::<usize>() % 10).collect();
            assert_eq!(digits(chosen, ','), expected);
            let off: Vec<_> =
                digits(rejected, ',').iter().zip(&expected).map(|(r, c)| (r + 10 - c) % 10).collect();
            let slip = off.iter().position(|off| *off != 0).expect("the rejected answer is wrong");
            assert!(off[slip..].iter().all(|later| *later == off[slip]), "{prompt} {rejected}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let error = |config| {
            let error = generate("modular-chain", &config, 0).unwrap_err();
            error.to_string()
        };
        let unknown = generate("modular-chian", &json!({}), 0).unwrap_err();
        assert_eq!(unknown.suggestion.as_deref(), Some("modular-chain"));
        assert_snapshot!(
            [
                unknown.to_string(),
                error(json!({"max_terms": 2})),
                error(json!({"min_terms": 1})),
                error(json!({"min_terms": 2, "max_terms": 3, "train": 600})),
                error(json!({"terms": 3})),
            ]
            .join("\n"),
            @r#"
    unknown task `modular-chian`, expected one of codewords, market-report, modular-chain
    max_terms: must be at least min_terms (3), got 2
    min_terms: must be at least 2, got 1
    train: train + held_out must be at most 550, half of the 1100 chains of 2 to 3 terms
    terms: unknown field `terms`, expected one of `train`, `held_out`, `min_terms`, `max_terms`, `swapped`
    "#
        );
    }
}
