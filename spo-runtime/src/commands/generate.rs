//! `spo-run generate`: continues prompts with a saved model.

use serde_json::{Map, json};
use spo_api::{ModelInfo, Registry, Sampling};
use spo_data::Tokenizer;

use super::saved_model::SavedModel;
use crate::error::BadInput;
use crate::plan::{fit, generation};
use crate::reporter::{complain, say};

#[derive(clap::Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    model: SavedModel,
    #[command(flatten)]
    how: Answering,
    /// A prompt; with a chat template, the user's message.
    #[arg(required = true)]
    prompt: Vec<String>,
}

#[derive(clap::Args)]
struct Answering {
    /// Most tokens to add. Fewer where the model's context ends before.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the most probable token every time.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the smallest set of tokens with at least this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take prompts as they stand, even where the model has a chat template.
    #[arg(long)]
    plain: bool,
}

impl GenerateArguments {
    /// Continues each prompt, as the user's message if there is a chat template. An answer that did not end by
    /// itself, and settings of the model that are not applied, are told on standard error.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let how = &self.how;
        how.check()?;
        let (tokenizer, mut session) = self.model.open(registry)?;
        if let Some(settings) = generation::unapplied(&self.model.model) {
            complain(&format!("note: {settings} (--temperature and --top-p say how to answer)"));
        }
        let prompts = self.prompt.iter().map(|prompt| how.encode(prompt, &tokenizer));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let max_new_tokens = how.limit(&prompts, &session.info())?;
        let sampling = Sampling {
            max_new_tokens,
            temperature: how.temperature,
            top_p: how.top_p,
            seed: how.seed,
            stop: tokenizer.stop_tokens().to_vec(),
        };
        let answers = session.generate(&prompts, &sampling).map_err(|error| match error {
            // There is nothing here that could have made them so but the model.
            spo_api::Error::NonFinite(problem) => {
                BadInput(format!("error: {} cannot be used: {problem}", self.model.model.display())).into()
            }
            other => anyhow::Error::from(other),
        })?;
        let ended = |ids: &[u32]| ids.last().is_some_and(|id| sampling.stop.contains(id));
        let text = |ids: &Vec<u32>| tokenizer.decode(&ids[..ids.len() - usize::from(ended(ids))]);
        let texts: Vec<String> = answers.iter().map(text).collect::<Result<_, _>>()?;
        say(&texts.join("\n"));
        for (prompt, _) in self.prompt.iter().zip(&answers).filter(|(_, answer)| !ended(answer)) {
            complain(&format!(
                "note: the answer to {prompt:?} was cut after {max_new_tokens} tokens: it did not end by itself"
            ));
        }
        Ok(())
    }
}

impl Answering {
    fn check(&self) -> Result<(), BadInput> {
        let problem = if self.max_new_tokens == 0 {
            "--max-new-tokens must be at least 1"
        } else if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            "--temperature must be a number of at least 0"
        } else if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            "--top-p must be greater than 0 and at most 1"
        } else {
            return Ok(());
        };
        Err(BadInput(format!("error: {problem}")))
    }

    fn encode(&self, prompt: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, BadInput> {
        let ids = match !self.plain && tokenizer.template().is_ok() {
            true => {
                let message = json!({ "role": "user", "content": prompt });
                let message = message.as_object().cloned().unwrap_or_default();
                tokenizer.encode_chat(&[message], true, &Map::new())
            }
            false => tokenizer.encode(prompt),
        };
        let ids = ids.map_err(|e| BadInput(format!("error: {e}")))?;
        match ids.is_empty() {
            true => Err(BadInput(format!(
                "error: the prompt {prompt:?} has no tokens: there is nothing to continue"
            ))),
            false => Ok(ids),
        }
    }

    /// How many tokens there is room for after the longest prompt. Tells if that is fewer than were asked for.
    fn limit(&self, prompts: &[Vec<u32>], info: &ModelInfo) -> Result<usize, BadInput> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let room = fit::room(info, longest);
        if room == 0 {
            let limit = fit::limit(info);
            let problem =
                format!("the prompt has {longest} tokens, and {limit}: there is no room for an answer");
            return Err(BadInput(format!("error: {problem}")));
        }
        if room < self.max_new_tokens {
            let limit = fit::limit(info);
            complain(&format!(
                "note: at most {room} tokens are added: the longest prompt has {longest}, and {limit}"
            ));
        }
        Ok(room.min(self.max_new_tokens))
    }
}
