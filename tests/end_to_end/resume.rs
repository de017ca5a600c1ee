//! Runs that are killed, stopped, out of disk space or damaged. They continue to exactly the bits that they would have
//! reached undisturbed, or say why they cannot.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_support::{Place, skip};

use crate::place;

/// Has every kind of state: multipliers, running values, a moving reference, the opened model as reference, stages that
/// branch, lower levels with their own batches, a budget that is broken, scheduled weights, evaluations during a stage, a best model.
const RECIPE: &str = concat!(
    tiny!(48, 12),
    r#"
[evaluation]
every = 5

[diagnostics]
every = 3
probes = 4
geometry = 2
guard = { displaced = 0.2, by = 0.01, action = { back_off = 0.5 } }

[checkpoint]
every = 2
minutes = 0
best = { metric = "eval_loss" }

[[stage]]
name = "sft"
objective = "sft"
steps = 12
batch_size = 16
optimizer = { lr = 3e-3, weight_decay = 0.01 }

[[stage]]
name = "moving"
objective = [{ name = "dpo" }, { name = "sft", weight = 0.5, schedule = { from = 0.0, steps = 8 } }]
bilevel = { step = "penalty", lambda = { dual-ascent = { rho = 0.1 } }, value = "running-min" }
reference = { moving = { sync_steps = 3, mixup_alpha = 0.5 } }
steps = 12
batch_size = 8
micro_batch = { rows = 3 }
optimizer = { lr = 1e-3 }

[[stage]]
name = "bco"
from = "sft"
objective = "bco"
reference = "model"
bilevel = { step = "alternating" }
steps = 12
batch_size = 8
optimizer = { lr = 1e-3 }

[[stage]]
name = "barrier"
from = "sft"
objective = "ipo"
bilevel = { step = "barrier", value = "reference", lower = [
    { name = "sft" },
    { name = "sft", weight = 0.5, data = { task = { name = "modular-chain", train = 20, held_out = 1, min_terms = 2 } } },
] }
steps = 12
batch_size = 8
optimizer = { lr = 1e-3 }

[[stage]]
name = "budget"
from = "sft"
objective = "simpo"
bilevel = { step = "spo", budget = 0.02, every = 2, lower = [
    { name = "sft" },
    { name = "sft", weight = 0.5, data = { task = { name = "modular-chain", train = 60, held_out = 1, min_terms = 2 } } },
] }
steps = 12
batch_size = 8
micro_batch = { rows = 3 }
# Far too much: the parameters go back.
optimizer = { lr = 0.3, schedule = "constant" }
"#
);

const STAGES: [&str; 5] = ["sft", "moving", "bco", "barrier", "budget"];

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A folder with the recipe and its undisturbed run, and how long that took.
fn undisturbed() -> (Place, Duration) {
    let place = place();
    place.write("recipe.toml", RECIPE);
    let began = Instant::now();
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=whole"]).success();
    assert!(!place.path("whole/checkpoints").exists(), "a complete run needs no checkpoints");
    let went_back = place.metrics("whole").iter().any(|line| line.get("bilevel/lr_factor").is_some());
    assert!(went_back, "a rollback is among what is resumed");
    (place, began.elapsed())
}

/// Asserts that a run has the logs, weights and summary of the undisturbed one, bit for bit.
#[track_caller]
fn assert_same(place: &Place, run: &str, what: &str) {
    for log in ["metrics", "held_out", "diagnostics"] {
        let lines = |run: &str| place.read(&format!("{run}/{log}.jsonl"));
        assert!(lines(run) == lines("whole"), "{what}: {log}");
    }
    for stage in STAGES {
        for model in [stage.to_owned(), format!("{stage}/best")] {
            let weights =
                |run: &str| std::fs::read(place.path(&format!("{run}/{model}/model.safetensors"))).unwrap();
            assert!(weights(run) == weights("whole"), "{what}: {model}");
        }
    }
    let summary = |run: &str| {
        let mut summary: serde_json::Value =
            serde_json::from_str(&place.read(&format!("{run}/summary.json"))).unwrap();
        for stage in summary["stages"].as_array_mut().unwrap() {
            let stage = stage.as_object_mut().unwrap();
            stage.retain(|key, _| !key.contains("second") && key != "reference_rows");
        }
        summary
    };
    assert!(summary(run) == summary("whole"), "{what}: summary");
}

/// Pseudo-random numbers in [0, 1) that depend only on the seed.
fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) as f64 / f64::from(1u32 << 31)
}

