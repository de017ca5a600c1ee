//! Runs of the tabular backend: the ledger of probability and the audit of bilevel steps.

use std::path::Path;

use serde_json::Value;
use test_support::Place;

use crate::recipes::steps;
use crate::{place, project};

/// Runs the recipe that the documentation shows.
fn shown(place: &Place, arguments: &[&str]) {
    let recipe = project("recipes/enumerable.toml");
    place.run(&[&[recipe.to_str().unwrap(), "--quiet"], arguments].concat()).success();
}

fn evaluations<'a>(metrics: &'a [Value], stage: &str) -> Vec<&'a Value> {
    metrics
        .iter()
        .filter(|line| line["stage"] == stage && line.get("eval_mass/preferred").is_some())
        .collect()
}

#[test]
fn the_ledger_accounts_for_all_probability_at_every_moment() {
    let place = place();
    shown(&place, &[]);
    let metrics = place.metrics("runs/enumerable");
    let mass = |line: &Value, part: &str| line[format!("eval_mass/{part}")].as_f64().unwrap();
    for stage in ["sft", "dpo", "dpo-sft", "spo"] {
        let lines = evaluations(&metrics, stage);
        assert!(lines.len() >= 7, "{stage}: {}", lines.len());
        for line in lines {
            let parts = ["preferred", "dispreferred", "other_answers", "everything_else"];
            let sum: f64 = parts.iter().map(|part| mass(line, part)).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{line}");
        }
    }
    let end = |stage: &str| mass(evaluations(&metrics, stage).last().unwrap(), "preferred");
    assert!(end("dpo") < 0.5 * end("sft"), "DPO lowers what it prefers: {} {}", end("sft"), end("dpo"));
    assert!(end("spo") > end("sft"), "SPO does not: {} {}", end("sft"), end("spo"));

    insta::assert_snapshot!(
        "mass_of_the_shown_run",
        place.run(&["mass", "runs/enumerable"]).success().stdout
    );
    let one = place.run(&["mass", "runs/enumerable", "--stage", "dpo", "--prompts", "1", "--answers", "1"]);
    insta::assert_snapshot!("mass_of_one_stage", one.success().stdout);
}

#[test]
fn a_run_is_the_same_to_the_bit_and_seeds_differ() {
    let place = place();
    let lines = |name: &str, seed: &str| {
        shown(&place, &["--set", &format!("run.output={name}"), "--set", &format!("run.seed={seed}")]);
        place.read(&format!("{name}/metrics.jsonl"))
    };
    let first = lines("first", "0");
    assert_eq!(first, lines("second", "0"));
    assert_ne!(first, lines("third", "1"));
}

/// Splitting a batch changes only rounding. In f64 this is a sharp test of the bookkeeping.
#[test]
fn splitting_a_batch_changes_nothing_but_the_last_digits() {
    let place = place();
    for (i, objective) in ["dpo", "simpo", "aot"].into_iter().enumerate() {
        for (j, bilevel) in ["spo", "dpo-sft"].into_iter().enumerate() {
            let lines = |split: &str| {
                let output = format!("{split}{i}{j}");
                let mut arguments =
                    vec![format!("run.output={output}"), format!("stage.{bilevel}.objective={objective}")];
                if split == "split" {
                    arguments.push(format!("stage.{bilevel}.micro_batch={{ rows = 3 }}"));
                }
                let sets: Vec<&str> = arguments.iter().flat_map(|a| ["--set", a.as_str()]).collect();
                shown(&place, &sets);
                place.metrics(&output)
            };
            let (whole, split) = (lines("whole"), lines("split"));
            // Only the first steps: later, rounding errors grow with the curvature of the loss.
            let first = |metrics: &[Value]| -> Vec<f64> {
                let steps = steps(metrics, bilevel);
                steps.iter().take(20).map(|line| line["logps/chosen"].as_f64().unwrap()).collect()
            };
            for (a, b) in first(&whole).into_iter().zip(first(&split)) {
                assert!((a - b).abs() < 1e-9, "{objective} {bilevel}: {a} {b}");
            }
        }
    }
}

