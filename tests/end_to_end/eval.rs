//! `spo-run eval`: its figures are those of TRL and lm-evaluation-harness, and what it refuses.

use serde_json::{Value, json};
use test_support::{Place, close, golden};

use crate::recipes::with_model_beside;
use crate::{place, project};

/// A folder with the models and the rows of `evaluation.json`.
fn models_and_rows(golden: &Value) -> Place {
    let place = place();
    let text = |key: &str| golden[key].as_str().unwrap();
    let special = ["<pad>", "</s>", "<unk>"].map(str::to_owned);
    // The models can say more than the rows do.
    let characters = text("alphabet").chars().chain("BCDEFGHIJKLM".chars()).map(String::from);
    let vocabulary: serde_json::Map<String, Value> =
        special.iter().cloned().chain(characters).enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = special.iter().enumerate().map(|(id, token)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    });
    for key in ["policy", "reference"] {
        for file in ["config.json", "model.safetensors"] {
            let from = project("tests/goldens/architectures").join(text(key)).join(file);
            place.write(&format!("{key}/{file}"), std::fs::read(from).unwrap());
        }
        place.write(&format!("{key}/tokenizer.json"), tokenizer.to_string());
        place.write(&format!("{key}/tokenizer_config.json"), json!({ "eos_token": "</s>" }).to_string());
    }
    for key in ["pairs", "questions"] {
        let rows = golden[key].as_array().unwrap().iter().map(|row| format!("{row}\n"));
        place.write(&format!("{key}.jsonl"), rows.collect::<String>());
    }
    place
}

fn lines(place: &Place, file: &str) -> Vec<Value> {
    place.read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rewards_and_log_probs_are_those_of_trl() {
    let golden = golden("evaluation.json");
    let place = models_and_rows(&golden);
    let objective = format!("{{ name = \"dpo\", beta = {} }}", golden["beta"]);
    let arguments = [
        "eval",
        "policy",
        "pairs.jsonl",
        "--reference",
        "reference",
        "--against",
        "reference",
        "--objective",
        &objective,
        "--json",
        "--rows",
        "rows.jsonl",
        "--batch-size",
        "3",
    ];
    let outcome = place.run(&arguments).success();
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for (trl, own) in [
        ("eval_loss", "loss"),
        ("eval_rewards/chosen", "rewards/chosen"),
        ("eval_rewards/rejected", "rewards/rejected"),
        ("eval_rewards/accuracies", "rewards/accuracies"),
        ("eval_rewards/margins", "rewards/margins"),
        ("eval_logps/chosen", "sum_logps/chosen"),
        ("eval_logps/rejected", "sum_logps/rejected"),
        ("eval_entropy", "entropy"),
        ("eval_mean_token_accuracy", "mean_token_accuracy"),
    ] {
        close(own, &found["figures"][own]["mean"], &golden["trl"][trl], 2e-5);
    }
    let rows = lines(&place, "rows.jsonl");
    assert_eq!((rows.len(), found["rows"].as_u64()), (8, Some(8)));
    // What the figures are means of.
    let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
    let mean = |of: f64| json!(of / 8.0);
    close("chosen", &mean(sum("chosen")), &found["figures"]["sum_logps/chosen"]["mean"], 1e-12);
    close("nll", &json!(-sum("chosen") / sum("chosen_tokens")), &found["figures"]["sft_loss"]["mean"], 1e-12);
    let perplexity = (-sum("chosen") / sum("chosen_tokens")).exp();
    close("perplexity", &json!(perplexity), &found["figures"]["perplexity"]["mean"], 1e-12);
    let changes = |row: &Value, key: &str| -> f64 {
        row[key].as_array().unwrap().iter().map(|change| change.as_f64().unwrap()).sum()
    };
    for row in &rows {
        // The reward is beta times the change of the whole answer.
        let reward = golden["beta"].as_f64().unwrap() * changes(row, "change_chosen");
        close("reward", &row["reward_chosen"], &json!(reward), 1e-9);
    }
    let total: f64 = rows.iter().map(|row| changes(row, "change_rejected")).sum();
    let change = &found["figures"]["change_per_token/rejected"];
    close("change", &json!(total / sum("rejected_tokens")), &change["mean"], 1e-12);
    let interval = [0, 1].map(|end| change["interval"][end].as_f64().unwrap());
    assert!(interval[0] < change["mean"].as_f64().unwrap() && change["mean"].as_f64().unwrap() < interval[1]);
}

#[test]
fn choices_are_those_of_lm_evaluation_harness() {
    let golden = golden("evaluation.json");
    let place = models_and_rows(&golden);
    let outcome = place
        .run(&["eval", "policy", "questions.jsonl", "--json", "--rows", "rows.jsonl", "--batch-size", "2"])
        .success();
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for name in ["acc", "acc_norm"] {
        close(name, &found["figures"][name]["mean"], &golden["lm_eval"][name], 1e-12);
    }
    let expected = golden["lm_eval"]["log_probs"].as_array().unwrap();
    for (row, expected) in lines(&place, "rows.jsonl").iter().zip(expected) {
        let pairs = row["log_probs"].as_array().unwrap().iter().zip(expected.as_array().unwrap());
        pairs.for_each(|(found, expected)| close("log-prob", found, expected, 2e-5));
    }
    // The same questions as ARC writes them.
    let of_arc = golden["questions"].as_array().unwrap().iter().map(|row| {
        let texts = row["choices"].as_array().unwrap();
        let labels: Vec<String> = (1..=texts.len()).map(|i| i.to_string()).collect();
        let right = &labels[row["answer"].as_u64().unwrap() as usize];
        json!({ "stem": row["question"], "choices": { "text": texts, "label": labels }, "answerKey": right })
            .to_string()
            + "\n"
    });
    place.write("arc.jsonl", of_arc.collect::<String>());
    let data = "{ path = 'arc.jsonl', columns = { question = 'stem', answer = 'answerKey' } }";
    let again = place.run(&["eval", "policy", data, "--json"]).success();
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["figures"], found["figures"]);
    let table = place.run(&["eval", "policy", "questions.jsonl"]).success().stdout;
    assert!(
        table.contains("acc_norm") && table.contains("95% interval") && table.contains("0.7143"),
        "{table}"
    );
}

