//! Model folders, their limits, and answers: what is found before training, and what is said of it.

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::with_model_beside as folder;

fn edit_json(place: &Place, name: &str, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&place.read(name)).unwrap();
    edit(&mut value);
    place.write(name, value.to_string());
}

/// A recipe with these keys more. The model reads 48 tokens, and a row takes one token per character and one for
/// its end.
fn recipe(objective: &str, more: &str) -> String {
    format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\npath = \"model\"\n[data]\ntrain = \"train.jsonl\"\nmax_length = 48\n{more}\n\
         [[stage]]\nname = \"s\"\nobjective = \"{objective}\"\nsteps = 2\nbatch_size = 2\noptimizer = {{ lr = 1e-4 }}\n"
    )
}

/// Rows of pairs with prompts and answers of these lengths.
fn pairs(lengths: &[(usize, usize)]) -> String {
    let row = |&(prompt, answer): &(usize, usize)| json!({ "prompt": "1".repeat(prompt), "chosen": "2".repeat(answer), "rejected": "3".repeat(answer) });
    lengths.iter().map(|lengths| format!("{}\n", row(lengths))).collect()
}

/// Both `check` and the run refuse the recipe before training, with this text.
#[track_caller]
fn refused(place: &Place, recipe: &str, parts: &[&str]) {
    place.write("recipe.toml", recipe);
    for arguments in [["check", "recipe.toml"].as_slice(), &["recipe.toml", "--quiet"]] {
        let outcome = place.run(arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "`{}` does not say `{part}`", outcome.stderr);
        }
        assert!(!place.path("out/metrics.jsonl").exists(), "training began");
    }
}

#[test]
fn a_row_beyond_the_context_is_found_before_training_and_one_beyond_a_sliding_window_is_no_problem() {
    let place = folder();
    // A Mistral is a Llama with a window on every layer.
    edit_json(&place, "model/config.json", |config| {
        config["model_type"] = json!("mistral");
        config["sliding_window"] = json!(5);
        config["max_position_embeddings"] = json!(20);
    });
    place.write("train.jsonl", pairs(&[(4, 2), (5, 3), (6, 2)]));
    place.write("eval.jsonl", pairs(&[(4, 2), (19, 2), (5, 3)]));
    place.write("terms.jsonl", pairs(&[(4, 2), (4, 30)]));
    let train = recipe("dpo", "");
    place.write("recipe.toml", &train);
    place.run(&["recipe.toml", "--quiet"]).success();
    std::fs::remove_dir_all(place.path("out")).unwrap();

    let held_out = recipe("dpo", "eval = \"eval.jsonl\"");
    refused(
        &place,
        &held_out,
        &["data.max_length", "eval.jsonl:2 has 22 tokens", "at most 20", "`max_position_embeddings`"],
    );
    let term = train.replace(
        "steps = 2",
        "steps = 2\nbilevel = { step = \"penalty\", lambda = 1.0, lower_data = { path = \"terms.jsonl\" } }",
    );
    refused(&place, &term, &["terms.jsonl:2", "`max_position_embeddings`"]);
}

#[test]
fn prompts_and_answers_that_are_only_too_long_together_are_found_before_training() {
    let place = folder();
    place.write("train.jsonl", pairs(&[(4, 2), (5, 3)]));
    // Each row fits in 48 tokens, but not the prompt of the first with the answer of the second.
    place.write("eval.jsonl", pairs(&[(40, 2), (4, 30)]));
    let held_out = |more: &str| recipe("dpo", &format!("eval = \"eval.jsonl\"\n{more}"));
    refused(
        &place,
        &held_out("[evaluation]\nmass = true"),
        &["evaluation.mass", "eval.jsonl:1", "eval.jsonl:2", "71 tokens", "at most 48"],
    );
    // Answers are generated one by one, so this is no limit for them.
    place.write("recipe.toml", held_out("[evaluation]\nexact_match = true\nsamples = 2"));
    place.run(&["recipe.toml", "--quiet"]).success();
    let lines = place.read("out/held_out.jsonl");
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["exact_match"].as_array().unwrap().len(), 2);
    assert_eq!(last["samples"].as_array().unwrap().len(), 2);
    let outcome = place.run(&["mass", "out"]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("71 tokens"), "{}", outcome.stderr);

    std::fs::remove_dir_all(place.path("out")).unwrap();
    // Objectives that score prompts with the answers of other rows.
    place.write("train.jsonl", pairs(&[(40, 2), (4, 30)]));
    let kto = recipe("kto", "").replace("batch_size = 2", "batch_size = 4");
    refused(&place, &kto, &["stage[0].objective", "train.jsonl:1", "train.jsonl:2", "at most 48"]);
}

#[test]
fn an_answer_that_was_cut_says_so() {
    let place = folder();
    place.write("train.jsonl", pairs(&[(4, 2), (5, 3)]));
    place.write("eval.jsonl", pairs(&[(4, 2), (5, 3)]));
    place.write("recipe.toml", recipe("sft", "eval = \"eval.jsonl\"\n[evaluation]\nsamples = 2"));
    place.run(&["recipe.toml", "--quiet"]).success();
    let lines = place.read("out/held_out.jsonl");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    for sample in first["samples"].as_array().unwrap() {
        // The model has hardly been trained: it does not stop, and answers until its context is full.
        assert_eq!(sample["cut"], json!(true), "{sample}");
        let [prompt, answer] = ["prompt", "answer"].map(|key| sample[key].as_str().unwrap());
        assert!(answer.len() > 20, "longer than any chosen answer: {prompt}{answer}");
    }
    place.run(&["report", "out", "--output", "page.html"]).success();
    assert!(place.read("page.html").contains("\u{2026} (cut)"));
}

