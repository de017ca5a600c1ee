//! The model's answers to held-out prompts.

use std::borrow::Cow;

use serde::Serialize;
use spo_api::{Metrics, Result, Sampling, Session};
use spo_data::task::Judge;
use spo_data::{Dataset, Tokenizer};

use crate::plan::fit;
use crate::store::scores::Scores;

/// The maximum length of an answer generated only as a sample, in tokens.
const LONGEST_SAMPLE: usize = 128;

/// Prompts answered at a time.
pub(crate) const AT_ONCE: usize = 100;

/// `count` rows of a dataset, evenly spaced. For unpaired data, only desirable rows.
pub(crate) fn spread(data: &Dataset, count: usize) -> Vec<usize> {
    let rows: Vec<usize> = (0..data.examples.len()).filter(|&row| data.examples[row].desirable).collect();
    let count = count.min(rows.len());
    (0..count).map(|i| rows[i * rows.len() / count]).collect()
}

/// Greedy answers to the rows' prompts, each of at most `most` tokens, and of fewer where the model's context
/// ends before.
pub(crate) fn answers(
    session: &mut dyn Session,
    data: &Dataset,
    rows: &[usize],
    most: usize,
    stop: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let info = session.info();
    let prompt = |i: usize| question(data, rows[i]).0;
    let room = |i: usize| fit::room(&info, prompt(i).len()).min(most);
    // Prompts that are answered together have the same limit. Those near the context's end are answered alone.
    let (free, tight): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&i| room(i) == most);
    let mut answers = vec![Vec::new(); rows.len()];
    for chunk in free.chunks(AT_ONCE).chain(tight.chunks(1)) {
        let prompts: Vec<Vec<u32>> = chunk.iter().map(|&i| prompt(i).into_owned()).collect();
        let max_new_tokens = room(chunk[0]);
        let sampling = Sampling::greedy(max_new_tokens, stop);
        for (&i, answer) in chunk.iter().zip(session.generate(&prompts, &sampling)?) {
            answers[i] = answer;
        }
    }
    Ok(answers)
}

/// A row's prompt and its chosen answer; of several turns, the last with all before it. If a row has a chosen answer, it
/// is the first of the first group.
pub(crate) fn question(data: &Dataset, row: usize) -> (Cow<'_, [u32]>, &[u32]) {
    let example = &data.examples[row];
    let group = &example.in_memory()[0];
    let answer = &group.completions[0];
    match example.scored(0, answer.len()).pop() {
        Some(last) if last.start > 0 => {
            (Cow::Owned([&group.prompt, &answer[..last.start]].concat()), &answer[last])
        }
        _ => (Cow::Borrowed(&group.prompt), answer),
    }
}

/// What an answer says before its first stop token, and what follows that token; `None` if it has none.
pub(crate) fn said<'a>(ids: &'a [u32], stop: &[u32]) -> (&'a [u32], Option<&'a [u32]>) {
    match ids.iter().position(|id| stop.contains(id)) {
        Some(end) => (&ids[..end], Some(&ids[end + 1..])),
        None => (ids, None),
    }
}

/// Whether a generated answer ended, and says what the chosen one says. After the stop token of the chosen
/// answer, a chat template may put a line break.
pub(crate) fn is_match(answer: &[u32], chosen: &[u32], tokenizer: &Tokenizer) -> bool {
    let stop = tokenizer.stop_tokens();
    let ((answer, ended), (chosen, rest)) = (said(answer, stop), said(chosen, stop));
    ended.is_some() && answer == chosen && text(tokenizer, rest.unwrap_or_default()).trim().is_empty()
}

/// Length of the longest chosen answer with its stop token, in tokens.
fn longest_answer(data: &Dataset, rows: &[usize], stop: &[u32]) -> usize {
    rows.iter().map(|&row| said(question(data, row).1, stop).0.len() + 1).max().unwrap_or(0)
}

/// Decodes token ids, leaving out the end token.
pub(crate) fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let end = ids.len() - usize::from(ids.last().is_some_and(|id| tokenizer.stop_tokens().contains(id)));
    tokenizer.decode(&ids[..end]).unwrap_or_else(|e| format!("<{e}>"))
}

/// What to generate answers for.
pub(crate) struct Wanted {
    /// Whether to count answers that match the chosen one exactly.
    pub(crate) exact_match: bool,
    /// The judge that scores answers, if any.
    pub(crate) judge: Option<Judge>,
    /// Number of answers to keep as samples.
    pub(crate) samples: usize,
}

