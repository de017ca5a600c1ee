use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;
use spo_api::{ConfigError, Part};

use crate::error::Place;
use crate::random::Random;
use crate::rouge::f_measure;
use crate::row::{Answers, Row, Text};
use crate::task::{Generated, distinct, swap_answers};

/// Reports of who sold how much of what, to be summed up in one line that names the leader:
/// `ann 3 figs, gus 8 nuts, eve 5 yams:` is answered by `gus leads with 8 nuts`.
///
/// The rejected answer is unfaithful (another number, or the goods of somebody else), or copies the
/// beginning of the report instead of summing it up. Answers are judged by
///
/// - `rouge_l`: F-measure of the longest common subsequence of words with the preferred answer (Lin 2004);
/// - `faithful`: whether the answer is one line of the wanted form, and what it says stands in the report.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MarketReport {
    /// Pairs to train on.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub train: usize,
    /// Pairs held out; their prompts are not trained on.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub held_out: usize,
    /// Fewest sellers of a report.
    #[schemars(range(min = 2))]
    pub min_sellers: usize,
    /// Most sellers of a report: more are harder.
    #[schemars(range(max = 8))]
    pub max_sellers: usize,
    /// Probability that a training pair has its answers exchanged: mistaken labels, and mistaken
    /// demonstrations for SFT. Held-out pairs have none.
    #[schemars(range(min = 0, max = 1))]
    pub swapped: f64,
}

const SELLERS: [&str; 8] = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"];
const GOODS: [&str; 8] = ["figs", "kale", "limes", "mint", "nuts", "pears", "rice", "yams"];
/// Amounts range from 1 to this.
const MOST: usize = 9;

impl Default for MarketReport {
    fn default() -> Self {
        MarketReport { train: 4000, held_out: 200, min_sellers: 2, max_sellers: 3, swapped: 0.0 }
    }
}

impl Part for MarketReport {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.max_sellers < self.min_sellers {
            return Err(ConfigError::at(
                "max_sellers",
                format!("must be at least min_sellers ({}), got {}", self.min_sellers, self.max_sellers),
            ));
        }
        // Reports are redrawn until they are new. With at least half of them free, this ends quickly.
        // Sellers, amounts and goods are drawn without repetition.
        let reports: usize = (self.min_sellers..=self.max_sellers)
            .map(|n| (0..n).map(|i| (SELLERS.len() - i) * (MOST - i) * (GOODS.len() - i)).product::<usize>())
            .sum();
        if self.train.saturating_add(self.held_out) > reports / 2 {
            let message = format!("train + held_out must be at most {}, half of all reports", reports / 2);
            return Err(ConfigError::at("train", message));
        }
        Ok(())
    }
}

/// One entry of a report: who sold how much of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sale {
    seller: usize,
    amount: usize,
    goods: usize,
}

impl MarketReport {
    pub(crate) const NAME: &str = "market-report";

    /// Generates the data; the configuration must be [valid](Part::validate).
    pub(crate) fn generate(&self, seed: u64) -> Generated {
        let draw = |random: &mut Random| -> Vec<Sale> {
            let count = self.min_sellers + random.below(self.max_sellers - self.min_sellers + 1);
            let mut drawn = |from: usize| {
                let mut all: Vec<_> = (0..from).collect();
                random.shuffle(&mut all);
                all.truncate(count);
                all
            };
            let (sellers, amounts, goods) = (drawn(SELLERS.len()), drawn(MOST), drawn(GOODS.len()));
            let sales = sellers.into_iter().zip(amounts).zip(goods);
            sales.map(|((seller, amount), goods)| Sale { seller, amount: amount + 1, goods }).collect()
        };
        let count = self.train + self.held_out;
        let mut rows = distinct(Self::NAME, count, &mut Random::new(seed, 0), draw, |at, sales, random| {
            row(at, sales, random)
        });
        let held_out = rows.split_off(self.train);
        swap_answers(&mut rows, self.swapped, seed);
        Generated { train: rows, held_out, alphabet: "abcdefghiklmnoprstuvwy123456789 ,:".to_owned() }
    }

    /// Scores an answer; each metric is from 0 to 1.
    pub(crate) fn judge(prompt: &str, expected: &str, answer: &str) -> Vec<(&'static str, f64)> {
        vec![
            ("rouge_l", rouge_l(expected, answer)),
            ("faithful", f64::from(u8::from(is_faithful(prompt, answer)))),
        ]
    }
}

fn row(place: Place, sales: &[Sale], random: &mut Random) -> Row {
    let leader = sales.iter().max_by_key(|sale| sale.amount).expect("there are sellers");
    let other = |random: &mut Random, taken: usize, of: usize| (taken + 1 + random.below(of - 1)) % of;
    let rejected = match random.below(3) {
        0 => summary(&Sale { amount: 1 + other(random, leader.amount - 1, MOST), ..leader.clone() }),
        1 => {
            let others: Vec<_> = sales.iter().filter(|sale| sale.goods != leader.goods).collect();
            summary(&Sale { goods: others[random.below(others.len())].goods, ..leader.clone() })
        }
        _ => report(&sales[..2]),
    };
    Row {
        place,
        prompt: Text::Plain(report(sales) + ":"),
        answers: Answers::Pair { chosen: Text::Plain(summary(leader)), rejected: Text::Plain(rejected) },
        gap: None,
        weight: 1.0,
        columns: Vec::new(),
        variables: Map::new(),
    }
}

