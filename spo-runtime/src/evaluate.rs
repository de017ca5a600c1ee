//! What a model does on held-out rows.

use serde::Serialize;
use spo_api::{Metrics, Objective, Result, Sampling, Session, Statistics};
use spo_data::{Dataset, Tokenizer};

use crate::observation::Observation;
use crate::problem::{evaluate, score};
use crate::rows::{Assembled, Batch, Scores};

/// Held-out figures at one moment, and the scores they came from.
pub struct HeldOut {
    /// Metrics, each named `eval_...`.
    pub metrics: Metrics,
    /// Log-probs of every row.
    pub scores: Scores,
}

/// Scores held-out rows. `start` is what they scored when the stage began, which is the reference unless
/// another is given; before the stage has begun, the scores are their own.
///
/// # Errors
/// Those of the session and the objective.
pub fn held_out(
    session: &mut dyn Session,
    objective: &mut dyn Objective,
    batch: &Batch,
    data: &Dataset,
    start: Option<&Scores>,
    reference: Option<&Scores>,
) -> Result<HeldOut> {
    let statistics =
        Statistics { entropy: true, greedy: true, collision: objective.requirements().collision };
    let scored = score(session, &batch.parts, statistics)?;
    let mut scores = Scores::empty(data);
    scores.update(batch, &scored);
    let start = start.unwrap_or(&scores);
    let assembled =
        Assembled::new(batch, batch.parts.iter().zip(&scored), Some(reference.unwrap_or(start)), data);
    // Evaluating must not advance an objective's running values.
    let state = objective.state();
    let evaluation = evaluate(objective, &assembled, data)?;
    objective.restore(&state)?;
    let mut observation = Observation::default();
    observation.add(&assembled, &evaluation)?;

    let mut metrics: Metrics =
        observation.metrics().into_iter().map(|(k, v)| (format!("eval_{k}"), v)).collect();
    metrics.extend(displacement(&scores, start));
    Ok(HeldOut { metrics, scores })
}

/// Where probability went since `start`.
fn displacement(now: &Scores, start: &Scores) -> Metrics {
    let sum = |tokens: &[f64]| tokens.iter().sum::<f64>();
    let mean = |tokens: &[f64]| sum(tokens) / tokens.len() as f64;
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let rows: Vec<usize> = (0..now.chosen.len()).filter(|&i| !now.chosen[i].is_empty()).collect();
    let lost = rows.iter().filter(|&&i| sum(&now.chosen[i]) < sum(&start.chosen[i])).count();
    let mut metrics = Metrics::from([("eval_displaced".to_owned(), share(lost, rows.len()))]);
    let pairs: Vec<usize> = rows.into_iter().filter(|&i| !now.rejected[i].is_empty()).collect();
    if !pairs.is_empty() {
        let ranked = |score: &dyn Fn(&[f64]) -> f64| {
            share(
                pairs.iter().filter(|&&i| score(&now.chosen[i]) > score(&now.rejected[i])).count(),
                pairs.len(),
            )
        };
        metrics.insert("eval_pair_accuracy".into(), ranked(&sum));
        metrics.insert("eval_pair_accuracy_per_token".into(), ranked(&mean));
    }
    metrics
}

/// Longest answer that is kept without another use, in tokens.
const LONGEST_SAMPLE: usize = 128;

/// `count` rows of a dataset, evenly spaced. Of unpaired rows, the desirable ones.
pub fn spread(data: &Dataset, count: usize) -> Vec<usize> {
    let rows: Vec<usize> = (0..data.examples.len()).filter(|&row| data.examples[row].desirable).collect();
    let count = count.min(rows.len());
    (0..count).map(|i| rows[i * rows.len() / count]).collect()
}

/// The greedy answer to each row's prompt, a hundred at a time, each of at most so many tokens.
///
/// # Errors
/// Those of the session.
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

/// What is kept of every held-out row at one end of a stage, for comparisons row by row: a line of
/// `held_out.jsonl`. Lists have an entry per row.
#[derive(Clone, Debug, Serialize)]
pub struct HeldOutLine {
    /// Name of the stage.
    pub stage: String,
    /// Steps done.
    pub step: usize,
    /// Hash of the rows: lines with the same can be compared row by row.
    pub data: String,
    /// Log-prob of the chosen answer, nats; null where the row has none.
    pub chosen: Vec<Option<f64>>,
    /// Log-prob of the rejected answer.
    pub rejected: Vec<Option<f64>>,
    /// Whether the greedy answer is the chosen one to the letter; empty where it was not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exact_match: Vec<Option<bool>>,
    /// Some greedy answers.
    pub samples: Vec<Sample>,
}

/// A prompt and how it was answered.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    place: String,
    prompt: String,
    chosen: String,
    answer: String,
}

impl HeldOutLine {
    /// The log-probs of every row; no answers yet.
    pub fn new(stage: &str, step: usize, data: &Dataset, scores: &Scores) -> Self {
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

    /// Answers prompts by greedy decoding: all of them where the answers are to be the chosen ones to the
    /// letter, some of which are kept; else those that are kept. Returns the share that is right.
    ///
    /// # Errors
    /// Those of the session.
    pub fn answer(
        &mut self,
        session: &mut dyn Session,
        data: &Dataset,
        tokenizer: &Tokenizer,
        exact_match: bool,
        samples: usize,
    ) -> Result<Option<f64>> {
        let (stop, samples) = (tokenizer.stop_tokens(), spread(data, samples));
        if !exact_match {
            let longest = longest_answer(data, &spread(data, data.examples.len()));
            let context = session.info().context;
            for row in samples {
                let room = context.saturating_sub(question(data, row).0.len());
                let limit = longest.min(LONGEST_SAMPLE).min(room);
                let answer = answers(session, data, &[row], limit, stop)?;
                self.keep(data, row, &answer[0], tokenizer);
            }
            return Ok(None);
        }
        let rows = spread(data, data.examples.len());
        let answers = answers(session, data, &rows, longest_answer(data, &rows), stop)?;
        self.exact_match = vec![None; data.examples.len()];
        let mut right = 0;
        for (&row, answer) in rows.iter().zip(&answers) {
            let same = answer == question(data, row).1;
            right += usize::from(same);
            self.exact_match[row] = Some(same);
            if samples.contains(&row) {
                self.keep(data, row, answer, tokenizer);
            }
        }
        Ok(Some(right as f64 / rows.len() as f64))
    }

    /// Keeps an answer in words.
    fn keep(&mut self, data: &Dataset, row: usize, answer: &[u32], tokenizer: &Tokenizer) {
        let text = |ids: &[u32]| {
            let end =
                ids.len() - usize::from(ids.last().is_some_and(|id| tokenizer.stop_tokens().contains(id)));
            tokenizer.decode(&ids[..end]).unwrap_or_else(|e| format!("<{e}>"))
        };
        let (prompt, chosen) = question(data, row);
        self.samples.push(Sample {
            place: data.examples[row].place.to_string(),
            prompt: text(prompt),
            chosen: text(chosen),
            answer: text(answer),
        });
    }
}
