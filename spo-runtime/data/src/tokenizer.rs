//! A model's tokenizer with its special tokens, chat template and stop tokens.

mod bounded;
mod characters;
mod config;
mod gguf;
mod splits;
mod to_gguf;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use spo_api::{Error, read_whole, write_whole};
use spo_gguf::Gguf;

use crate::clock::Moment;
use crate::error::{DataError, Result};
use crate::guard::guarded;
use crate::hash;
use crate::row::Message;
use crate::special::{Part, Special};
use crate::template::ChatTemplate;
use crate::tokenize::brief;
use bounded::Bounded;
use config::Config;

/// The files that make up a tokenizer. The first holds the vocabulary and is required.
const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    TEMPLATE,
    "generation_config.json",
];

/// The file of the chat template. Older folders have it in `tokenizer_config.json`.
const TEMPLATE: &str = "chat_template.jinja";

/// The longest of these files, in MiB. A vocabulary of a million tokens takes about 60.
const LONGEST_FILE: u64 = 256;

/// Converts text to token ids and back.
pub struct Tokenizer {
    inner: Vocabulary,
    config: Config,
    template: Option<ChatTemplate>,
    /// Tokens the tokenizer puts before every plain text.
    prefix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    stop: Vec<u32>,
    files: Vec<(&'static str, Vec<u8>)>,
    special: Special,
    /// The same vocabulary, for which special tokens are ordinary text. Few data need it.
    plain: OnceLock<Result<Vocabulary>>,
}

impl Tokenizer {
    /// Opens the tokenizer of a Hugging Face folder: `tokenizer.json`, and those of
    /// `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` and
    /// `generation_config.json` that exist. Or that in a GGUF file, as such files.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, a file is malformed, a special token is not in the vocabulary, or
    /// the chat template has a syntax error.
    pub fn open(folder: &Path) -> Result<Self> {
        // A tokenizer of its own beside the file is the better one.
        if let Some(file) = spo_gguf::file_of(folder).filter(|_| !folder.join(FILES[0]).exists()) {
            let files = Gguf::open(&file).and_then(|gguf| gguf::files(&gguf));
            return Tokenizer::from_files(&file, files.map_err(|e| DataError::new(e.to_string()))?);
        }
        let mut files = Vec::new();
        for name in FILES {
            let path = folder.join(name);
            // A link that leads nowhere is there, and cannot be read.
            if path.symlink_metadata().is_ok() {
                files.push((name, read_whole(&path, LONGEST_FILE).map_err(|e| DataError::io(&path, &e))?));
            } else if name == FILES[0] {
                return Err(DataError::in_file(
                    folder,
                    format!("no {name} in this folder: a tokenizer in the fast (Rust) format is needed"),
                ));
            }
        }
        Tokenizer::from_files(folder, files)
    }

    /// A tokenizer with one token for each character of `alphabet`, an end token, a padding token, and an
    /// unknown token for every other character. It has no chat template.
    pub fn characters(alphabet: &str) -> Self {
        Tokenizer::from_files(Path::new("characters"), characters::files(alphabet))
            .expect("the files are made to be valid")
    }

    fn from_files(folder: &Path, files: Vec<(&'static str, Vec<u8>)>) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let (name, vocabulary) = &files[0];
        let inner = Vocabulary::parse(at(name), vocabulary)?;
        let config = Config::read(folder, &files)?;
        let id = |token: &Option<String>, name: &str| match token {
            None => Ok(None),
            Some(token) => inner.parts.token_to_id(token).map(Some).ok_or_else(|| {
                DataError::in_file(
                    &at("tokenizer_config.json"),
                    format!("{name} `{token}` is not in the vocabulary of tokenizer.json"),
                )
            }),
        };
        let (bos, eos) = (id(&config.bos, "bos_token")?, id(&config.eos, "eos_token")?);
        let prefix = match config.add_bos {
            Some(true) => bos.into_iter().collect(),
            Some(false) => Vec::new(),
            None => inner.leading_special_tokens()?,
        };
        let mut stop = config.stop.clone();
        stop.extend(eos);
        stop.sort_unstable();
        stop.dedup();
        let template = match &config.template {
            None => None,
            Some(source) => {
                let own = files.iter().any(|(name, _)| *name == TEMPLATE);
                let file = at(if own { TEMPLATE } else { "tokenizer_config.json" });
                let template = ChatTemplate::new(source, config.special_tokens());
                Some(template.map_err(|e| e.at(&crate::Place::file(&file)))?.in_file(file))
            }
        };
        let special = Special::new(inner.special_tokens()).map_err(|e| DataError::in_file(&at(name), e))?;
        let plain = OnceLock::new();
        Ok(Tokenizer { inner, config, template, prefix, bos, eos, stop, files, special, plain })
    }

    /// The ids of a plain text, with a beginning-of-text token if the tokenizer adds one. The token is
    /// never doubled. No end token is added; the caller puts it in the text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode_rendered(text)?;
        if ids.starts_with(&self.prefix) {
            return Ok(ids);
        }
        Ok([self.prefix.as_slice(), &ids].concat())
    }

