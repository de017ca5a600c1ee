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
///
/// With `contexts` there is: a prompt is then a capital letter and a digit, and the two answers are its codeword
/// forwards and backwards.
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
    /// Number of digits that may follow the capital letter. Which direction of the codeword is preferred then
    /// depends on both: on the sign of a number drawn for the letter plus one drawn for the digit. Half of the
    /// prompts are held out. With `swapped = 0.5`, demonstrations show both directions equally. 0: no digits.
    #[schemars(range(max = 10))]
    pub contexts: usize,
    /// Probability that a training pair has its answers exchanged: mistaken labels, and mistaken
    /// demonstrations for SFT. Held-out pairs have none.
    #[schemars(range(min = 0, max = 1))]
    pub swapped: f64,
}

const PROMPTS: &str = "ABCDEFGHIJKLMNOP";
const DIGITS: &str = "0123456789";
const LETTERS: &str = "abcdefgh";

impl Default for Codewords {
    fn default() -> Self {
        Codewords { train: 64, prompts: 8, skip: 0, letters: 4, length: 3, contexts: 0, swapped: 0.0 }
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
        match (self.contexts, self.length, self.prompts) {
            (0, ..) => Ok(()),
            (_, 1, _) => Err(ConfigError::at(
                "contexts",
                "needs a `length` of at least 2: one letter has no direction",
            )),
            (1, _, 1) => {
                Err(ConfigError::at("contexts", "must be at least 2 with one prompt: half are held out"))
            }
            _ => Ok(()),
        }
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
            let directed = self.contexts == 0 || word.iter().ne(word.iter().rev());
            if directed && seen.insert(word.clone()) {
                codewords.push(word);
            }
        }
        let pair = |prompt: String, chosen: &[usize], rejected: &[usize], number: usize| Row {
            place: Place { file: file.clone(), at: At::Row(number + 1) },
            prompt: Text::Plain(prompt),
            answers: Answers::Pair { chosen: spelt(chosen), rejected: spelt(rejected) },
            gap: None,
            weight: 1.0,
            columns: Vec::new(),
            variables: Map::new(),
        };
        let capitals = &PROMPTS[self.skip..self.skip + self.prompts];
        let alphabet = [capitals, &DIGITS[..self.contexts], &LETTERS[..self.letters]].concat();
        let (mut train, held_out) = if self.contexts == 0 {
            let mut row = |number: usize| {
                let prompt = self.skip + number % self.prompts;
                let chosen = &codewords[prompt];
                let mut rejected = chosen.clone();
                let slip = random.below(self.length);
                rejected[slip] = (rejected[slip] + 1 + random.below(self.letters - 1)) % self.letters;
                pair(PROMPTS[prompt..=prompt].to_owned(), chosen, &rejected, number)
            };
            ((0..self.train).map(&mut row).collect(), (0..self.prompts).map(&mut row).collect())
        } else {
            // Even and odd: a sum is never 0.
            let of_letters: Vec<_> = codewords.iter().map(|_| 2 * random.below(51)).collect();
            let of_digits: Vec<_> = (0..self.contexts).map(|_| 2 * random.below(50) + 1).collect();
            let mut prompts: Vec<(usize, usize)> = (self.skip..self.skip + self.prompts)
                .flat_map(|letter| (0..self.contexts).map(move |digit| (letter, digit)))
                .collect();
            random.shuffle(&mut prompts);
            let held_out = prompts.split_off(prompts.len().div_ceil(2));
            let row = |number: usize, &(letter, digit): &(usize, usize)| {
                let word = &codewords[letter];
                let backwards: Vec<_> = word.iter().rev().copied().collect();
                let prompt = [&PROMPTS[letter..=letter], &DIGITS[digit..=digit]].concat();
                // Both numbers are 50 on average.
                match of_letters[letter] + of_digits[digit] > 100 {
                    true => pair(prompt, word, &backwards, number),
                    false => pair(prompt, &backwards, word, number),
                }
            };
            let train: Vec<Row> =
                (0..self.train).map(|number| row(number, &prompts[number % prompts.len()])).collect();
            (train, held_out.iter().enumerate().map(|(number, prompt)| row(number, prompt)).collect())
        };
        swap_answers(&mut train, self.swapped, seed);
        Generated { train, held_out, alphabet }
    }
}

fn spelt(word: &[usize]) -> Text {
    Text::Plain(word.iter().map(|&letter| &LETTERS[letter..=letter]).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

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
    fn contexts_turn_codewords_by_a_rule_that_holds_for_held_out_prompts() {
        let task = Codewords { prompts: 16, contexts: 10, train: 640, ..Codewords::default() };
        let data = task.generate(4);
        let mut rows = BTreeMap::new();
        for row in data.train.iter().chain(&data.held_out) {
            let [prompt, chosen, rejected] = texts(row);
            assert_eq!(chosen.chars().rev().collect::<String>(), rejected);
            assert_ne!(chosen, rejected);
            assert!([prompt, chosen, rejected].concat().chars().all(|c| data.alphabet.contains(c)));
            assert_eq!(*rows.entry(prompt).or_insert(chosen), chosen);
        }
        let prompts = |rows: &[Row]| rows.iter().map(|r| texts(r)[0].to_owned()).collect::<HashSet<_>>();
        let (train, held_out) = (prompts(&data.train), prompts(&data.held_out));
        assert!(train.is_disjoint(&held_out));
        assert_eq!((train.len(), held_out.len(), data.train.len()), (80, 80, 640));
        // Numbers are added, so the digits under which a letter is said forwards are the largest ones: of two letters, one
        // has all of the other's. Which direction is forwards is not known here, so either set may stand for a letter.
        let digits_of = |letter: char| -> [BTreeSet<char>; 2] {
            let mut sets = [BTreeSet::new(), BTreeSet::new()];
            for (prompt, chosen) in rows.iter().filter(|(prompt, _)| prompt.starts_with(letter)) {
                let rising = chosen.chars().lt(chosen.chars().rev());
                sets[usize::from(rising)].extend(prompt.chars().skip(1));
            }
            sets
        };
        for (a, b) in [('A', 'B'), ('C', 'K'), ('D', 'P'), ('E', 'F')] {
            let ([a, _], [b, other]) = (digits_of(a), digits_of(b));
            let nested = |b: &BTreeSet<char>| a.is_subset(b) || b.is_subset(&a);
            assert!(nested(&b) || nested(&other), "{a:?} {b:?}");
        }
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
                error(json!({"contexts": 2, "length": 1, "prompts": 2})),
                error(json!({"contexts": 1, "prompts": 1})),
                error(json!({"words": 3})),
            ]
            .join("\n"),
            @r"
        prompts: must be at most 4, half of the 8 words of 3 letters
        prompts: must be at most 16, got 17
        skip: with `prompts` must be at most 16, got 17
        contexts: needs a `length` of at least 2: one letter has no direction
        contexts: must be at least 2 with one prompt: half are held out
        words: unknown field `words`, expected one of `train`, `prompts`, `skip`, `letters`, `length`, `contexts`, `swapped`
        "
        );
    }
}