#[test]
fn answers_are_compared_as_they_stand_by_what_is_extracted_and_by_their_words() {
    let golden = golden("evaluation.json");
    let place = models_and_rows(&golden);
    let eval = |more: &[&str]| -> Value {
        let arguments =
            ["eval", "policy", "own.jsonl", "--json", "--rows", "rows.jsonl", "--max-new-tokens", "12"];
        serde_json::from_str(&place.run(&[&arguments, more].concat()).success().stdout).unwrap()
    };
    place.write(
        "own.jsonl",
        "{\"prompt\": \"up\", \"completion\": \"x\"}\n{\"prompt\": \"it is\", \"completion\": \"y\"}\n",
    );
    let found = eval(&["--rouge", "--stem"]);
    assert_eq!(found["figures"]["answers_cut"]["mean"], 1.0, "an untrained model does not stop");
    let answers: Vec<String> =
        lines(&place, "rows.jsonl").iter().map(|row| row["answer"].as_str().unwrap().to_owned()).collect();
    // The first row's expected answer is now what the model says; the second has the first two characters of it.
    let begin: String = answers[1].chars().take(2).collect();
    let rows = [
        json!({ "prompt": "up", "completion": answers[0] }),
        json!({ "prompt": "it is", "completion": begin }),
    ];
    place.write("own.jsonl", format!("{}\n{}\n", rows[0], rows[1]));
    let found = eval(&["--exact-match"]);
    assert_eq!(found["figures"]["exact_match"]["mean"], 0.0, "what is cut is no match");
    let found = eval(&["--extract", "(?s)^(..)", "--rouge"]);
    assert_eq!(found["figures"]["exact_match"]["mean"], 1.0);
    let rows = lines(&place, "rows.jsonl");
    assert_eq!(rows[1]["extracted"], json!(begin.trim()));
    let found = eval(&["--extract", "never found"]);
    assert_eq!(found["figures"]["exact_match"]["mean"], 0.0);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = with_model_beside();
    place.write("pairs.jsonl", "{\"prompt\": \"1+2=\", \"chosen\": \"3\", \"rejected\": \"4\"}\n");
    place.write("labelled.jsonl", "{\"prompt\": \"1+2=\", \"completion\": \"3\", \"label\": true}\n");
    place.write(
        "questions.jsonl",
        "{\"question\": \"1+2=\", \"choices\": [\"3\", \"4\"], \"answer\": \"5\"}\n",
    );
    place.write("unanswered.jsonl", "{\"question\": \"1+2=\", \"choices\": [\"3\", \"4\"], \"key\": 0}\n");
    for (arguments, expected) in [
        (vec!["model", "nowhere.jsonl"], "nowhere.jsonl"),
        (vec!["model", "{ path = \"pairs.jsonl\", colums = {} }"], "did you mean `columns`?"),
        (vec!["nowhere", "pairs.jsonl"], "there is no nowhere"),
        (vec!["model", "pairs.jsonl", "--objective", "dpo"], "--objective dpo needs a --reference"),
        (vec!["model", "pairs.jsonl", "--objective", "dop"], "did you mean `dpo`?"),
        (
            vec!["model", "pairs.jsonl", "--objective", "simpo", "--reference", "model"],
            "--reference has no effect",
        ),
        (vec!["model", "pairs.jsonl", "--chat"], "--chat has no effect"),
        (vec!["model", "pairs.jsonl", "--extract", "(("], "--extract"),
        (vec!["model", "pairs.jsonl", "--rows", "no/where.jsonl"], "--rows"),
        (vec!["model", "pairs.jsonl", "--rows", "pairs.jsonl"], "is the data"),
        (vec!["model", "pairs.jsonl", "--batch-size", "0"], "--batch-size"),
        (vec!["model", "pairs.jsonl", "--held-out", "0"], "--held-out is 0: expected a share above 0"),
        (vec!["model", "questions.jsonl", "--held-out", "0.5"], "--held-out has no effect"),
        (vec!["model", "pairs.jsonl", "--train-on", "first"], "[possible values: last, all-assistant]"),
        (
            vec!["model", "pairs.jsonl", "--train-on", "all-assistant"],
            "pairs.jsonl:1: train_on = \"all-assistant\" is for",
        ),
        (vec!["model", "pairs.jsonl", "--max-length", "99"], "`max_position_embeddings`"),
        (vec!["model", "labelled.jsonl"], "--objective kto"),
        (
            vec!["model", "questions.jsonl"],
            "questions.jsonl:1: column `answer`: \"5\" is none of the 2 choices",
        ),
        (vec!["model", "questions.jsonl", "--rouge"], "--rouge has no effect"),
        (vec!["model", "unanswered.jsonl"], "there is no column `answer`"),
    ] {
        let outcome = place.run(&[&["eval"], arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
    assert_eq!(place.read("pairs.jsonl").lines().count(), 1, "the data are as they were");
}

#[test]
fn the_figures_are_those_of_the_run_that_made_the_model() {
    let place = with_model_beside();
    let rows: Vec<String> = (1..9)
        .map(|i| {
            format!(
                "{}\n",
                json!({ "prompt": format!("{i}+1="), "chosen": format!("{}", i + 1), "rejected": "0" })
            )
        })
        .collect();
    place.write("rows.jsonl", rows.concat());
    place.write(
        "recipe.toml",
        "[run]\noutput = \"out\"\n[model]\npath = \"model\"\n[data]\ntrain = \"rows.jsonl\"\neval = \"rows.jsonl\"\nmax_length = 48\n\
         [[stage]]\nname = \"s\"\nobjective = \"dpo\"\nsteps = 3\nbatch_size = 4\noptimizer = { lr = 1e-2 }\n",
    );
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let last = metrics.iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap();
    let found = place
        .run(&["eval", "out/s", "rows.jsonl", "--reference", "model", "--against", "model", "--json"])
        .success();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    for name in [
        "loss",
        "pair_accuracy",
        "pair_accuracy_per_token",
        "sft_loss",
        "rewards/accuracies",
        "rewards/margins",
        "displaced",
        "entropy",
    ] {
        close(name, &found["figures"][name]["mean"], &last[format!("eval_{name}")], 1e-9);
    }
}

#[test]
fn the_rows_that_a_run_holds_out_can_be_measured() {
    let place = with_model_beside();
    let row = |i: usize| {
        json!({ "prompt": format!("{i}+1="), "chosen": format!("{}", i + 1), "rejected": "0" }).to_string()
    };
    place.write("rows.jsonl", (1..30).map(row).collect::<Vec<_>>().join("\n"));
    place.write(
        "recipe.toml",
        "[run]\noutput = \"out\"\n[model]\npath = \"model\"\n[data]\ntrain = \"rows.jsonl\"\nsplit = { eval = 0.3 }\nmax_length = 48\n\
         [[stage]]\nname = \"s\"\nobjective = \"dpo\"\nsteps = 2\nbatch_size = 4\noptimizer = { lr = 1e-2 }\n",
    );
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let last = metrics.iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap();
    let found = place
        .run(&["eval", "out/s", "rows.jsonl", "--reference", "model", "--held-out", "0.3", "--json"])
        .success();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    for name in ["loss", "pair_accuracy", "sft_loss"] {
        close(name, &found["figures"][name]["mean"], &last[format!("eval_{name}")], 1e-9);
    }
    // A run goes on with the rows that it began with.
    let refused = |rows: std::ops::Range<usize>, words: &str| {
        place.write("rows.jsonl", rows.map(row).collect::<Vec<_>>().join("\n"));
        let outcome = place.run(&["resume", "out"]);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    };
    refused(1..40, " rows, rows.jsonl: there were ");
    refused(2..31, " rows, rows.jsonl: ");
}
