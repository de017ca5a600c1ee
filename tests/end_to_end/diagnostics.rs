//! What a run records of single pairs (`diagnostics.jsonl`, `held_out.jsonl`), and the guard.

use serde_json::Value;
use test_support::{Outcome, Place, close};

use crate::place;
use crate::recipes::{SFT_THEN_DPO, steps};

fn run(place: &Place, name: &str, arguments: &[&str]) -> Outcome {
    place.write(&format!("{name}.toml"), SFT_THEN_DPO);
    place.run(&[&[&*format!("{name}.toml"), "--quiet"], arguments].concat())
}

fn lines(place: &Place, file: &str) -> Vec<Value> {
    place.read(file).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn of<'a>(lines: &'a [Value], kind: &str, stage: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind && line["stage"] == stage).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

const ON: &str = "diagnostics={ every = 2, probes = 6, geometry = 3 }";

#[test]
fn looking_changes_nothing() {
    let place = place();
    run(&place, "plain", &[]).success();
    run(&place, "watched", &["--set", ON]).success();
    for file in ["metrics.jsonl", "held_out.jsonl"] {
        assert_eq!(place.read(&format!("runs/plain/{file}")), place.read(&format!("runs/watched/{file}")));
    }
    for stage in ["sft", "align"] {
        let weights = |run: &str| std::fs::read(place.path(&format!("runs/{run}/{stage}/model.safetensors")));
        assert!(weights("plain").unwrap() == weights("watched").unwrap(), "the weights of {stage} differ");
    }
    assert!(!place.path("runs/plain/diagnostics.jsonl").exists());
    run(&place, "again", &["--set", ON]).success();
    let diagnostics = |run: &str| place.read(&format!("runs/{run}/diagnostics.jsonl"));
    assert_eq!(diagnostics("watched"), diagnostics("again"), "the same seed, the same diagnostics");
}

#[test]
fn probes_are_followed_from_end_to_end() {
    let place = place();
    run(&place, "run", &["--set", ON]).success();
    let lines = lines(&place, "runs/run/diagnostics.jsonl");
    for (stage, expected) in [("sft", (0..=20).step_by(2).collect::<Vec<_>>()), ("align", vec![0, 2, 4, 5])] {
        let probes = of(&lines, "probes", stage);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0]["held_out"], true);
        let probes = probes[0]["probes"].as_array().unwrap();
        assert_eq!(probes.len(), 6);
        for probe in probes {
            let pair = [&probe["chosen"], &probe["rejected"]];
            for leak in ["other", "shuffled", "own"] {
                assert!(!pair.contains(&&probe[leak]), "{leak} of {probe} is an answer of the pair");
            }
            let sorted = |answer: &Value| {
                let mut letters: Vec<char> = answer.as_str().unwrap().chars().collect();
                letters.sort_unstable();
                letters
            };
            assert_eq!(sorted(&probe["chosen"]), sorted(&probe["shuffled"]), "{probe}");
        }
        let evolution = of(&lines, "evolution", stage);
        let at: Vec<u64> = evolution.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(at, expected);
        assert_eq!(evolution[0]["displaced"], 0.0);
        let start = numbers(&evolution[0]["chosen"]);
        for line in &evolution {
            let now = numbers(&line["chosen"]);
            let lost = now.iter().zip(&start).filter(|(now, start)| now < start).count();
            close("displaced", &line["displaced"], &(lost as f64 / 6.0).into(), 1e-12);
            assert!(line["entropy"].as_f64().unwrap() > 0.0 && line["lower"].as_f64().unwrap() > 0.0);
            for (end, whole) in numbers(&line["chosen_end"]).into_iter().zip(&now) {
                assert!(end < 0.0 && end > *whole, "the end token's part of {whole}: {end}");
            }
            for answer in ["rejected", "other", "shuffled"] {
                assert!(numbers(&line[answer]).iter().all(|log_prob| *log_prob < 0.0), "{answer}");
            }
        }
        let constrained = evolution.iter().filter(|line| line.get("constraint").is_some()).count();
        assert_eq!(constrained, if stage == "align" { 3 } else { 0 }, "what the penalty reports");
    }
}

#[test]
fn gradients_predict_what_a_small_step_does() {
    let place = place();
    run(&place, "run", &["--set", ON, "--set", "stage.align.optimizer.lr=1e-5"]).success();
    let lines = lines(&place, "runs/run/diagnostics.jsonl");
    let geometry = of(&lines, "geometry", "align");
    assert_eq!(geometry.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 4, 5]);
    for line in &geometry {
        assert_eq!(line["probes"], serde_json::json!([0, 2, 4]));
        let (w, l) = (numbers(&line["norm_chosen"]), numbers(&line["norm_rejected"]));
        for (i, product) in numbers(&line["product"]).into_iter().enumerate() {
            assert!(product.abs() <= w[i] * l[i] * (1.0 + 1e-6), "{line}");
        }
    }
    for line in &geometry[..3] {
        for side in ["chosen", "rejected"] {
            let predicted = numbers(&line[format!("predicted_{side}")]);
            let actual = numbers(&line[format!("actual_{side}")]);
            for (predicted, actual) in predicted.into_iter().zip(actual) {
                assert!(predicted.abs() > 1e-6, "an update moves every answer");
                assert!((predicted - actual).abs() <= 0.05 * predicted.abs() + 2e-6, "{predicted} {actual}");
            }
        }
    }
    assert!(geometry[3].get("predicted_chosen").is_none(), "no update comes after the last");
}

