//! The parts of a `tokenizer.json`, with a limit on what they make of a text.
//!
//! The file is data, and a few parts in it can multiply a text again and again. The limit is far above what any
//! tokenizer needs: the longest expansion in Unicode is 18 to 1, and a space in a few bytes is 3 to 1.

use std::panic::resume_unwind;

use serde::Deserialize;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{
    Decoder, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    TokenizerImpl,
};

/// A tokenizer whose normalizers, pre-tokenizers and decoders are bounded.
pub(super) type Bounded =
    TokenizerImpl<ModelWrapper, BoundedNormalizer, BoundedPreTokenizer, PostProcessorWrapper, BoundedDecoder>;

/// How many bytes a text may become for each of its own, and in any case.
const GROWTH: usize = 64;
const ALLOWANCE: usize = 1 << 16;

/// The longest text that a model may write in place of an unknown one, or add to a word, in bytes.
const LONGEST_ADDITION: usize = 256;

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct BoundedNormalizer(NormalizerWrapper);

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct BoundedPreTokenizer(PreTokenizerWrapper);

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct BoundedDecoder(DecoderWrapper);

impl Normalizer for BoundedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let limit = Limit::of("normalizer", text.get().len());
        // The library goes on after an error with a text that is half normalized. Only unwinding stops it.
        normalize(&self.0, text, &limit).map_err(|e| resume_unwind(Box::new(e.to_string())))
    }
}

impl PreTokenizer for BoundedPreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        pre_tokenize(&self.0, text, &Limit::of("pre_tokenizer", length(text)))
    }
}

impl Decoder for BoundedDecoder {
    fn decode_chain(&self, tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        let limit = Limit::of("decoder", tokens.iter().map(String::len).sum());
        decode(&self.0, tokens, &limit)
    }
}

/// Checks that the model makes the same tokens of a text every time, and no long texts for short ones.
///
/// # Errors
/// What is random, or too long.
pub(super) fn check(model: &ModelWrapper) -> Result<(), String> {
    let (unknown, prefix, suffix) = match model {
        ModelWrapper::BPE(model) => (
            model.unk_token.as_ref(),
            model.continuing_subword_prefix.as_ref(),
            model.end_of_word_suffix.as_ref(),
        ),
        ModelWrapper::WordPiece(model) => {
            (Some(&model.unk_token), Some(&model.continuing_subword_prefix), None)
        }
        ModelWrapper::WordLevel(model) => (Some(&model.unk_token), None, None),
        ModelWrapper::Unigram(_) => (None, None, None),
    };
    if let ModelWrapper::BPE(model) = model
        && model.dropout.is_some_and(|dropout| dropout > 0.0)
    {
        return Err(
            "its model has a dropout, which makes other tokens of a text every time: set it to null".into()
        );
    }
    let additions =
        [("unk_token", unknown), ("continuing_subword_prefix", prefix), ("end_of_word_suffix", suffix)];
    for (name, text) in additions {
        let length = text.map_or(0, String::len);
        if length > LONGEST_ADDITION {
            return Err(format!("its {name} has {length} bytes, expected at most {LONGEST_ADDITION}"));
        }
    }
    Ok(())
}

fn normalize(part: &NormalizerWrapper, text: &mut NormalizedString, limit: &Limit) -> tokenizers::Result<()> {
    let length = text.get().len();
    match part {
        NormalizerWrapper::Sequence(parts) => {
            return parts.as_ref().iter().try_for_each(|part| normalize(part, text, limit));
        }
        // An empty pattern is found before every character and at the end.
        NormalizerWrapper::Replace(replace) => limit.replacing(length, 1, &replace.content)?,
        NormalizerWrapper::Prepend(prepend) => limit.check(length + prepend.prepend.len())?,
        NormalizerWrapper::Precompiled(map) => limit.check(mapped(map, text.get()))?,
        _ => {}
    }
    part.normalize(text)?;
    limit.check(text.get().len())
}

/// The most bytes that a table of replacements can make of a text. It is asked for what a grapheme of fewer than six
/// bytes becomes, else for what each of its characters becomes.
fn mapped(map: &Precompiled, text: &str) -> usize {
    let from = |start: usize| {
        let ends = (start + 1..text.len().min(start + 5) + 1).filter(|&end| text.is_char_boundary(end));
        let replaced = ends.filter_map(|end| map.transform(&text[start..end])).map(str::len);
        replaced.max().unwrap_or(0)
    };
    text.char_indices().map(|(start, c)| from(start).max(c.len_utf8())).sum()
}

fn pre_tokenize(
    part: &PreTokenizerWrapper,
    text: &mut PreTokenizedString,
    limit: &Limit,
) -> tokenizers::Result<()> {
    match part {
        PreTokenizerWrapper::Sequence(parts) => {
            parts.as_ref().iter().try_for_each(|part| pre_tokenize(part, text, limit))
        }
        // The only ones that change the text.
        PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Metaspace(_) => {
            part.pre_tokenize(text)?;
            limit.check(length(text))
        }
        _ => part.pre_tokenize(text),
    }
}

fn decode(part: &DecoderWrapper, tokens: Vec<String>, limit: &Limit) -> tokenizers::Result<Vec<String>> {
    let length = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
    match part {
        DecoderWrapper::Sequence(parts) => {
            return parts.get_decoders().iter().try_fold(tokens, |tokens, part| decode(part, tokens, limit));
        }
        DecoderWrapper::Replace(replace) => {
            limit.replacing(length(&tokens), tokens.len(), &replace.content)?;
        }
        _ => {}
    }
    let decoded = part.decode_chain(tokens)?;
    limit.check(length(&decoded))?;
    Ok(decoded)
}

fn length(text: &PreTokenizedString) -> usize {
    let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
    splits.iter().map(|(text, ..)| text.len()).sum()
}

/// The most that a kind of part may make of one text.
struct Limit {
    part: &'static str,
    before: usize,
}

impl Limit {
    fn of(part: &'static str, before: usize) -> Self {
        Limit { part, before }
    }

    fn check(&self, after: usize) -> tokenizers::Result<()> {
        if after <= self.before.saturating_mul(GROWTH).saturating_add(ALLOWANCE) {
            return Ok(());
        }
        let Limit { part, before } = self;
        Err(format!(
            "the {part} can make {after} bytes of {before}, more than {GROWTH} for each and {} KiB",
            ALLOWANCE >> 10
        )
        .into())
    }

    /// Checks the most that a replacement can make of texts of `length` bytes together.
    fn replacing(&self, length: usize, texts: usize, content: &str) -> tokenizers::Result<()> {
        let places = length.saturating_add(texts);
        self.check(places.saturating_mul(content.len()).saturating_add(length))
    }
}
