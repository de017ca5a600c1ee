//! `spo-run generate`: continues prompts with a saved model.

use anyhow::Context;
use serde_json::{Map, Value, json};
use spo_api::{Registry, read_within};
use spo_data::{Place, Prompt, Text, Tokenizer, message};

use super::answering::{Answer, Answering, End};
use super::inline;
use super::saved_model::SavedModel;
use crate::error::{BadInput, bad};
use crate::hub;
use crate::plan::{fit, generation};
use crate::reporter::{complain, say, say_part};

/// The longest prompt on standard input, in MiB.
const LONGEST: u64 = 64;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  spo-run generate runs/mine/dpo \"What is a log-prob?\" --temperature 0.7 --top-p 0.9 -n 3
  spo-run generate runs/mine/dpo --prompts '{ path = \"test.jsonl\", columns = { prompt = \"question\" } }' --json")]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    model: SavedModel,
    #[command(flatten)]
    how: Answering,
    /// Take prompts as they stand, even where the model has a chat template.
    #[arg(long)]
    plain: bool,
    /// The system prompt before a user's message.
    #[arg(long, value_name = "TEXT", conflicts_with = "plain")]
    system: Option<String>,
    /// Answers to each prompt.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1)]
    samples: usize,
    /// Prompts from a file (the column `prompt`, `messages` or `question`), or as in a recipe inline TOML with a path,
    /// columns, a filter, ...
    #[arg(long, value_name = "ROWS", conflicts_with = "prompt")]
    prompts: Option<String>,
    /// Print a JSON object for each answer.
    #[arg(long)]
    json: bool,
    /// A prompt; with a chat template, the user's message. `-` is standard input, as one prompt.
    #[arg(required_unless_present = "prompts")]
    prompt: Vec<String>,
}

/// A prompt with its tokens.
struct Asked {
    /// How messages name it.
    name: String,
    /// What it says: a text, or messages.
    said: Value,
    /// Where it stands, of a row.
    place: Option<String>,
    ids: Vec<u32>,
}