    /// The ids of a text rendered by a chat template. No special tokens are added.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>> {
        self.inner.encode(text)
    }

    /// The ids of a text rendered by a chat template, and where each token lies in it, in characters.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn encode_with_places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        self.inner.call("tokenize", || {
            let encoding = self.inner.parts.encode_char_offsets(text, false)?;
            let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
            Ok((encoding.get_ids().to_vec(), places.collect()))
        })
    }

    /// The ids of a text rendered by a chat template from messages whose special tokens are hidden. These become
    /// ordinary text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn encode_hiding(&self, text: &str) -> Result<Vec<u32>> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = Vocabulary::parse(self.inner.file.clone(), &self.files[0].1)?;
            plain.parts.set_encode_special_tokens(true);
            Ok(plain)
        });
        let mut ids = Vec::new();
        for part in self.special.parts(text) {
            ids.extend(match part {
                Part::Rendered(text) => self.inner.encode(&text)?,
                Part::Text(text) => plain.as_ref().map_err(Clone::clone)?.encode(&text)?,
            });
        }
        Ok(ids)
    }

    /// Finds special tokens in text.
    pub(crate) fn special(&self) -> &Special {
        &self.special
    }

    /// The ids of a conversation, followed by the start of the assistant's answer if
    /// `add_generation_prompt` is set.
    ///
    /// # Errors
    /// When the model has no chat template, or the template rejects the messages.
    pub fn encode_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Result<Vec<u32>> {
        self.encode_rendered(&self.template()?.render(messages, add_generation_prompt, variables)?)
    }

    /// The tokenizer at another moment than the present, for chat templates that ask for the time.
    pub fn at(mut self, moment: Moment) -> Self {
        self.template = self.template.map(|template| template.at(moment));
        self
    }

    /// The moment that conversations depend on; `None` if there is no chat template, or if it does not ask for
    /// the time.
    pub fn moment(&self) -> Option<Moment> {
        self.template.as_ref().and_then(ChatTemplate::moment)
    }

    /// The chat template.
    ///
    /// # Errors
    /// When the model has none.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            DataError::new(
                "the data are conversations, but the model has no chat template (chat_template in \
                 tokenizer_config.json, or chat_template.jinja): use plain text, or a model made for chat",
            )
        })
    }

    /// The text of token ids, including special tokens.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| self.inner.parts.id_to_token(**id).is_none()) {
            return Err(DataError::new(format!("token {id} is not in the vocabulary")));
        }
        self.inner.decode(ids)
    }

    /// The end-of-text token: its text and id.
    pub fn eos(&self) -> Option<(&str, u32)> {
        Some((self.config.eos.as_deref()?, self.eos?))
    }

    /// The beginning-of-text token, whether or not the tokenizer adds it automatically.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens that end an answer: the end-of-text token and those of `generation_config.json`.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    /// Adds tokens that end an answer: those that the model itself names, where its files are elsewhere.
    pub fn stop_at(&mut self, tokens: &[u32]) {
        self.stop.extend(tokens);
        self.stop.sort_unstable();
        self.stop.dedup();
    }

    /// One more than the largest token id.
    pub fn vocabulary(&self) -> usize {
        self.inner.parts.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Checks that a model with this many embeddings covers every token id.
    ///
    /// # Errors
    /// When the tokenizer has an id that the model lacks. (Models often have more embeddings than tokens.)
    pub fn check_vocabulary(&self, model: usize) -> Result<()> {
        let own = self.vocabulary();
        if own <= model {
            return Ok(());
        }
        let token = self.inner.parts.id_to_token(model as u32).unwrap_or_default();
        Err(DataError::new(format!(
            "the tokenizer does not fit the model: it has token ids up to {}, the model knows {model} \
             (the first too many is {model}, `{token}`)",
            own - 1
        )))
    }

    /// Checks that every token of another tokenizer has the same id here.
    ///
    /// # Errors
    /// When one has not: the first by its id.
    pub fn check_same_tokens(&self, other: &Tokenizer) -> Result<()> {
        let (own, vocabulary) = (self.inner.parts.get_vocab(true), other.inner.parts.get_vocab(true));
        let differs = |(token, id): &(&String, &u32)| own.get(*token) != Some(*id);
        match vocabulary.iter().filter(differs).min_by_key(|(_, id)| **id) {
            None => Ok(()),
            Some((token, id)) => {
                let own = own.get(token).map_or("none".to_owned(), |id| format!("token {id}"));
                Err(DataError::new(format!(
                    "it reads other tokens than the model that is trained: `{token}` is token {id} of that model, and {own} of its own"
                )))
            }
        }
    }

    /// SHA-256 of everything that affects token ids, in hexadecimal.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, content) in &self.files {
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update((content.len() as u64).to_le_bytes());
            hasher.update(content);
        }
        hash::hex(hasher)
    }

    /// The tokenizer as the metadata of a GGUF file, for a model with this many embeddings.
    ///
    /// # Errors
    /// When llama.cpp has no such tokenizer.
    pub fn to_gguf(&self, size: usize) -> Result<Vec<(String, spo_gguf::Value)>> {
        let refuse = |problem: String| DataError::in_file(&self.inner.file, problem);
        let file = serde_json::from_slice(&self.files[0].1).map_err(|e| refuse(e.to_string()))?;
        to_gguf::metadata(&file, &self.config, !self.prefix.is_empty(), size).map_err(refuse)
    }

    /// Writes the tokenizer's files into an existing folder, in the layout that transformers expects.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, content) in &self.files {
            let path = folder.join(name);
            write_whole(&path, |out| out.write_all(content).map_err(|e| Error::io(&path, e)))
                .map_err(|e| DataError::new(e.to_string()))?;
        }
        Ok(())
    }
}

