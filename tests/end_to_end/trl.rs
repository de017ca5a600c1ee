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

/// `train_on = "all-assistant"` is `assistant_only_loss` of TRL's SFTTrainer.
#[test]
fn sft_steps_on_every_turn_of_the_assistant_are_those_of_trl() {
    let Some(shared) = shared() else { return };
    let golden = golden("assistant_loss.json");
    let (place, model) = (place(), golden["model"].as_str().unwrap());
    for entry in std::fs::read_dir(shared.join("models").join(model)).unwrap() {
        let file = entry.unwrap();
        let name = format!("model/{}", file.file_name().to_str().unwrap());
        place.write(&name, std::fs::read(file.path()).unwrap());
    }
    place.write("model/chat_template.jinja", golden["template"].as_str().unwrap());
    rows(&place, &golden);
    place.write(
        "recipe.toml",
        format!(
            r#"
            run = {{ output = "out" }}
            model = {{ path = "model" }}
            data = {{ train = "rows.jsonl", train_on = "all-assistant" }}
            [[stage]]
            name = "sft"
            objective = "sft"
            batch_size = {}
            shuffle = false
            save = false
            optimizer = {{ lr = {}, schedule = "constant", max_grad_norm = {} }}
            "#,
            golden["batch"], golden["lr"], golden["max_grad_norm"]
        ),
    );
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let (ours, theirs) = (steps(&metrics, "sft"), golden["steps"].as_array().unwrap());
    assert_eq!((ours.len(), theirs.len()), (3, 3));
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        for name in ["loss", "grad_norm"] {
            close(&format!("step {i}, {name}"), &ours[name], &theirs[name], 1e-4);
        }
    }
}