/// Starts the binary, waits for a file, and acts on the process.
fn when(place: &Place, arguments: &[&str], file: &str, act: impl FnOnce(&mut Child)) -> std::process::Output {
    let mut child = command(place, arguments).spawn().unwrap();
    let began = Instant::now();
    while !place.path(file).exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "{file} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
    act(&mut child);
    child.wait_with_output().unwrap()
}

/// Starts a run and kills it once it has this checkpoint.
pub fn killed(place: &Place, run: &str, checkpoint: &str) {
    let output = format!("run.output={run}");
    when(place, &["recipe.toml", "--set", &output], &format!("{run}/checkpoints/{checkpoint}"), |child| {
        child.kill().unwrap();
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_run_that_is_killed_at_any_instant_goes_on_to_the_same_bits() {
    let (place, whole) = undisturbed();
    let mut seed = 17;
    let (mut kills, mut run) = (0, 0);
    while kills < 50 {
        run += 1;
        let name = format!("run{run}");
        // Every other run uses what the undisturbed run left in the cache.
        let cache = format!("cache.enabled={}", run % 2 == 0);
        let first =
            ["recipe.toml", "--set", &format!("run.output={name}"), "--set", &cache].map(str::to_owned);
        let mut arguments: Vec<String> = first.to_vec();
        // Killed again and again until it completes.
        loop {
            let mut child = command(&place, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
            let mut child = child.stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole.mul_f64(random(&mut seed)));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if let Some(code) = status.code() {
                assert_eq!(code, 0, "run {run} after {kills} kills");
                break;
            }
            kills += 1;
            if place.path(&format!("{name}/run.json")).exists() {
                arguments = vec!["resume".into(), name.clone()];
            }
        }
        assert_same(&place, &name, &format!("run {run}, after {kills} kills in all"));
    }
    println!("{kills} kills over {run} runs of {whole:?}");
}

#[test]
fn a_run_goes_on_without_the_recipe_that_its_own_extends() {
    let (place, _) = undisturbed();
    std::fs::create_dir(place.path("shared")).unwrap();
    place.write("shared/base.toml", RECIPE);
    // Shares of 12 steps that are those of the base: 5, and 2.
    place.write(
        "recipe.toml",
        "extends = \"shared/base.toml\"\nevaluation.every = 0.4\ncheckpoint = { every = 0.15 }\n[[stage]]\nname = \"sft\"\nsteps = 12\n",
    );
    killed(&place, "run", "00000018");
    std::fs::remove_dir_all(place.path("shared")).unwrap();
    place.run(&["resume", "run", "--quiet"]).success();
    assert_same(&place, "run", "without the base");
    let gone = place.run(&["check", "recipe.toml"]);
    assert_eq!(gone.code, 2);
    assert!(
        gone.stderr.contains("cannot read shared/base.toml") && gone.stderr.contains("recipe.toml:1:11"),
        "{}",
        gone.stderr
    );
}

#[test]
fn a_signal_ends_the_step_and_leaves_a_checkpoint() {
    let (place, _) = undisturbed();
    place.write("patient.toml", RECIPE.replace("every = 2\n", "every = 0\n"));
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let output = format!("run.output={signal}");
        let metrics = format!("{signal}/moving/best");
        let ended = when(&place, &["patient.toml", "--set", &output], &metrics, |child| {
            let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
            assert!(kill.unwrap().success());
        });
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        for part in ["stopped by", ": after ", &format!("spo-run resume {signal}")] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let resumed = place.run(&["resume", signal]).success();
        assert!(resumed.stdout.contains("going on after step"), "{}", resumed.stdout);
        assert_same(&place, signal, signal);
        assert!(place.run(&["resume", signal]).success().stdout.contains("is finished already"));
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let (place, _) = undisturbed();
    killed(&place, "killed", "00000018");
    let newest = |run: &str| {
        let mut names: Vec<_> = std::fs::read_dir(place.path(&format!("{run}/checkpoints")))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
        names.sort();
        names
    };
    assert!(newest("killed").len() >= 2, "keep_last");
    let files = ["session.safetensors", "scores.safetensors", "state.json", "manifest.json"];
    let mut seed = 5;
    for (i, file) in files.into_iter().cycle().take(12).enumerate() {
        let run = format!("damaged{i}");
        copy(&place.path("killed"), &place.path(&run));
        let checkpoint = newest(&run).pop().unwrap();
        let path = checkpoint.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = (random(&mut seed) * bytes.len() as f64) as usize;
        match i % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (at % 8),
            _ => bytes.clear(),
        }
        std::fs::write(&path, bytes).unwrap();
        let resumed = place.run(&["resume", &run]).success();
        let named = resumed.stdout.contains(&format!("{} is passed over", checkpoint.display()));
        assert!(named, "{file}, byte {at}: {}", resumed.stdout);
        assert_same(&place, &run, &format!("{file}, byte {at}"));
    }
    for checkpoint in newest("killed") {
        std::fs::remove_file(checkpoint.join("manifest.json")).unwrap();
    }
    let resumed = place.run(&["resume", "killed"]).success();
    assert!(resumed.stdout.contains("from the beginning"), "{}", resumed.stdout);
    assert_same(&place, "killed", "without any checkpoint");
}

#[test]
fn a_checkpoint_of_another_run_is_passed_over() {
    let (place, _) = undisturbed();
    killed(&place, "run", "00000006");
    place.run(&[
        "recipe.toml",
        "--quiet",
        "--set",
        "run.output=other",
        "--set",
        "stage.sft.optimizer.lr=2e-3",
    ]);
    let mut record: serde_json::Value = serde_json::from_str(&place.read("run/run.json")).unwrap();
    record["recipe"]["stage"][0]["optimizer"]["lr"] = 0.002.into();
    place.write("run/run.json", record.to_string());
    place.write("run/recipe.toml", place.read("run/recipe.toml").replacen("lr = 0.003", "lr = 0.002", 1));
    let resumed = place.run(&["resume", "run"]).success();
    assert!(resumed.stdout.contains("it is of a run with another recipe"), "{}", resumed.stdout);
    assert!(resumed.stdout.contains("from the beginning"), "{}", resumed.stdout);
    assert!(place.read("run/metrics.jsonl") == place.read("other/metrics.jsonl"));
}

#[test]
fn clocks_that_jump_are_of_no_account() {
    fn set_clocks(folder: &Path, seconds: &mut u64) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // The newest file becomes the oldest one, or gets a date in the next century.
            *seconds = seconds.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(3_037_000_493);
            let time = std::time::UNIX_EPOCH + Duration::from_secs(*seconds % (150 * 365 * 24 * 3600));
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
            if path.is_dir() {
                set_clocks(&path, seconds);
            }
        }
    }
    let (place, _) = undisturbed();
    killed(&place, "run", "00000018");
    set_clocks(&place.path("run"), &mut 5);
    place.run(&["resume", "run", "--quiet"]).success();
    assert_same(&place, "run", "after the clock jumped");
}

