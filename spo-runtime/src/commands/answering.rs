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
        let mut growing: Vec<Growing<'_>> =
            prompts.iter().map(|_| Growing::new(tokenizer, &self.stop)).collect();
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
            let text = growing.whole()?;
            show(i, text.get(growing.shown..).unwrap_or_default());
            let end = growing.end.unwrap_or(End::Length);
            answers.push(Answer { text, tokens: growing.ids.len(), end });
        }
        Ok(answers)
    }
}

/// An answer of which more and more tokens are known.
struct Growing<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    ids: Vec<u32>,
    /// Where the tokens begin that are decoded with the next one. A token may have another text at the beginning.
    window: usize,
    /// Tokens whose text is known. The others are the beginning of a character.
    told: usize,
    /// The text of these tokens, up to a text of `stop`.
    text: String,
    /// Bytes of the text that were shown.
    shown: usize,
    end: Option<End>,
}

/// The most tokens that one character is made of. What is longer is no character.
const OF_A_CHARACTER: usize = 8;

impl<'a> Growing<'a> {
    /// An answer of no tokens.
    fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        Growing {
            tokenizer,
            stop,
            ids: Vec::new(),
            window: 0,
            told: 0,
            text: String::new(),
            shown: 0,
            end: None,
        }
    }

    /// Adds a token. Returns whether the answer goes on.
    fn add(&mut self, token: u32) -> Result<bool, DataError> {
        if self.tokenizer.stop_tokens().contains(&token) {
            self.end = Some(End::Token);
            return Ok(false);
        }
        self.ids.push(token);
        let before = self.tokenizer.decode(&self.ids[self.window..self.told])?;
        let mut after = self.tokenizer.decode(&self.ids[self.window..])?;
        let mut told = self.ids.len();
        if after.ends_with('\u{fffd}') {
            if told - self.told < OF_A_CHARACTER {
                return Ok(true);
            }
            (told, after) = self.before_the_last(after)?;
        }
        if after.len() < before.len() {
            return Ok(true);
        }
        // A text that ends the answer may have begun in what is known.
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text += after.get(before.len()..).unwrap_or_default();
        (self.window, self.told) = (self.told, told);
        if let Some(at) = first(self.stop, &self.text[from..]) {
            self.text.truncate(from + at);
            self.end = Some(End::Text);
        }
        Ok(self.end.is_none())
    }

    /// Where the last character of a text begins that ends with U+FFFD, and the text before it. The model may have written
    /// U+FFFD, or bytes that are no text, and then the last ones may still be the beginning of a character.
    fn before_the_last(&self, text: String) -> Result<(usize, String), DataError> {
        for at in (self.told + 1..self.ids.len()).rev() {
            let before = self.tokenizer.decode(&self.ids[self.window..at])?;
            let last = self.tokenizer.decode(&self.ids[at..])?;
            if text.strip_prefix(&before) == Some(&last) {
                return Ok((at, before));
            }
        }
        Ok((self.ids.len(), text))
    }

    /// The text of the whole answer, as its tokens are decoded together.
    fn whole(&self) -> Result<String, DataError> {
        let mut text = self.tokenizer.decode(&self.ids)?;
        match (first(self.stop, &text), self.end) {
            (Some(at), _) => text.truncate(at),
            (None, Some(End::Text)) => text.clone_from(&self.text),
            (None, _) => {}
        }
        Ok(text)
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

/// Where the first of some texts is.
fn first(stop: &[String], text: &str) -> Option<usize> {
    stop.iter().filter_map(|stop| text.find(stop)).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    /// A tokenizer with a token for every byte, as GPT-2 writes them.
    fn bytes() -> Tokenizer {
        let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut others = 0x100..;
        let shown = |byte| if printable(byte) { byte } else { others.next().unwrap() };
        let letters = (0..256).map(shown).map(|code| char::from_u32(code).unwrap().to_string());
        let vocabulary: Map<String, Value> = letters.zip((0..256).map(Value::from)).collect();
        tokenizer(
            json!({ "type": "BPE", "vocab": vocabulary, "merges": [] }),
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }),
        )
    }

    /// A tokenizer with words that begin with a space, which the first one loses, and with single bytes.
    fn words() -> Tokenizer {
        let mut vocabulary: Map<String, Value> =
            (0..256).map(|byte| (format!("<0x{byte:02X}>"), Value::from(byte))).collect();
        for (i, word) in ["\u{2581}a", "\u{2581}", "bc", "\u{2581}\u{e4}"].into_iter().enumerate() {
            vocabulary.insert(word.to_owned(), Value::from(256 + i));
        }
        let decoder = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] });
        tokenizer(json!({ "type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true }), decoder)
    }

    fn tokenizer(model: Value, decoder: Value) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let text = json!({ "version": "1.0", "model": model, "decoder": decoder }).to_string();
        std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    }

    /// What is shown of an answer token by token, the answer, and the most tokens that were decoded at once.
    fn grown(tokenizer: &Tokenizer, stop: &[&str], ids: &[u32]) -> (String, String, usize) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut growing = Growing::new(tokenizer, &stop);
        let (mut shown, mut most) = (String::new(), 0);
        for id in ids {
            most = most.max(growing.ids.len() + 1 - growing.window);
            let more = growing.add(*id).unwrap();
            shown += growing.fresh();
            if !more {
                break;
            }
        }
        let whole = growing.whole().unwrap();
        shown += whole.get(growing.shown..).unwrap_or_default();
        (shown, whole, most)
    }

    #[test]
    fn a_character_after_those_that_stand_for_others_is_whole() {
        for text in
            ["\u{fffd}\u{fffd}\u{1f300}0", "\u{fffd}\u{fffd}\u{fffd}\u{20ac}", "\u{fffd}\u{fffd}\u{fffd}"]
        {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let (shown, whole, _) = grown(&bytes(), &[], &ids);
            assert_eq!((&shown[..], &whole[..]), (text, text));
        }
    }

    proptest! {
        #[test]
        fn an_answer_grows_to_what_its_tokens_say_together(text in any::<String>()) {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let (shown, whole, most) = grown(&bytes(), &[], &ids);
            prop_assert_eq!((&shown, &whole), (&text, &text));
            prop_assert!(most <= 2 * OF_A_CHARACTER, "{}", most);
        }

        #[test]
        fn words_keep_their_spaces(parts in prop::collection::vec(0usize..7, 0..40)) {
            // Words, and the bytes of characters that have no token.
            let of = [&[256][..], &[257], &[258], &[259], &[0xc3, 0xb6], &[0xe2, 0x82, 0xac], &[0x41]];
            let ids: Vec<u32> = parts.iter().flat_map(|part| of[*part].iter().copied()).collect();
            let tokenizer = words();
            let (shown, whole, most) = grown(&tokenizer, &[], &ids);
            prop_assert_eq!(&shown, &tokenizer.decode(&ids).unwrap());
            prop_assert_eq!(&shown, &whole);
            prop_assert!(most <= 2 * OF_A_CHARACTER, "{}", most);
        }

        #[test]
        fn bytes_that_are_no_text_are_shown_without_delay(ids in prop::collection::vec(0u32..256, 0..200)) {
            let (_, whole, most) = grown(&bytes(), &[], &ids);
            let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
            prop_assert_eq!(whole, String::from_utf8_lossy(&bytes));
            prop_assert!(most <= 2 * OF_A_CHARACTER, "{}", most);
        }
    }

    #[test]
    fn a_text_ends_the_answer_across_tokens_and_characters() {
        let ids: Vec<u32> = "na\u{ef}ve \u{20ac}5 STOP more".bytes().map(u32::from).collect();
        for (stop, said) in [
            ("STOP", "na\u{ef}ve \u{20ac}5 "),
            ("\u{20ac}", "na\u{ef}ve "),
            ("\u{ef}v", "na"),
            ("x", "na\u{ef}ve \u{20ac}5 STOP more"),
        ] {
            let (shown, whole, _) = grown(&bytes(), &[stop, "never"], &ids);
            assert_eq!((&*shown, &*whole), (said, said), "{stop}");
        }
    }
}
