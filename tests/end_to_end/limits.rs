//! What a model's files ask for is compared with what is there before anything is allocated or waited for: sizes, values
//! without sense, files that are none.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::{with_demonstrations, with_model};

const RECIPE: &str = r#"
run = { output = "out", overwrite = true }
data = { train = "train.jsonl", max_length = 32 }
[model]
path = "model"
[[stage]]
name = "s"
objective = "sft"
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

fn folder() -> Place {
    with_demonstrations(RECIPE)
}

fn edited(place: &Place, name: &str, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&place.read(name)).unwrap();
    edit(&mut value);
    place.write(name, value.to_string());
}

/// `check` refuses a recipe within seconds, with exit code 2 and a message with these words.
#[track_caller]
fn refused(place: &Place, arguments: &[&str], words: &[&str]) {
    let began = Instant::now();
    let outcome = place.run(&[&["check", "recipe.toml"], arguments].concat());
    let said = outcome.stderr;
    assert_eq!(outcome.code, 2, "{arguments:?}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} is not in: {said}");
    assert!(began.elapsed() < Duration::from_secs(60), "it read or waited for too much");
}

#[test]
fn models_that_no_machine_can_hold_are_refused_with_the_keys_that_ask_for_them() {
    let place = with_model();
    let recipe = place.read("make.toml");
    place.write("recipe.toml", &recipe);
    // Each of these sizes is allowed by itself.
    refused(
        &place,
        &["--set", "model.config.hidden_size=16777216"],
        &["`hidden_size` = 16777216", "GiB in memory"],
    );
    let wide =
        ["--set", "model.config.num_attention_heads=16777216", "--set", "model.config.head_dim=16777216"];
    refused(&place, &wide, &["`head_dim` = 16777216", "GiB in memory"]);
    let many =
        ["--set", "model.config.num_hidden_layers=10000", "--set", "model.config.intermediate_size=16777216"];
    refused(&place, &many, &["`intermediate_size` = 16777216", "GiB in memory"]);
    let tabular = "model.config={ model_type = \"tabular\", kind = \"table\", order = 4000000000 }";
    refused(&place, &["--set", "backend=tabular", "--set", tabular], &["order", "countless"]);
    let wide = "model.config={ model_type = \"tabular\", kind = \"mlp\", order = 4000000000, embedding_size = 4000000000, \
                hidden_size = 4000000000 }";
    refused(&place, &["--set", "backend=tabular", "--set", wide], &["order", "countless"]);

    let place = folder();
    for rank in ["1000000000", "9223372036854775807"] {
        let adapter = format!("model.adapter={{ rank = {rank}, alpha = 8, targets = [\"q_proj\"] }}");
        refused(&place, &["--set", &adapter], &["rank", rank, "GiB in memory"]);
    }
    edited(&place, "model/config.json", |config| config["vocab_size"] = json!(1 << 24));
    refused(&place, &[], &["model.safetensors", "embed_tokens", "16777216", "the configuration makes it"]);
}

#[test]
fn a_run_may_go_on_by_force() {
    let place = folder();
    place.run(&["recipe.toml", "--quiet", "--force"]).success();
    place.run(&["resume", "out", "--quiet", "--force"]).success();
}

#[test]
fn values_without_sense_are_refused_with_file_key_and_expectation() {
    let place = folder();
    let whole = place.read("model/config.json");
    for (key, value, expectation) in [
        ("rope_theta", json!(0), "above 0"),
        ("rope_theta", json!(-10000.0), "above 0"),
        ("rope_theta", json!("10000"), "above 0"),
        ("rope_parameters", json!(5), "a table"),
        ("rope_parameters", json!({ "rope_type": "linear", "factor": 0 }), "factor"),
        ("rope_scaling", json!([]), "a table"),
        ("rope_parameters", json!({ "rope_theta": -1 }), "rope_theta"),
        (
            "rope_parameters",
            json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 64 }),
            "high_freq_factor",
        ),
        ("partial_rotary_factor", json!(-1), "above 0"),
        ("rms_norm_eps", json!(-1e-6), "from 0 to 1"),
        ("rms_norm_eps", json!(1e30), "from 0 to 1"),
        ("initializer_range", json!(-0.02), "from 0 to 1000"),
        ("initializer_range", json!([1]), "from 0 to 1000"),
        ("num_attention_heads", json!(3), "must divide"),
        ("num_attention_heads", json!(0), "positive whole number"),
        ("num_key_value_heads", json!(3), "must divide"),
        ("head_dim", json!(7), "must give an even number"),
        ("num_hidden_layers", json!(1e9), "positive whole number"),
        ("hidden_size", json!(-16), "positive whole number"),
        ("max_position_embeddings", json!(0), "positive whole number"),
        ("tie_word_embeddings", json!("no"), "true or false"),
        ("attention_bias", json!(1), "true or false"),
        ("hidden_act", json!(null), ""),
        ("hidden_act", json!(1), "a string"),
        ("torch_dtype", json!("int4"), "bfloat16"),
        ("dtype", json!(16), "a string"),
        ("model_type", json!(1), "a string"),
        ("eos_token_id", json!(-1), "a token id"),
        ("eos_token_id", json!(["</s>"]), "a token id"),
    ] {
        place.write("model/config.json", &whole);
        edited(&place, "model/config.json", |config| config[key] = value.clone());
        if value.is_null() {
            place.run(&["check", "recipe.toml"]).success();
            continue;
        }
        refused(
            &place,
            &[],
            &["config.json", &format!("`{key}`").replace("`rope_parameters`", ""), expectation],
        );
    }
    place.write("model/config.json", &whole);
    for (key, value) in
        [("sliding_window", json!(0)), ("sliding_window", json!(-1)), ("max_window_layers", json!(-1))]
    {
        place.write("model/config.json", &whole);
        edited(&place, "model/config.json", |config| {
            config["model_type"] = json!("qwen2");
            config["use_sliding_window"] = json!(true);
            config[key] = value.clone();
        });
        refused(&place, &[], &["config.json", key]);
    }
    place.write("model/config.json", &whole);
    for (name, text) in [
        ("generation_config.json", "{"),
        ("generation_config.json", "[]"),
        ("generation_config.json", r#"{"eos_token_id": 1.5}"#),
    ] {
        place.write(&format!("model/{name}"), text);
        refused(&place, &[], &[name]);
    }
}

