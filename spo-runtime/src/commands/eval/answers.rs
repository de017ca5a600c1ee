//! Greedy answers to the rows' prompts, compared with the chosen ones.

use fancy_regex::Regex;
use spo_api::Session;
use spo_data::{Dataset, Tokenizer, rouge};
use spo_report::stats;

use crate::error::{BadInput, bad};
use crate::reporter::Progress;
use crate::train::evaluate::answers::{AT_ONCE, answers, is_match, question, said, spread, text};
use crate::train::evaluate::figures::Figure;

#[derive(clap::Args)]
pub(super) struct AnswerArguments {
    /// Answer the prompts greedily, and count the answers that are the chosen one to the letter.
    #[arg(long)]
    pub(super) exact_match: bool,
    /// The same, but compare what this regular expression finds in both answers: its first group, or all of it. Where it
    /// finds nothing in the chosen answer, that is taken as a whole.
    #[arg(long, value_name = "REGEX")]
    pub(super) extract: Option<String>,
    /// ROUGE-L of the answers with the chosen ones.
    #[arg(long)]
    pub(super) rouge: bool,
    /// Compare stems of words in ROUGE-L.
    #[arg(long, requires = "rouge")]
    stem: bool,
    /// Most tokens of an answer. Fewer where the model's context ends before.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
}

/// A greedy answer, and how it compares with the chosen one.
pub(super) struct Answer {
    pub(super) row: usize,
    pub(super) text: String,
    /// Whether it did not end by itself.
    pub(super) cut: bool,
    pub(super) extracted: Option<String>,
    pub(super) exact_match: Option<bool>,
    pub(super) rouge_l: Option<f64>,
}

impl AnswerArguments {
    pub(super) fn check(&self) -> Result<(), BadInput> {
        if self.max_new_tokens == 0 {
            return Err(bad("--max-new-tokens must be at least 1"));
        }
        self.pattern().map(drop)
    }

    fn pattern(&self) -> Result<Option<Regex>, BadInput> {
        let compiled = self.extract.as_deref().map(Regex::new).transpose();
        compiled.map_err(|e| bad(format!("--extract: {e}")))
    }

    /// Answers the prompts of all rows with a chosen answer, if that was asked for.
    pub(super) fn answer(
        &self,
        session: &mut dyn Session,
        data: &Dataset,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Vec<Answer>> {
        let pattern = self.pattern()?;
        if !self.exact_match && pattern.is_none() && !self.rouge {
            return Ok(Vec::new());
        }
        let (rows, stop) = (spread(data, data.examples.len()), tokenizer.stop_tokens());
        let mut progress = Progress::new("answering prompts", rows.len());
        let mut given = Vec::with_capacity(rows.len());
        for some in rows.chunks(AT_ONCE) {
            given.extend(answers(session, data, some, self.max_new_tokens, stop)?);
            progress.at(given.len());
        }
        drop(progress);
        let find = |text: &str| -> anyhow::Result<Option<String>> {
            let Some(pattern) = &pattern else { return Ok(None) };
            let found = pattern.captures(text).map_err(|e| bad(format!("--extract: {e}")))?;
            Ok(found
                .and_then(|found| Some(found.get(1).or_else(|| found.get(0))?.as_str().trim().to_owned())))
        };
        let mut compared = Vec::with_capacity(rows.len());
        for (row, ids) in rows.into_iter().zip(given) {
            let chosen = question(data, row).1;
            let ((said_ids, end), (expected, _)) = (said(&ids, stop), said(chosen, stop));
            let [answer, expected] = [said_ids, expected].map(|ids| text(tokenizer, ids));
            let extracted = find(&answer)?;
            let exact_match = match &pattern {
                Some(_) => {
                    let expected = find(&expected)?.unwrap_or_else(|| expected.trim().to_owned());
                    Some(extracted.as_ref() == Some(&expected))
                }
                None => self.exact_match.then(|| is_match(&ids, chosen, tokenizer)),
            };
            let rouge_l = self.rouge.then(|| rouge::rouge_l(&expected, &answer, self.stem));
            compared.push(Answer { row, text: answer, cut: end.is_none(), extracted, exact_match, rouge_l });
        }
        Ok(compared)
    }

    /// The figures of the answers.
    pub(super) fn figures(&self, answers: &[Answer]) -> Vec<Figure> {
        let share = |right: bool| f64::from(u8::from(right));
        let matches: Vec<f64> = answers.iter().filter_map(|answer| answer.exact_match.map(share)).collect();
        let overlaps: Vec<f64> = answers.iter().filter_map(|answer| answer.rouge_l).collect();
        let cut: Vec<f64> = answers.iter().map(|answer| share(answer.cut)).collect();
        let figures = [
            ("exact_match", stats::wilson(&matches)),
            ("rouge_l", stats::bootstrap(&overlaps)),
            ("answers_cut", stats::wilson(&cut)),
        ];
        let known = figures.into_iter().filter(|(_, estimate)| estimate.count > 0);
        known.map(|(name, estimate)| Figure { name: name.to_owned(), estimate }).collect()
    }
}