/// What a `tokenizer.json` holds. The `tokenizers` crate panics on parts that do not fit together, so every call of it
/// that depends on them is guarded.
struct Vocabulary {
    /// The file, for messages.
    file: PathBuf,
    parts: Bounded,
}

impl Vocabulary {
    fn parse(file: PathBuf, bytes: &[u8]) -> Result<Self> {
        let refuse = |e: String| DataError::in_file(&file, format!("not a tokenizer: {e}"));
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| refuse(e.to_string()))?;
        let unfit = |e| format!("its parts do not fit together: {e}");
        let parsed = guarded(|| Bounded::from_bytes(bytes)).map_err(unfit).map_err(refuse)?;
        let mut parts = parsed.map_err(|e| refuse(e.to_string()))?;
        bounded::check(parts.get_model()).map_err(refuse)?;
        // Rows are truncated and packed elsewhere in this crate, never by the tokenizer.
        parts.with_padding(None);
        parts.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        let vocabulary = Vocabulary { file, parts };
        // What fails on the tokens themselves is found before a run needs it.
        let mut ids: Vec<_> = vocabulary.parts.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        vocabulary.decode(&ids)?;
        Ok(vocabulary)
    }

    /// The texts of the special tokens.
    fn special_tokens(&self) -> Vec<String> {
        let added = self.parts.get_added_tokens_decoder();
        added.into_values().filter(|token| token.special).map(|token| token.content).collect()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.call("tokenize", || Ok(self.parts.encode_fast(text, false)?.get_ids().to_vec()));
        ids.map_err(|e| DataError { message: format!("{} ({:?})", e.message, brief(text)), ..e })
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.call("decode", || self.parts.decode(ids, false))
    }

    /// The special tokens that the post-processor puts before a text.
    fn leading_special_tokens(&self) -> Result<Vec<u32>> {
        self.call("tokenize", || {
            let encoding = self.parts.encode("a", true)?;
            let special = encoding.get_special_tokens_mask().iter().take_while(|mask| **mask == 1).count();
            let ids = encoding.get_ids()[..special].to_vec();
            // The post-processor has ids of its own.
            match ids.iter().find(|id| self.parts.id_to_token(**id).is_none()) {
                Some(id) => Err(format!("the post-processor adds the token {id}, which has no text").into()),
                None => Ok(ids),
            }
        })
    }

    fn call<T>(&self, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        let outcome = guarded(call).and_then(|outcome| outcome.map_err(|e| e.to_string()));
        outcome.map_err(|e| DataError::in_file(&self.file, format!("cannot {what}: {e}")))
    }
}
