//! Multiple choice by log-probs, as lm-evaluation-harness scores it.

use spo_api::{Group, Result, Session, Statistics, TokenBatch};
use spo_data::{Question, Text, Tokenizer};

/// The choices of a question, as tokens after it.
pub(crate) struct Asked {
    pub(crate) group: Group,
    /// Characters of each choice.
    lengths: Vec<usize>,
    right: usize,
}

/// What a model chose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    /// Log-prob of each choice, nats.
    pub(crate) log_probs: Vec<f64>,
    /// The most probable choice.
    pub(crate) choice: usize,
    /// The most probable choice per character.
    pub(crate) choice_per_character: usize,
    pub(crate) right: usize,
}

impl Asked {
    /// Tokenizes a question and its choices. After plain text, a choice follows a space; after a conversation, it is the
    /// assistant's answer. Spaces at the end of the question go to the choices. Question and choice are tokenized together,
    /// and the tokens behind those of the question alone are scored.
    ///
    /// # Errors
    /// When the tokenizer or the chat template fails, and when nothing is left of a choice.
    pub(crate) fn new(question: &Question, tokenizer: &Tokenizer) -> spo_data::Result<Self> {
        let Question { prompt, choices, right } = question;
        let plain = matches!(prompt.text, Text::Plain(_));
        let rendered = match &prompt.text {
            Text::Plain(text) => text.clone(),
            Text::Chat(messages) => tokenizer.template()?.render(messages, true, &prompt.variables)?,
        };
        let encode =
            |text: &str| if plain { tokenizer.encode(text) } else { tokenizer.encode_rendered(text) };
        let context = rendered.trim_end();
        let begin = encode(context)?;
        let delimiter = if plain { " " } else { "" };
        let end = |choice: &String| -> spo_data::Result<Vec<u32>> {
            let whole = encode(&format!("{rendered}{delimiter}{choice}"))?;
            Ok(whole.get(begin.len()..).unwrap_or_default().to_vec())
        };
        let completions = choices.iter().map(end).collect::<spo_data::Result<Vec<_>>>()?;
        let nothing = |message: String| Err(spo_data::DataError::new(message).at(&prompt.place));
        if begin.is_empty() {
            return nothing("the question has no tokens".to_owned());
        }
        if let Some(empty) = completions.iter().position(Vec::is_empty) {
            return nothing(format!("the choice {:?} has no tokens of its own", choices[empty]));
        }
        let lengths = choices.iter().map(|choice| choice.chars().count()).collect();
        Ok(Asked { group: Group { prompt: begin, completions }, lengths, right: *right })
    }
}

/// Scores the choices of all questions, so many questions at once. `seen` is told how many are scored.
pub(crate) fn choose(
    session: &mut dyn Session,
    asked: &[Asked],
    at_once: usize,
    seen: &mut dyn FnMut(usize),
) -> Result<Vec<Chosen>> {
    let mut chosen = Vec::with_capacity(asked.len());
    for questions in asked.chunks(at_once) {
        let batch = TokenBatch { groups: questions.iter().map(|asked| asked.group.clone()).collect() };
        let scored = session.log_probs(&batch, Statistics::default())?;
        let mut sums = scored.offsets.windows(2).map(|w| scored.values[w[0]..w[1]].iter().sum::<f64>());
        for Asked { lengths, right, .. } in questions {
            let log_probs: Vec<f64> = sums.by_ref().take(lengths.len()).collect();
            let per_character: Vec<f64> =
                log_probs.iter().zip(lengths).map(|(log_prob, length)| log_prob / *length as f64).collect();
            let (choice, choice_per_character) = (greatest(&log_probs), greatest(&per_character));
            chosen.push(Chosen { log_probs, choice, choice_per_character, right: *right });
        }
        seen(chosen.len());
    }
    Ok(chosen)
}

/// The index of the greatest value, the first of equals.
fn greatest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}
