//! Numbers that are not finite: stopping, skipping, replaying.

use serde_json::Value;

use crate::place;

const RECIPE: &str = concat!(
    tiny!(48, 12),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 10
batch_size = 16
optimizer = { lr = 3e-3 }

[[stage]]
name = "align"
objective = "dpo"
steps = 20
batch_size = 8
optimizer = { lr = 1e-3 }
"#
);

#[test]
fn a_batch_that_is_not_finite_stops_the_run_and_can_be_replayed() {
    let place = place();
    place.write("recipe.toml", RECIPE.replace("lr = 1e-3", "lr = 1e30"));
    let stopped = place.run(&["recipe.toml", "--quiet"]);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in
        ["stage `align`: step 2 of 20", "modular-chain row", "spo-run replay runs/recipe/nonfinite/align-2"]
    {
        assert!(stopped.stderr.contains(part), "{part}: {}", stopped.stderr);
    }
    assert!(!stopped.stderr.contains("resume"), "it would stop there again: {}", stopped.stderr);
    let replayed = place.run(&["replay", "runs/recipe"]).success().stdout;
    assert!(replayed.contains("step 2 of stage `align`"), "{replayed}");
    assert!(replayed.contains("the gradient with respect to the parameters"), "{replayed}");
    let batch: Value = serde_json::from_str(&place.read("runs/recipe/nonfinite/align-2/batch.json")).unwrap();
    assert_eq!(
        replayed.matches("modular-chain row").count(),
        8 + batch["error"].as_str().unwrap().matches("modular-chain row").count()
    );
    let same = place.run(&["replay", "runs/recipe/nonfinite/align-2"]).success().stdout;
    assert_eq!(same, replayed);
    let resumed = place.run(&["resume", "runs/recipe"]);
    assert!(resumed.code == 1 && resumed.stderr.contains("step 2 of 20"), "{}", resumed.stderr);

    let none = place.run(&["replay", "."]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("no batch"), "{}", none.stderr);
}

#[test]
fn batches_may_be_left_out_but_not_all_of_them() {
    let place = place();
    place.write("recipe.toml", RECIPE.replace("lr = 1e-3", "lr = 1e30"));
    let skip = ["recipe.toml", "--set", "run.on_nonfinite=skip"];
    let stopped = place.run(&skip);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the 10th batch in a row"), "{}", stopped.stderr);
    assert!(stopped.stdout.contains("warning: step 2 of 20 is left out"), "{}", stopped.stdout);
    let skipped: Vec<i64> = place
        .metrics("runs/recipe")
        .iter()
        .filter_map(|line| line["skipped"].as_f64())
        .map(|n| n as i64)
        .collect();
    assert_eq!(skipped, (1..10).collect::<Vec<_>>());
    let mut dumps: Vec<_> = std::fs::read_dir(place.path("runs/recipe/nonfinite"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    dumps.sort();
    assert_eq!(dumps, ["align-11", "align-2"], "the first and the last");
}

#[test]
fn leaving_out_is_the_same_after_a_resume() {
    let place = place();
    place.write("recipe.toml", RECIPE.replace("lr = 1e-3", "lr = 1e30").replace("steps = 20", "steps = 8"));
    let skip = |output: &str| format!("run.output={output}");
    let common = ["recipe.toml", "--set", "run.on_nonfinite=skip", "--set", "checkpoint.every=1"];
    let whole = place.run(&[&common[..], &["--set", &skip("whole")]].concat());
    assert_eq!(whole.code, 1, "the held-out figures are not finite: {}", whole.stderr);
    let again = place.run(&["resume", "whole"]);
    assert_eq!(again.code, 1, "{}", again.stderr);
    let lines = place.metrics("whole");
    let last = lines.last().unwrap();
    assert_eq!((&last["step"], &last["skipped"]), (&8.into(), &7.0.into()));
    assert_eq!(
        lines.iter().filter(|line| line["stage"] == "align" && line["step"] == 8).count(),
        1,
        "no line twice"
    );
}
