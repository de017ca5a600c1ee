//! `spo-run import`: configurations of TRL as they are published, and what becomes of every key.

use insta::assert_snapshot;
use test_support::Place;

use crate::place;

/// Configurations in the manner of published ones: a name, the arguments before them, and the YAML.
const FILES: [(&str, &[&str], &str); 11] = [
    (
        "a small DPO",
        &["--trainer", "dpo"],
        "model_name_or_path: models/SmolLM2-135M-Instruct\ndataset_name: rows.jsonl\nlearning_rate: 5.0e-7\nbeta: 0.1\nper_device_train_batch_size: 4\nnum_train_epochs: 1\n",
    ),
    (
        "zephyr-like DPO",
        &[],
        "
# Model
model_name_or_path: alignment-handbook/zephyr-7b-sft-full
torch_dtype: null
bf16: true
beta: 0.01
loss_type: sigmoid
dataset_name: HuggingFaceH4/ultrafeedback_binarized
dataset_train_split: train_prefs
dataset_test_split: test_prefs
eval_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: False
learning_rate: 5.0e-7
log_level: info
logging_steps: 10
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
output_dir: data/zephyr-7b-dpo-full
per_device_train_batch_size: 8
per_device_eval_batch_size: 8
push_to_hub: true
save_strategy: \"steps\"
save_steps: 100
save_total_limit: 1
seed: 42
warmup_ratio: 0.1
",
    ),
    (
        "QLoRA DPO",
        &[],
        "
model_name_or_path: models/mistral-sft
use_peft: true
load_in_4bit: true
lora_r: 128
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules:
- q_proj
- k_proj
- v_proj
- o_proj
loss_type: sigmoid
beta: 0.01
learning_rate: 5e-6
",
    ),
    (
        "IPO with a moving reference",
        &[],
        "model_name_or_path: m\nloss_type: [ipo]\nbeta: 0.2\neval_strategy: steps\neval_steps: 0.1\nsync_ref_model: yes\nref_model_sync_steps: 64\nref_model_mixup_alpha: 0.5\nmax_steps: 200\nlr_scheduler_type: constant_with_warmup\nwarmup_steps: 20\n",
    ),
    (
        "MPO, a sum of losses",
        &[],
        "model_name_or_path: m\nloss_type: [sigmoid, bco_pair, sft]\nloss_weights: [0.8, 0.2, 1.0]\nbeta: 0.1\nweight_decay: 0.05\nadam_beta2: 0.95\nadam_epsilon: 1e-6\nmax_grad_norm: 0.5\n",
    ),
    (
        "robust DPO with 8-bit AdamW",
        &[],
        "model_name_or_path: m\nloss_type: robust\nlabel_smoothing: 0.1\noptim: paged_adamw_8bit\ntruncation_mode: keep_end\nmax_length: 2_048\nsave_strategy: epoch\neval_strategy: epoch\nload_best_model_at_end: true\n",
    ),
    (
        "RPO and WPO weighting",
        &[],
        "model_name_or_path: m\nrpo_alpha: 1.0\nuse_weighting: true\nlabel_smoothing: 0.1\neval_strategy: steps\nlogging_steps: 25\nsave_steps: 0.25\nload_best_model_at_end: true\nmetric_for_best_model: rewards/accuracies\n",
    ),
    (
        "f-DPO",
        &[],
        "model_name_or_path: m\nloss_type: sigmoid\nf_divergence_type: alpha_divergence\nf_alpha_divergence_coef: 0.3\nld_alpha: 0.5\noptim: adafactor\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n",
    ),
    (
        "KTO",
        &[],
        "model_name_or_path: m\ndesirable_weight: 1.33\nundesirable_weight: 1.0\nbeta: 0.1\nuse_peft: true\nlora_target_modules: all-linear\nlora_r: 16\nuse_rslora: true\nuse_dora: true\nlora_modules_to_save: [lm_head]\nlora_dropout: 0\n",
    ),
    (
        "SimPO",
        &[],
        "model_name_or_path: m\nloss_type: simpo\ncpo_alpha: 0.0\nsimpo_gamma: 1.6\nbeta: 2.0\nlearning_rate: 8e-7\ndisable_dropout: true\nno_such_key: 3\n",
    ),
    (
        "SFT",
        &["--trainer", "sft"],
        "model_name_or_path: m\ndataset_name: trl-lib/Capybara\nlearning_rate: 2.0e-4\nnum_train_epochs: 1\npacking: true\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 8\neos_token: '<|im_end|>'\nfp16: false\nresume_from_checkpoint: true\noverwrite_output_dir: true\n",
    ),
];

