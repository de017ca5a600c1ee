//! Mistakes in a recipe, a data file or a model folder: each is found before training begins, with exit code 2 and
//! one message that names the place.

use test_support::Place;

use crate::place;
use crate::recipes::with_model_beside;

/// A valid recipe for the model and data of [`folder`].
const RECIPE: &str = r#"
[run]
output = "out"

[model]
path = "model"

[data]
train = "train.jsonl"
max_length = 32

[[stage]]
name = "align"
objective = { name = "dpo", beta = 0.1 }
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

const ROWS: &str = r#"{"prompt": "1+2=", "chosen": "3", "rejected": "4"}
{"prompt": "2+2=", "chosen": "4", "rejected": "5"}
{"prompt": "3+2=", "chosen": "5", "rejected": "6"}
"#;

/// A tokenizer with a token of its own.
const OTHER_TOKENS: &[u8] =
    br#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"1": 0, "x": 1}, "unk_token": "x"}}"#;

/// A folder with a small trained model, data, and the recipe.
fn folder() -> Place {
    let place = with_model_beside();
    place.write("train.jsonl", ROWS);
    place.write("recipe.toml", RECIPE);
    place
}

/// A mistake: its name, and what it changes. The recipe (text and its replacement), files, or arguments.
struct Case {
    name: &'static str,
    recipe: Vec<(&'static str, &'static str)>,
    files: Vec<(&'static str, Vec<u8>)>,
    arguments: Vec<&'static str>,
}

fn recipe(name: &'static str, from: &'static str, to: &'static str) -> Case {
    Case { name, recipe: vec![(from, to)], files: vec![], arguments: vec![] }
}

fn data(name: &'static str, rows: &str) -> Case {
    Case { name, recipe: vec![], files: vec![("train.jsonl", rows.as_bytes().to_vec())], arguments: vec![] }
}

fn argument(name: &'static str, argument: &'static str) -> Case {
    Case { name, recipe: vec![], files: vec![], arguments: vec!["--set", argument] }
}

const DPO: &str = r#"{ name = "dpo", beta = 0.1 }"#;
const STAGE: &str = r#"name = "align""#;

fn cases() -> Vec<Case> {
    vec![
        recipe("not_toml", "[data]", "[data"),
        recipe("unknown_section", "[data]", "[dta]"),
        recipe("unknown_key", "lr = 1e-4", "lr = 1e-4, warm_up = 0.1"),
        recipe("unknown_stage_key", "batch_size = 2", "batchsize = 2"),
        recipe("wrong_type", "lr = 1e-4", r#"lr = "fast""#),
        recipe("missing_learning_rate", "lr = 1e-4", "warmup = 0.1"),
        recipe("infinite_learning_rate", "lr = 1e-4", "lr = inf"),
        recipe("negative_learning_rate", "lr = 1e-4", "lr = -1e-4"),
        recipe("betas_out_of_range", "lr = 1e-4", "lr = 1e-4, betas = [0.9, 1.0]"),
        recipe("unknown_schedule", "lr = 1e-4", r#"lr = 1e-4, schedule = "cosin""#),
        recipe("key_of_another_trainer", "batch_size = 2", "per_device_train_batch_size = 2"),
        recipe("key_of_another_trainer_in_an_optimizer", "lr = 1e-4", "lr = 1e-4, warmup_steps = 10"),
        recipe("key_of_another_trainer_in_an_objective", DPO, r#"{ name = "simpo", simpo_gamma = 0.5 }"#),
        recipe(
            "rank_of_another_trainer",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { r = 8, alpha = 4, targets = [\"q_proj\"] }",
        ),
        recipe("objective_as_a_kind_of_loss", DPO, r#"{ name = "cpo", loss_type = "simpo" }"#),
        recipe("list_for_a_table", "[run]", "checkpoint = [1, 2]\n[run]"),
        recipe("list_for_an_optimizer", "{ lr = 1e-4 }", "[1e-4]"),
        recipe("list_for_rows", r#""train.jsonl""#, r#"["train.jsonl", "jsonl"]"#),
        Case {
            name: "one_row_for_an_objective_that_compares",
            recipe: vec![(DPO, r#""aot""#), ("batch_size = 2", "batch_size = 1")],
            files: vec![],
            arguments: vec![],
        },
        recipe("steps_and_epochs", "steps = 1", "steps = 1\nepochs = 2"),
        recipe("batch_larger_than_data", "batch_size = 2", "batch_size = 4"),
        recipe("micro_batch_of_nothing", "batch_size = 2", "batch_size = 2\nmicro_batch = { rows = 0 }"),
        recipe("misspelt_truncation", "max_length = 32", "max_length = 32\ntruncation = \"keep_strat\""),
        recipe("max_length_drops_every_row", "max_length = 32", "max_length = 3"),
        recipe("no_data", r#"train = "train.jsonl""#, ""),
        recipe(
            "data_and_task",
            r#"train = "train.jsonl""#,
            "train = \"train.jsonl\"\ntask = { name = \"modular-chain\" }",
        ),
        recipe("unknown_task", r#"train = "train.jsonl""#, r#"task = { name = "modular-chains" }"#),
        recipe(
            "unknown_task_option",
            r#"train = "train.jsonl""#,
            r#"task = { name = "modular-chain", heldout = 4 }"#,
        ),
        recipe("misspelt_objective", DPO, r#""dpoo""#),
        recipe("misspelt_objective_in_a_table", DPO, r#"{ name = "simp" }"#),
        recipe("objective_without_a_name", DPO, "{ beta = 0.1 }"),
        recipe("beta_zero", "beta = 0.1", "beta = 0"),
        recipe("beta_negative", "beta = 0.1", "beta = -1"),
        recipe("label_smoothing_too_large", "beta = 0.1", "beta = 0.1, label_smoothing = 2"),
        recipe("option_of_another_loss", DPO, r#"{ name = "ipo", label_smoothing = 0.1 }"#),
        recipe("misspelt_option", "beta = 0.1", "bta = 0.1"),
        recipe("no_objective_in_a_sum", DPO, "[]"),
        recipe("weight_zero_in_a_sum", DPO, r#"[{ name = "dpo" }, { name = "sft", weight = 0 }]"#),
        recipe("bad_option_in_a_sum", DPO, r#"[{ name = "sft" }, { name = "dpo", beta = -1 }]"#),
        recipe("misspelt_step", STAGE, "name = \"align\"\nbilevel = \"penlty\""),
        recipe(
            "misspelt_option_of_a_step",
            STAGE,
            "name = \"align\"\nbilevel = { step = \"penalty\", lamda = 1.0 }",
        ),
        recipe(
            "lower_level_without_effect",
            STAGE,
            "name = \"align\"\nbilevel = { step = \"single\", lower = \"sft\" }",
        ),
        recipe(
            "lower_level_that_prefers",
            STAGE,
            "name = \"align\"\nbilevel = { step = \"weighted\", lower = \"dpo\" }",
        ),
        recipe(
            "hessian_that_the_backend_has_not",
            STAGE,
            "name = \"align\"\nbilevel = { step = \"lookahead\", inner_lr = 0.1, gradient = \"exact\", hessian = \"double-backward\" }",
        ),
        recipe("stage_from_nowhere", STAGE, "name = \"align\"\nfrom = \"stf\""),
        recipe("stage_name_not_a_folder", STAGE, r#"name = "../align""#),
        recipe("no_stage", "[[stage]]", "[stage]"),
        recipe("misspelt_backend", "[data]", "[backend]\nname = \"candel\"\n[data]"),
        recipe("misspelt_backend_without_a_table", "[run]", "backend = \"candel\"\n[run]"),
        recipe("backend_of_no_name", "[run]", "backend = 3\n[run]"),
        recipe("misspelt_key_of_a_backend", "[data]", "[backend]\ndevise = \"cpu\"\n[data]"),
        recipe("tch_not_installed", "[data]", "[backend]\nname = \"tch\"\n[data]"),
        recipe("unknown_device", "[data]", "[backend]\ndevice = \"gpu\"\n[data]"),
        recipe("unknown_dtype", "[data]", "[backend]\ndtype = \"float\"\n[data]"),
        recipe("no_model", r#"path = "model""#, ""),
        recipe("model_folder_missing", r#"path = "model""#, r#"path = "modle""#),
        recipe(
            "adapter_target_missing",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = [\"q_prj\"] }",
        ),
        recipe(
            "adapter_of_a_folder_with_more_settings",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { path = \"saved\", rank = 2 }",
        ),
        recipe(
            "adapter_without_a_scale",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, targets = \"all-linear\" }",
        ),
        recipe(
            "adapter_pattern_that_matches_nothing",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = '.*\\.(k|v)_prj' }",
        ),
        recipe(
            "adapter_pattern_that_is_none",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = \"q_proj(\" }",
        ),
        recipe(
            "adapter_patterns_that_disagree",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = \"all-linear\", \
             rank_pattern = { q_proj = 4, \"[kq]_proj\" = 8 } }",
        ),
        recipe(
            "adapter_module_missing",
            r#"path = "model""#,
            "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = [\"q_proj\"], modules_to_save = [\"head\", \"embedding\"] }",
        ),
        recipe(
            "reference_folder_missing",
            "steps = 1",
            "steps = 1\nreference = { external = { path = \"modle\" } }",
        ),
        recipe("reference_misspelt", "steps = 1", "steps = 1\nreference = { extern = { path = \"model\" } }"),
        Case {
            name: "reference_reads_other_tokens",
            recipe: vec![("steps = 1", "steps = 1\nreference = { external = { path = \"other\" } }")],
            files: vec![
                ("other/config.json", b"{}".to_vec()),
                ("other/model.safetensors", b"".to_vec()),
                ("other/tokenizer.json", OTHER_TOKENS.to_vec()),
            ],
            arguments: vec![],
        },
        recipe("data_file_missing", "train.jsonl", "trian.jsonl"),
        Case {
            name: "data_format_unknown",
            recipe: vec![("train.jsonl", "train.txt")],
            files: vec![("train.txt", ROWS.as_bytes().to_vec())],
            arguments: vec![],
        },
        Case {
            name: "longer_than_the_model",
            recipe: vec![("max_length = 32", "max_length = 4096")],
            files: vec![("train.jsonl", ROWS.replace("1+2=", &"1+".repeat(40)).into_bytes())],
            arguments: vec![],
        },
        recipe("score_gaps_missing", DPO, r#""odpo""#),
        argument("override_of_an_unknown_stage", "stage.algn.steps=2"),
        argument("override_out_of_range", "stage.align.objective.beta=-1"),
        argument("override_of_the_backend", "backend=candel"),
        argument("override_without_value", "stage.align.objective.beta"),
        data("malformed_line", &ROWS.replace(r#""chosen": "4","#, r#""chosen": "4""#)),
        data("git_lfs_pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"),
        data("several_rejected_answers", &ROWS.replace(r#""rejected": "5""#, r#""rejected": ["5", "6"]"#)),
        data("null_prompt", &ROWS.replace(r#""prompt": "2+2=""#, r#""prompt": null"#)),
        data("missing_column", &ROWS.replace("rejected", "rejectd")),
        data("wrong_type_in_a_column", &ROWS.replace(r#""chosen": "4""#, r#""chosen": 4"#)),
        data("empty_file", ""),
        data(
            "text_and_messages_mixed",
            &ROWS.replace(r#""chosen": "4""#, r#""chosen": [{"role": "assistant", "content": "4"}]"#),
        ),
        data(
            "messages_without_a_template",
            r#"{"prompt": [{"role": "user", "content": "1"}], "chosen": [{"role": "assistant", "content": "1"}], "rejected": [{"role": "assistant", "content": "2"}]}"#,
        ),
        Case {
            name: "identical_pair_under_strict",
            recipe: vec![("max_length = 32", "max_length = 32\nstrict = true")],
            files: vec![(
                "train.jsonl",
                ROWS.replace(r#""rejected": "5""#, r#""rejected": "4""#).into_bytes(),
            )],
            arguments: vec![],
        },
        Case {
            name: "data_not_utf8",
            recipe: vec![],
            files: vec![("train.jsonl", [ROWS.as_bytes(), b"{\"prompt\": \"\xff\"}\n"].concat())],
            arguments: vec![],
        },
        Case {
            name: "model_without_config",
            recipe: vec![(r#"path = "model""#, r#"path = "bare""#)],
            files: vec![("bare/tokenizer.json", b"{}".to_vec())],
            arguments: vec![],
        },
        Case {
            name: "model_is_an_adapter",
            recipe: vec![(r#"path = "model""#, r#"path = "adapter""#)],
            files: vec![(
                "adapter/adapter_config.json",
                br#"{"base_model_name_or_path": "Org/Base"}"#.to_vec(),
            )],
            arguments: vec![],
        },
        Case {
            name: "adapter_is_a_model",
            recipe: vec![(r#"path = "model""#, "path = \"model\"\nadapter = { path = \"model\" }")],
            files: vec![],
            arguments: vec![],
        },
        recipe("model_is_a_run", r#"path = "model""#, r#"path = "works""#),
        recipe("model_is_a_name_on_a_hub", r#"path = "model""#, r#"path = "Org/Model-0.5B""#),
        recipe("model_is_a_file", r#"path = "model""#, r#"path = "train.jsonl""#),
        Case {
            name: "weights_in_the_format_of_pytorch",
            recipe: vec![(r#"path = "model""#, r#"path = "other""#)],
            files: vec![("other/config.json", b"{}".to_vec()), ("other/pytorch_model.bin", b"PK".to_vec())],
            arguments: vec![],
        },
        Case {
            name: "configuration_is_a_pointer_of_git_lfs",
            recipe: vec![],
            files: vec![(
                "model/config.json",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 700\n".to_vec(),
            )],
            arguments: vec![],
        },
        Case {
            name: "weights_truncated",
            recipe: vec![],
            files: vec![("model/model.safetensors", b"\x10\0\0\0\0\0\0\0{\"a\":".to_vec())],
            arguments: vec![],
        },
        Case {
            name: "architecture_unknown",
            recipe: vec![],
            files: vec![("model/config.json", br#"{"model_type": "mamba", "vocab_size": 20}"#.to_vec())],
            arguments: vec![],
        },
        Case {
            name: "output_holds_a_run",
            recipe: vec![],
            files: vec![("out/run.json", br#"{"name": "before", "started_in": "/"}"#.to_vec())],
            arguments: vec![],
        },
    ]
}

#[test]
fn every_mistake_is_found_before_training_and_names_its_place() {
    let place = folder();
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=works"]).success();
    for case in cases() {
        let mut text = RECIPE.to_owned();
        for (from, to) in &case.recipe {
            assert!(text.contains(from), "{}: the recipe has no `{from}`", case.name);
            text = text.replacen(from, to, 1);
        }
        place.write("recipe.toml", text);
        let kept: Vec<_> =
            case.files.iter().map(|(name, _)| (*name, std::fs::read(place.path(name)).ok())).collect();
        for (name, content) in &case.files {
            place.write(name, content);
        }
        let outcome = place.run(&[&["recipe.toml", "--quiet"], case.arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{}: {}{}", case.name, outcome.stdout, outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{}: {}", case.name, outcome.stderr);
        assert!(!place.path("out/metrics.jsonl").exists(), "{}: training began", case.name);
        insta::assert_snapshot!(case.name, outcome.stderr);
        for (name, content) in kept {
            match content {
                Some(content) => place.write(name, content),
                None => std::fs::remove_file(place.path(name)).unwrap(),
            }
        }
    }
}

#[test]
fn a_recipe_that_is_not_there_or_not_text_is_named() {
    let place = place();
    place.write("binary.toml", b"\xff\xfe");
    let cases = [("recipe_missing", vec!["recipe.toml"]), ("recipe_not_text", vec!["binary.toml"])];
    for (name, arguments) in cases {
        let outcome = place.run(&arguments);
        assert_eq!(outcome.code, 2);
        insta::assert_snapshot!(name, outcome.stderr);
    }
}
