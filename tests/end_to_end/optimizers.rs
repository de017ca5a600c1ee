//! Optimizers and schedules by name, in whole runs: each trains, and goes on after an interruption to the bit.

use serde_json::Value;

use crate::place;
use crate::recipes::{steps, with_model};
use crate::resume::killed;

/// Every optimizer and every schedule, a stage each.
const STAGES: [(&str, &str, &str); 7] = [
    (
        "adamw",
        "lr = 3e-3, betas = [0.9, 0.99], weight_decay = 0.1, decay_bias_and_norm = false",
        r#""constant""#,
    ),
    ("adamw-8bit", "lr = 3e-3", r#""linear""#),
    ("sgd", "lr = 0.3, momentum = 0.9, nesterov = true", r#""cosine""#),
    (
        "rmsprop",
        "lr = 1e-3, momentum = 0.5, centered = true",
        r#"{ name = "cosine-with-restarts", num_cycles = 2 }"#,
    ),
    ("lion", "lr = 1e-3, weight_decay = 0.1", r#"{ name = "polynomial", power = 2.0 }"#),
    ("sgd", "lr = 0.1", r#""inverse-sqrt""#),
    ("adamw", "lr = 3e-3, max_grad_norm = 0.1", r#"{ name = "warmup-stable-decay", decay = 0.5 }"#),
];

const STEPS: usize = 8;

/// Each stage is wide enough for states of 8 bits, and has a step that descends more than once.
fn recipe() -> String {
    let stages = STAGES.iter().enumerate().map(|(i, (name, keys, schedule))| {
        format!(
            r#"
            [[stage]]
            name = "stage{i}"
            from = "model"
            objective = "sft"
            bilevel = {{ step = "alternating", lower = "sft" }}
            steps = {STEPS}
            batch_size = 8
            optimizer = {{ name = "{name}", {keys}, schedule = {schedule}, warmup = {{ steps = 2 }} }}
            "#
        )
    });
    tiny!(64, 16).replace("intermediate_size = 32", "intermediate_size = 320")
        + "[checkpoint]\nevery = 4\n"
        + &stages.collect::<String>()
}

#[test]
fn every_optimizer_learns_and_every_schedule_is_followed() {
    let place = place();
    place.write("recipe.toml", recipe());
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=whole"]).success();
    let metrics = place.metrics("whole");
    for (i, (name, _, schedule)) in STAGES.iter().enumerate() {
        let steps = steps(&metrics, &format!("stage{i}"));
        let figure = |step: usize, key: &str| steps[step][key].as_f64().unwrap();
        assert_eq!(steps.len(), STEPS);
        assert_eq!(figure(0, "learning_rate"), 0.0, "{schedule}");
        let (before, after) = (figure(0, "loss/lower"), figure(STEPS - 1, "loss/lower"));
        assert!(after < before - 0.01, "{name} does not learn: {before} {after}");
        let falls = figure(STEPS - 1, "learning_rate") < figure(2, "learning_rate");
        assert_eq!(falls, *schedule != r#""constant""#, "{schedule}");
    }

    // In the middle of every stage.
    for i in 0..STAGES.len() {
        let run = format!("killed{i}");
        killed(&place, &run, &format!("{:08}", i * STEPS + 4));
        place.run(&["resume", &run, "--quiet"]).success();
        assert!(place.read(&format!("{run}/metrics.jsonl")) == place.read("whole/metrics.jsonl"), "{run}");
        for stage in 0..STAGES.len() {
            let file = |run: &str| place.path(&format!("{run}/stage{stage}/model.safetensors"));
            let weights = |run: &str| std::fs::read(file(run)).unwrap();
            assert!(weights(&run) == weights("whole"), "{run}: {stage}");
        }
    }
}

#[test]
fn without_shuffling_the_lower_level_takes_its_rows_in_order_too() {
    let place = with_model();
    let rows = |from: usize| -> String {
        (from..from + 12)
            .map(|i| {
                format!("{{\"prompt\": \"{i}+1=\", \"chosen\": \"{}\", \"rejected\": \"{i}\"}}\n", i + 1)
            })
            .collect()
    };
    place.write("rows.jsonl", rows(10));
    place.write("more.jsonl", rows(40));
    place.write(
        "recipe.toml",
        r#"
        model = { path = "made/sft" }
        data = { train = "rows.jsonl", max_length = 32 }
        [[stage]]
        name = "align"
        objective = "dpo"
        bilevel = { step = "weighted", lambda = 1.0, lower = [{ name = "sft" }, { name = "sft", data = "more.jsonl" }] }
        shuffle = false
        steps = 4
        batch_size = 4
        optimizer = { lr = 1e-3 }
        "#,
    );
    let run = |seed: u64, shuffle: bool| -> Vec<Value> {
        let set = [format!("run.seed={seed}"), format!("stage.align.shuffle={shuffle}")];
        let output = format!("run.output=runs/{seed}-{shuffle}");
        place
            .run(&["recipe.toml", "--quiet", "--set", &set[0], "--set", &set[1], "--set", &output])
            .success();
        place.metrics(&format!("runs/{seed}-{shuffle}"))
    };
    // Nothing else in this run depends on the seed.
    assert_eq!(run(1, false), run(2, false));
    assert_ne!(run(1, true), run(2, true));
}

#[test]
fn updates_in_the_backward_pass_train_the_same_model() {
    let place = place();
    let recipe = |step: &str, keys: &str| {
        tiny!(64, 16).to_owned()
            + "[checkpoint]\nevery = 4\n"
            + &format!(
                "[[stage]]\nname = \"s\"\nobjective = \"dpo\"\nbilevel = {step}\nsteps = {STEPS}\nbatch_size = 8\n\
                 optimizer = {{ name = \"adamw-8bit\", lr = 1e-3, {keys} }}\n"
            )
    };
    let train = |recipe: &str, run: &str| {
        place.write("recipe.toml", recipe);
        place.run(&["recipe.toml", "--quiet", "--set", &format!("run.output={run}")]).success();
        let metrics = steps(&place.metrics(run), "s").into_iter().cloned().collect::<Vec<Value>>();
        (std::fs::read(place.path(&format!("{run}/s/model.safetensors"))).unwrap(), metrics)
    };
    for (i, step) in [
        "\"single\"",
        "{ step = \"weighted\", lambda = 0.5 }",
        "{ step = \"penalty\", value = \"reference\" }",
        "{ step = \"spo\", budget = 0.05, rows = 8 }",
    ]
    .iter()
    .enumerate()
    {
        let (whole, mut metrics) = train(&recipe(step, "max_grad_norm = 0"), &format!("whole{i}"));
        let released = recipe(step, "max_grad_norm = 0, in_backward = true");
        let (same, mut found) = train(&released, &format!("released{i}"));
        assert!(whole == same, "{step}");
        for (a, b) in metrics.iter_mut().zip(&mut found) {
            // Sums of squares in another order.
            let norms = [&mut *a, b].map(|step| step.as_object_mut().unwrap().remove("grad_norm").unwrap());
            let [a, b] = norms.map(|norm| norm.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-9 * a, "{step}: {a} {b}");
        }
        assert_eq!(metrics, found, "{step}");
        let run = format!("killed{i}");
        killed(&place, &run, "00000004");
        place.run(&["resume", &run, "--quiet"]).success();
        assert!(std::fs::read(place.path(&format!("{run}/s/model.safetensors"))).unwrap() == whole, "{step}");
    }
    for (step, keys, more, expected) in [
        ("\"single\"", "in_backward = true", "", "set `max_grad_norm = 0`"),
        (
            "\"single\"",
            "in_backward = true, max_grad_norm = 0",
            "micro_batch = { rows = 4 }",
            "leave `micro_batch` out",
        ),
        (
            "\"barrier\"",
            "in_backward = true, max_grad_norm = 0",
            "",
            "the step `barrier` computes with the gradient",
        ),
        (
            "{ step = \"weighted\", lower = [{ name = \"sft\", data = { task = { name = \"modular-chain\", train = 64 } } }] }",
            "in_backward = true, max_grad_norm = 0",
            "",
            "the gradients of two batches",
        ),
        (
            "\"single\"",
            "in_backward = true, max_grad_norm = 0, name = \"lion\"",
            "",
            "`lion` is not run by the backend",
        ),
    ] {
        let recipe = recipe(step, keys).replace("name = \"adamw-8bit\", lr = 1e-3, ", "lr = 1e-3, ");
        place.write("recipe.toml", recipe.replace("steps = 8", &format!("steps = 8\n{more}")));
        let outcome = place.run(&["check", "recipe.toml"]);
        assert_eq!(outcome.code, 2, "{expected}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{} does not say {expected}", outcome.stderr);
        assert!(outcome.stderr.contains("in_backward"), "{}", outcome.stderr);
    }
}

#[test]
fn an_optimizer_that_the_backend_cannot_run_is_refused_before_training() {
    let place = place();
    let refused = |recipe: &str, words: [&str; 2]| {
        place.write("recipe.toml", recipe);
        let outcome = place.run(&["recipe.toml", "--quiet"]);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        words.iter().for_each(|word| assert!(outcome.stderr.contains(word), "{}", outcome.stderr));
        assert!(!place.path("runs/recipe").exists(), "training began");
    };
    let stages = |second: &str| {
        let stage = |name: &str, optimizer: &str| {
            format!(
                "[[stage]]\nname = \"{name}\"\nobjective = \"sft\"\nsteps = 2\noptimizer = {{ {optimizer} }}\n"
            )
        };
        stage("first", "lr = 1e-3") + &stage("second", second)
    };
    let eight_bits = stages("name = \"adamw-8bit\", lr = 1e-3");
    let halved = format!("[backend]\noptions = {{ moments = \"bf16\" }}\n{}{eight_bits}", tiny!(16, 4));
    refused(&halved, ["stage[1].optimizer", "works with the optimizer `adamw` only"]);
    for name in ["sgd", "lion", "rmsprop"] {
        let other = stages(&format!("name = \"{name}\", lr = 1e-3"));
        let halved = format!("[backend]\noptions = {{ moments = \"bf16\" }}\n{}{other}", tiny!(16, 4));
        refused(&halved, ["backend.options.moments", &format!("`{name}`, the optimizer of stage `second`")]);
    }
    let enumerable = r#"
        [backend]
        name = "tabular"
        [model.config]
        model_type = "tabular"
        kind = "mlp"
        order = 4
        embedding_size = 4
        hidden_size = 12
        [data]
        task = { name = "codewords", train = 16, prompts = 4, letters = 3, length = 2 }
        max_length = 8
    "#;
    refused(
        &format!("{enumerable}\n{eight_bits}"),
        ["stage[1].optimizer", "which the tabular backend does not"],
    );
    // A sweep's cells are checked before the first one begins.
    let sweep = format!(
        "{enumerable}\n[sweep]\ngrid = {{ \"stage.second.optimizer.name\" = [\"adamw\", \"adamw-8bit\"] }}\n{}",
        stages("lr = 1e-3")
    );
    refused(&sweep, ["stage[1].optimizer", "which the tabular backend does not"]);
}
