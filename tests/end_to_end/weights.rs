//! Weights of rows: what they multiply, and where they are refused.

use serde_json::Value;
use test_support::Place;

use crate::recipes::{steps, with_model_beside};

const A: &str = r#""prompt": "1+1=", "chosen": "2", "rejected": "3""#;
const B: &str = r#""prompt": "2+2=", "chosen": "4", "rejected": "5""#;

/// Loss and norm of the gradient at each of four training steps on these rows, which are one batch, and the held-out losses.
fn train(place: &Place, rows: [String; 2], stage: &str) -> Vec<f64> {
    place.write("train.jsonl", rows.join("\n"));
    let recipe = format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\npath = \"model\"\n[data]\ntrain = \"train.jsonl\"\neval = \"train.jsonl\"\n\
         max_length = 48\n[[stage]]\nname = \"s\"\n{stage}\nsteps = 4\nbatch_size = 2\noptimizer = {{ lr = 3e-3 }}\n"
    );
    place.write("recipe.toml", recipe);
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let trained = steps(&metrics, "s");
    assert_eq!(trained.len(), 4);
    let mut figures: Vec<f64> = trained
        .iter()
        .flat_map(|line| ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap()))
        .collect();
    figures.extend(metrics.iter().filter_map(|line| line.get("eval_loss").and_then(Value::as_f64)));
    assert_eq!(figures.len(), 10, "held out at the beginning and at the end");
    figures
}

fn row(content: &str, weight: &str) -> String {
    format!("{{{content}{weight}}}")
}

/// A row that counts twice beside one that does not count is the row twice.
#[test]
fn a_weight_multiplies_the_loss_of_its_row() {
    let place = with_model_beside();
    for stage in [
        "objective = \"dpo\"",
        "objective = \"sft\"",
        "objective = \"dpo\"\nmicro_batch = { rows = 1 }",
        "objective = [{ name = \"simpo\" }, { name = \"sft\", weight = 0.5 }]",
        "objective = \"ipo\"\nbilevel = { step = \"penalty\", lambda = 0.7 }",
        "objective = \"dpo\"\nbilevel = { step = \"penalty\", lambda = 0.7, lower_data = \"train.jsonl\" }",
    ] {
        let weighted = train(&place, [row(A, r#", "weight": 2"#), row(B, r#", "weight": 0"#)], stage);
        let twice = train(&place, [row(A, ""), row(A, "")], stage);
        for (one, other) in weighted.iter().zip(&twice) {
            assert!((one - other).abs() <= 1e-5 * other.abs().max(1e-2), "{stage}: {weighted:?} {twice:?}");
        }
        let plain = train(&place, [row(A, ""), row(B, "")], stage);
        assert!((plain[1] - weighted[1]).abs() > 1e-3, "the rows are alike: nothing is shown");
        let ones = train(&place, [row(A, r#", "weight": 1"#), row(B, r#", "weight": "1.0""#)], stage);
        assert_eq!(plain, ones, "to the bit");
    }
}

#[test]
fn weights_that_mean_nothing_are_refused() {
    let place = with_model_beside();
    let refused = |weight: &str, objective: &str, parts: &[&str]| {
        place.write(
            "train.jsonl",
            [row(A, ", \"heavy\": 1"), row(B, &format!(", \"heavy\": {weight}"))].join("\n"),
        );
        let recipe = format!(
            "[run]\noutput = \"out\"\n[model]\npath = \"model\"\n[data]\ntrain = {{ path = \"train.jsonl\", columns = {{ weight = \"heavy\" }} }}\n\
             max_length = 48\n[[stage]]\nname = \"s\"\nobjective = \"{objective}\"\nsteps = 2\nbatch_size = 2\noptimizer = {{ lr = 3e-3 }}\n"
        );
        place.write("recipe.toml", recipe);
        let outcome = place.run(&["check", "recipe.toml"]);
        let code = if parts.is_empty() { 0 } else { 2 };
        assert_eq!(outcome.code, code, "{weight}: {}", outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "`{}` does not say `{part}`", outcome.stderr);
        }
    };
    refused("-1", "dpo", &["train.jsonl:2", "`weight`", "0 or more", "found -1"]);
    refused("1e999", "dpo", &["train.jsonl:2"]);
    refused("\"heavy\"", "dpo", &["train.jsonl:2", "`weight`", "expected a number"]);
    refused("2", "aot", &["stage[0].objective", "train.jsonl:2", "compares the rows of a batch"]);
    refused("1", "aot", &[]);
    refused("\"0.5\"", "dpo", &[]);
    refused("null", "dpo", &[]);

    place.write("train.jsonl", [row(A, ""), row(B, ", \"weight\": 2")].join("\n"));
    let measured = place.run(&["eval", "model", "train.jsonl", "--objective", "aot", "--reference", "model"]);
    assert_eq!(measured.code, 2, "{}", measured.stdout);
    assert!(measured.stderr.contains("train.jsonl:2"), "{}", measured.stderr);
}