#[test]
fn one_process_at_a_time_writes_to_a_folder() {
    let (place, _) = undisturbed();
    when(&place, &["recipe.toml", "--set", "run.output=one"], "one/run.json", |child| {
        for arguments in [vec!["resume", "one"], vec!["recipe.toml", "--set", "run.output=one"]] {
            let second = place.run(&arguments);
            // The process may have ended in the meantime.
            if second.code != 0 && child.try_wait().unwrap().is_none() {
                assert_eq!(second.code, 2, "{}", second.stderr);
                assert!(
                    second.stderr.contains(&format!("in use by process {}", child.id())),
                    "{}",
                    second.stderr
                );
            }
        }
    });
    assert_same(&place, "one", "with others knocking");
}

#[test]
fn what_may_be_continued_and_what_may_not() {
    let (place, _) = undisturbed();
    killed(&place, "run", "00000006");
    let auto = ["recipe.toml", "--set", "run.output=run", "--set", "run.resume=auto"];
    let with = |more: &[&str]| place.run(&[&auto, more].concat());
    for (more, expected) in [
        (
            &["--set", "stage.moving.optimizer.lr=2e-3"][..],
            "`stage[1].optimizer.lr` was 0.001, now it is 0.002",
        ),
        (&["--set", "data.task.train=50"], "`data.task.train` was 48, now it is 50"),
        (&["--set", "run.seed=3"], "`run.seed` was 0, now it is 3"),
    ] {
        let refused = with(more);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let refused = place.run(&["recipe.toml", "--set", "run.output=run"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("`spo-run resume run` continues it"), "{}", refused.stderr);
    let nothing = place.run(&["resume", "."]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("no run.json"), "{}", nothing.stderr);

    // The recipe in the folder is what is run again, and so must be the one that was begun.
    let recipe = place.read("run/recipe.toml");
    for (from, to, expected) in [
        ("lr = 0.003", "lr = 0.5", "`stage[0].optimizer.lr` was 0.003, now it is 0.5"),
        (
            "num_hidden_layers = 2",
            "num_hidden_layers = 3",
            "`model.config.num_hidden_layers` was 2, now it is 3",
        ),
    ] {
        assert!(recipe.contains(from), "{recipe}");
        place.write("run/recipe.toml", recipe.replacen(from, to, 1));
        let refused = place.run(&["resume", "run"]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    place.write("run/recipe.toml", recipe);

    let record: serde_json::Value = serde_json::from_str(&place.read("run/run.json")).unwrap();
    let changed = |key: &str, value: &str| {
        let mut changed = record.clone();
        changed[key] = value.into();
        place.write("run/run.json", changed.to_string());
    };
    changed("tokenizer_sha256", "another");
    let refused = place.run(&["resume", "run"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("`tokenizer_sha256` was \"another\""),
        "{}",
        refused.stderr
    );
    changed("threads", "many");
    // What a run keeps may be changed, and its folder may be moved.
    std::fs::rename(place.path("run"), place.path("moved")).unwrap();
    let resumed = place.run(&["resume", "moved"]).success();
    assert!(resumed.stdout.contains("the last digits may differ"), "{}", resumed.stdout);
    assert_same(&place, "moved", "from another folder");
    let again = [
        "recipe.toml",
        "--set",
        "run.output=moved",
        "--set",
        "run.resume=auto",
        "--set",
        "checkpoint.every=9",
    ];
    assert!(place.run(&again).success().stdout.contains("is finished already"));
}

/// Runs the binary with a limit on file size, in blocks of 512 bytes.
fn limited(place: &Place, blocks: usize, arguments: &str) -> (i32, String) {
    let script = format!("ulimit -f {blocks}; exec {} {arguments}", env!("CARGO_BIN_EXE_spo-run"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_file_that_cannot_grow_is_an_error_and_costs_no_checkpoint() {
    let (place, _) = undisturbed();
    killed(&place, "run", "00000006");
    let before: Vec<_> =
        std::fs::read_dir(place.path("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let (code, said) = limited(&place, 40, "resume run");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("cannot write checkpoint") && said.contains("spo-run resume"), "{said}");
    for name in before.iter().filter(|name| !name.to_string_lossy().starts_with('.')) {
        assert!(place.path("run/checkpoints").join(name).join("manifest.json").exists(), "{name:?} is gone");
    }
    place.run(&["resume", "run"]).success();
    assert_same(&place, "run", "after the limit was lifted");
}

#[test]
fn a_full_disk_is_an_error_and_costs_no_checkpoint() {
    let (place, _) = undisturbed();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |size: &str| {
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&disk).output();
        mounted.is_ok_and(|outcome| outcome.status.success())
    };
    // The first checkpoint fits, the second one does not.
    if !mount("160k") {
        return skip("a full disk is a small tmpfs, which this user may not mount");
    }
    let full = place.run(&["recipe.toml", "--set", "run.output=disk/run"]);
    let kept = place.path("disk/run/checkpoints/00000002/manifest.json").exists();
    let more = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status().unwrap();
    let resumed = place.run(&["resume", "disk/run"]);
    copy(&place.path("disk/run"), &place.path("copied"));
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert_eq!(full.code, 1, "{}", full.stderr);
    assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
    assert!(kept, "the checkpoint from before is there: {}", full.stderr);
    assert!(more.success());
    let resumed = resumed.success();
    assert!(resumed.stdout.contains("going on after step 2 of stage `sft`"), "{}", resumed.stdout);
    assert_same(&place, "copied", "after the disk was larger");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    place.write("file", "");
    for output in ["file/run", "/proc/run"] {
        let refused = place.run(&["recipe.toml", "--set", &format!("run.output={output}")]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("cannot create {output}")), "{}", refused.stderr);
    }
}

#[test]
fn the_best_model_is_kept_and_its_figure_must_exist() {
    let (place, _) = undisturbed();
    let about: serde_json::Value = serde_json::from_str(&place.read("whole/sft/best/best.json")).unwrap();
    let metrics = place.metrics("whole");
    let of = |line: &serde_json::Value| line["eval_loss"].as_f64();
    let held_out = metrics.iter().filter(|line| line["stage"] == "sft" && line["step"] != 0);
    let best =
        held_out.min_by(|a, b| of(a).unwrap_or(f64::MAX).total_cmp(&of(b).unwrap_or(f64::MAX))).unwrap();
    assert_eq!((&about["step"], &about["eval_loss"]), (&best["step"], &best["eval_loss"]));
    place.run(&["generate", "whole/sft/best", "--max-new-tokens", "4", "1+2+3="]).success();

    let unknown =
        place.run(&["recipe.toml", "--set", "run.output=u", "--set", "checkpoint.best.metric=eval_los"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("did you mean `eval_loss`?"), "{}", unknown.stderr);
    let never = place.run(&["recipe.toml", "--set", "run.output=n", "--set", "evaluation.every=0"]);
    assert_eq!(never.code, 2, "{}", never.stderr);
    assert!(never.stderr.contains("has no effect unless `evaluation.every`"), "{}", never.stderr);
}