fn report(sales: &[Sale]) -> String {
    let sale = |s: &Sale| format!("{} {} {}", SELLERS[s.seller], s.amount, GOODS[s.goods]);
    sales.iter().map(sale).collect::<Vec<_>>().join(", ")
}

fn summary(sale: &Sale) -> String {
    format!("{} leads with {} {}", SELLERS[sale.seller], sale.amount, GOODS[sale.goods])
}

/// ROUGE-L: F-measure of the longest common subsequence of words.
fn rouge_l(expected: &str, answer: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let separates = |c: char| !c.is_alphanumeric();
        text.split(separates).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    f_measure(&words(expected), &words(answer))
}

fn is_faithful(prompt: &str, answer: &str) -> bool {
    let said: Vec<&str> = answer.split(' ').collect();
    let [seller, "leads", "with", amount, goods] = said[..] else { return false };
    let sales = prompt.trim_end_matches(':');
    sales.split(", ").any(|sale| sale == format!("{seller} {amount} {goods}"))
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
        assert_snapshot!(first_rows(|seed| MarketReport::default().generate(seed), 5), @r"
        fay 7 rice, ann 6 limes: | fay leads with 7 rice | fay leads with 7 limes
        eve 3 figs, dan 8 nuts, bob 2 yams: | dan leads with 8 nuts | eve 3 figs, dan 8 nuts
        dan 4 rice, eve 2 nuts: | dan leads with 4 rice | dan 4 rice, eve 2 nuts
        gus 5 figs, fay 3 nuts, bob 8 rice: | bob leads with 8 rice | bob leads with 5 rice
        cid 7 rice, ann 8 mint, gus 5 limes: | ann leads with 8 mint | cid 7 rice, ann 8 mint
        ");
    }

    #[test]
    fn preferred_answers_are_faithful_and_name_the_leader_and_rejected_ones_are_not_faithful() {
        let data = MarketReport::default().generate(3);
        assert_eq!((data.train.len(), data.held_out.len()), (4000, 200));
        let (mut prompts, mut copied) = (HashSet::new(), 0);
        for row in data.train.iter().chain(&data.held_out) {
            let [prompt, chosen, rejected] = texts(row);
            assert!(prompts.insert(prompt.to_owned()), "{prompt} comes twice");
            assert!([prompt, chosen, rejected].concat().chars().all(|c| data.alphabet.contains(c)));
            assert_eq!(MarketReport::judge(prompt, chosen, chosen), [("rouge_l", 1.0), ("faithful", 1.0)]);
            let [(_, rouge), (_, faithful)] = MarketReport::judge(prompt, chosen, rejected)[..] else {
                panic!("two figures")
            };
            assert!(rouge < 1.0 && faithful == 0.0, "{prompt} {rejected}");
            copied += usize::from(prompt.starts_with(rejected));
            let digits = prompt.chars().filter(char::is_ascii_digit);
            assert!(chosen.contains(digits.max().unwrap()), "{prompt} {chosen}");
        }
        assert!((1200..1600).contains(&copied), "{copied}: a third");
    }

    #[test]
    fn rouge_l_is_the_f_measure_of_the_longest_common_subsequence() {
        // Lin 2004, section 3: "police kill the gunman" shares 2 of 4 words in order.
        let reference = "police killed the gunman";
        assert_eq!(rouge_l(reference, "police kill the gunman"), 0.75);
        assert_eq!(rouge_l(reference, "the gunman kill police"), 0.5);
        assert_eq!(rouge_l(reference, ""), 0.0);
        assert_eq!(rouge_l("a b c", "a b c, d e f"), 2.0 * 3.0 / 9.0);
    }

    #[test]
    fn faithful_answers_say_what_stands_in_the_report() {
        let prompt = "ann 3 figs, gus 8 nuts:";
        // Not the leader, but stated in the report.
        assert!(is_faithful(prompt, "ann leads with 3 figs"));
        for answer in
            ["ann leads with 8 figs", "gus leads with 8 figs", "gus 8 nuts", "gus leads with 8 nuts ", ""]
        {
            assert!(!is_faithful(prompt, answer), "{answer}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let error = |config| generate("market-report", &config, 0).unwrap_err().to_string();
        assert_snapshot!(
            [
                error(json!({"min_sellers": 4})),
                error(json!({"max_sellers": 9})),
                error(json!({"max_sellers": 2, "train": 200_000})),
                error(json!({"sellers": 3})),
            ]
            .join("\n"),
            @r"
        max_sellers: must be at least min_sellers (4), got 3
        max_sellers: must be at most 8, got 9
        train: train + held_out must be at most 112896, half of all reports
        sellers: unknown field `sellers`, expected one of `train`, `held_out`, `min_sellers`, `max_sellers`, `swapped`
        "
        );
    }
}