#[test]
fn a_guard_ends_a_run_that_displaces() {
    let place = place();
    let guard = "diagnostics={ every = 1, probes = 8, geometry = 0, guard = { displaced = 0.2, by = 0.01 } }";
    let lr = "stage.align.optimizer.lr=0.05";
    let outcome = run(&place, "stopped", &["--set", guard, "--set", lr]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    for part in ["stage `align`", "displacement passed its limit: after", "limit 20.0%", "was not saved"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    assert!(place.path("runs/stopped/sft/model.safetensors").exists(), "earlier stages stay");
    assert!(!place.path("runs/stopped/align").exists());
    assert!(!place.path("runs/stopped/summary.json").exists());
    let lines = lines(&place, "runs/stopped/diagnostics.jsonl");
    let last = lines.last().unwrap();
    assert_eq!((last["kind"].as_str(), last["limit"].as_f64()), (Some("guard"), Some(0.2)));
    assert!(last["displaced"].as_f64().unwrap() > 0.2);
}

#[test]
fn a_guard_slows_a_run_that_displaces() {
    let place = place();
    let guard = "diagnostics={ every = 2, probes = 8, geometry = 0, \
                 guard = { displaced = 0.2, by = 0.01, action = { back_off = 0.5 } } }";
    run(&place, "slowed", &["--set", guard, "--set", "stage.align.optimizer.lr=0.05"]).success();
    let lines = lines(&place, "runs/slowed/diagnostics.jsonl");
    let guards = of(&lines, "guard", "align");
    assert!(!guards.is_empty());
    let metrics = place.metrics("runs/slowed");
    for line in steps(&metrics, "align") {
        let before = line["step"].as_u64().unwrap() - 1;
        let times = guards.iter().filter(|guard| guard["step"].as_u64().unwrap() <= before).count();
        close("learning rate", &line["learning_rate"], &(0.05 * 0.5f64.powi(times as i32)).into(), 1e-12);
    }
}

#[test]
fn what_is_kept_of_held_out_rows_is_what_was_measured() {
    let place = place();
    run(&place, "run", &["--set", "evaluation.samples=3"]).success();
    let lines = lines(&place, "runs/run/held_out.jsonl");
    let metrics = place.metrics("runs/run");
    assert_eq!(lines.len(), 4, "both ends of two stages");
    for line in &lines {
        let same = |m: &&Value| m["stage"] == line["stage"] && m["step"] == line["step"];
        let measured = metrics.iter().filter(same).find(|m| m.get("eval_loss").is_some()).unwrap();
        let mean = |key: &str| numbers(&line[key]).iter().sum::<f64>() / 16.0;
        close("chosen", &mean("chosen").into(), &measured["eval_logps/chosen"], 1e-12);
        close("rejected", &mean("rejected").into(), &measured["eval_logps/rejected"], 1e-12);
        let right = line["exact_match"].as_array().unwrap().iter().filter(|m| **m == true).count();
        close("exact match", &(right as f64 / 16.0).into(), &measured["eval_exact_match"], 1e-12);
        assert_eq!(line["samples"].as_array().unwrap().len(), 3);
    }
    assert_eq!(lines[0]["data"], lines[3]["data"]);
}

#[test]
fn without_held_out_rows_training_rows_are_followed() {
    let place = place();
    run(&place, "base", &[]).success();
    let rows = (0..6).map(|i| format!(r#"{{"prompt": "1+{i}+2=", "chosen": "{i},3", "rejected": "7,{i}"}}"#));
    place.write("rows.jsonl", rows.collect::<Vec<_>>().join("\n"));
    place.write(
        "files.toml",
        r#"
        model.path = "runs/base/sft"
        data = { train = "rows.jsonl" }
        diagnostics = { every = 1, probes = 4, geometry = 1 }
        [[stage]]
        name = "align"
        objective = "dpo"
        steps = 1
        batch_size = 2
        optimizer.lr = 1e-4
        "#,
    );
    place.run(&["files.toml", "--quiet"]).success();
    let lines = lines(&place, "runs/files/diagnostics.jsonl");
    let probes = of(&lines, "probes", "align")[0];
    assert_eq!(probes["held_out"], false);
    let places: Vec<_> =
        probes["probes"].as_array().unwrap().iter().map(|p| p["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:4", "rows.jsonl:5"]);
    assert_eq!(place.read("runs/files/held_out.jsonl"), "");
}

#[test]
fn diagnostics_that_make_no_sense_are_refused() {
    let place = place();
    let cases = [
        ("every", "diagnostics={ every = 0 }"),
        ("probes", "diagnostics={ prob = 3 }"),
        ("limit", "diagnostics={ guard = { displaced = 1.5 } }"),
        ("no_limit", "diagnostics={ guard = {} }"),
        ("action", r#"diagnostics={ guard = { displaced = 0.5, action = "halt" } }"#),
        ("factor", "diagnostics={ guard = { displaced = 0.5, action = { back_off = 2.0 } } }"),
    ];
    for (name, set) in cases {
        let outcome = run(&place, "bad", &["--set", set]);
        assert_eq!(outcome.code, 2, "{name}: {}", outcome.stderr);
        insta::assert_snapshot!(format!("diagnostics_{name}"), outcome.stderr);
    }
}
