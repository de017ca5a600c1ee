//! `spo-run generate`: continues prompts with a saved model.

use serde_json::{Map, json};
use spo_api::{Registry, Sampling};

use super::saved_model::SavedModel;
use crate::error::BadInput;
use crate::reporter::say;

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
    /// Most tokens to add.
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
    /// Continues each prompt, as the user's message if there is a chat template.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let how = &self.how;
        if !(how.temperature >= 0.0 && how.top_p > 0.0 && how.top_p <= 1.0) {
            return Err(BadInput("error: --temperature must be at least 0, --top-p in (0, 1]".into()).into());
        }
        let (tokenizer, mut session) = self.model.open(registry)?;
        let chat = !how.plain && tokenizer.template().is_ok();
        let ids: Result<Vec<_>, _> = self
            .prompt
            .iter()
            .map(|prompt| match chat {
                true => {
                    let message = json!({ "role": "user", "content": prompt });
                    let message = message.as_object().cloned().unwrap_or_default();
                    tokenizer.encode_chat(&[message], true, &Map::new())
                }
                false => tokenizer.encode(prompt),
            })
            .collect();
        let sampling = Sampling {
            max_new_tokens: how.max_new_tokens,
            temperature: how.temperature,
            top_p: how.top_p,
            seed: how.seed,
            stop: tokenizer.stop_tokens().to_vec(),
        };
        let answers = session.generate(&ids.map_err(|e| BadInput(format!("error: {e}")))?, &sampling)?;
        let text = |ids: &Vec<u32>| {
            let end = ids.len() - usize::from(ids.last().is_some_and(|id| sampling.stop.contains(id)));
            tokenizer.decode(&ids[..end])
        };
        let answers: Vec<String> = answers.iter().map(text).collect::<Result<_, _>>()?;
        say(&answers.join("\n"));
        Ok(())
    }
}