/// Two ways to compute the same Hessian. Differences are not exact, so the last digits must differ.
#[test]
fn looking_ahead_by_double_backward_goes_where_differences_go() {
    let place = place();
    let lines = |hessian: &str, micro_batch: &str| {
        let bilevel = format!(
            "stage.spo.bilevel={{ step = \"lookahead\", inner_steps = 2, inner_lr = 0.3, gradient = \"exact\", hessian = \"{hessian}\" }}"
        );
        let (output, split) = ("run.output=here", format!("stage.spo.micro_batch={micro_batch}"));
        let sets = ["run.overwrite=true", output, "stage.spo.steps=40", &bilevel, &split];
        shown(&place, &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>());
        let metrics = place.metrics("here");
        let figures =
            |line: &&Value| ["loss/upper", "loss/lower", "grad_norm"].map(|key| line[key].as_f64().unwrap());
        steps(&metrics, "spo").iter().flat_map(figures).collect::<Vec<_>>()
    };
    let (differences, exact) =
        (lines("differences", "{ rows = 64 }"), lines("double-backward", "{ rows = 64 }"));
    let split = lines("double-backward", "{ rows = 3 }");
    let apart = |one: &[f64], other: &[f64]| {
        one.iter().zip(other).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
    };
    assert_eq!(exact.len(), 3 * 40);
    assert!(apart(&exact, &differences) < 1e-4, "{}", apart(&exact, &differences));
    assert!(apart(&exact, &differences) > 1e-12, "they are not the same computation");
    assert!(apart(&exact, &split) < 1e-9, "{}", apart(&exact, &split));
}

