//! What a model answers to held-out prompts.

use serde::Serialize;
use spo_api::{Metrics, Result, Sampling, Session};
use spo_data::task::Judge;
use spo_data::{Dataset, Tokenizer};

use crate::store::scores::Scores;

/// Longest answer that is kept without another use, in tokens.
const LONGEST_SAMPLE: usize = 128;

/// `count` rows of a dataset, evenly spaced. Of unpaired rows, the desirable ones.
pub(crate) fn spread(data: &Dataset, count: usize) -> Vec<usize> {
    let rows: Vec<usize> = (0..data.examples.len()).filter(|&row| data.examples[row].desirable).collect();
    let count = count.min(rows.len());
    (0..count).map(|i| rows[i * rows.len() / count]).collect()
}

/// The greedy answer to each row's prompt, a hundred at a time, each of at most so many tokens.
fn answers(
    session: &mut dyn Session,
    data: &Dataset,
    rows: &[usize],
    max_new_tokens: usize,
    stop: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let sampling = Sampling { max_new_tokens, temperature: 0.0, top_p: 1.0, seed: 0, stop: stop.to_vec() };
    let mut answers = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(100) {
        let prompts: Vec<Vec<u32>> = chunk.iter().map(|&row| question(data, row).0.clone()).collect();
        answers.extend(session.generate(&prompts, &sampling)?);
    }
    Ok(answers)
}

/// A row's prompt and the answer that is wanted. (An answer's first group begins with the chosen one, if it
/// is there to be imitated at all.)
fn question(data: &Dataset, row: usize) -> (&Vec<u32>, &Vec<u32>) {
    let group = &data.examples[row].groups[0];
    (&group.prompt, &group.completions[0])
}

/// Tokens of the longest answer that is wanted.
fn longest_answer(data: &Dataset, rows: &[usize]) -> usize {
    rows.iter().map(|&row| question(data, row).1.len()).max().unwrap_or(0)
}

/// Token ids in words, without the token that ends them.
fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let end = ids.len() - usize::from(ids.last().is_some_and(|id| tokenizer.stop_tokens().contains(id)));
    tokenizer.decode(&ids[..end]).unwrap_or_else(|e| format!("<{e}>"))
}

/// What held-out prompts are answered for.
pub(crate) struct Wanted {
    /// Answers that are the chosen ones to the letter are counted.
    pub(crate) exact_match: bool,
    /// Who judges answers beyond that.
    pub(crate) judge: Option<Judge>,
    /// Answers that are kept.
    pub(crate) samples: usize,
}

/// What is kept of every held-out row at one end of a stage, for comparisons row by row: a line of
/// `held_out.jsonl`. Lists have an entry per row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeldOutLine {
    /// Name of the stage.
    pub(crate) stage: String,
    /// Steps done.
    pub(crate) step: usize,
    /// Hash of the rows: lines with the same can be compared row by row.
    pub(crate) data: String,
    /// Log-prob of the chosen answer, nats; null where the row has none.
    pub(crate) chosen: Vec<Option<f64>>,
    /// Log-prob of the rejected answer.
    pub(crate) rejected: Vec<Option<f64>>,
    /// Whether the greedy answer is the chosen one to the letter; empty where it was not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) exact_match: Vec<Option<bool>>,
    /// Some greedy answers.
    pub(crate) samples: Vec<Sample>,
}

/// A prompt and how it was answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    place: String,
    prompt: String,
    chosen: String,
    answer: String,
}

impl HeldOutLine {
    /// The log-probs of every row; no answers yet.
    pub(crate) fn new(stage: &str, step: usize, data: &Dataset, scores: &Scores) -> Self {
        let sums = |side: &[Vec<f64>]| {
            side.iter().map(|tokens| (!tokens.is_empty()).then(|| tokens.iter().sum())).collect()
        };
        HeldOutLine {
            stage: stage.to_owned(),
            step,
            data: data.hash(),
            chosen: sums(&scores.chosen),
            rejected: sums(&scores.rejected),
            exact_match: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Answers prompts by greedy decoding: all of them where the recipe wants more than samples, else the samples.
    /// Returns what there is to say of them: the share that is right (`eval_exact_match`), and the mean of each
    /// figure of the judge (`eval_NAME`).
    pub(crate) fn answer(
        &mut self,
        session: &mut dyn Session,
        data: &Dataset,
        tokenizer: &Tokenizer,
        wanted: &Wanted,
    ) -> Result<Metrics> {
        let (stop, context) = (tokenizer.stop_tokens(), session.info().context);
        let (rows, samples) = (spread(data, data.examples.len()), spread(data, wanted.samples));
        let longest = longest_answer(data, &rows);
        let mut metrics = Metrics::new();
        if !wanted.exact_match && wanted.judge.is_none() {
            for row in samples {
                let room = context.saturating_sub(question(data, row).0.len());
                let limit = longest.min(LONGEST_SAMPLE).min(room);
                let answer = answers(session, data, &[row], limit, stop)?;
                self.keep(data, row, &answer[0], tokenizer);
            }
            return Ok(metrics);
        }
        let prompts = rows.iter().map(|&row| question(data, row).0.len()).max().unwrap_or(0);
        // A judge sees how answers go on: half as long again as any that is wanted, where there is room.
        let further = (longest * 3 / 2).min(context.saturating_sub(prompts)).max(longest);
        let limit = if wanted.judge.is_some() { further } else { longest };
        let answers = answers(session, data, &rows, limit, stop)?;
        if wanted.exact_match {
            self.exact_match = vec![None; data.examples.len()];
        }
        let mut right = 0;
        for (&row, answer) in rows.iter().zip(&answers) {
            let (prompt, expected) = question(data, row);
            let comparable = &answer[..answer.len().min(longest)];
            if wanted.exact_match {
                let same = comparable == expected;
                right += usize::from(same);
                self.exact_match[row] = Some(same);
            }
            if let Some(judge) = wanted.judge {
                let [prompt, expected, answer] = [prompt, expected, answer].map(|ids| text(tokenizer, ids));
                for (name, figure) in judge(&prompt, &expected, &answer) {
                    *metrics.entry(format!("eval_{name}")).or_default() += figure / rows.len() as f64;
                }
            }
            if samples.contains(&row) {
                self.keep(data, row, comparable, tokenizer);
            }
        }
        if wanted.exact_match {
            metrics.insert("eval_exact_match".into(), right as f64 / rows.len() as f64);
        }
        Ok(metrics)
    }

    /// Keeps an answer in words.
    fn keep(&mut self, data: &Dataset, row: usize, answer: &[u32], tokenizer: &Tokenizer) {
        let (prompt, chosen) = question(data, row);
        self.samples.push(Sample {
            place: data.examples[row].place.to_string(),
            prompt: text(tokenizer, prompt),
            chosen: text(tokenizer, chosen),
            answer: text(tokenizer, answer),
        });
    }
}
