//! How a saved model answers on the command line, and an answer as it grows.

use spo_api::{ModelInfo, Sampling, Session};
use spo_data::{DataError, Tokenizer};

use crate::error::{BadInput, bad};
use crate::plan::fit;

#[derive(clap::Args)]
pub(crate) struct Answering {
    /// Most tokens to add. Fewer where the model's context ends before.
    #[arg(long, default_value_t = 128)]
    pub(super) max_new_tokens: usize,
    /// 0 takes the most probable token every time.
    #[arg(long, default_value_t = 0.0)]
    pub(super) temperature: f64,
    /// Sample from this many of the most probable tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample from the smallest set of tokens with at least this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Sample from tokens with at least this share of the greatest probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Make tokens that were there before less probable: above 1. It applies to the prompt too.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// End an answer before this text. May be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a stop token of the model.
    Token,
    /// Before a text of `--stop`.
    Text,
    /// It was as long as it may be.
    Length,
    /// It was interrupted.
    Interrupted,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Token => "stop_token",
            End::Text => "stop_text",
            End::Length => "length",
            End::Interrupted => "interrupted",
        }
    }
}

/// A finished answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: usize,
    pub(crate) end: End,
}

impl Answering {
    /// # Errors
    /// [`BadInput`] that names the option.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        let problem = if self.max_new_tokens == 0 {
            "--max-new-tokens must be at least 1"
        } else if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            "--temperature must be a number of at least 0"
        } else if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            "--top-p must be greater than 0 and at most 1"
        } else if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            "--min-p must be from 0 to 1"
        } else if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            "--repetition-penalty must be a number greater than 0"
        } else if self.stop.iter().any(String::is_empty) {
            "--stop must be a text"
        } else if self.temperature == 0.0 && (self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0) {
            "--top-k, --top-p and --min-p have no effect without a --temperature above 0"
        } else {
            return Ok(());
        };
        Err(bad(problem))
    }

    /// How many tokens there is room for after the longest prompt.
    ///
    /// # Errors
    /// [`BadInput`] if there is room for none.
    pub(crate) fn limit(&self, prompts: &[Vec<u32>], info: &ModelInfo) -> Result<usize, BadInput> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        match fit::room(info, longest) {
            0 => Err(bad(format!(
                "the prompt has {longest} tokens, and {}: there is no room for an answer",
                fit::limit(info)
            ))),
            room => Ok(room.min(self.max_new_tokens)),
        }
    }

    /// Answers prompts. `show` is called with the index of a prompt and what was added to its answer; it returns whether
    /// to go on.
    ///
    /// # Errors
    /// Those of the session, and of the tokenizer.
    pub(crate) fn answer(
        &self,
        (tokenizer, session): (&Tokenizer, &mut Box<dyn Session>),
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        show: &mut dyn FnMut(usize, &str) -> bool,
    ) -> anyhow::Result<Vec<Answer>> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            ..Sampling::greedy(max_new_tokens, tokenizer.stop_tokens())
        };
        let growing = |_: &Vec<u32>| Growing {
            tokenizer,
            stop: &self.stop,
            ids: Vec::new(),
            text: String::new(),
            shown: 0,
            end: None,
        };
        let mut growing: Vec<Growing<'_>> = prompts.iter().map(growing).collect();
        let mut failed = None;
        session.generate_watched(prompts, &sampling, &mut |i, token| {
            let growing = &mut growing[i];
            match growing.add(token) {
                Ok(more) => {
                    let wanted = show(i, growing.fresh());
                    if !wanted {
                        growing.end.get_or_insert(End::Interrupted);
                    }
                    more && wanted
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let mut answers = Vec::with_capacity(prompts.len());
        for (i, growing) in growing.into_iter().enumerate() {
            show(i, growing.text.get(growing.shown..).unwrap_or_default());
            let end = growing.end.unwrap_or(End::Length);
            answers.push(Answer { text: growing.text, tokens: growing.ids.len(), end });
        }
        Ok(answers)
    }
}

/// An answer of which more and more tokens are known.
struct Growing<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    ids: Vec<u32>,
    /// The text of the tokens, up to a text of `stop`.
    text: String,
    /// Bytes of the text that were shown.
    shown: usize,
    end: Option<End>,
}

impl Growing<'_> {
    /// Adds a token. Returns whether the answer goes on.
    fn add(&mut self, token: u32) -> Result<bool, DataError> {
        if self.tokenizer.stop_tokens().contains(&token) {
            self.end = Some(End::Token);
            return Ok(false);
        }
        self.ids.push(token);
        self.text = self.tokenizer.decode(&self.ids)?;
        if let Some(at) = self.stop.iter().filter_map(|stop| self.text.find(stop)).min() {
            self.text.truncate(at);
            self.end = Some(End::Text);
        }
        Ok(self.end.is_none())
    }

    /// The text that was not shown yet and that no further token changes: without the beginning of a character, or of a
    /// text that would end the answer.
    fn fresh(&mut self) -> &str {
        let whole = self.text.trim_end_matches('\u{fffd}');
        let held = |stop: &String| {
            let mut ends = stop.char_indices().rev().map(|(at, _)| at).filter(|at| *at > 0);
            ends.find(|end| whole.ends_with(&stop[..*end])).unwrap_or(0)
        };
        let end = whole.len() - self.stop.iter().map(held).max().unwrap_or(0);
        let start = self.shown.min(end);
        self.shown = end.max(self.shown);
        // Few decoders change what they said before; then the rest comes at the end.
        self.text.get(start..end).unwrap_or_default()
    }
}