#[test]
fn an_adapter_with_values_without_sense_is_refused() {
    let place = folder();
    let adapter = "model.adapter={ rank = 2, alpha = 4, targets = [\"q_proj\"] }";
    place.run(&["recipe.toml", "--quiet", "--set", adapter]).success();
    std::fs::rename(place.path("out/s"), place.path("adapter")).unwrap();
    let whole = place.read("adapter/adapter_config.json");
    let again = "model.adapter={ path = \"adapter\" }";
    place.run(&["check", "recipe.toml", "--set", again]).success();
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!("2")),
        ("lora_alpha", json!(-4)),
        ("lora_alpha", json!(null)),
        ("lora_dropout", json!(2)),
        ("lora_dropout", json!("0.1")),
        ("use_rslora", json!("yes")),
        ("bias", json!(true)),
    ] {
        place.write("adapter/adapter_config.json", &whole);
        edited(&place, "adapter/adapter_config.json", |config| config[key] = value.clone());
        refused(&place, &["--set", again], &["adapter_config.json", &format!("`{key}`")]);
        let generate = place.run(&["generate", "model", "--adapter", "adapter", "1+2="]);
        assert_eq!(generate.code, 2, "{key} = {value}: {}{}", generate.stdout, generate.stderr);
    }
}

#[cfg(unix)]
#[test]
fn files_that_are_pipes_or_devices_are_neither_waited_for_nor_read() {
    let pipe = |place: &Place, name: &str| {
        let path = place.path(name);
        let _ = std::fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    };
    let endless = |place: &Place, name: &str| {
        let _ = std::fs::remove_file(place.path(name));
        std::os::unix::fs::symlink("/dev/zero", place.path(name)).unwrap();
    };
    for name in ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"] {
        let place = folder();
        pipe(&place, &format!("model/{name}"));
        refused(&place, &[], &[name, "not a regular file but a pipe"]);
        endless(&place, &format!("model/{name}"));
        refused(&place, &[], &[name, "not a regular file but a device"]);
    }
    // A file that no index lists is hashed too.
    let place = folder();
    pipe(&place, "model/extra.safetensors");
    refused(&place, &[], &["extra.safetensors", "not a regular file but a pipe"]);
    let place = folder();
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    endless(&place, "model/model.safetensors.index.json");
    refused(&place, &[], &["model.safetensors.index.json", "not a regular file but a device"]);

    let place = folder();
    let adapter = "model.adapter={ rank = 2, alpha = 4, targets = [\"q_proj\"] }";
    place.run(&["recipe.toml", "--quiet", "--set", adapter]).success();
    std::fs::rename(place.path("out/s"), place.path("adapter")).unwrap();
    let again = "model.adapter={ path = \"adapter\" }";
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let kept = place.path("kept");
        std::fs::rename(place.path(&format!("adapter/{name}")), &kept).unwrap();
        pipe(&place, &format!("adapter/{name}"));
        refused(&place, &["--set", again], &[name, "not a regular file but a pipe"]);
        std::fs::rename(&kept, place.path(&format!("adapter/{name}"))).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_run_whose_files_are_devices_is_no_run() {
    for name in ["run.json", "recipe.toml"] {
        let place = folder();
        place.run(&["recipe.toml", "--quiet"]).success();
        std::fs::remove_file(place.path(&format!("out/{name}"))).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place.path(&format!("out/{name}"))).unwrap();
        for command in ["resume", "mass", "replay", "audit"] {
            let outcome = place.run(&[command, "out"]);
            assert_eq!(outcome.code, 2, "{command} {name}: {}{}", outcome.stdout, outcome.stderr);
        }
        let report = place.run(&["report", "out"]);
        assert!(report.code == 0 || report.code == 2, "{}", report.stderr);
    }
}
