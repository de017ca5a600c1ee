//! The cache shares work between runs. It saves work and changes nothing else.

use std::path::PathBuf;

use serde_json::{Value, json};
use spo_runtime::testing;
use test_support::Place;

use crate::place;

const HEAD: &str = concat!(
    tiny!(48, 12),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 12
batch_size = 16
optimizer = { lr = 3e-3 }
"#
);

const ALIGN: &str = r#"
[[stage]]
name = "align"
objective = "dpo"
steps = 6
batch_size = 8
optimizer = { lr = 1e-3 }
"#;

/// Runs a recipe. Returns what it printed, and how many rows the reference scored in each stage.
fn run(place: &Place, output: &str, arguments: &[&str]) -> (String, Vec<u64>) {
    let output_argument = format!("run.output={output}");
    let ran = place.run(&[&["recipe.toml", "--set", &output_argument], arguments].concat()).success();
    let summary: Value = serde_json::from_str(&place.read(&format!("{output}/summary.json"))).unwrap();
    let rows = summary["stages"].as_array().unwrap().iter().map(|s| s["reference_rows"].as_u64().unwrap());
    (ran.stdout, rows.collect())
}

fn entries(place: &Place, kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path("runs/.cache")).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|path| path.is_dir() && path.file_name().unwrap().to_str().unwrap().starts_with(kind))
        .collect()
}

fn with_recipe() -> Place {
    let place = place();
    place.write("recipe.toml", [HEAD, ALIGN].concat());
    place
}

const STAGE: [&str; 2] = ["--set", "cache.stages=[\"sft\"]"];

#[test]
fn the_reference_is_scored_once_for_all_runs_that_share_it() {
    let place = with_recipe();
    let (_, scored) = run(&place, "elsewhere/off", &["--set", "cache.enabled=false"]);
    assert_eq!(scored, [0, 48]);
    assert!(!place.path("elsewhere/.cache").exists());
    let (_, first) = run(&place, "runs/first", &[]);
    let (said, second) = run(&place, "runs/second", &[]);
    assert_eq!((first, second), (vec![0, 48], vec![0, 0]), "{said}");
    assert!(said.contains("48 rows are taken from the cache"), "{said}");
    for run in ["runs/first", "runs/second"] {
        let metrics = place.read(&format!("{run}/metrics.jsonl"));
        assert!(metrics == place.read("elsewhere/off/metrics.jsonl"), "the cache changes nothing");
    }
    for (other, scored) in [
        (&["--set", "stage.align.objective=ipo"][..], 0),
        (&["--set", "stage.align.optimizer.lr=2e-3"], 0),
        (&["--set", "stage.align.steps=2"], 16),
        (&["--set", "stage.sft.optimizer.lr=2e-3"], 48),
        (&["--set", "run.seed=1"], 48),
        (&["--set", "data.task.held_out=13"], 48),
        (&["--set", "stage.align.reference=model"], 60),
    ] {
        let (_, rows) = run(&place, &format!("runs/{}", other[1].replace('=', "-")), other);
        assert_eq!(rows[1], scored, "{other:?}");
    }
}