/// Results for every held-out row at the start or the end of a stage, for row-by-row comparisons: a line of
/// `held_out.jsonl`. Lists have one entry per row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeldOutLine {
    pub(crate) stage: String,
    pub(crate) step: usize,
    /// Hash of the rows. Lines with the same hash can be compared row by row.
    pub(crate) data: String,
    /// Log-prob of the chosen answer, nats; null if the row has none.
    pub(crate) chosen: Vec<Option<f64>>,
    /// Log-prob of the rejected answer.
    pub(crate) rejected: Vec<Option<f64>>,
    /// Whether the greedy answer ended and is the chosen one to the letter; empty if not evaluated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) exact_match: Vec<Option<bool>>,
    /// Some greedy answers.
    pub(crate) samples: Vec<Sample>,
}

/// A prompt and its answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    place: String,
    prompt: String,
    chosen: String,
    answer: String,
    /// Whether the answer was cut, because it did not end with a stop token before the limit.
    cut: bool,
}

impl HeldOutLine {
    /// The log-probs of every row, without generated answers.
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

    /// Answers prompts by greedy decoding: all of them if the recipe asks for exact match or a judge,
    /// otherwise only the samples. Returns the share of exact matches (`eval_exact_match`) and the mean of
    /// each of the judge's metrics (`eval_NAME`).
    pub(crate) fn answer(
        &mut self,
        session: &mut dyn Session,
        data: &Dataset,
        tokenizer: &Tokenizer,
        wanted: &Wanted,
    ) -> Result<Metrics> {
        let (stop, context) = (tokenizer.stop_tokens(), session.info().context);
        let (rows, samples) = (spread(data, data.examples.len()), spread(data, wanted.samples));
        let mut metrics = Metrics::new();
        if !wanted.exact_match && wanted.judge.is_none() {
            let answers = answers(session, data, &samples, LONGEST_SAMPLE, stop)?;
            samples.iter().zip(&answers).for_each(|(&row, answer)| self.keep(data, row, answer, tokenizer));
            return Ok(metrics);
        }
        let longest = longest_answer(data, &rows, stop);
        let prompts = rows.iter().map(|&row| question(data, row).0.len()).max().unwrap_or(0);
        // A judge should also see overlong answers: allow 1.5 times the longest chosen answer, if the context
        // permits.
        let further = (longest * 3 / 2).min(context.saturating_sub(prompts)).max(longest);
        let limit = if wanted.judge.is_some() { further } else { longest };
        let answers = answers(session, data, &rows, limit, stop)?;
        if wanted.exact_match {
            self.exact_match = vec![None; data.examples.len()];
        }
        let mut right = 0;
        for (&row, answer) in rows.iter().zip(&answers) {
            let (prompt, expected) = question(data, row);
            if wanted.exact_match {
                let same = is_match(answer, expected, tokenizer);
                right += usize::from(same);
                self.exact_match[row] = Some(same);
            }
            if let Some(judge) = wanted.judge {
                let [prompt, expected, answer] = [&*prompt, expected, answer].map(|ids| text(tokenizer, ids));
                for (name, figure) in judge(&prompt, &expected, &answer) {
                    *metrics.entry(format!("eval_{name}")).or_default() += figure / rows.len() as f64;
                }
            }
            if samples.contains(&row) {
                self.keep(data, row, answer, tokenizer);
            }
        }
        if wanted.exact_match {
            metrics.insert("eval_exact_match".into(), right as f64 / rows.len() as f64);
        }
        Ok(metrics)
    }

    /// Keeps an answer as text.
    fn keep(&mut self, data: &Dataset, row: usize, answer: &[u32], tokenizer: &Tokenizer) {
        let (prompt, chosen) = question(data, row);
        self.samples.push(Sample {
            place: data.examples[row].place.to_string(),
            prompt: text(tokenizer, &prompt),
            chosen: text(tokenizer, chosen),
            answer: text(tokenizer, answer),
            cut: said(answer, tokenizer.stop_tokens()).1.is_none(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_an_answer_that_ended() {
        let tokenizer = Tokenizer::characters("ab\n");
        let (_, end) = tokenizer.eos().unwrap();
        let ids = |text: &str| tokenizer.encode(text).unwrap();
        let ended = |text: &str| [ids(text), vec![end]].concat();
        let chosen = ended("ab");
        assert!(is_match(&ended("ab"), &chosen, &tokenizer));
        assert!(!is_match(&ids("ab"), &chosen, &tokenizer), "cut");
        assert!(!is_match(&ids("ab"), &ids("ab"), &tokenizer), "cut where the chosen answer has no end");
        assert!(is_match(&ended("ab"), &ids("ab"), &tokenizer));
        assert!(!is_match(&ended("a"), &chosen, &tokenizer));
        assert!(!is_match(&ended("abb"), &chosen, &tokenizer));
        let template = [chosen.clone(), ids("\n")].concat();
        assert!(is_match(&ended("ab"), &template, &tokenizer), "what a template puts after the end");
        let turns = [chosen, ended("b")].concat();
        assert!(!is_match(&ended("ab"), &turns, &tokenizer), "the first of several turns");
    }
}