const COMMANDS: [(&str, &str); 6] = [
    (
        "TRL's own example",
        "trl dpo --model_name_or_path Qwen/Qwen2-0.5B-Instruct --dataset_name trl-lib/ultrafeedback_binarized --learning_rate 5.0e-7 --num_train_epochs 1 --per_device_train_batch_size 2 --max_steps 1000 --gradient_accumulation_steps 8 --eval_strategy steps --eval_steps 50 --output_dir Qwen2-0.5B-DPO --no_remove_unused_columns",
    ),
    (
        "the same with LoRA",
        "trl dpo --model_name_or_path Qwen/Qwen2-0.5B-Instruct --dataset_name trl-lib/ultrafeedback_binarized --learning_rate 5.0e-6 --use_peft --lora_r 32 --lora_alpha 16 --lora_target_modules q_proj v_proj --gradient_checkpointing --report_to wandb",
    ),
    (
        "accelerate with a script",
        "accelerate launch --config_file zero2.yaml --num_processes 8 trl/scripts/dpo.py --model_name_or_path=m --loss_type=exo_pair --label_smoothing 1e-3 --bf16 True --warmup_ratio 0.03",
    ),
    (
        "KTO",
        "trl kto --model_name_or_path m --dataset_name trl-lib/kto-mix-14k --per_device_train_batch_size 16 --learning_rate 5e-7 --loss_type apo_zero_unpaired --logging_steps 10",
    ),
    (
        "CPO",
        "python examples/scripts/cpo.py --model_name_or_path m --dataset_name rows.jsonl --loss_type ipo --optim rmsprop --lr_scheduler_type inverse_sqrt",
    ),
    (
        "ORPO",
        "python orpo.py --dataset_name rows.csv --model_name_or_path m --beta 0.2 --optim lion_32bit --adam_beta2 0.99 --eval_strategy steps --seed 7",
    ),
];

/// What is printed, and what is said aloud.
fn imported(place: &Place, arguments: &[&str]) -> String {
    let outcome = place.run(&[&["import"], arguments].concat());
    let outcome = match outcome.code {
        0 => outcome,
        code => panic!("{arguments:?}: {code}: {}", outcome.stderr),
    };
    format!("{}\n{}", outcome.stderr, outcome.stdout)
}

#[test]
fn published_configurations_become_recipes() {
    let place = place();
    let mut all = String::new();
    for (name, arguments, yaml) in FILES {
        place.write("config.yaml", yaml);
        all += &format!("=== {name} (file)\n{}\n", imported(&place, &[arguments, &["config.yaml"]].concat()));
    }
    for (name, line) in COMMANDS {
        let words: Vec<&str> = std::iter::once("--").chain(line.split(' ')).collect();
        let of_words = imported(&place, &words);
        assert_eq!(of_words, imported(&place, &["--", line]), "as one argument");
        all += &format!("=== {name} (command line)\n{of_words}\n");
    }
    assert_snapshot!(all);
}

#[test]
fn a_file_behind_a_command_line_comes_first_and_the_recipe_can_be_written() {
    let place = place();
    place.write("config.yaml", "beta: 0.5\nlearning_rate: 1e-5\nmodel_name_or_path: m\n");
    let arguments =
        ["import", "--output", "recipe.toml", "--", "trl", "dpo", "--config", "config.yaml", "--beta", "0.3"];
    let outcome = place.run(&arguments).success();
    assert_eq!(outcome.stdout, "");
    let recipe = place.read("recipe.toml");
    assert!(
        recipe.contains("beta = 0.3") && recipe.contains("lr = 0.00001  # learning_rate")
            || recipe.contains("lr = 1e-5"),
        "{recipe}"
    );
}

#[test]
fn what_cannot_be_imported_is_refused() {
    let place = place();
    for (yaml, arguments, expected) in [
        (
            "base_model: m\ndatasets:\n- path: x\n",
            vec![],
            "this is a configuration of axolotl; only those of TRL",
        ),
        ("stage: dpo\nfinetuning_type: lora\ntemplate: llama3\n", vec![], "LLaMA-Factory"),
        ("learning_rate: 1e-6\n", vec![], "say --trainer dpo, sft, kto, cpo or orpo"),
        (
            "loss_type: sigmoid\nlearning_rate: fast\n",
            vec![],
            "config.yaml:2: learning_rate: expected a number, found fast",
        ),
        ("loss_type: sigmoid\nuse_peft: maybe\n", vec![], "config.yaml:2: use_peft: expected true or false"),
        ("loss_type: sigmoid\nbeta: 0.1\nbeta: 0.2\n", vec![], "config.yaml:3: `beta` is there twice"),
        ("loss_type: sigmod\n", vec![], "`sigmoid`"),
        ("loss_type: sigmoid\nbeta: -1\n", vec![], "beta"),
        ("- a\n- b\n", vec![], "config.yaml:1: a configuration is a table"),
        ("a: [b\n", vec![], "config.yaml:"),
        ("a: &x 1\nb: *x\n", vec![], "config.yaml:2: aliases are not read"),
        ("", vec![], "the file has no keys"),
        ("loss_type: sigmoid\n", vec!["--trainer", "ppo"], "possible values: dpo, sft, kto, cpo, orpo"),
    ] {
        place.write("config.yaml", yaml);
        let outcome = place.run(&[&["import", "config.yaml"], arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{yaml}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{yaml}: {}", outcome.stderr);
    }
    for (arguments, expected) in [
        (vec!["nowhere.yaml"], "nowhere.yaml"),
        (vec![], "required"),
        (vec!["--", "hello"], "expected `trl dpo --model_name_or_path ...`"),
    ] {
        let outcome = place.run(&[&["import"], arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
}
