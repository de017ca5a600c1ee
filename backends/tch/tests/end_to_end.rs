//! The plugin under `spo-run`, as a user has it: beside candle, interrupted, and set up wrongly.
//! `cargo xtask libtorch test` says where everything is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::Place;

/// Every architecture feature that differs between the engines' kernels matters here: norms of q and k,
/// grouped heads, a shared prompt, statistics, a clipped gradient, two levels.
const RECIPE: &str = r#"
[model.config]
model_type = "qwen3"
hidden_size = 24
intermediate_size = 40
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
max_position_embeddings = 48

[data]
task = { name = "modular-chain", train = 64, held_out = 8 }
max_length = 48

[evaluation]
every = 10

[checkpoint]
every = 5
minutes = 0

[[stage]]
name = "sft"
objective = "sft"
steps = 25
batch_size = 8
optimizer = { lr = 1e-3 }

[[stage]]
name = "align"
objective = "dpo"
bilevel = { step = "penalty", lambda = 0.5 }
steps = 25
batch_size = 8
optimizer = { lr = 3e-4, max_grad_norm = 0.5 }
"#;

fn told(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: run these tests as `cargo xtask libtorch test`, after `cargo build --release`")
    })
}

/// A folder in which `spo-run` is run, with the recipe, and the plugin in its search path.
fn place() -> Place {
    let place = Place::new(told("SPO_RUN"));
    place.write("recipe.toml", RECIPE);
    let plugin = told("SPO_TCH_PLUGIN");
    let name = plugin.file_name().unwrap().to_str().unwrap();
    place.write(&format!("spo/plugins/{name}"), std::fs::read(&plugin).unwrap());
    place
}

/// `spo-run` without libtorch.
fn bare(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    command.env_remove("SPO_PLUGIN_PATH").env_remove("SPO_LIBTORCH").env_remove("VIRTUAL_ENV");
    // Tests run beside one another.
    command.env_remove("LD_LIBRARY_PATH").env("RAYON_NUM_THREADS", "1");
    command
}

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = bare(place, arguments);
    command.env("SPO_LIBTORCH", told("SPO_TCH_LIBTORCH"));
    command
}

fn train<'a>(backend: &'a str, output: &'a str) -> [&'a str; 6] {
    ["recipe.toml", "--set", backend, "--set", output, "--quiet"]
}

#[track_caller]
fn succeeded(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The largest difference between the figures of two runs, relative where they exceed 1, and where it is.
fn largest_difference(ours: &[BTreeMap<String, f64>], theirs: &[BTreeMap<String, f64>]) -> (f64, String) {
    assert_eq!(ours.len(), theirs.len());
    let mut worst = (0.0, String::new());
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!(ours.keys().eq(theirs.keys()), "line {i}: {ours:?} {theirs:?}");
        for (name, value) in ours {
            let difference = (value - theirs[name]).abs() / theirs[name].abs().max(1.0);
            if difference > worst.0 {
                worst = (difference, format!("line {i}, {name}: {value} and {}", theirs[name]));
            }
        }
    }
    worst
}

/// Exit code 2, and these words.
#[track_caller]
fn refused(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in words {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

/// All figures of a run: by line, by name.
fn figures(place: &Place, run: &str) -> Vec<BTreeMap<String, f64>> {
    let number = |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()?));
    place
        .metrics(run)
        .iter()
        .map(|line| line.as_object().unwrap().iter().filter_map(number).collect())
        .collect()
}

#[test]
fn fifty_steps_are_those_of_candle() {
    let place = place();
    for backend in ["tch", "candle"] {
        let (name, output) = (format!("backend.name={backend}"), format!("run.output={backend}"));
        succeeded(command(&place, &train(&name, &output)).output().unwrap());
    }
    let [tch, candle] = ["tch", "candle"].map(|run| figures(&place, run));
    assert!(tch.iter().filter(|line| line.contains_key("grad_norm")).count() >= 50);
    let (largest, where_) = largest_difference(&tch, &candle);
    println!("largest difference: {largest} ({where_})");
    assert!(largest < 1e-4, "{where_}");
}

