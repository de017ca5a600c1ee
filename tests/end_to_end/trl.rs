//! Whole runs compared with runs of TRL's trainer on the same models, rows and settings.

use serde_json::Value;
use test_support::{Place, close, golden, shared};

use crate::place;
use crate::recipes::steps;

const MODELS: [&str; 5] = ["llama-tiny", "llama-tied-tiny", "qwen2-tiny", "qwen3-tiny", "gpt2-tiny"];

/// Writes the rows of the recorded runs as data.
fn rows(place: &Place, runs: &Value) {
    let lines: Vec<String> = runs["rows"].as_array().unwrap().iter().map(Value::to_string).collect();
    place.write("rows.jsonl", lines.join("\n"));
}

#[test]
fn eight_dpo_steps_are_those_of_trl_for_all_five_models() {
    let Some(shared) = shared() else { return };
    let runs = golden("trl_dpo_runs.json");
    let place = place();
    rows(&place, &runs);
    for model in MODELS {
        let recipe = format!(
            r#"
            run = {{ output = "run-{model}" }}
            model = {{ path = "{}" }}
            data = {{ train = "rows.jsonl" }}
            [[stage]]
            name = "dpo"
            objective = {{ name = "dpo", beta = 0.1 }}
            batch_size = 4
            shuffle = false
            save = false
            optimizer = {{ lr = 1e-3, schedule = "constant" }}
            "#,
            shared.join("models").join(model).display()
        );
        place.write("recipe.toml", recipe);
        place.run(&["recipe.toml", "--quiet"]).success();
        let metrics = place.metrics(&format!("run-{model}"));
        let ours = steps(&metrics, "dpo");
        let theirs = runs["models"][model]["train"]["steps"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            for name in [
                "loss",
                "grad_norm",
                "entropy",
                "mean_token_accuracy",
                "rewards/chosen",
                "rewards/rejected",
                "rewards/accuracies",
                "rewards/margins",
                "logps/chosen",
                "logps/rejected",
            ] {
                close(&format!("{model}, step {i}, {name}"), &ours[name], &theirs[name], 1e-3);
            }
        }
    }
}
