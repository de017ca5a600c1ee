//! Well-behaved and hostile plugins under the real binary. The C libraries are built with the system's compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{Outcome, Place, skip};

use crate::recipes::steps;
use crate::resume::killed;
use crate::{place, project};

/// A library that cargo builds together with the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_spo-run")).parent().unwrap();
    let path = profile.join("examples").join(format!("lib{name}.so"));
    assert!(path.exists(), "{} is built by `cargo test` without `--test`", path.display());
    path
}

/// Compiles the hostile plugin with these definitions.
pub(crate) fn hostile(place: &Place, name: &str, definitions: &[&str]) -> String {
    compile(place, "cc", &format!("lib{name}.so"), definitions)
}

fn compile(place: &Place, compiler: &str, file: &str, definitions: &[&str]) -> String {
    let source = project("tests/plugins/hostile.c");
    let output = Command::new(compiler)
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(place.path(file))
        .arg("-I")
        .arg(project("spo-api/include"))
        .args(definitions.iter().map(|d| format!("-D{d}")))
        .args(if compiler == "c++" { &["-x", "c++"][..] } else { &[] })
        .arg(source)
        .args(["-x", "none", "-lm"])
        .output();
    let output =
        output.unwrap_or_else(|e| panic!("{compiler}: {e}; a C compiler is needed, as for building Rust"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    format!("./{file}")
}

fn recipe(library: &str, objective: &str) -> String {
    format!(
        r#"
        [model.config]
        model_type = "llama"
        hidden_size = 16
        intermediate_size = 32
        num_hidden_layers = 1
        num_attention_heads = 2
        max_position_embeddings = 48

        [plugins]
        load = ["{library}"]

        [data]
        task = {{ name = "modular-chain", train = 64, held_out = 8 }}
        max_length = 48

        [evaluation]
        exact_match = false

        [[stage]]
        name = "sft"
        objective = "sft"
        steps = 3
        optimizer = {{ lr = 3e-3 }}

        [[stage]]
        name = "align"
        objective = {objective}
        steps = 3
        optimizer = {{ lr = 1e-3 }}
        "#
    )
}

fn run(place: &Place, library: &str, objective: &str) -> Outcome {
    place.write("r.toml", recipe(library, objective));
    place.run(&["r.toml", "--quiet", "--set", "run.overwrite=true"])
}

/// Asserts the exit code, and that the error contains these words.
#[track_caller]
fn refused(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    for words in words {
        assert!(outcome.stderr.contains(words), "no {words:?} in:\n{}", outcome.stderr);
    }
}

#[test]
fn libraries_that_cannot_be_used_are_refused_with_the_place_in_the_recipe() {
    let place = place();
    let good = std::fs::read(place.path(&hostile(&place, "good", &[]))).unwrap();
    place.write("text.so", "hello");
    place.write("empty.so", "");
    place.write("short.so", &good[..good.len() / 2]);
    let mut foreign = good.clone();
    foreign[18] = 243;
    place.write("foreign.so", foreign);
    for (library, words) in [
        ("text.so", "it is not a shared library"),
        ("empty.so", "it is not a shared library"),
        ("short.so", "cut short"),
        ("foreign.so", "it was built for riscv64, this machine is"),
        ("r.toml", "build it first"),
        ("gone.so", "there is no gone.so"),
        ("gone", "there is no libgone.so in"),
        (".", "cannot be loaded"),
    ] {
        refused(&run(&place, library, r#""hostile""#), 2, &[words, "r.toml:11"]);
    }
    for (name, definitions, words) in [
        ("symbol", &["NO_SYMBOL"][..], "it has no function `spo_plugin`"),
        (
            "newer",
            &["VERSION=3"],
            "built for version 3 of the plugin ABI, this spo-run speaks version 2: use a newer",
        ),
        (
            "older",
            &["VERSION=1"],
            "built for version 1 of the plugin ABI, this spo-run speaks version 2: rebuild",
        ),
        ("nothing", &["NULL_TABLE"], "its table of contents is missing"),
        ("truncated", &["TABLE_SIZE=12"], "its table of contents is truncated: it says that it has 12 bytes"),
        ("barren", &["NO_ENTRIES"], "it holds no parts"),
        ("hole", &["NULL_ENTRY"], "in its entry 0, its entry is missing (a null pointer)"),
        (
            "functions",
            &["FUNCTIONS_SIZE=16"],
            "`hostile` cannot be used: its table of objective functions is truncated",
        ),
        ("evaluate", &["NO_EVALUATE"], "has no function `evaluate`"),
        ("kind", &["KIND=9"], "`hostile` is of the unknown kind 9"),
        ("schema", &["SCHEMA=\"{\""], "the schema of `hostile` is not a JSON Schema"),
        ("name", &["NAME=\"Ho stile\""], "must be lower-case letters, digits, `-` and `_`"),
        ("utf8", &["NAME=\"\\xff\""], "the name is not UTF-8"),
        (
            "clash",
            &["NAME=\"dpo\""],
            "two objectives are called `dpo`: one from spo-objectives, one from hostile 1.0 (",
        ),
        ("data", &["ODD_DATA"], "asks for data of the unknown kind 77"),
    ] {
        let library = hostile(&place, name, definitions);
        refused(&run(&place, &library, r#""hostile""#), 2, &[words]);
    }
}

#[test]
fn plugins_that_fail_at_work_end_the_run_with_a_word_and_lose_nothing() {
    let place = place();
    let (c, rust) = (|name, how| hostile(&place, name, how), example("misbehaving"));
    let rust = rust.display();
    let misbehaving = |how: &str| format!(r#"{{ name = "misbehaving", how = "{how}" }}"#);
    let mut saved = None;
    for (library, objective, words) in [
        (
            c("nan", &["NAN_LOSS"]),
            r#""hostile""#.to_owned(),
            vec!["the loss of modular-chain row", "is NaN", "fault of the objective"],
        ),
        (c("nan-gradient", &["NAN_GRADIENT"]), r#""hostile""#.to_owned(), vec!["not finite"]),
        (
            c("status", &["ODD_STATUS"]),
            r#""hostile""#.to_owned(),
            vec!["objective `hostile` of ./libstatus.so", "status 42"],
        ),
        (
            c("crash", &["CRASHES"]),
            r#""hostile""#.to_owned(),
            vec!["objective `hostile` of the plugin ./libcrash.so crashed: it touched memory"],
        ),
        (
            c("abort", &["ABORTS"]),
            r#""hostile""#.to_owned(),
            vec!["objective `hostile` of the plugin ./libabort.so crashed: it aborted"],
        ),
        (
            rust.to_string(),
            misbehaving("panic"),
            vec!["objective `misbehaving` of", "panicked: evaluated after"],
        ),
        (rust.to_string(), misbehaving("rewards"), vec!["rewards for 8 chosen answers"]),
        (rust.to_string(), misbehaving("batch-error"), vec!["not this batch"]),
    ] {
        let outcome = run(&place, &library, &objective);
        refused(&outcome, 1, &words);
        let model = std::fs::read(place.path("runs/r/sft/model.safetensors")).unwrap();
        assert!(*saved.get_or_insert_with(|| model.clone()) == model, "the stage before is whole");
        assert_eq!(steps(&place.metrics("runs/r"), "sft").len(), 3);
        std::fs::remove_dir_all(place.path("runs")).unwrap();
    }
    let outcome = run(&place, &rust.to_string(), &misbehaving("panic-at-start"));
    refused(&outcome, 2, &["panicked: ", "that is how", "r.toml:"]);
}

#[test]
fn a_run_goes_on_from_its_checkpoint_after_a_crash_in_a_plugin() {
    let place = place();
    let checkpointed =
        |library: &str| format!("[checkpoint]\nevery = 1\n{}", recipe(library, r#""hostile""#));
    place.write("good.toml", checkpointed(&hostile(&place, "good", &[])));
    place.write("bad.toml", checkpointed(&hostile(&place, "bad", &["CRASHES_THIRD"])));
    place.run(&["good.toml", "--quiet"]).success();
    let mut outcome = place.run(&["bad.toml", "--quiet"]);
    let mut crashes = 0;
    while outcome.code != 0 {
        crashes += 1;
        refused(&outcome, 1, &["objective `hostile` of the plugin ./libbad.so crashed"]);
        assert!(crashes < 5, "every life must get further than the one before");
        outcome = place.run(&["resume", "runs/bad", "--quiet"]);
    }
    assert!(crashes > 0);
    assert_eq!(place.read("runs/good/metrics.jsonl"), place.read("runs/bad/metrics.jsonl"));
}

#[test]
fn an_exception_that_escapes_names_its_plugin() {
    if Command::new("c++").arg("--version").output().is_err() {
        return skip("there is no C++ compiler to throw an exception with");
    }
    let place = place();
    let library = compile(&place, "c++", "libthrows.so", &["THROWS"]);
    let outcome = run(&place, &library, r#""hostile""#);
    refused(
        &outcome,
        1,
        &["objective `hostile` of the plugin ./libthrows.so crashed: it aborted, or let an exception out"],
    );
    assert!(place.path("runs/r/sft/model.safetensors").exists());
}

#[test]
fn certification_tells_what_is_wrong() {
    let place = place();
    let certify = |library: &str, more: &[&str]| place.run(&[&["plugin", "test", library], more].concat());
    let good = certify(&hostile(&place, "good", &[]), &[]).success();
    assert!(good.stdout.contains("11 passed, 0 failed"), "{}", good.stdout);
    for (name, how, words) in [
        ("nan", "NAN_LOSS", "losses[0] is NaN"),
        ("gradient", "WRONG_GRADIENT", "grad_rejected[0] is 0.25"),
        ("parts", "PART_COUNTS", "divide by `whole.rows`"),
        ("leaks", "LEAKS", "bytes a call: it leaks"),
        ("inputs", "CHANGES_INPUTS", "it changes the log-probs it is given"),
        ("beyond", "WRITES_BEYOND", "it wrote to grad_chosen["),
        ("remembers", "REMEMBERS", "though its state is empty"),
        ("sleeps", "SLEEPS", "it has not returned for 2 s"),
        ("crashes", "CRASHES", "it touched memory that is not its own"),
    ] {
        let patience: &[&str] = if name == "sleeps" { &["--patience", "2"] } else { &[] };
        let outcome = certify(&hostile(&place, name, &[how]), patience);
        assert_eq!(outcome.code, 1, "{name}: {}", outcome.stdout);
        let failed = outcome.stdout.lines().any(|line| line.contains("FAILED") && line.contains(words));
        assert!(failed, "{name}: no {words:?} in\n{}{}", outcome.stdout, outcome.stderr);
    }
    // A weight that the gradient holds constant: a mistake, until it is said.
    let outcome = certify(&hostile(&place, "detached", &["DETACHED"]), &[]);
    refused(&outcome, 1, &["1 check failed"]);
    assert!(outcome.stdout.contains("with `evaluate_held` elsewhere"), "{}", outcome.stdout);
    let held = certify(&hostile(&place, "held", &["DETACHED", "HELD"]), &[]).success();
    assert!(held.stdout.contains("with what it declares constant held"), "{}", held.stdout);
    let rust = example("misbehaving").display().to_string();
    let outcome = certify(&rust, &["--part", "hoarder"]);
    assert!(
        outcome.code == 1 && outcome.stdout.contains("keeps more vectors every step"),
        "{}",
        outcome.stdout
    );
    let outcome = certify(&rust, &["--part", "misbehaving"]);
    assert!(outcome.code == 1 && outcome.stdout.contains("panicked: evaluated after"), "{}", outcome.stdout);
    let outcome = certify(&rust, &["--part", "nobody"]);
    refused(&outcome, 2, &["it has no part of this name, only misbehaving, hoarder, needy"]);
    refused(&certify("hello.c", &[]), 2, &["there is no hello.c"]);
}

#[test]
fn a_loaded_backend_trains_to_the_same_bits_as_the_linked_one() {
    let place = place();
    let library = example("loaded_candle").display().to_string();
    let objective = r#"{ name = "dpo", use_weighting = true }
        bilevel = { step = "penalty", lambda = 1.0 }"#;
    let both = recipe(&library, objective).replace("exact_match = false", "exact_match = true");
    place.write("linked.toml", &both);
    place.write(
        "loaded.toml",
        format!("[backend]\nname = \"loaded-candle\"\noptions = {{ checkpoint = true }}\n{both}"),
    );
    place.write("linked.toml", format!("[backend]\noptions = {{ checkpoint = true }}\n{both}"));
    for name in ["linked", "loaded"] {
        place.run(&[&format!("{name}.toml"), "--quiet"]).success();
    }
    assert_eq!(place.read("runs/linked/metrics.jsonl"), place.read("runs/loaded/metrics.jsonl"));
    let weights = |run| std::fs::read(place.path(&format!("runs/{run}/align/model.safetensors"))).unwrap();
    assert!(weights("linked") == weights("loaded"));
    let record: serde_json::Value = serde_json::from_str(&place.read("runs/loaded/run.json")).unwrap();
    assert_eq!(record["plugins"][0]["sha256"].as_str().unwrap().len(), 64);
    let certified = place.run(&["plugin", "test", &library]).success();
    assert!(
        certified.stdout.contains("13 passed, 0 failed, 1 skipped")
            || certified.stdout.contains("14 passed, 0 failed"),
        "{}",
        certified.stdout
    );
}

#[test]
fn what_was_loaded_for_a_run_is_found_again_when_it_is_resumed() {
    let place = place();
    let library = hostile(&place, "good", &[]);
    let without = recipe("", r#""hostile""#).replace(r#"load = [""]"#, "");
    place.write("r.toml", &without);
    place.write("sweep.toml", format!("{without}\n[sweep]\nseeds = [0, 1]\n"));
    for (recipe, output) in [("r.toml", "runs/r"), ("sweep.toml", "runs/sweep")] {
        refused(&place.run(&[recipe]), 2, &["unknown objective `hostile`"]);
        place.run(&[recipe, "--plugin", &library]).success();
        place.run(&["resume", output]).success();
    }
    std::fs::create_dir(place.path("moved")).unwrap();
    std::fs::rename(place.path("libgood.so"), place.path("moved/libgood.so")).unwrap();
    for output in ["runs/r", "runs/sweep"] {
        let gone = place.run(&["resume", output]);
        refused(&gone, 2, &["libgood.so, which is not there any more", "`--plugin LIBRARY`"]);
        place.run(&["resume", output, "--plugin", "moved/libgood.so"]).success();
    }
    hostile(&place, "good", &["NAME=\"other\""]);
    refused(&place.run(&["resume", "runs/r"]), 2, &["libgood.so, which is another file now"]);
}

#[test]
fn a_run_is_bound_to_the_libraries_whose_parts_it_uses_and_others_are_not_opened() {
    let place = place();
    std::fs::create_dir(place.path("path")).unwrap();
    for (name, how) in [
        // It has the wanted part.
        ("path/used", &[][..]),
        // It has the name of the wanted part in its file, and no such part.
        ("path/other", &["NAME=\"other\""]),
    ] {
        hostile(&place, name.rsplit('/').next().unwrap(), how);
        let file = format!("lib{}.so", name.rsplit('/').next().unwrap());
        std::fs::rename(place.path(&file), place.path(&format!("path/{file}"))).unwrap();
    }
    // It has nothing, and says so if it is opened.
    let unnamed = project("tests/plugins/hostile.c");
    let text = std::fs::read_to_string(unnamed).unwrap().replace("\"hostile\"", "\"third\"");
    place.write("third.c", text);
    let made = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-DANNOUNCES", "-DNAME=\"third\"", "-I"])
        .arg(project("spo-api/include"))
        .args(["-o", "path/libthird.so", "third.c", "-lm"])
        .current_dir(place.path("."))
        .status();
    assert!(made.unwrap().success());
    let run = |arguments: &[&str]| {
        let output = place.command(arguments).env("SPO_PLUGIN_PATH", "path").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        stderr
    };
    let bound = |run: &str| -> Vec<String> {
        let record: serde_json::Value =
            serde_json::from_str(&place.read(&format!("runs/{run}/run.json"))).unwrap();
        let path = |library: &serde_json::Value| library["path"].as_str().unwrap().to_owned();
        record["plugins"].as_array().unwrap().iter().map(path).collect()
    };
    let announced = "a constructor runs";
    assert!(run(&["list"]).contains(announced), "the library says when it is opened");

    let unlisted = |objective: &str| recipe("", objective).replace(r#"load = [""]"#, "");
    place.write("unlisted.toml", unlisted(r#""hostile""#));
    assert!(!run(&["check", "unlisted.toml"]).contains(announced));
    assert!(!run(&["unlisted.toml", "--quiet"]).contains(announced));
    assert_eq!(bound("unlisted"), ["path/libused.so"]);

    // A recipe of built-in parts opens nothing, even if it is listed.
    place.write("built-in.toml", recipe("path/libthird.so", r#""dpo""#));
    assert!(!run(&["check", "built-in.toml"]).contains(announced));
    assert!(!run(&["built-in.toml", "--quiet"]).contains(announced));
    assert!(bound("built-in").is_empty());

    // Of several that are listed, or named on the command line, the run is bound to those it uses.
    let both =
        recipe("path/libthird.so", r#""hostile""#).replace(r#"load = ["#, r#"load = ["path/libused.so", "#);
    place.write("both.toml", both);
    run(&["both.toml", "--quiet", "--plugin", "path/libother.so"]);
    assert_eq!(bound("both"), ["path/libused.so"]);
    std::fs::remove_file(place.path("path/libother.so")).unwrap();
    run(&["resume", "runs/both", "--quiet"]);
    place.write("sweep.toml", format!("{}\n[sweep]\nseeds = [0]\n", unlisted(r#""hostile""#)));
    run(&["sweep.toml", "--quiet"]);
    let plot: serde_json::Value = serde_json::from_str(&place.read("runs/sweep/sweep.json")).unwrap();
    assert_eq!(plot["plugins"].as_array().unwrap().len(), 1, "{plot}");
}

/// The blocks of Rust in a document.
fn rust_blocks(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project(document)).unwrap();
    let blocks = text.split("```rust\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_code_of_the_guides_is_certified() {
    let place = place();
    place.run(&["plugin", "new", "guides"]).success();
    let templates = ["loss", "optimizer"].map(|name| {
        let file = project(&format!("spo-runtime/loader/templates/{name}/src/lib.rs"));
        let (kind, text) =
            (if name == "loss" { "MyLoss" } else { "MyOptimizer" }, std::fs::read_to_string(file));
        text.unwrap().replace("@TYPE@", kind)
    });
    let (mut library, mut parts, mut quoted) = (String::from("spo_api::export_plugins!();\n"), 0, 0);
    for document in ["README.md", "docs/plugins.md", "docs/objectives.md", "docs/bilevel-steps.md"] {
        for block in rust_blocks(document) {
            if block.contains("register!") {
                parts += 1;
                library += &format!("mod part_{parts} {{\n{block}}}\n");
            } else {
                // A part of a template, which has tests of its own.
                quoted += 1;
                let known = templates.iter().any(|template| template.contains(&block));
                assert!(known, "{document}: neither a whole part nor lines of a template:\n{block}");
            }
        }
    }
    assert!(parts >= 2 && quoted >= 2, "{parts} {quoted}");
    place.write("guides/src/lib.rs", library);
    let library = cargo(&place.path("guides"));
    let certified = place.run(&["plugin", "test", &library]).success();
    assert!(!certified.stdout.contains("skipped"), "{}", certified.stdout);
}

#[test]
fn every_built_in_part_passes_its_own_certification() {
    let place = place();
    let names: Vec<String> = {
        use spo_backend_candle as _;
        use spo_objectives as _;
        let registry = spo_api::Registry::linked().unwrap();
        registry.iter().map(|entry| entry.name.to_owned()).collect()
    };
    assert!(names.len() > 35);
    for name in names {
        let outcome = place.run(&["plugin", "test", &name]);
        assert_eq!(outcome.code, 0, "{name}\n{}{}", outcome.stdout, outcome.stderr);
        let skips: Vec<_> = outcome.stdout.lines().filter(|line| line.contains(" gradient ")).collect();
        assert!(skips.iter().all(|line| !line.contains("skipped")), "{name}: {skips:?}");
    }
    // Those that hold something constant are certified with it.
    for (name, config) in [("bco", "{}"), ("dpo", "{ use_weighting = true }")] {
        let outcome = place.run(&["plugin", "test", name, "--config", config]).success();
        assert!(outcome.stdout.contains("with what it declares constant held"), "{name}\n{}", outcome.stdout);
    }
}

/// Tests and builds a plugin in Rust, and returns its library.
fn cargo(folder: &Path) -> String {
    // All plugins that tests build share their compiled dependencies.
    let target = Path::new(env!("CARGO_BIN_EXE_spo-run")).parent().unwrap().parent().unwrap().join("plugins");
    for command in ["test", "build"] {
        let done = Command::new(env!("CARGO"))
            .args([command, "--quiet"])
            .current_dir(folder)
            .env("CARGO_TARGET_DIR", &target)
            .output()
            .expect("cargo");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let name = folder.file_name().unwrap().to_str().unwrap().replace('-', "_");
    target.join(format!("debug/lib{name}.so")).display().to_string()
}

#[test]
fn a_loaded_optimizer_trains_and_resumes_to_the_bit() {
    let place = place();
    place.run(&["plugin", "new", "my-optimizer", "--optimizer"]).success();
    let folders = [place.path("my-optimizer"), project("plugins/sign-momentum")];
    for (folder, name) in folders.iter().zip(["my-optimizer", "sign-momentum"]) {
        let library = cargo(folder);
        let certified = place.run(&["plugin", "test", &library]).success();
        assert!(certified.stdout.contains("10 passed, 0 failed"), "{}", certified.stdout);
        let keys = format!(r#"name = "{name}", momentum = 0.8"#);
        let recipe = recipe(&library, r#""dpo""#).replace("lr = ", &format!("{keys}, lr = "));
        place.write("recipe.toml", format!("[checkpoint]\nevery = 1\n{recipe}"));
        place.run(&["recipe.toml", "--quiet", "--set", "run.output=whole"]).success();
        killed(&place, "cut", "00000004");
        place.run(&["resume", "cut", "--quiet"]).success();
        assert_eq!(place.read("whole/metrics.jsonl"), place.read("cut/metrics.jsonl"), "{name}");
        let misspelt = recipe.replace("momentum = ", "momentun = ");
        place.write("recipe.toml", misspelt);
        refused(&place.run(&["recipe.toml"]), 2, &["unknown field `momentun`", "did you mean `momentum`?"]);
        for run in ["whole", "cut"] {
            std::fs::remove_dir_all(place.path(run)).unwrap();
        }
    }
}

#[test]
fn from_plugin_new_to_a_training_run() {
    let place = place();
    place.run(&["plugin", "new", "my-c-loss", "--c"]).success();
    let made = Command::new("make").current_dir(place.path("my-c-loss")).output().expect("make");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    place.run(&["plugin", "new", "my-loss"]).success();
    let [my_loss, chi_po] = [place.path("my-loss"), project("plugins/chi-po")].map(|folder| cargo(&folder));
    let focal = place.path("libfocal_po.so");
    let made = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(project("spo-api/include"))
        .arg("-o")
        .arg(&focal)
        .arg(project("plugins/focal-po/focal_po.c"))
        .arg("-lm")
        .output()
        .expect("a C compiler");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (library, name) in [
        ("./my-c-loss/libmy_c_loss.so".to_owned(), "my-c-loss"),
        (my_loss, "my-loss"),
        (chi_po, "chi-po"),
        ("./libfocal_po.so".to_owned(), "focal-po"),
    ] {
        place.run(&["plugin", "test", &library]).success();
        run(&place, &library, &format!(r#"{{ name = "{name}", beta = 0.2 }}"#)).success();
        assert_eq!(steps(&place.metrics("runs/r"), "align").len(), 3, "{name}");
        let outcome = run(&place, &library, &format!(r#"{{ name = "{name}", bta = 0.2 }}"#));
        refused(&outcome, 2, &["unknown field `bta`", "`beta`"]);
    }
    // Parts in the search path need not be listed in a recipe, and `list` shows their file.
    place.write("path/readme.txt", "not a library");
    std::fs::copy(&focal, place.path("path/libfocal_po.so")).unwrap();
    place.write("path/libbroken.so", "broken");
    let found = |arguments: &[&str]| {
        let output = place.command(arguments).env("SPO_PLUGIN_PATH", "path").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (_, listed, warned) = found(&["list"]);
    assert!(listed.contains("focal-po 0.1.0 (path/libfocal_po.so)"), "{listed}");
    assert!(warned.contains("warning: the plugin path/libbroken.so cannot be loaded"), "{warned}");
    place.write("r.toml", recipe("", r#""focal-po""#).replace(r#"load = [""]"#, ""));
    let (code, _, words) = found(&["r.toml", "--quiet", "--set", "run.overwrite=true"]);
    assert_eq!(code, Some(0), "{words}");
}