/// The same update by two ways on two engines: the Hessian of the recorded backward pass, and differences short
/// enough for the curvature here.
#[test]
fn looking_ahead_by_double_backward_is_looking_ahead_by_differences() {
    let place = place();
    let run = |backend: &str, output: &str, gradient: &str| {
        let bilevel = format!(
            "stage.align.bilevel={{ step = \"lookahead\", inner_steps = 2, inner_lr = 0.1, {gradient} }}"
        );
        let (backend, folder) = (format!("backend={backend}"), format!("run.output={output}"));
        let more = ["--set", &bilevel, "--set", "stage.sft.steps=10", "--set", "stage.align.steps=15"];
        succeeded(command(&place, &[&train(&backend, &folder)[..], &more].concat()).output().unwrap());
        let mut lines = figures(&place, output);
        // Not those that jump: the most probable token may be another for a last digit.
        let smooth = |name: &str| ["loss", "logps", "grad_norm"].iter().any(|start| name.starts_with(start));
        lines.iter_mut().for_each(|line| line.retain(|name, _| smooth(name)));
        lines
    };
    let double_backward = "gradient = \"exact\", hessian = \"double-backward\"";
    let exact = run("tch", "exact", double_backward);
    run("tch", "again", double_backward);
    assert_eq!(
        place.read("exact/metrics.jsonl"),
        place.read("again/metrics.jsonl"),
        "the same to the last bit"
    );
    let differences = run("candle", "differences", "gradient = \"exact\", difference = 1e-3");
    let first_order = run("tch", "first-order", "gradient = \"first-order\"");
    let (largest, where_) = largest_difference(&exact, &differences);
    let (apart, _) = largest_difference(&first_order, &differences);
    println!("largest difference: {largest} ({where_}); of the first-order form: {apart}");
    assert!(largest < 1e-4, "{where_}");
    assert!(apart > 100.0 * largest, "the test must be able to tell the forms apart: {apart}");
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bits() {
    let place = place();
    succeeded(command(&place, &train("backend.name=tch", "run.output=whole")).output().unwrap());
    let mut child = command(&place, &train("backend.name=tch", "run.output=killed")).spawn().unwrap();
    let checkpoint = |number: &str| place.path("killed").join("checkpoints").join(number).exists();
    let began = Instant::now();
    while !checkpoint("00000030") && !checkpoint("00000035") && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it ended before it could be killed");
    succeeded(command(&place, &["resume", "killed", "--quiet"]).output().unwrap());
    assert_eq!(place.read("killed/metrics.jsonl"), place.read("whole/metrics.jsonl"));
}

#[test]
fn what_is_missing_is_said() {
    let place = place();
    let tch = ["recipe.toml", "--set", "backend.name=tch"];
    refused(bare(&place, &tch), &["it needs libtorch 2.11.0", "cargo xtask libtorch", "not installed"]);

    let other = place.path("other");
    std::fs::create_dir_all(other.join("lib")).unwrap();
    let real = told("SPO_TCH_LIBTORCH").join("lib");
    let library =
        |name: &str| format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::os::unix::fs::symlink(real.join(library("torch_cpu")), other.join("lib").join(library("torch_cpu")))
        .unwrap();
    std::fs::write(other.join("version.py"), "__version__ = '2.7.1+cu126'\n").unwrap();
    let mut wrong = bare(&place, &tch);
    wrong.env("SPO_LIBTORCH", &other);
    refused(wrong, &["holds libtorch 2.7.1, but 2.11.0 is needed"]);

    let device = ["recipe.toml", "--set", "backend.name=tch", "--set", "backend.device=gpu"];
    refused(command(&place, &device), &["unknown device `gpu`", "expected one of auto, cpu, cuda"]);
}

#[test]
fn libtorch_is_found_where_the_recipe_says_and_beside_the_plugin() {
    let place = place();
    let libtorch = told("SPO_TCH_LIBTORCH");
    let named = format!("plugins.libtorch={}", libtorch.display());
    let check = ["check", "recipe.toml", "--set", "backend.name=tch"];
    succeeded(bare(&place, &[&check[..], &["--set", &named]].concat()).output().unwrap());
    std::os::unix::fs::symlink(Path::new(&libtorch), place.path("spo/plugins/libtorch")).unwrap();
    succeeded(bare(&place, &check).output().unwrap());
    let described = bare(&place, &["describe", "tch"]).output().unwrap();
    assert!(String::from_utf8_lossy(&described.stdout).contains("libtorch 2.11"));
}
