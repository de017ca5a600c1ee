//! Recipes that train in a second, and the metrics of their runs.

use serde_json::Value;
use test_support::Place;

use crate::place;

/// The beginning of a recipe that trains in a second: a tiny model, and the numbers of training and held-out rows.
macro_rules! tiny {
    ($train:literal, $held_out:literal) => {
        concat!(
            r#"
[model.config]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 48

[data]
max_length = 48
task = { name = "modular-chain", train = "#,
            $train,
            ", held_out = ",
            $held_out,
            " }\n"
        )
    };
}

/// First SFT, then DPO under a penalty.
pub const SFT_THEN_DPO: &str = concat!(
    tiny!(64, 16),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 20
batch_size = 16
optimizer = { lr = 3e-3 }

[[stage]]
name = "align"
objective = "dpo"
bilevel = { step = "penalty", lambda = 1.0 }
steps = 5
batch_size = 8
optimizer = { lr = 1e-3, schedule = "constant" }
"#
);

/// Its run leaves a model of one layer in `made/sft`.
const MAKE: &str = r#"
run = { output = "made" }
data = { task = { name = "modular-chain", train = 8, held_out = 4 } }
[model.config]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 48
[[stage]]
name = "sft"
objective = "sft"
steps = 1
batch_size = 4
optimizer = { lr = 1e-4 }
"#;

/// A folder with a small trained model in `made/sft`.
pub fn with_model() -> Place {
    let place = place();
    place.write("make.toml", MAKE);
    place.run(&["make.toml", "--quiet"]).success();
    place
}

/// The same with the model in `model`.
pub fn with_model_beside() -> Place {
    let place = with_model();
    std::fs::rename(place.path("made/sft"), place.path("model")).unwrap();
    place
}

/// A folder with a small trained model in `model`, two demonstrations in `train.jsonl`, and a recipe.
pub fn with_demonstrations(recipe: &str) -> Place {
    let place = with_model_beside();
    place.write(
        "train.jsonl",
        "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n",
    );
    place.write("recipe.toml", recipe);
    place
}

/// The lines of a stage that were logged at training steps.
pub fn steps<'a>(metrics: &'a [Value], stage: &str) -> Vec<&'a Value> {
    metrics.iter().filter(|line| line["stage"] == stage && line.get("grad_norm").is_some()).collect()
}
