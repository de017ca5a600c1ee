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
use crate::task::{Generated, swap_answers};

/// A code to know by heart: each prompt, a capital letter, has a codeword of a few small ones. `C` is answered
/// by `bad`; the rejected answer differs in one letter: `bcd`.
///
/// Small enough that every answer to every prompt can be listed. The held-out rows are the same prompts,
/// once each: there is nothing to generalise, the question is where probability goes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Codewords {
    /// Pairs to train on; every prompt comes equally often, its rejected answers are drawn anew.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub train: usize,
    /// Number of prompts.
    #[schemars(range(min = 1, max = 16))]
    pub prompts: usize,
    /// Prompts to pass over: with 8, the first is `I`. Two tasks that differ in it share one book of codes
    /// and no prompt.
    #[schemars(range(max = 15))]
    pub skip: usize,
    /// Letters that codewords are made of.
    #[schemars(range(min = 2, max = 8))]
    pub letters: usize,
    /// Letters of a codeword.
    #[schemars(range(min = 1, max = 6))]
    pub length: usize,
    /// Probability that a training pair has its answers exchanged: mistaken labels, and mistaken
    /// demonstrations for SFT. Held-out pairs have none.
    #[schemars(range(min = 0, max = 1))]
    pub swapped: f64,
}

const PROMPTS: &str = "ABCDEFGHIJKLMNOP";
const LETTERS: &str = "abcdefgh";

impl Default for Codewords {
    fn default() -> Self {
        Codewords { train: 64, prompts: 8, skip: 0, letters: 4, length: 3, swapped: 0.0 }
    }
}

impl Part for Codewords {
    fn validate(&self) -> Result<(), ConfigError> {
        let book = self.skip + self.prompts;
        if book > PROMPTS.len() {
            let message = format!("with `prompts` must be at most {}, got {book}", PROMPTS.len());
            return Err(ConfigError::at("skip", message));
        }
        // Codewords are redrawn until they are new. With at least half of them free, this ends quickly.
        let words = self.letters.pow(self.length as u32);
        if book > words / 2 {
            let message = format!(
                "must be at most {}, half of the {words} words of {} letters",
                words / 2,
                self.length
            );
            return Err(ConfigError::at("prompts", message));
        }
        Ok(())
    }
}

impl Codewords {
    pub(crate) const NAME: &str = "codewords";

    /// Generates the data; the configuration must be [valid](Part::validate).
    pub(crate) fn generate(&self, seed: u64) -> Generated {
        let file: Arc<Path> = Path::new(Self::NAME).into();
        let mut random = Random::new(seed, 0);
        let mut codewords = Vec::new();
        let mut seen = HashSet::new();
        while codewords.len() < self.skip + self.prompts {
            let word: Vec<_> = (0..self.length).map(|_| random.below(self.letters)).collect();
            if seen.insert(word.clone()) {
                codewords.push(word);
            }
        }
        let mut row = |number: usize| {
            let prompt = self.skip + number % self.prompts;
            let chosen = &codewords[prompt];
            let mut rejected = chosen.clone();
            let slip = random.below(self.length);
            rejected[slip] = (rejected[slip] + 1 + random.below(self.letters - 1)) % self.letters;
            Row {
                place: Place { file: file.clone(), at: At::Row(number + 1) },
                prompt: Text::Plain(PROMPTS[prompt..=prompt].to_owned()),
                answers: Answers::Pair { chosen: spelt(chosen), rejected: spelt(&rejected) },
                gap: None,
                weight: 1.0,
                columns: Vec::new(),
                variables: Map::new(),
            }
        };
        let mut train: Vec<_> = (0..self.train).map(&mut row).collect();
        swap_answers(&mut train, self.swapped, seed);
        Generated {
            train,
            held_out: (0..self.prompts).map(&mut row).collect(),
            alphabet: [&PROMPTS[self.skip..self.skip + self.prompts], &LETTERS[..self.letters]].concat(),
        }
    }
}

fn spelt(word: &[usize]) -> Text {
    Text::Plain(word.iter().map(|&letter| &LETTERS[letter..=letter]).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::task::{generate, texts};

    #[test]
    fn the_data_are_the_same_for_the_same_seed() {
        let rows = |seed| {
            let data = Codewords { prompts: 3, ..Codewords::default() }.generate(seed);
            let rows = data.train[..4].iter().chain(&data.held_out);
            rows.map(|row| texts(row).join(" ")).collect::<Vec<_>>().join("\n")
        };
        assert_snapshot!(rows(0), @r"
        A cda cdb
        B aad abd
        C bac aac
        A cda cdb
        A cda caa
        B aad add
        C bac bab
        ");
        assert_ne!(rows(0), rows(1));
    }

    #[test]
    fn a_prompt_has_one_codeword_and_rejected_ones_differ_in_one_letter() {
        let data = Codewords::default().generate(5);
        assert_eq!((data.train.len(), data.held_out.len()), (64, 8));
        let mut code = BTreeMap::new();
        for row in data.train.iter().chain(&data.held_out) {
            let [prompt, chosen, rejected] = texts(row);
            assert_eq!(*code.entry(prompt).or_insert(chosen), chosen);
            assert_eq!(chosen.chars().zip(rejected.chars()).filter(|(c, r)| c != r).count(), 1);
            assert!([prompt, chosen, rejected].concat().chars().all(|c| data.alphabet.contains(c)));
        }
        assert_eq!(code.values().collect::<HashSet<_>>().len(), 8, "no two prompts share a codeword");
    }

    #[test]
    fn two_tasks_of_one_book_share_no_prompt() {
        let first = Codewords::default().generate(0);
        let second = Codewords { skip: 8, ..Codewords::default() }.generate(0);
        let words = |data: &Generated, part: usize| {
            data.held_out.iter().map(|row| texts(row)[part].to_owned()).collect::<HashSet<_>>()
        };
        for part in [0, 1] {
            assert!(words(&first, part).is_disjoint(&words(&second, part)));
            assert_eq!(words(&second, part).len(), 8);
        }
        assert!(second.alphabet.starts_with("IJ"));
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let error = |config| generate("codewords", &config, 0).unwrap_err().to_string();
        assert_snapshot!(
            [
                error(json!({"letters": 2})),
                error(json!({"prompts": 17})),
                error(json!({"skip": 9})),
                error(json!({"words": 3})),
            ]
            .join("\n"),
            @r"
        prompts: must be at most 4, half of the 8 words of 3 letters
        prompts: must be at most 16, got 17
        skip: with `prompts` must be at most 16, got 17
        words: unknown field `words`, expected one of `train`, `prompts`, `skip`, `letters`, `length`, `swapped`
        "
        );
    }
}
