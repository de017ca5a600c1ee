//! Whole runs on a generated task: properties that hold whatever the numbers.

use serde_json::Value;
use test_support::{Place, close};

use crate::place;
use crate::recipes::steps;

/// A model and a task that train in a second.
const HEAD: &str = concat!(
    tiny!(64, 16),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 20
batch_size = 16
optimizer = { lr = 3e-3, weight_decay = 0.01 }
"#
);

/// A second stage with this objective and this bilevel step.
fn align(objective: &str, bilevel: &str, more: &str) -> String {
    format!(
        r#"{HEAD}
        [[stage]]
        name = "align"
        objective = {objective}
        bilevel = {bilevel}
        steps = 5
        batch_size = 8
        optimizer = {{ lr = 1e-3 }}
        {more}
        "#
    )
}

fn run(place: &Place, name: &str, recipe: &str, arguments: &[&str]) -> Vec<Value> {
    place.write(&format!("{name}.toml"), recipe);
    place.run(&[&[&*format!("{name}.toml"), "--quiet"], arguments].concat()).success();
    place.metrics(&format!("runs/{name}"))
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_does_not() {
    let place = place();
    let recipe = align(r#""dpo""#, r#"{ step = "penalty", lambda = 1.0 }"#, "");
    let first = run(&place, "first", &recipe, &[]);
    assert_eq!(first, run(&place, "second", &recipe, &[]));
    assert_eq!(place.read("runs/first/metrics.jsonl"), place.read("runs/second/metrics.jsonl"));
    let weights =
        |run: &str| std::fs::read(place.path(&format!("runs/{run}/align/model.safetensors"))).unwrap();
    assert!(weights("first") == weights("second"), "the weights differ");
    assert_ne!(first, run(&place, "third", &recipe, &["--set", "run.seed=1"]));
}

#[test]
fn splitting_a_batch_changes_nothing_but_rounding() {
    let place = place();
    let cases = [
        (r#"{ name = "dpo", beta = 0.5 }"#, r#""single""#),
        (r#"[{ name = "simpo" }, { name = "sft", weight = 0.3 }]"#, r#""single""#),
        (r#""aot""#, r#""single""#),
        (r#""dpo""#, r#"{ step = "penalty", lambda = 2.0, value = 0.5 }"#),
        (r#""dpo""#, r#"{ step = "weighted", lambda = 0.5 }"#),
    ];
    for (i, (objective, bilevel)) in cases.into_iter().enumerate() {
        let whole = run(&place, &format!("whole{i}"), &align(objective, bilevel, ""), &[]);
        for split in ["micro_batch = { rows = 3 }", "micro_batch = { tokens = 40 }"] {
            let name = format!("split{i}{}", split.len());
            let parts = run(&place, &name, &align(objective, bilevel, split), &[]);
            let (whole, parts) = (steps(&whole, "align"), steps(&parts, "align"));
            assert_eq!(whole.len(), 5);
            for (a, b) in whole.iter().zip(&parts) {
                let figures = a.as_object().unwrap().iter().filter(|(_, v)| v.is_number());
                // The sign of a margin that is only a rounding error is arbitrary.
                let by_sign = ["rewards/accuracies", "rewards/ties"];
                for (key, value) in figures.filter(|(key, _)| !by_sign.contains(&key.as_str())) {
                    close(&format!("{objective} {bilevel} {split} {key}"), &b[key], value, 1e-4);
                }
            }
        }
    }
}

#[test]
fn every_objective_trains_under_every_step() {
    let place = place();
    let listed = place.run(&["list"]).success().stdout;
    let names = |title: &str| -> Vec<String> {
        let section = listed.split_once(title).expect("a section").1;
        let lines = section.lines().skip(1).take_while(|line| !line.trim().is_empty());
        // Continuation lines of a cell are indented more than names.
        let first = lines.filter_map(|line| line.strip_prefix(' ').and_then(|l| l.split([' ', ',']).next()));
        first.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let (objectives, all_steps) = (names("Objectives"), names("Bilevel steps"));
    assert!(objectives.len() >= 5 && all_steps.len() >= 4, "{listed}");
    let mut stages = HEAD.to_owned();
    let mut wanted = Vec::new();
    for (i, objective) in objectives.iter().enumerate() {
        // Every step occurs several times, but not every pair of objective and step.
        let step = &all_steps[i % all_steps.len()];
        // The generated pairs have neither scores nor margins.
        if ["odpo", "margin-dpo"].contains(&&**objective) {
            continue;
        }
        let name = format!("{objective}-{step}");
        let step = match step.as_str() {
            "lookahead" => r#"{ step = "lookahead", inner_lr = 0.01 }"#.to_owned(),
            plain => format!("{plain:?}"),
        };
        stages += &format!(
            "[[stage]]\nname = \"{name}\"\nfrom = \"sft\"\nobjective = \"{objective}\"\nbilevel = {step}\n\
             steps = 2\nbatch_size = 8\noptimizer = {{ lr = 1e-4 }}\nsave = false\n"
        );
        wanted.push(name);
    }
    let metrics = run(&place, "all", &stages, &[]);
    for name in wanted {
        assert_eq!(steps(&metrics, &name).len(), 2, "{name}");
    }
}

#[test]
fn check_says_what_is_in_the_way_of_a_run() {
    let place = place();
    place.write("recipe.toml", HEAD);
    let told = || place.run(&["check", "recipe.toml"]).success().stdout;
    let words = "recipe already holds a run: choose another `run.output`";
    assert!(!told().contains(words));
    place.run(&["recipe.toml", "--quiet"]).success();
    assert!(told().contains(words), "{}", told());
}

#[test]
fn the_first_version_of_spo_is_look_ahead_with_its_regularizer() {
    let place = place();
    let short = run(&place, "short", &align(r#""dpo""#, r#""spo-v1""#, ""), &[]);
    let objective = r#"[{ name = "dpo" }, { name = "absolute-gain" }]"#;
    let long = align(objective, r#"{ step = "lookahead", inner_lr = 3e-4 }"#, "");
    let long = run(&place, "long", &long, &[]);
    let (short, long) = (steps(&short, "align"), steps(&long, "align"));
    assert!(short.last().unwrap()["loss/absolute-gain"].is_number());
    assert_eq!(short, long);
}

#[test]
fn the_first_step_of_a_preference_stage_has_no_margin() {
    let place = place();
    let metrics = run(&place, "margin", &align(r#""dpo""#, r#""single""#, ""), &[]);
    let first = steps(&metrics, "align")[0];
    close("margin", &first["rewards/margins"], &0.0.into(), 1e-6);
    close("loss", &first["loss"], &std::f64::consts::LN_2.into(), 1e-6);
}

#[test]
fn the_reference_is_the_one_that_is_asked_for() {
    let place = place();
    let with = |name: &str, reference: &str| {
        let recipe = align(r#""dpo""#, r#""single""#, &format!("reference = {reference}"));
        run(&place, name, &recipe, &[])
    };
    let margins = |metrics: &[Value]| -> Vec<f64> {
        steps(metrics, "align").iter().map(|line| line["rewards/margins"].as_f64().unwrap()).collect()
    };
    let start = with("start", r#""start""#);
    let opened = with("opened", r#""model""#);
    assert!(margins(&opened)[0].abs() > 1e-3, "SFT moved the policy away from the model as it was opened");
    let still = with("still", "{ moving = { sync_steps = 1000, mixup_alpha = 1.0 } }");
    assert_eq!(still, start, "a reference that does not get to move is the start");
    let follows = with("follows", "{ moving = { sync_steps = 1, mixup_alpha = 1.0 } }");
    let widest = |metrics: &[Value]| margins(metrics).iter().fold(0.0, |a: f64, m| a.max(m.abs()));
    assert!(widest(&follows) < 0.1 * widest(&start), "the reference is the policy: {follows:?}");
    let lags = with("lags", "{ moving = { sync_steps = 2, mixup_alpha = 0.5 } }");
    assert_eq!(margins(&lags)[..2], margins(&start)[..2], "until it moves");
    assert_ne!(margins(&lags)[2], margins(&start)[2], "after it has moved");
}

#[test]
fn a_batch_may_have_answers_of_one_kind_only() {
    let place = place();
    let recipe = align(r#""bco""#, r#""single""#, "").replace("batch_size = 8", "batch_size = 1");
    assert_eq!(steps(&run(&place, "single", &recipe, &[]), "align").len(), 5);
}

#[test]
fn a_weight_may_grow_into_place() {
    let place = place();
    let sum = |schedule: &str| {
        let objective = format!(r#"[{{ name = "dpo" }}, {{ name = "sft", weight = 0.5 {schedule} }}]"#);
        run(&place, &format!("sum{}", schedule.len()), &align(&objective, r#""single""#, ""), &[])
    };
    let scheduled = sum(", schedule = { from = 0.0, steps = 4 }");
    for (i, line) in steps(&scheduled, "align").iter().enumerate() {
        let expected =
            line["loss/dpo"].as_f64().unwrap() + 0.125 * i as f64 * line["loss/sft"].as_f64().unwrap();
        close("loss", &line["loss"], &expected.into(), 1e-12);
    }
}

#[test]
fn stages_start_where_they_say() {
    let place = place();
    let stage = |name: &str, from: &str| {
        format!(
            "[[stage]]\nname = \"{name}\"\nfrom = \"{from}\"\nobjective = \"dpo\"\nsteps = 3\nbatch_size = 8\n\
             optimizer = {{ lr = 1e-3 }}\n"
        )
    };
    let recipe =
        [HEAD, &stage("a", "sft"), &stage("b", "sft"), &stage("c", "model"), &stage("d", "c")].concat();
    let metrics = run(&place, "branches", &recipe, &[]);
    let without_name = |stage: &str| -> Vec<Value> {
        let lines = metrics.iter().filter(|line| line["stage"] == stage).cloned();
        lines
            .map(|mut line| std::mem::take(&mut line["stage"]).is_string().then_some(line).unwrap())
            .collect()
    };
    assert_eq!(without_name("a"), without_name("b"), "both start from the same checkpoint");
    assert_ne!(without_name("a"), without_name("c"), "one starts from an untrained model");
    let last = |stage: &str| without_name(stage).last().unwrap()["eval_logps/chosen"].clone();
    assert_eq!(without_name("d")[0]["eval_logps/chosen"], last("c"), "d goes on where c ended");
}

#[test]
fn a_saved_model_and_a_saved_adapter_go_on_where_they_stopped() {
    let place = place();
    let made = run(&place, "made", HEAD, &[]);
    let again = |adapter: &str| {
        format!(
            "model = {{ path = \"runs/made/sft\" {adapter} }}\n\
             data = {{ task = {{ name = \"modular-chain\", train = 64, held_out = 16 }}, max_length = 48 }}\n\
             [[stage]]\nname = \"more\"\nobjective = \"dpo\"\nsteps = 4\nbatch_size = 8\noptimizer = {{ lr = 1e-2 }}\n"
        )
    };
    let full = run(&place, "full", &again(""), &[]);
    let end = made.last().unwrap();
    // The last digits differ: here the chosen answers were scored alone, there together with answers that share their beginning.
    let (start, trained) = (&full[0]["eval_logps/chosen"], &end["eval_logps/chosen"]);
    close("the saved model is the trained one", start, trained, 1e-6);
    assert_eq!(full[0]["eval_exact_match"], end["eval_exact_match"]);

    let settings = "rank = 2, alpha = 4, rslora = true, dora = true, modules_to_save = [\"lm_head\"], \
                    rank_pattern = { v_proj = 3 }, targets = '.*[qv]_proj'";
    let adapted = run(&place, "adapted", &again(&format!(", adapter = {{ {settings} }}")), &[]);
    assert_eq!(&adapted[0]["eval_logps/chosen"], start, "a new adapter changes nothing");
    // The saved one brings its settings.
    let resumed = run(&place, "resumed", &again(", adapter = { path = \"runs/adapted/more\" }"), &[]);
    assert_eq!(resumed[0]["eval_logps/chosen"], adapted.last().unwrap()["eval_logps/chosen"]);
    assert_ne!(resumed[0]["eval_logps/chosen"], end["eval_logps/chosen"]);
}

#[test]
fn a_saved_model_answers_and_an_adapter_can_be_merged() {
    let place = place();
    run(&place, "made", &HEAD.replace("steps = 20", "steps = 2"), &[]);
    let recipe = "model = { path = \"runs/made/sft\", adapter = { rank = 2, alpha = 4, targets = [\"all-linear\"] } }\n\
                  data = { task = { name = \"modular-chain\", train = 64, held_out = 16 }, max_length = 48 }\n\
                  [[stage]]\nname = \"more\"\nobjective = \"sft\"\nsteps = 30\nbatch_size = 16\noptimizer = { lr = 3e-2 }\n";
    run(&place, "adapted", recipe, &[]);
    let adapted = ["runs/made/sft", "--adapter", "runs/adapted/more"];
    let answer = |model: &[&str]| {
        let arguments = [&["generate"], model, &["--max-new-tokens", "6", "1+2+3=", "4+4+4+4="]].concat();
        place.run(&arguments).success().stdout
    };
    let before = answer(&["runs/made/sft"]);
    let with_adapter = answer(&adapted);
    assert_ne!(before, with_adapter, "the adapter was trained");
    place.run(&[&["export"], adapted.as_slice(), &["merged"]].concat()).success();
    assert_eq!(answer(&["merged"]), with_adapter);

    // In another type, at once or afterwards.
    place.run(&[&["export"], adapted.as_slice(), &["--dtype", "bf16", "halved"]].concat()).success();
    place.run(&["convert", "merged", "converted", "--dtype", "bf16"]).success();
    let read = |file: &str| std::fs::read(place.path(file)).unwrap();
    let [whole, halved, converted] =
        ["merged", "halved", "converted"].map(|folder| read(&format!("{folder}/model.safetensors")));
    assert!([&halved, &converted].iter().all(|half| half.len() < whole.len() * 2 / 3));
    for folder in ["halved", "converted"] {
        let config: Value = serde_json::from_slice(&read(&format!("{folder}/config.json"))).unwrap();
        assert_eq!(config["dtype"], "bfloat16", "{folder}");
    }
    assert_eq!(answer(&["halved"]), answer(&["converted"]));

    for (arguments, expected) in [
        (vec!["export", "runs/made/sft", "merged"], "merged is not empty"),
        (vec!["export", "merged", "out.gguf", "--gguf", "f16", "--dtype", "f16"], "--dtype"),
        (vec!["convert", "runs/made/sft", "merged"], "merged is not empty"),
        (vec!["convert", "nowhere", "out"], "nowhere has neither config.json nor"),
        (vec!["generate", "nowhere", "1+1="], "nowhere"),
        (vec!["generate", "merged", "--adapter", "merged", "1+1="], "adapter_config.json"),
        (vec!["generate", "merged", "--top-p", "2", "1+1="], "--top-p"),
    ] {
        let outcome = place.run(&arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}

#[test]
fn numbers_that_are_not_finite_stop_the_run_with_a_diagnosis() {
    let place = place();
    let recipe = HEAD.replace("lr = 3e-3", "lr = 1e30");
    place.write("recipe.toml", recipe);
    let outcome = place.run(&["recipe.toml", "--quiet"]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("modular-chain row"), "the row is named: {}", outcome.stderr);
    assert!(outcome.stderr.contains("stage `sft`: step"), "the step is named: {}", outcome.stderr);
    assert!(!place.path("runs/recipe/sft").exists(), "no model was saved");
}

#[test]
fn json_speaks_json_on_every_line() {
    let place = place();
    place.write("recipe.toml", HEAD);
    let outcome = place.run(&["recipe.toml", "--json"]).success();
    assert!(outcome.stdout.lines().count() > 20);
    for line in outcome.stdout.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// Twelve pairs whose answers differ in length.
fn twelve_pairs(place: &Place) {
    let row = |i: usize| {
        let (chosen, rejected) = ("1".repeat(1 + i % 4), "2".repeat(1 + i % 3));
        format!("{{\"prompt\": \"{i}+1=\", \"chosen\": \"{chosen}\", \"rejected\": \"{rejected}\"}}\n")
    };
    place.write("pairs.jsonl", (0..12).map(row).collect::<String>());
}

/// A stage on these rows, on the model of [`crate::recipes::with_model`].
fn on_rows(rows: &str, objective: &str, more: &str) -> String {
    format!(
        "model = {{ path = \"made/sft\" }}\ndata = {{ train = \"{rows}\", max_length = 32 }}\n[[stage]]\nname = \"align\"\n\
         objective = {objective}\noptimizer = {{ lr = 1e-3 }}\n{more}\n"
    )
}

#[test]
fn a_pass_reads_every_row_once() {
    let place = crate::recipes::with_model();
    twelve_pairs(&place);
    let figures = |metrics: &[Value], name: &str| -> Vec<f64> {
        steps(metrics, "align").iter().map(|line| line[name].as_f64().unwrap()).collect()
    };
    let passes =
        run(&place, "passes", &on_rows("pairs.jsonl", r#""dpo""#, "batch_size = 5\nepochs = 2"), &[]);
    assert_eq!(figures(&passes, "epoch"), [1.0 / 3.0, 2.0 / 3.0, 1.0, 4.0 / 3.0, 5.0 / 3.0, 2.0]);
    let at_once =
        run(&place, "once", &on_rows("pairs.jsonl", r#""dpo""#, "batch_size = 12\nepochs = 2"), &[]);
    let (tokens, of_all) = (figures(&passes, "num_tokens"), figures(&at_once, "num_tokens"));
    assert_eq!((tokens[2], tokens[5]), (of_all[0], of_all[1]), "the tokens of all rows, once a pass");
    let full = run(&place, "full", &on_rows("pairs.jsonl", r#""dpo""#, "batch_size = 5\nsteps = 3"), &[]);
    assert_eq!(figures(&full, "epoch"), [5.0 / 12.0, 10.0 / 12.0, 15.0 / 12.0]);
}

#[test]
fn log_probs_are_logged_as_the_loss_reads_them_and_as_sums() {
    let place = crate::recipes::with_model();
    twelve_pairs(&place);
    let first = |name: &str, objective: &str| {
        let metrics = run(
            &place,
            name,
            &on_rows("pairs.jsonl", objective, "batch_size = 1\nsteps = 1\nshuffle = false"),
            &[],
        );
        steps(&metrics, "align")[0].clone()
    };
    let (dpo, simpo) = (first("dpo", r#""dpo""#), first("simpo", r#""simpo""#));
    assert_eq!(dpo["logps/chosen"], dpo["sum_logps/chosen"]);
    close("sums", &simpo["sum_logps/chosen"], &dpo["logps/chosen"], 1e-12);
    // The first row's answers are one token and the end token.
    let mean = simpo["sum_logps/rejected"].as_f64().unwrap() / 2.0;
    close("a mean", &simpo["logps/rejected"], &mean.into(), 1e-12);
}

#[test]
fn mismatched_answers_do_not_count_in_the_metrics() {
    let place = crate::recipes::with_model();
    let row = |i: usize| {
        let answer = "12".repeat(1 + i % 3);
        format!(
            "{{\"prompt\": \"{i}+1=\", \"completion\": \"{answer}\", \"label\": {}}}\n",
            i.is_multiple_of(2)
        )
    };
    place.write("unpaired.jsonl", (0..8).map(row).collect::<String>());
    let first = |name: &str| {
        let metrics = run(
            &place,
            name,
            &on_rows("unpaired.jsonl", &format!("{name:?}"), "batch_size = 4\nsteps = 1"),
            &[],
        );
        steps(&metrics, "align")[0].clone()
    };
    let (kto, apo) = (first("kto"), first("apo_zero_unpaired"));
    assert!(kto["kl"].is_number(), "it has mismatched answers");
    assert_eq!(kto["num_tokens"], apo["num_tokens"]);
    close("entropy", &kto["entropy"], &apo["entropy"], 1e-6);
}

#[test]
fn a_batch_of_one_row_is_refused_where_rows_are_compared() {
    let place = crate::recipes::with_model();
    twelve_pairs(&place);
    for (name, more, words) in [
        ("one", "batch_size = 1\nsteps = 2", "batch_size: is 1: `aot` compares the rows of a batch"),
        ("last", "batch_size = 11", "leaves 1 of 12 rows for the last batch of a pass"),
        (
            "held",
            "batch_size = 4\ndata = { train = \"pairs.jsonl\", eval = { path = \"pairs.jsonl\", take = 1 } }",
            "there are 1 held-out rows",
        ),
    ] {
        place.write("recipe.toml", on_rows("pairs.jsonl", r#""aot""#, more));
        let outcome = place.run(&["check", "recipe.toml"]);
        assert_eq!(outcome.code, 2, "{name}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(words), "{name}: {}", outcome.stderr);
    }
    place.write("recipe.toml", on_rows("pairs.jsonl", r#""aot""#, "batch_size = 11\nsteps = 2"));
    place.run(&["recipe.toml", "--quiet"]).success();
}

#[test]
fn a_reference_may_be_another_model() {
    let place = place();
    run(&place, "made", HEAD, &[]);
    let recipe = |policy: &str, reference: &str| {
        format!(
            "model = {{ path = \"{policy}\" }}\n\
             data = {{ task = {{ name = \"modular-chain\", train = 64, held_out = 16 }}, max_length = 48 }}\n\
             [[stage]]\nname = \"more\"\nobjective = \"dpo\"\nreference = {reference}\nsteps = 4\nbatch_size = 8\n\
             optimizer = {{ lr = 1e-2 }}\n"
        )
    };
    let [one, other] = ["runs/made/sft", "runs/start/more"];
    let external = |folder: &str| format!("{{ external = {{ path = \"{folder}\" }} }}");
    let start = run(&place, "start", &recipe(one, "\"start\""), &[]);
    let same = run(&place, "same", &recipe(one, &external(one)), &[]);
    assert_eq!(same, start, "the same model, from its folder, is the same reference");

    // With policy and reference exchanged, every margin changes its sign.
    let [ahead, behind] = [(one, other), (other, one)].map(|(policy, reference)| {
        let name = policy.replace('/', "-");
        run(&place, &name, &recipe(policy, &external(reference)), &[])[0].clone()
    });
    let margin = |line: &Value| line["eval_rewards/margins"].as_f64().unwrap();
    assert!(margin(&ahead) < -1e-3, "the other model was trained: {ahead}");
    assert!((margin(&ahead) + margin(&behind)).abs() < 1e-5, "{ahead} {behind}");

    // A run is bound to the files of its reference.
    let killed = recipe(one, &external(other)) + "[checkpoint]\nevery = 1\n";
    let killed = run(&place, "bound", &killed, &[]);
    assert_eq!(killed[0], ahead);
    std::fs::copy(
        place.path("runs/made/sft/model.safetensors"),
        place.path("runs/start/more/model.safetensors"),
    )
    .unwrap();
    let again = place.run(&["bound.toml", "--set", "run.resume=\"auto\""]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("reference of more/model.safetensors"), "{}", again.stderr);
}
