//! Demonstrations that are not trained on, for a step that keeps a budget.

use std::sync::Arc;

use spo_api::Budget;
use spo_data::{Dataset, Example, hash};

/// Held-out demonstrations of a term of the lower level.
pub(crate) struct Demonstrations {
    /// Those that the step is told about.
    pub(crate) calibration: Arc<Dataset>,
    /// Those that the verdict is on.
    pub(crate) verdict: Arc<Dataset>,
}

/// The least number of rows of either kind: fewer have no standard error worth its name.
const LEAST: usize = 4;
/// The verdict takes at most so many times the rows of the calibration, so that its cost is bounded too.
const VERDICT: usize = 4;

/// Splits a term's own data into rows to train on and rows to hold out: as many as the budget asks for twice, but at
/// most a fifth.
pub(super) fn hold_out(data: &Dataset, budget: &Budget, seed: u64) -> (Dataset, Dataset) {
    let wanted = (2 * budget.rows).min(data.examples.len() / 5);
    let (held_out, train) = apart(data, wanted, seed);
    (train, held_out)
}

impl Demonstrations {
    /// Splits held-out rows into those of the calibration and those of the verdict.
    ///
    /// # Errors
    /// What is wrong, if there are too few.
    pub(super) fn new(held_out: &Dataset, budget: &Budget, seed: u64) -> Result<Self, String> {
        let wanted = budget.rows.min(held_out.examples.len() / 2);
        let (calibration, mut verdict) = apart(held_out, wanted, seed);
        verdict.examples.truncate(VERDICT * budget.rows);
        let (some, others) = (calibration.examples.len(), verdict.examples.len());
        match some.min(others) >= LEAST {
            true => Ok(Demonstrations { calibration: calibration.into(), verdict: verdict.into() }),
            false => Err(format!(
                "a budget needs held-out demonstrations to calibrate on, and others to judge by: at least {LEAST} of \
                 either, and there are {some} and {others}"
            )),
        }
    }
}

/// Splits rows into about `count` and the others. Which rows are taken follows from their prompts and the seed, not from
/// their order, so that rows with one prompt stay together and further rows change little. Where too many rows have the
/// same prompt for that, whole rows take the place of prompts.
fn apart(data: &Dataset, count: usize, seed: u64) -> (Dataset, Dataset) {
    let by_prompt = split(data, count, |example| key(seed, &[&example.in_memory()[0].prompt]));
    let (taken, left) = (by_prompt.0.examples.len(), by_prompt.1.examples.len());
    if taken <= 2 * count && left > 0 {
        return by_prompt;
    }
    split(data, count, |example| {
        let answers = example.in_memory().iter().flat_map(|group| &group.completions).map(Vec::as_slice);
        key(seed, &[&*example.in_memory()[0].prompt].into_iter().chain(answers).collect::<Vec<_>>())
    })
}

fn split(data: &Dataset, count: usize, key: impl Fn(&Example) -> String) -> (Dataset, Dataset) {
    let keys: Vec<String> = data.examples.iter().map(key).collect();
    let mut order: Vec<&String> = keys.iter().collect();
    order.sort_unstable();
    let last = count.checked_sub(1).and_then(|last| order.get(last));
    let part = |taken: bool| {
        let rows = data.examples.iter().zip(&keys);
        let examples = rows.filter(|(_, key)| last.is_some_and(|last| key <= last) == taken);
        Dataset {
            layout: data.layout,
            columns: data.columns.clone(),
            examples: examples.map(|(example, _)| example.clone()).collect(),
            report: data.report.clone(),
        }
    };
    (part(true), part(false))
}

fn key(seed: u64, texts: &[&[u32]]) -> String {
    hash::of_bytes(format!("{seed} {texts:?}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use spo_api::Layout;
    use spo_data::{Fit, Source, Tokenizer};

    use super::*;

    /// Rows of these prompts, each with its number as its answer.
    fn rows(prompts: &[&str]) -> Dataset {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("rows.jsonl");
        let line = |(i, prompt): (usize, &&str)| {
            serde_json::json!({ "prompt": prompt, "completion": format!("{i}") }).to_string()
        };
        let lines: Vec<String> = prompts.iter().enumerate().map(line).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let tokenizer = Tokenizer::characters("abcdefghijklmnopqrstuvwxyz0123456789");
        Dataset::load(&[Source::new(path)], Layout::Demonstrations, &tokenizer, &Fit::default()).unwrap()
    }

    fn prompts(data: &Dataset) -> BTreeSet<Vec<u32>> {
        data.examples.iter().map(|example| example.in_memory()[0].prompt.clone()).collect()
    }

    #[test]
    fn rows_with_one_prompt_stay_together_and_none_is_lost() {
        let names: Vec<String> = (b'a'..=b'z').map(|c| char::from(c).to_string()).collect();
        let doubled: Vec<&str> = names.iter().chain(&names).map(String::as_str).collect();
        let data = rows(&doubled);
        let (train, held_out) = hold_out(&data, &Budget::new(0.1, 100), 7);
        assert_eq!((train.examples.len(), held_out.examples.len()), (42, 10));
        assert!(prompts(&train).is_disjoint(&prompts(&held_out)));
        let halves = Demonstrations::new(&held_out, &Budget::new(0.1, 100), 7).unwrap();
        assert!(prompts(&halves.calibration).is_disjoint(&prompts(&halves.verdict)));
        assert_eq!(halves.calibration.examples.len() + halves.verdict.examples.len(), 10);
        let (_, other_seed) = hold_out(&data, &Budget::new(0.1, 100), 8);
        assert_ne!(prompts(&held_out), prompts(&other_seed));
    }

    #[test]
    fn more_rows_leave_those_that_were_held_out_where_they_are() {
        let names: Vec<String> = (b'a'..=b'z').map(|c| char::from(c).to_string()).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let budget = Budget::new(0.1, 3);
        let (few, many) = (hold_out(&rows(&all[..25]), &budget, 1).1, hold_out(&rows(&all), &budget, 1).1);
        assert!(prompts(&few).intersection(&prompts(&many)).count() >= 4);
    }

    #[test]
    fn one_prompt_for_all_rows_is_no_obstacle() {
        let data = rows(&["a"; 40]);
        let (train, held_out) = hold_out(&data, &Budget::new(0.1, 100), 7);
        assert_eq!((train.examples.len(), held_out.examples.len()), (32, 8));
    }

    #[test]
    fn too_few_rows_are_refused() {
        let error = Demonstrations::new(&rows(&["a", "b", "c"]), &Budget::new(0.1, 8), 1).err().unwrap();
        assert!(error.contains("there are 1 and 2"), "{error}");
    }
}