#[test]
fn what_the_ledger_cannot_tell_it_says() {
    let place = place();
    shown(&place, &["--set", "stage.dpo.save=false"]);
    for (arguments, expected) in [
        (vec!["mass", "nowhere"], "nowhere holds no run"),
        (vec!["mass", "runs/enumerable", "--stage", "dop"], "no such stage, only sft, dpo"),
        (vec!["mass", "runs/enumerable", "--stage", "dpo"], "stage `dpo` has saved no model"),
    ] {
        let outcome = place.run(&arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}

/// The rows of the audit, one per step and form.
fn audit(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let outcome = place.run(&[&["audit", "runs/enumerable", "--json"], arguments].concat()).success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn an_audit_knows_the_exact_step_from_the_others() {
    let place = place();
    shown(&place, &["--set", "stage.spo.steps=40"]);
    for stage in ["sft", "spo"] {
        let options = ["--stage", stage, "--inner-steps", "2", "--inner-lr", "0.05", "--batches", "2"];
        let audited = audit(&place, &options);
        let names: Vec<&str> = audited.iter().filter_map(|row| row["step"]["step"].as_str()).collect();
        for name in
            ["alternating", "barrier", "bome", "lookahead", "penalty", "projected", "single", "weighted"]
        {
            assert!(names.contains(&name), "{names:?}");
        }
        for row in &audited {
            let unrolled = |key: &str| row["agreement"][0][key].as_f64().unwrap();
            let (cosine, ratio) = (unrolled("cosine"), unrolled("ratio"));
            if row["step"]["hessian"] == "double-backward" {
                assert!(1.0 - cosine < 1e-14 && (ratio - 1.0).abs() < 1e-9, "{stage} {row}");
            } else if row["step"]["gradient"] == "exact" {
                assert!(1.0 - cosine < 1e-9 && (ratio - 1.0).abs() < 1e-4, "{stage} {row}");
            } else {
                assert!(cosine.abs() < 1.0 - 1e-9, "{stage} {row}");
            }
        }
        let cost = |name: &str| {
            let row = audited.iter().find(|row| row["step"]["step"] == name).unwrap();
            ["forward", "backward", "vectors"].map(|key| row[key].as_u64().unwrap())
        };
        assert_eq!(cost("single"), [1, 1, 0]);
        assert_eq!(cost("projected"), [2, 2, 1]);
        assert_eq!(cost("lookahead"), [3, 3, 1]);
    }
    let one = audit(&place, &["--step", r#"{ step = "weighted", lambda = 0.0 }"#, "--lambda", "0"]);
    let to_value_function = one[0]["agreement"][2]["cosine"].as_f64().unwrap();
    assert!(one.len() == 1 && to_value_function > 1.0 - 1e-9, "without a penalty both are dF: {one:?}");
}

#[test]
fn what_cannot_be_audited_is_said() {
    let place = place();
    shown(&place, &[]);
    for (arguments, expected) in [
        (vec!["--stage", "spoo"], "no stage `spoo`, only sft, dpo"),
        (vec!["--step", r#""penlty""#], "did you mean `penalty`?"),
        (
            vec!["--step", r#"{ step = "penalty", lower = "sft" }"#],
            "the lower level of an audit is the stage's",
        ),
        (vec!["--step", "{ step = "], "--step"),
        (vec!["--inner-lr", "0"], "must be greater than 0"),
        // A key out of range is refused for the step that is named.
        (vec!["--step", r#"{ step = "weighted", lambda = -1.0 }"#], "lambda"),
    ] {
        let outcome = place.run(&[&["audit", "runs/enumerable"], arguments.as_slice()].concat());
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
        assert_ne!(outcome.code, 0);
    }
    // A step of a library that has a required key is no reason not to audit the others.
    let library = crate::plugins::example("misbehaving").display().to_string();
    let options = ["--stage", "spo", "--batches", "1", "--plugin", &library];
    let outcome = place.run(&[&["audit", "runs/enumerable"], &options[..]].concat()).success();
    assert!(outcome.stderr.contains("step `needy` is left out"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`rate`"), "{}", outcome.stderr);
    for name in ["hoarder", "penalty"] {
        assert!(outcome.stdout.contains(name), "{}", outcome.stdout);
    }
    let needy = [&options[..], &["--step", r#"{ step = "needy", rate = 2.0 }"#]].concat();
    let outcome = place.run(&[&["audit", "runs/enumerable"], &needy[..]].concat()).success();
    assert!(outcome.stdout.contains("needy rate=2.0"), "{}", outcome.stdout);
}

#[test]
fn every_recipe_that_needs_no_file_can_be_run() {
    let place = place();
    let folder = project("recipes");
    let files = |folder: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect()
    };
    let mut checked = 0;
    for recipe in files(&folder).into_iter().chain(files(&folder.join("evidence"))) {
        if std::fs::read_to_string(&recipe).unwrap().contains("[model.config]") {
            place.run(&["check", recipe.to_str().unwrap()]).success();
            checked += 1;
        }
    }
    assert!(checked >= 9, "{checked}");
}

#[test]
fn summaries_are_judged_at_both_ends_of_a_stage() {
    let place = place();
    place.write(
        "recipe.toml",
        r#"
        backend = { name = "tabular" }
        model.config = { model_type = "tabular", kind = "linear", order = 8 }
        data = { task = { name = "market-report", train = 40, held_out = 5 }, max_length = 64 }
        [[stage]]
        name = "sft"
        objective = "sft"
        steps = 2
        batch_size = 8
        optimizer = { lr = 1e-2 }
        "#,
    );
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("runs/recipe");
    let judged: Vec<_> = metrics.iter().filter(|line| line.get("eval_rouge_l").is_some()).collect();
    assert_eq!(judged.len(), 2, "{metrics:?}");
    for line in judged {
        let figure = |name: &str| line[name].as_f64().unwrap();
        // An answer that is right to the letter is faithful.
        assert!((0.0..=1.0).contains(&figure("eval_rouge_l")));
        assert!(figure("eval_faithful") >= figure("eval_exact_match"));
    }
}