impl GenerateArguments {
    /// Continues each prompt, as the user's message if there is a chat template. An answer that did not end by
    /// itself, and settings of the model that are not applied, are told on standard error. A single answer is printed as
    /// it grows.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        self.how.check()?;
        match self.samples {
            0 => return Err(bad("-n must be at least 1").into()),
            2.. if self.how.temperature == 0.0 => {
                let message =
                    "error: -n has no effect without a --temperature above 0: all answers would be the same";
                return Err(BadInput(message.into()).into());
            }
            _ => {}
        }
        let prompts = self.prompts()?;
        let (tokenizer, mut session) = self.model.open(registry)?;
        if let Some(settings) = generation::unapplied(&hub::folder(&self.model.model, None)) {
            complain(&format!(
                "note: {settings} (see `spo-run generate --help` for the options that say how to answer)"
            ));
        }
        let asked = prompts.into_iter().map(|prompt| self.ask(prompt, &tokenizer));
        let asked = asked.collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<Vec<u32>> =
            asked.iter().flat_map(|asked| std::iter::repeat_n(asked.ids.clone(), self.samples)).collect();
        let info = session.info();
        let max_new_tokens = self.how.limit(&ids, &info)?;
        if max_new_tokens < self.how.max_new_tokens {
            let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
            let limit = fit::limit(&info);
            complain(&format!(
                "note: at most {max_new_tokens} tokens are added: the longest prompt has {longest}, and {limit}"
            ));
        }
        let alone = ids.len() == 1 && !self.json;
        let mut show = |_, text: &str| {
            if alone {
                say_part(text);
            }
            true
        };
        let model = (&tokenizer, &mut session);
        let answers = self.how.answer(model, &ids, max_new_tokens, &mut show).map_err(|error| {
            match error.downcast_ref() {
                // There is nothing here that could have made them so but the model.
                Some(spo_api::Error::NonFinite(problem)) => {
                    bad(format!("{} cannot be used: {problem}", self.model.model.display())).into()
                }
                _ => error,
            }
        })?;
        if alone && !answers[0].text.ends_with('\n') {
            say("");
        }
        for (i, answer) in answers.iter().enumerate() {
            let (asked, sample) = (&asked[i / self.samples], i % self.samples);
            if self.json {
                say(&line(asked, sample, answer));
                continue;
            }
            if !alone {
                let before = if i == 0 { "" } else { "\n" };
                let number =
                    if self.samples > 1 { format!(", answer {}", sample + 1) } else { String::new() };
                say(&format!("{before}{}{number}:\n{}", asked.name, answer.text));
            }
            if answer.end == End::Length {
                complain(&format!(
                    "note: the answer to {} was cut after {max_new_tokens} tokens: it did not end by itself",
                    asked.name
                ));
            }
        }
        Ok(())
    }

    /// The prompts, each with its name for messages.
    fn prompts(&self) -> anyhow::Result<Vec<(String, Prompt)>> {
        if let Some(rows) = &self.prompts {
            let sources = inline::rows("--prompts", rows)?;
            let prompts = Prompt::read(&sources).map_err(bad)?;
            return Ok(prompts.into_iter().map(|prompt| (prompt.place.to_string(), prompt)).collect());
        }
        let given = |prompt: &String| -> anyhow::Result<(String, Prompt)> {
            let (place, text) = match prompt == "-" {
                true => ("standard input", standard_input()?),
                false => ("the command line", prompt.clone()),
            };
            let name = if prompt == "-" { place.to_owned() } else { format!("{prompt:?}") };
            let place = Place::file(place.as_ref());
            Ok((name, Prompt { place, text: Text::Plain(text), variables: Map::new() }))
        };
        self.prompt.iter().map(given).collect()
    }

    /// A prompt's tokens: with a chat template, those of a conversation.
    fn ask(&self, (name, mut prompt): (String, Prompt), tokenizer: &Tokenizer) -> Result<Asked, BadInput> {
        let said = match &prompt.text {
            Text::Plain(text) => text.as_str().into(),
            Text::Chat(messages) => messages.clone().into(),
        };
        let place = self.prompts.as_ref().map(|_| prompt.place.to_string());
        if !self.plain && tokenizer.template().is_ok() {
            prompt = prompt.asked();
        }
        match (&mut prompt.text, &self.system) {
            (Text::Plain(_), Some(_)) => {
                return Err(bad("--system has no effect: the model has no chat template"));
            }
            (Text::Chat(_), _) if self.plain => {
                return Err(bad(format!("--plain has no effect: {name} is a conversation")));
            }
            (Text::Chat(messages), Some(system))
                if messages.first().is_none_or(|first| first["role"] != "system") =>
            {
                messages.insert(0, message("system", system.as_str().into()));
            }
            (Text::Chat(_), Some(_)) => {
                return Err(bad(format!("--system: {name} has a system prompt of its own")));
            }
            _ => {}
        }
        let ids = prompt.encode(tokenizer).map_err(|e| bad(e.to_string()))?;
        match ids.is_empty() {
            true => Err(bad(format!("the prompt {name} has no tokens: there is nothing to continue"))),
            false => Ok(Asked { name, said, place, ids }),
        }
    }
}

/// All of standard input.
fn standard_input() -> anyhow::Result<String> {
    let text = read_within(std::io::stdin().lock(), LONGEST).context("cannot read standard input")?;
    let text = text.ok_or_else(|| bad(format!("standard input is longer than {LONGEST} MiB")))?;
    String::from_utf8(text).map_err(|_| bad("standard input is not UTF-8 text").into())
}

/// An answer as JSON.
fn line(asked: &Asked, sample: usize, answer: &Answer) -> String {
    let Answer { text, tokens, end } = answer;
    let mut line = json!({ "prompt": asked.said, "sample": sample, "answer": text, "tokens": tokens, "end": end.name() });
    if let Some(place) = &asked.place {
        line["place"] = place.as_str().into();
    }
    line.to_string()
}
