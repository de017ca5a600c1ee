//! Stages that end early: where they end, what is said of it, and that they resume to the bit.

use serde_json::Value;

use crate::place;
use crate::resume::killed;

/// The learning rate is far too high: the held-out loss rises.
const RECIPE: &str = concat!(
    tiny!(48, 12),
    r#"
[evaluation]
every = 2

[checkpoint]
every = 1
minutes = 0

[[stage]]
name = "s"
objective = "sft"
steps = 60
batch_size = 8
early_stopping = { metric = "eval_loss", patience = 3 }
optimizer = { lr = 0.3, schedule = "constant", max_grad_norm = 0.0 }
"#
);

#[test]
fn a_stage_ends_when_its_figure_has_not_become_better_and_resumes_to_the_same_end() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    let outcome = place.run(&["recipe.toml", "--set", "run.output=whole"]).success();
    let metrics = place.metrics("whole");
    let evaluations: Vec<(u64, f64)> = metrics
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line.get("eval_loss")?.as_f64()?)))
        .filter(|(step, _)| *step > 0)
        .collect();
    // By the rule itself: the first evaluation that is the third in a row without a new best.
    let (mut best, mut waited, mut end) = (f64::INFINITY, 0, 0);
    for (step, loss) in &evaluations {
        (best, waited) = if *loss < best { (*loss, 0) } else { (best, waited + 1) };
        if waited == 3 {
            end = *step;
            break;
        }
    }
    assert!((6..60).contains(&end), "{evaluations:?}");
    let last = metrics.iter().rfind(|line| line.get("grad_norm").is_some()).unwrap();
    assert_eq!(last["step"], end, "no step after that");
    assert_eq!(metrics.last().unwrap()["eval_stopped_early"], 1.0);
    let told = format!(
        "s: stopped early, after {end} of 60 steps: eval_loss has not become better than {best:.4} at 3 evaluations."
    );
    assert!(outcome.stdout.contains(&told), "{}", outcome.stdout);
    let summary: Value = serde_json::from_str(&place.read("whole/summary.json")).unwrap();
    assert_eq!(
        (&summary["stages"][0]["steps"], &summary["stages"][0]["stopped_early"]["planned"]),
        (&end.into(), &60.into())
    );
    place.run(&["report", "whole", "--output", "page.html"]).success();
    assert!(place.read("page.html").contains(&format!("It stopped early, after step {end}")));

    killed(&place, "killed", "00000003");
    place.run(&["resume", "killed"]).success();
    for file in ["metrics.jsonl", "held_out.jsonl", "s/model.safetensors"] {
        let bytes = |run: &str| std::fs::read(place.path(&format!("{run}/{file}"))).unwrap();
        assert!(bytes("killed") == bytes("whole"), "{file}");
    }
}

#[test]
fn a_rule_without_effect_is_refused() {
    let place = place();
    let refused = |recipe: &str, expected: &str| {
        place.write("recipe.toml", recipe);
        let outcome = place.run(&["recipe.toml"]);
        assert_eq!(outcome.code, 2, "{}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    };
    refused(&RECIPE.replace("every = 2", "every = 0"), "has no effect unless `evaluation.every`");
    refused(&RECIPE.replace("patience = 3", "patience = 0"), "patience");
    refused(&RECIPE.replace("eval_loss", "eval_los"), "did you mean `eval_loss`?");
    let rows = RECIPE
        .replace("task = { name = \"modular-chain\", train = 48, held_out = 12 }", "train = \"rows.jsonl\"");
    let folder = crate::recipes::with_model_beside();
    folder.write("rows.jsonl", "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n");
    let at = rows.find("[data]").unwrap();
    folder.write("recipe.toml", format!("[model]\npath = \"model\"\n{}", &rows[at..]));
    let outcome = folder.run(&["recipe.toml"]);
    assert!(outcome.code == 2 && outcome.stderr.contains("needs held-out rows"), "{}", outcome.stderr);
}
