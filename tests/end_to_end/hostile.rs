//! Damaged recipes, rows, weights, configurations, tokenizers, templates and run folders. Whatever a file contains, the
//! result is a plan or one error that names a file: never a panic, a hang, or unbounded memory.

use std::process::Command;

use spo_api::Registry;
use spo_backend_candle as _;
use spo_objectives as _;
use spo_runtime::testing::{self, exit_code};
use test_support::Place;
use test_support::fuzz::fuzz;

use crate::recipes::with_model;
use crate::resume::killed;
use crate::{place, project};

const RECIPE: &str = r#"
[run]
seed = 3

[model]
path = "MODEL"

[data]
train = { path = "ROWS", columns = { prompt = "question" }, take = 12 }
max_length = 32

[checkpoint]
every = 10

[[stage]]
name = "align"
objective = [{ name = "dpo", beta = 0.1 }, { name = "sft", weight = 0.2, schedule = { from = 0.0, steps = 3 } }]
bilevel = { step = "penalty", lambda = { ramp = { to = 1.0, steps = 4 } }, value = "reference" }
reference = { moving = { sync_steps = 2, mixup_alpha = 0.5 } }
steps = 3
batch_size = 2
micro_batch = { tokens = 40 }
optimizer = { lr = 1e-4, schedule = "cosine", warmup = 0.1 }
"#;

/// A run that can be killed between its checkpoints.
const RUN: &str = concat!(
    tiny!(64, 16),
    r#"
[checkpoint]
every = 4
minutes = 0

[[stage]]
name = "sft"
objective = "sft"
steps = 16
batch_size = 16
optimizer = { lr = 3e-3 }
"#
);

/// A model, and rows that fit it.
fn with_model_and_rows() -> Place {
    let place = with_model();
    let rows =
        (0..16).map(|i| format!(r#"{{"question": "{i}+1=", "chosen": "{}", "rejected": "{i}"}}"#, i + 1));
    place.write("rows.jsonl", rows.collect::<Vec<_>>().join("\n"));
    let parquet = project("spo-runtime/data/tests/fixtures/chat.parquet");
    std::fs::copy(parquet, place.path("rows.parquet")).unwrap();
    let arrow = project("spo-runtime/data/tests/fixtures/saved/test/data-00000-of-00001.arrow");
    std::fs::copy(arrow, place.path("rows.arrow")).unwrap();
    place.write("made/sft/chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
    place
}

fn recipe(place: &Place, rows: &str) -> String {
    let path = |name: &str| place.path(name).display().to_string();
    let recipe = RECIPE.replace("MODEL", &path("made/sft")).replace("ROWS", &path(rows));
    if !rows.ends_with("jsonl") {
        recipe.replace("columns = { prompt = \"question\" }, ", "")
    } else {
        recipe
    }
}

/// Makes plans from inputs of which one file is damaged, each time in another way.
fn besiege(kind: &str, file: &str, rows: &str) {
    let place = with_model_and_rows();
    let registry = std::cell::RefCell::new(Registry::linked().unwrap());
    place.write("recipe.toml", recipe(&place, rows));
    let plan = || testing::plan(&mut registry.borrow_mut(), &place.path("recipe.toml"));
    plan().unwrap();
    let target = place.path(file);
    let whole = std::fs::read(&target).unwrap();
    let mut refused = 0;
    let tried = fuzz(kind, &[whole], &[], |damaged| {
        std::fs::write(&target, damaged).unwrap();
        if let Err(error) = plan() {
            refused += 1;
            let said = format!("{error:#}");
            assert_eq!(exit_code(&error), 2, "{said}");
            let name = target.file_name().unwrap().to_str().unwrap();
            let named = [name, "recipe.toml"].iter().any(|name| said.contains(name));
            // What is printed of a longer one is cut.
            assert!(named, "{said}");
        }
    });
    assert!(refused > tried / 10, "only {refused} of {tried} were damaged at all");
}

#[test]
fn damaged_recipes() {
    besiege("recipe", "recipe.toml", "rows.jsonl");
}

#[test]
fn damaged_json_lines() {
    besiege("rows", "rows.jsonl", "rows.jsonl");
}

#[test]
fn damaged_parquet() {
    besiege("parquet", "rows.parquet", "rows.parquet");
}

#[test]
fn damaged_arrow() {
    besiege("arrow", "rows.arrow", "rows.arrow");
}

#[test]
fn damaged_weights() {
    besiege("weights", "made/sft/model.safetensors", "rows.jsonl");
}

#[test]
fn damaged_configurations() {
    besiege("configuration", "made/sft/config.json", "rows.jsonl");
}

#[test]
fn damaged_tokenizers() {
    besiege("tokenizer", "made/sft/tokenizer.json", "rows.jsonl");
}

#[test]
fn damaged_templates() {
    besiege("chat_template", "made/sft/chat_template.jinja", "rows.parquet");
}

/// Damages one file of a run that was killed. What reads the folder again succeeds, or says in a few lines why not.
fn besiege_run(kind: &str, file: &str) {
    let place = place();
    place.write("recipe.toml", RUN);
    killed(&place, "whole", "00000008");
    let whole = std::fs::read(place.path("whole").join(file)).unwrap();
    fuzz(kind, &[whole], &[], |damaged| {
        let run = place.path("run");
        let _ = std::fs::remove_dir_all(&run);
        let copied = Command::new("cp").arg("-r").arg(place.path("whole")).arg(&run).status().unwrap();
        assert!(copied.success());
        std::fs::write(run.join(file), damaged).unwrap();
        for command in [&["report", "run"][..], &["resume", "run", "--quiet"]] {
            let outcome = place.run(command);
            let said = outcome.stderr;
            assert!((0..=2).contains(&outcome.code) && !said.contains("panicked"), "{command:?}: {said}");
            assert!(said.len() < 8000, "{command:?}: {said}");
            assert_eq!(outcome.code == 0, !said.contains("error:"), "{command:?}: {said}");
        }
    });
}

#[test]
fn damaged_records_of_runs() {
    besiege_run("run", "run.json");
}

#[test]
fn damaged_recipes_of_runs() {
    besiege_run("run-recipe", "recipe.toml");
}

#[test]
fn damaged_logs_of_runs() {
    besiege_run("run-log", "metrics.jsonl");
}

#[test]
fn damaged_checkpoints() {
    besiege_run("run-checkpoint", "checkpoints/00000008/manifest.json");
}
