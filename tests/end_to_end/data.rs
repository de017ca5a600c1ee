//! What `check` and a run say about the rows that they read, as text and as JSON.

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::with_model;

const RECIPE: &str = r#"
[run]
output = "out"

[model]
path = "made/sft"

[data]
train = "train.jsonl"
max_length = 32

[[stage]]
name = "align"
objective = "dpo"
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

/// A model, a recipe for it, and these rows to train on.
fn folder(rows: &[Value]) -> Place {
    let place = with_model();
    place.write("recipe.toml", RECIPE);
    place.write("train.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    place
}

fn plain(prompt: &str) -> Value {
    json!({"id": 7, "prompt": prompt, "chosen": "3", "rejected": "4", "tools": []})
}

const UNUSED: &str = "columns not used: id, tools (train.jsonl)";

#[test]
fn columns_that_are_not_used_are_listed_by_check_and_by_runs_with_a_cache_and_without() {
    let place = folder(&[plain("1+2="), plain("2+1=")]);
    let times = |arguments: &[&str]| place.run(arguments).success().stdout.matches(UNUSED).count();
    assert_eq!(times(&["check", "recipe.toml"]), 1);
    for output in ["run.output=one", "run.output=two"] {
        assert_eq!(times(&["recipe.toml", "--set", output]), 1, "{output}");
    }
}

#[test]
fn check_speaks_json_with_token_ids_wherever_the_option_stands() {
    let place = folder(&[plain("1+2="), plain("2+1="), plain("")]);
    let spoken: Vec<String> = [
        &["check", "recipe.toml", "--json"][..],
        &["check", "--json", "recipe.toml"],
        &["--json", "check", "recipe.toml"],
        &["--set", "run.output=out", "--json", "check", "recipe.toml"],
        &["--set=run.output=out", "--json", "check", "recipe.toml"],
    ]
    .iter()
    .map(|arguments| place.run(arguments).success().stdout)
    .collect();
    assert!(spoken.iter().all(|other| *other == spoken[0]), "{spoken:?}");
    let told: Value = serde_json::from_str(&spoken[0]).unwrap();
    let report = &told["data"][0]["report"];
    assert_eq!(report["columns_not_used"], json!({"train.jsonl": ["id", "tools"]}));
    assert_eq!(report["findings"][0]["finding"], "empty_prompt");
    assert_eq!(report["findings"][0]["first"], json!(["train.jsonl:3"]));
    // The vocabulary tells which ids are right.
    let tokenizer: Value = serde_json::from_str(&place.read("made/sft/tokenizer.json")).unwrap();
    let ids = |tokens: &[&str]| -> Value {
        tokens.iter().map(|token| tokenizer["model"]["vocab"][token].clone()).collect()
    };
    let group = &told["stages"][0]["rows"][0]["groups"][0];
    assert_eq!(group["reads"], json!({"text": "1+2=", "ids": ids(&["1", "+", "2", "="])}));
    assert_eq!(group["scores"][1], json!({"text": "4</s>", "ids": ids(&["4", "</s>"])}));

    place.write("sweep.toml", format!("{RECIPE}\n[sweep]\nseeds = [0, 1]\n"));
    let told: Value =
        serde_json::from_str(&place.run(&["--json", "check", "sweep.toml"]).success().stdout).unwrap();
    assert_eq!(told["cells"].as_array().unwrap().len(), 2);
    // An option that the command does not know is refused, not passed over.
    assert_eq!(place.run(&["--json", "list"]).code, 2);
}

#[test]
fn a_run_says_that_answers_never_stop_and_that_the_prompt_goes_on_otherwise() {
    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let pair = |prompt: &str| json!({"prompt": prompt, "chosen": message("assistant", "3"), "rejected": message("assistant", "4")});
    let place = folder(&[pair("1+2="), pair("2+1=")]);
    place.write(
        "made/sft/chat_template.jinja",
        "{% for m in messages %}{{ m.content }},{% endfor %}{% if add_generation_prompt %}++{% endif %}",
    );
    let said = place.run(&["recipe.toml"]).success().stdout;
    for line in [
        r#"2 kept: the end of the prompt is left out: "++"; the template puts it before an answer to be generated, not before these (train.jsonl:1, 2)"#,
        r#"2 kept: no stop token in an answer: the template ends it with ",", and generation stops at "</s>" (train.jsonl:1, 2)"#,
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("columns not used"), "{said}");
    // Strict, the first of them ends it.
    let strict = place.run(&["recipe.toml", "--set", "data.strict=true", "--set", "run.output=strict"]);
    assert!(strict.code == 2 && strict.stderr.contains("left out"), "{}", strict.stderr);
}

#[test]
fn held_out_rows_that_are_none_are_not_called_training_rows() {
    let place = folder(&[plain("1+2="), plain("2+1=")]);
    let long = format!("{}\n", plain(&"1+".repeat(40)));
    place.write("empty.jsonl", "");
    place.write("long.jsonl", long);
    place.write("set/part.jsonl", "{}");
    let refused = |eval: &str| {
        let outcome = place.run(&["recipe.toml", "--set", &format!("data.eval=\"{eval}\"")]);
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        assert!(
            outcome.stderr.contains("data.eval") && !outcome.stderr.contains("train on"),
            "{}",
            outcome.stderr
        );
        outcome.stderr
    };
    assert!(refused("empty.jsonl").contains("empty.jsonl: the file is empty"));
    assert!(refused("long.jsonl").contains("no row is left: 1 rows read, 0 kept"));
    assert!(refused("set").contains("set: a folder: name one of its files, such as set/part.jsonl"));
}