#[test]
fn seeds_share_the_reference_of_a_model_from_files() {
    let place = place();
    place.write("recipe.toml", HEAD);
    run(&place, "made", &[]);
    let rows =
        (0..16).map(|i| format!(r#"{{"prompt": "{i}+1=", "chosen": "{}", "rejected": "{i}"}}"#, i + 1));
    place.write("rows.jsonl", rows.collect::<Vec<_>>().join("\n"));
    place.write(
        "recipe.toml",
        format!("model = {{ path = \"made/sft\" }}\ndata = {{ train = \"rows.jsonl\" }}\n{ALIGN}"),
    );
    assert_eq!(run(&place, "runs/a", &[]).1, [16]);
    assert_eq!(run(&place, "runs/b", &["--set", "run.seed=1"]).1, [0]);
    // Other weights under the same name are another model.
    std::fs::rename(place.path("made"), place.path("old")).unwrap();
    place.write("make.toml", HEAD.replace("steps = 12", "steps = 13"));
    place.run(&["make.toml", "--set", "run.output=made"]).success();
    assert_eq!(run(&place, "runs/c", &[]).1, [16]);
}

#[test]
fn a_stage_is_trained_once_for_all_runs_that_begin_with_it() {
    let place = with_recipe();
    let (_, _) = run(&place, "elsewhere/off", &["--set", "cache.enabled=false"]);
    let (first, _) = run(&place, "runs/first", &STAGE);
    let (second, rows) = run(&place, "runs/second", &STAGE);
    assert!(!first.contains("taken from the cache"), "{first}");
    assert!(second.contains("stage `sft` is taken from the cache"), "{second}");
    assert_eq!(rows, [0, 0]);
    for run in ["runs/first", "runs/second"] {
        assert!(
            place.read(&format!("{run}/metrics.jsonl")) == place.read("elsewhere/off/metrics.jsonl"),
            "{run}"
        );
        let held_out = |run: &str| place.read(&format!("{run}/held_out.jsonl"));
        assert!(held_out(run) == held_out("elsewhere/off"), "{run}");
        for stage in ["sft", "align"] {
            let weights =
                |run: &str| std::fs::read(place.path(&format!("{run}/{stage}/model.safetensors"))).unwrap();
            assert!(weights(run) == weights("elsewhere/off"), "{run} {stage}");
        }
    }
    for (other, taken) in [
        (["--set", "stage.align.objective=ipo"], true),
        (["--set", "stage.sft.optimizer.lr=2e-3"], false),
        (["--set", "run.seed=1"], false),
        // A later stage needs more from the stages before.
        (["--set", "stage.align.reference=model"], false),
    ] {
        let (said, _) =
            run(&place, &format!("runs/{}", other[1].replace('=', "-")), &[STAGE, other].concat());
        assert_eq!(said.contains("stage `sft` is taken from the cache"), taken, "{other:?}: {said}");
    }
    for (wrong, expected) in [
        ("cache.stages=[\"align\"]", "expected `sft`"),
        ("cache={ enabled = false, stages = [\"sft\"] }", "has no effect"),
        ("checkpoint.best.metric=eval_loss", "excludes `checkpoint.best`"),
    ] {
        let refused =
            place.run(&["recipe.toml", "--set", "evaluation.every=3", STAGE[0], STAGE[1], "--set", wrong]);
        assert!(refused.code == 2 && refused.stderr.contains(expected), "{wrong}: {}", refused.stderr);
    }
}

#[test]
fn a_damaged_entry_is_computed_again() {
    let place = with_recipe();
    run(&place, "runs/first", &STAGE);
    for (kind, file) in [("reference", "scores.safetensors"), ("stage", "session.safetensors")] {
        let entry = entries(&place, kind).pop().unwrap();
        let path = entry.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let name = format!("runs/after-{kind}");
        let (said, rows) = run(&place, &name, &STAGE);
        assert!(said.contains("is damaged and computed again: ") && said.contains(file), "{said}");
        assert_eq!(rows, if kind == "reference" { [0, 48] } else { [0, 0] });
        assert!(place.read(&format!("{name}/metrics.jsonl")) == place.read("runs/first/metrics.jsonl"));
        bytes[at] ^= 4;
        assert!(std::fs::read(&path).unwrap() == bytes, "the entry is whole again");
    }
}

#[test]
fn an_entry_that_is_whole_and_wrong_is_found_before_the_first_step() {
    let place = with_recipe();
    run(&place, "runs/first", &[]);
    let entry = entries(&place, "reference").pop().unwrap();
    let path = entry.join("scores.safetensors");
    testing::shift_rejected(&path, -0.25).unwrap();
    let listed = json!({ "bytes": std::fs::metadata(&path).unwrap().len(), "sha256": spo_data::hash::of_file(&path).unwrap() });
    std::fs::write(
        entry.join("manifest.json"),
        json!({ "files": { "scores.safetensors": listed } }).to_string(),
    )
    .unwrap();
    let stopped = place.run(&["recipe.toml", "--set", "run.output=runs/second"]);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in ["all margins are zero", "modular-chain row", "rejected answer", "delete it"] {
        assert!(stopped.stderr.contains(part), "{part}: {}", stopped.stderr);
    }
}

#[test]
fn processes_that_need_the_same_wait_for_the_first() {
    let place = with_recipe();
    std::thread::scope(|scope| {
        let place = &place;
        for i in 0..4 {
            scope.spawn(move || run(place, &format!("runs/{i}"), &STAGE));
        }
    });
    let mut scored = 0;
    for i in 0..4 {
        let summary: Value = serde_json::from_str(&place.read(&format!("runs/{i}/summary.json"))).unwrap();
        scored += summary["stages"][1]["reference_rows"].as_u64().unwrap();
        assert!(place.read(&format!("runs/{i}/metrics.jsonl")) == place.read("runs/0/metrics.jsonl"));
    }
    assert_eq!(scored, 48, "one forward pass for every row");
    assert_eq!((entries(&place, "stage").len(), entries(&place, "reference").len()), (1, 1));
}

#[test]
fn a_cache_that_cannot_be_used_is_done_without() {
    let place = with_recipe();
    place.write("file", "");
    let (said, rows) = run(&place, "runs/run", &["--set", "cache.folder=file/cache"]);
    assert!(said.contains("warning: going on without the cache in file/cache"), "{said}");
    assert_eq!(rows, [0, 48]);
}

/// A recipe that trains on files, and the files.
fn place_with_files() -> Place {
    let place = place();
    place.write("make.toml", HEAD);
    place.run(&["make.toml", "--quiet", "--set", "run.output=made"]).success();
    let rows =
        (0..16).map(|i| format!(r#"{{"prompt": "{i}+1=", "chosen": "{}", "rejected": "{i}"}}"#, i + 1));
    place.write("rows.jsonl", rows.collect::<Vec<_>>().join("\n") + "\n");
    let sft = "[[stage]]\nname = \"sft\"\nobjective = \"sft\"\nsteps = 2\noptimizer = { lr = 1e-3 }\n";
    let data =
        "data = { train = \"rows.jsonl\", eval = { path = \"rows.jsonl\", take = 4 }, max_length = 6 }\n";
    place.write("recipe.toml", format!("model = {{ path = \"made/sft\" }}\n{data}{sft}{ALIGN}"));
    place
}

#[test]
fn a_file_is_tokenized_once_for_all_runs_that_read_it_in_the_same_way() {
    let place = place_with_files();
    run(&place, "elsewhere/off", &["--set", "cache.enabled=false"]);
    let (first, _) = run(&place, "runs/first", &[]);
    assert!(!first.contains("the tokens of"), "{first}");
    // As demonstrations, as pairs, and as held-out rows.
    assert_eq!(entries(&place, "tokens").len(), 3);
    let (second, _) = run(&place, "runs/second", &[]);
    assert_eq!(second.matches("rows.jsonl: the tokens of 16 rows are taken from the cache").count(), 2);
    for run in ["runs/first", "runs/second"] {
        for file in ["metrics.jsonl", "held_out.jsonl"] {
            let (cached, own) =
                (place.read(&format!("{run}/{file}")), place.read(&format!("elsewhere/off/{file}")));
            assert!(cached == own, "{run}/{file}");
        }
    }
    // The report on the rows is the same as if they had been read.
    let told =
        |said: &str| said.split_once("truncated").map(|(_, end)| end.lines().next().unwrap().to_owned());
    assert!(told(&first).is_some() && told(&first) == told(&second), "{first}{second}");
    std::fs::copy(place.path("rows.jsonl"), place.path("copy.jsonl")).unwrap();
    for (other, taken) in [
        ("data.train=copy.jsonl", true),
        ("stage.align.objective=ipo", true),
        ("data.max_length=7", false),
        ("data.train={ path = \"rows.jsonl\", take = 15 }", false),
    ] {
        let output = format!("runs/{}", other.len());
        let (said, _) = run(&place, &output, &["--set", other]);
        assert_eq!(said.contains("16 rows are taken from the cache"), taken, "{other}: {said}");
    }
    place.write("rows.jsonl", place.read("rows.jsonl").replace("0+1=", "0+2="));
    let (changed, _) = run(&place, "runs/changed", &[]);
    assert!(!changed.contains("the tokens of"), "{changed}");
}

#[test]
fn what_is_old_or_too_much_is_pruned_and_what_is_in_use_stays() {
    let place = with_recipe();
    run(&place, "runs/first", &STAGE);
    let listed = place.run(&["cache"]).success().stdout;
    assert!(listed.contains("2 entries, ") && listed.contains(" ago"), "{listed}");
    let prune = |limit: [&str; 2]| place.run(&["cache", "--prune", limit[0], limit[1]]).success().stdout;
    assert!(prune(["--older-than", "1"]).contains("removed 0 of 2 entries"));
    assert!(prune(["--max-size", "1"]).contains("removed 0 of 2 entries"));
    let lock = entries(&place, "stage").pop().unwrap().with_extension("lock");
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let busy = prune(["--max-size", "0"]);
    assert!(busy.contains("removed 1 of 2 entries") && busy.contains("1 more are in use"), "{busy}");
    let (said, rows) = run(&place, "runs/second", &[]);
    assert_eq!(rows, [0, 48], "{said}");
    drop(held);
    assert!(prune(["--older-than", "0"]).contains("removed 2 of 2 entries"));
    assert_eq!(std::fs::read_dir(place.path("runs/.cache")).unwrap().count(), 1, "the mark of a cache");
    for wrong in [
        &["cache", "nowhere"][..],
        &["cache", "runs/first"],
        &["cache", "--prune"],
        &["cache", "--prune", "--max-size=-1"],
    ] {
        assert_eq!(place.run(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn what_no_cache_has_made_is_not_pruned() {
    let place = with_recipe();
    run(&place, "runs/first", &STAGE);
    let entry = entries(&place, "stage").pop().unwrap();
    let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
    let hash = "0".repeat(64);
    let mine = [
        "runs/.cache/thesis/chapter".to_owned(),
        format!("runs/.cache/tokens-{hash}/mine"),
        format!("runs/.cache/other-{hash}/mine"),
        format!("runs/.cache/{name}/notes"),
    ];
    for path in &mine {
        place.write(path, "mine");
        let folder = path.rsplit_once('/').unwrap().0;
        place.write(&format!("{folder}.lock"), "");
    }
    let said = place.run(&["cache", "--prune", "--max-size", "0"]).success().stdout;
    assert!(said.contains("removed 1 of 1 entries"), "{said}");
    for path in &mine {
        assert_eq!(place.read(path), "mine");
    }
    for folder in ["runs/first", "."] {
        let outcome = place.run(&["cache", "--prune", "--max-size", "0", folder]);
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        assert!(outcome.stderr.contains("is not a cache"), "{}", outcome.stderr);
    }
}

#[test]
fn pruning_beside_runs_costs_them_nothing_but_time() {
    let place = with_recipe();
    run(&place, "elsewhere/off", &["--set", "cache.enabled=false"]);
    std::thread::scope(|scope| {
        let place = &place;
        let runs: Vec<_> =
            (0..6).map(|i| scope.spawn(move || run(place, &format!("runs/{i}"), &STAGE))).collect();
        while !runs.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            // The folder does not exist before the first run needs it.
            place.run(&["cache", "--prune", "--max-size", "0"]);
        }
    });
    for i in 0..6 {
        assert!(place.read(&format!("runs/{i}/metrics.jsonl")) == place.read("elsewhere/off/metrics.jsonl"));
    }
}
