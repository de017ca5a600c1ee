//! Tasks with generated data. A run on them needs no data file.

mod codewords;
mod market_report;
mod modular_chain;

use std::collections::HashSet;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

use schemars::{Schema, schema_for};
use serde_json::Value;
use spo_api::{ConfigError, parse};

use crate::error::{At, Place};
use crate::random::Random;
use crate::row::{Answers, Row};

pub use codewords::Codewords;
pub use market_report::MarketReport;
pub use modular_chain::ModularChain;

/// The data of a generated task.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Training pairs: the chosen answer is right, the rejected one is plausible but wrong.
    pub train: Vec<Row>,
    /// Held-out pairs. Their prompts are not in `train` unless the task says otherwise; the chosen answer
    /// is the expected one for exact match.
    pub held_out: Vec<Row>,
    /// Every character that occurs in the data.
    pub alphabet: String,
}

/// Names of all tasks.
pub const NAMES: [&str; 3] = [Codewords::NAME, MarketReport::NAME, ModularChain::NAME];

/// The name and the configuration schema of every task.
pub fn schemas() -> impl Iterator<Item = (&'static str, Schema)> {
    NAMES.into_iter().zip([schema_for!(Codewords), schema_for!(MarketReport), schema_for!(ModularChain)])
}

/// Scores an answer, given the prompt and the expected answer. Returns named metrics from 0 to 1.
pub type Judge = fn(prompt: &str, expected: &str, answer: &str) -> Vec<(&'static str, f64)>;

/// The judge of a task, if its answers can be graded and are not just right or wrong.
pub fn judge(name: &str) -> Option<Judge> {
    (name == MarketReport::NAME).then_some(MarketReport::judge as Judge)
}

/// Generates the data of a task. The same seed gives the same data on every platform.
///
/// # Errors
/// For an unknown name, or a table that is not valid for the task.
pub fn generate(name: &str, config: &Value, seed: u64) -> Result<Generated, ConfigError> {
    match name {
        Codewords::NAME => Ok(parse::<Codewords>(config)?.generate(seed)),
        MarketReport::NAME => Ok(parse::<MarketReport>(config)?.generate(seed)),
        ModularChain::NAME => Ok(parse::<ModularChain>(config)?.generate(seed)),
        _ => Err(ConfigError::unknown_name("task", name, &NAMES, &[])),
    }
}

/// Generates `count` rows, redrawing any item that was drawn before. Rows are numbered from 1.
fn distinct<T: Eq + Hash>(
    task: &str,
    count: usize,
    random: &mut Random,
    mut draw: impl FnMut(&mut Random) -> T,
    row: impl Fn(Place, &T, &mut Random) -> Row,
) -> Vec<Row> {
    let file: Arc<Path> = Path::new(task).into();
    let (mut seen, mut rows) = (HashSet::new(), Vec::new());
    while rows.len() < count {
        let drawn = draw(random);
        if !seen.contains(&drawn) {
            let place = Place { file: file.clone(), at: At::Row(rows.len() + 1) };
            rows.push(row(place, &drawn, random));
            seen.insert(drawn);
        }
    }
    rows
}

/// The first rows for seed 0, one per line. Also checks that another seed gives other rows.
#[cfg(test)]
fn first_rows(generate: impl Fn(u64) -> Generated, count: usize) -> String {
    let lines = |seed| -> String {
        let data = generate(seed);
        let rows = data.train[..count].iter();
        rows.map(|row| texts(row).join(" | ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(lines(0), lines(0));
    assert_ne!(lines(0), lines(1));
    lines(0)
}

/// Swaps the answers of each pair with probability `share`.
fn swap_answers(rows: &mut [Row], share: f64, seed: u64) {
    // A separate random stream, so that the rows are otherwise the same with and without swaps.
    let mut random = Random::new(seed, u64::MAX);
    for row in rows {
        const FINE: usize = 1 << 53;
        let swap = (random.below(FINE) as f64) < share * FINE as f64;
        if let Answers::Pair { chosen, rejected } = &mut row.answers
            && swap
        {
            std::mem::swap(chosen, rejected);
        }
    }
}

/// Prompt, chosen, rejected.
#[cfg(test)]
fn texts(row: &Row) -> [&str; 3] {
    use crate::row::Text;
    fn plain(text: &Text) -> &str {
        match text {
            Text::Plain(text) => text,
            Text::Chat(_) => panic!("not plain text"),
        }
    }
    let Answers::Pair { chosen, rejected } = &row.answers else { panic!("not a pair") };
    [plain(&row.prompt), plain(chosen), plain(rejected)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_of_the_training_pairs_is_swapped_and_nothing_else_changes() {
        for name in NAMES {
            let made = |swapped| {
                let mut config = json!({"swapped": swapped});
                if name == Codewords::NAME {
                    config["train"] = json!(4000);
                }
                generate(name, &config, 3).unwrap()
            };
            let (clean, noisy) = (made(0.0), made(0.3));
            assert_eq!(clean.held_out, noisy.held_out);
            let mut swapped = 0;
            for (clean, noisy) in clean.train.iter().zip(&noisy.train) {
                let [prompt, chosen, rejected] = texts(clean);
                let exchanged = texts(noisy) == [prompt, rejected, chosen];
                assert!(exchanged || texts(noisy) == [prompt, chosen, rejected]);
                swapped += usize::from(exchanged);
            }
            // 1200 plus or minus three standard deviations.
            assert!((1113..1287).contains(&swapped), "{name}: {swapped}");
            assert!(made(1.0).train.iter().zip(&clean.train).all(|(a, b)| texts(a)[1] == texts(b)[2]));
            assert!(generate(name, &json!({"swapped": 1.5}), 0).is_err());
        }
    }
}