#[test]
fn generate_stops_at_the_context_and_says_what_it_does() {
    let place = folder();
    let outcome = place.run(&["generate", "model", "1+2+3="]).success();
    assert_eq!(outcome.stdout.lines().count(), 1);
    for part in ["at most 43 tokens", "`max_position_embeddings`", "\"1+2+3=\" was cut after 43 tokens"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    let settings = json!({ "repetition_penalty": 1.2, "do_sample": true, "top_k": 20, "eos_token_id": 1 });
    place.write("model/generation_config.json", settings.to_string());
    let outcome = place.run(&["generate", "model", "1+2+3=", "--max-new-tokens", "3"]).success();
    let told =
        "generation_config.json: not applied: `repetition_penalty` = 1.2, `do_sample` = true, `top_k` = 20";
    assert!(outcome.stderr.contains(told) && !outcome.stderr.contains("at most"), "{}", outcome.stderr);

    let long = "1".repeat(49);
    for (arguments, expected) in [
        (vec!["model", &*long], "49 tokens, and the model reads at most 48"),
        (vec!["model", ""], "no tokens"),
        (vec!["model", "1", "--max-new-tokens", "0"], "--max-new-tokens"),
        (vec!["model", "1", "--temperature", "inf"], "--temperature"),
        (vec!["model", "1", "--device", "gpu"], "unknown device `gpu`"),
        (vec!["model", "1", "--backend", "candel"], "candle"),
        (vec!["made", "1"], "is the folder of a run"),
        (vec!["model/config.json", "1"], "is a file"),
        (vec!["Org/Model", "1"], "hf download Org/Model"),
        (vec!["model", "1", "--adapter", "nowhere"], "there is no nowhere"),
        (vec!["model", "1", "--adapter", "model"], "it is a model, not an adapter"),
    ] {
        let outcome = place.run(&[&["generate"], arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_model_whose_numbers_are_not_finite_answers_nothing() {
    let place = folder();
    let weights = place.path("model/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[start..]
        .as_chunks_mut()
        .0
        .iter_mut()
        .for_each(|number: &mut [u8; 4]| *number = f32::NAN.to_le_bytes());
    std::fs::write(weights, bytes).unwrap();
    let outcome = place.run(&["generate", "model", "1+2="]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("model cannot be used") && outcome.stderr.contains("NaN"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn stop_tokens_of_the_model_end_answers() {
    let place = folder();
    std::fs::remove_file(place.path("model/generation_config.json")).ok();
    let answer = || place.run(&["generate", "model", "1+2=", "--max-new-tokens", "8"]).success();
    let before = answer();
    assert!(before.stderr.contains("was cut"), "{}", before.stderr);
    // Whatever it says first becomes a stop token, in config.json alone.
    let tokenizer: Value = serde_json::from_str(&place.read("model/tokenizer.json")).unwrap();
    let first = before.stdout.chars().next().unwrap().to_string();
    let id = &tokenizer["model"]["vocab"][&first];
    edit_json(&place, "model/config.json", |config| config["eos_token_id"] = json!([1, id]));
    let after = answer();
    assert!(!after.stderr.contains("was cut") && after.stdout.trim().is_empty(), "{}", after.stdout);
}

/// The card of a stage, of its best version, and of an export; and a text of the user's, which is kept.
#[test]
fn models_have_a_card_and_a_readme_of_the_user_is_kept() {
    let place = folder();
    place.write("train.jsonl", pairs(&[(4, 2), (5, 3)]));
    let recipe = recipe("dpo", "eval = \"train.jsonl\"").replace(
        "path = \"model\"",
        "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = \"all-linear\" }\n\
         [checkpoint]\nbest = { metric = \"eval_loss\" }\n[evaluation]\nevery = 1",
    );
    place.write("recipe.toml", &recipe);
    place.run(&["recipe.toml", "--quiet"]).success();
    let card = place.read("out/s/README.md");
    for part in [
        "---\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- \"spo\"\n- \"lora\"\n- \"dpo\"\n---\n",
        "# recipe/s\n",
        "`model`: llama, ",
        "- `model.safetensors`: sha256 `",
        "| training rows, train.jsonl | 2 | `",
        "| eval_loss | 0.",
        "| grad_norm | ",
        "rank = 2",
    ] {
        assert!(card.contains(part), "no `{part}` in {card}");
    }
    assert!(place.read("out/s/best/README.md").contains("held out, at the best step"));
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=again"]).success();
    assert_eq!(place.read("again/s/README.md"), card, "the same run has the same card");

    place.run(&["export", "model", "--adapter", "out/s", "merged"]).success();
    let merged = place.read("merged/README.md");
    for part in ["library_name: transformers\n", "with the adapter `out/s` merged", "| eval_loss | 0."] {
        assert!(merged.contains(part), "no `{part}` in {merged}");
    }
    place.write("out/s/README.md", "mine");
    let said = place.run(&["recipe.toml"]).success().stdout;
    assert!(said.contains("README.md there is not of spo: it is kept"), "{said}");
    assert_eq!(place.read("out/s/README.md"), "mine");
}
