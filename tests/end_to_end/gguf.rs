//! Models in GGUF files: trained, saved, continued, exported; and what is said of files that are none.

use std::path::{Path, PathBuf};

use test_support::Place;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/gguf").join(name)
}

/// A place with a model of Qwen2's kind, whose weights are in Q8_0, and a recipe that trains an adapter on it.
fn place(more: &str) -> Place {
    let place = crate::place();
    std::fs::copy(golden("qwen2.gguf"), place.path("model.gguf")).unwrap();
    place.write("train.jsonl", "{\"prompt\": \"ab\", \"chosen\": \"the\", \"rejected\": \"x\"}\n".repeat(4));
    place.write("recipe.toml", recipe(more));
    place
}

fn recipe(more: &str) -> String {
    let adapter = "adapter = { rank = 2, alpha = 4, targets = [\"q_proj\", \"down_proj\"] }";
    format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\npath = \"model.gguf\"\n{adapter}\n{more}\n[data]\ntrain = \"train.jsonl\"\n\
         eval = \"train.jsonl\"\nmax_length = 48\n[[stage]]\nname = \"s\"\nobjective = \"dpo\"\nsteps = 2\nbatch_size = 2\noptimizer = {{ lr = 1e-2 }}\n"
    )
}

#[test]
fn an_adapter_on_a_gguf_file_is_trained_continued_and_exported() {
    let place = place("");
    let checked = place.run(&["check", "recipe.toml"]).success();
    assert!(checked.stdout.contains("the frozen weights stay quantised"), "{}", checked.stdout);
    place.run(&["recipe.toml", "--quiet"]).success();
    let record = place.read("out/run.json");
    assert!(record.contains("\"model.gguf\""), "the file's hash is written down: {record}");
    let blocks = place.read("out/metrics.jsonl");

    // The same numbers where everything is widened when it is loaded.
    place.write("recipe.toml", recipe("quantize = \"none\""));
    place.run(&["recipe.toml", "--quiet"]).success();
    let loss = |metrics: &str| -> f64 {
        let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        last["eval_loss"].as_f64().unwrap()
    };
    assert!((loss(&blocks) - loss(&place.read("out/metrics.jsonl"))).abs() < 1e-5);

    let of = |model: &'static str, more: &[&'static str]| {
        let arguments =
            [&["generate", model, "the quick", "--max-new-tokens", "8", "--plain"], more].concat();
        place.run(&arguments).success().stdout
    };
    let adapted = of("model.gguf", &["--adapter", "out/s"]);
    place.run(&["export", "model.gguf", "--adapter", "out/s", "folder"]).success();
    assert_eq!(of("folder", &[]), adapted);
    place.run(&["export", "model.gguf", "--adapter", "out/s", "merged.gguf", "--gguf", "f32"]).success();
    assert_eq!(of("merged.gguf", &[]), adapted, "weights and tokenizer");
    place.run(&["export", "merged.gguf", "small.gguf", "--gguf", "q8_0"]).success();
    assert!(!place.path("small.gguf.model").exists(), "what is between is removed");
    of("small.gguf", &[]);
    place.run(&["export", "model.gguf", "--adapter", "out/s", "adapter.gguf", "--adapter-gguf"]).success();
    place.run(&["export", "out/s", "found.gguf", "--adapter-gguf"]).success();
    let bytes = |file: &str| std::fs::read(place.path(file)).unwrap();
    assert!(bytes("found.gguf") == bytes("adapter.gguf"), "the adapter names its base, a GGUF file");
    assert_eq!(of("out/s", &[]), adapted);
    let none = place.run(&["export", "model.gguf", "none.gguf", "--adapter-gguf"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("there is no adapter"), "{}", none.stderr);
    let twice = place.run(&["export", "merged.gguf", "small.gguf", "--gguf", "q8_0"]);
    assert_eq!(twice.code, 2);
    assert!(twice.stderr.contains("small.gguf exists"), "{}", twice.stderr);
}

#[test]
fn blocks_below_no_adapter_and_damaged_files_are_found_before_training() {
    let place = place("");
    let refused = |recipe: &str, expected: &str| {
        place.write("recipe.toml", recipe);
        for arguments in [["check", "recipe.toml"].as_slice(), &["recipe.toml", "--quiet"]] {
            let outcome = place.run(arguments);
            assert_eq!(outcome.code, 2, "{}", outcome.stderr);
            assert!(outcome.stderr.contains(expected), "{} does not say {expected}", outcome.stderr);
        }
    };
    let whole = recipe("quantize = \"nf4\"");
    let bare: Vec<&str> = whole.lines().filter(|line| !line.starts_with("adapter")).collect();
    refused(&bare.join("\n"), "without one every weight is trained");
    refused(&recipe("quantize = \"nf5\""), "nf4");
    let file = std::fs::read(place.path("model.gguf")).unwrap();
    std::fs::write(place.path("model.gguf"), &file[..file.len() / 2]).unwrap();
    refused(&recipe(""), "model.gguf: cut off");
    std::fs::write(place.path("model.gguf"), "GGML").unwrap();
    refused(&recipe(""), "not a GGUF file: it begins with \"GGML\"");
}

/// A run on a quantised base, with dropout in its adapter, that is killed and resumed, and one in parts.
#[test]
fn a_run_on_a_gguf_file_with_dropout_goes_on_to_the_same_bits() {
    let place = place("");
    let whole = recipe("")
        .replace("rank = 2,", "rank = 2, dropout = 0.3,")
        .replace("[model]", "[checkpoint]\nevery = 1\nminutes = 0\n[model]")
        .replace("steps = 2", "steps = 300");
    place.write("recipe.toml", &whole);
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=whole"]).success();
    crate::resume::killed(&place, "killed", "00000003");
    let resumed = place.run(&["resume", "killed"]).success();
    assert!(resumed.stdout.contains("going on after step"), "{}", resumed.stdout);
    let bytes = |file: &str| std::fs::read(place.path(file)).unwrap();
    assert!(bytes("killed/metrics.jsonl") == bytes("whole/metrics.jsonl"));
    let weights = |run: &str| bytes(&format!("{run}/s/adapter_model.safetensors"));
    assert!(weights("killed") == weights("whole"));
    assert!(place.read("whole/s/adapter_config.json").contains("\"lora_dropout\": 0.3"));

    let first = |more: &[&str]| {
        place.run(&[&["recipe.toml", "--quiet", "--set", "stage.s.steps=2"], more].concat()).success();
        let lines = place.metrics("out");
        let trained = lines.iter().filter(|line| line.get("grad_norm").is_some());
        trained.map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let together = first(&[]);
    let parts = first(&["--set", "stage.s.micro_batch={ rows = 1 }"]);
    assert!(together.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-5), "{together:?} {parts:?}");
    let without = first(&["--set", "model.adapter.dropout=0"]);
    assert!((together[1] - without[1]).abs() > 1e-6, "{together:?} {without:?}");
}
