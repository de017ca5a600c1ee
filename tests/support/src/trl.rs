//! Compares a backend with what transformers, TRL and PEFT computed for five tiny models: token log-probs, training
//! steps, continuations. [`compare_with_trl!`](crate::compare_with_trl) declares the tests.

use std::path::PathBuf;

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Group, Kernel, LogProbs, Lora, ModelSource, ModelSpec, Sampling, Session, Statistics,
    Targets, TokenBatch, Update, Vector,
};
use spo_transformer::{Engine, Options, TransformerSession};

use crate::{golden, shared};

/// Declares the tests of this module for a backend, and for the function that makes its engine.
#[macro_export]
macro_rules! compare_with_trl {
    ($backend:expr, $engine:expr) => {
        $crate::compare_with_trl! { @tests $backend,
            token_log_probs_are_those_of_transformers,
            full_dpo_steps_are_those_of_trl,
            sft_steps_with_schedules_are_those_of_torch,
            greedy_continuations_are_those_of_transformers,
            token_statistics_are_those_of_torch,
        }
        #[test]
        fn lora_dpo_steps_are_those_of_peft() {
            $crate::trl::lora_dpo_steps_are_those_of_peft(&$backend, $engine);
        }
    };
    (@tests $backend:expr, $($comparison:ident,)*) => {
        $(#[test]
        fn $comparison() {
            $crate::trl::$comparison(&$backend);
        })*
    };
}

const MODELS: [&str; 5] = ["llama-tiny", "llama-tied-tiny", "qwen2-tiny", "qwen3-tiny", "gpt2-tiny"];

/// Runs a test on each model that there are figures for, if the models are there.
fn for_each_model(figures: &Value, test: impl Fn(&str, PathBuf)) {
    let names: Vec<_> = MODELS.iter().filter(|name| figures.get(name).is_some()).collect();
    assert!(!names.is_empty());
    let Some(shared) = shared() else { return };
    for name in names {
        test(name, shared.join("models").join(name));
    }
}

fn spec(folder: PathBuf, adapter: Option<Adapter>) -> ModelSpec {
    let (device, dtype) = ("cpu".into(), "f32".into());
    ModelSpec {
        source: ModelSource::Folder(folder),
        adapter,
        quantize: None,
        allow_pickle: false,
        seed: 0,
        device,
        dtype,
    }
}

fn open(backend: &dyn Backend, folder: PathBuf) -> Box<dyn Session> {
    backend.open(&spec(folder, None)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn rows<'a>(runs: &'a Value, model: &str) -> &'a [Value] {
    runs["models"][model]["tokens"].as_array().unwrap()
}

fn batch(rows: &[Value], keys: &[&str]) -> TokenBatch {
    let group = |row: &Value| Group {
        prompt: ids(&row["prompt_ids"]),
        completions: keys.iter().map(|key| ids(&row[*key])).collect(),
    };
    TokenBatch { groups: rows.iter().map(group).collect() }
}

fn pairs(rows: &[Value]) -> TokenBatch {
    batch(rows, &["chosen_ids", "rejected_ids"])
}

/// Sums of the completions: chosen and rejected of each pair.
fn sums(log_probs: &LogProbs) -> Vec<[f64; 2]> {
    let sum = |i: usize| log_probs.values[log_probs.offsets[i]..log_probs.offsets[i + 1]].iter().sum();
    (0..log_probs.offsets.len() / 2).map(|pair| [sum(2 * pair), sum(2 * pair + 1)]).collect()
}

/// Mean over the tokens of the chosen completions.
fn over_chosen(values: &[f64], offsets: &[usize]) -> f64 {
    let chosen = || (0..offsets.len() - 1).step_by(2).flat_map(|i| offsets[i]..offsets[i + 1]);
    chosen().map(|i| values[i]).sum::<f64>() / chosen().count() as f64
}

/// Has a session run AdamW as torch has it by default, but for the weight decay.
pub(crate) fn adopt_adamw(session: &mut dyn Session, weight_decay: f64) {
    let config = json!({
        "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": weight_decay, "decay_bias_and_norm": true,
    });
    assert!(session.adopt_optimizer(Some(&Kernel { name: "adamw".into(), config })).unwrap());
}

/// An update whose gradient has this norm, clipped at 1.
pub(crate) fn update(session: &mut dyn Session, lr: f64, norm: f64, steps_before: usize) {
    let gradient_scale = (1.0 / (norm + 1e-6)).min(1.0);
    session.optimize(&Update { lr, gradient_scale, count: steps_before as u64 + 1 }).unwrap();
}

fn compare(what: &str, step: &Value, figures: &[(&str, f64)], tolerance: f64) {
    for (key, value) in figures {
        let expected = step[*key].as_f64().unwrap();
        let difference = (value - expected).abs() / expected.abs().max(1e-2);
        assert!(difference < tolerance, "{what}, {key}: {value}, expected {expected}");
    }
}

/// One step of DPO, and its figures under TRL's names.
fn dpo_step(
    session: &mut dyn Session,
    reference: &mut dyn Session,
    batch: &TokenBatch,
    [beta, lr]: [f64; 2],
    steps_before: usize,
) -> Vec<(&'static str, f64)> {
    let anchors = sums(&reference.log_probs(batch, Statistics::default()).unwrap());
    let size = anchors.len() as f64;
    let mut seen = vec![];
    session.vectors().zero(Vector::GRADIENT).unwrap();
    let mut upstream = |log_probs: &LogProbs| {
        let mut gradient = vec![0.0; log_probs.values.len()];
        for (pair, ([c, r], [ac, ar])) in sums(log_probs).into_iter().zip(&anchors).enumerate() {
            let margin = beta * ((c - ac) - (r - ar));
            seen.push([(-margin).exp().ln_1p(), beta * (c - ac), beta * (r - ar), c, r]);
            let slope = -beta / (1.0 + margin.exp()) / size;
            let o = &log_probs.offsets[2 * pair..];
            gradient[o[0]..o[1]].fill(slope);
            gradient[o[1]..o[2]].fill(-slope);
        }
        Ok(gradient)
    };
    let statistics = Statistics { entropy: true, greedy: true, ..Statistics::default() };
    let log_probs = session.backward(batch, statistics, &mut upstream).unwrap();
    let norm = session.vectors().norm(Vector::GRADIENT).unwrap();
    update(session, lr, norm, steps_before);
    let mean = |column: usize| seen.iter().map(|s| s[column]).sum::<f64>() / size;
    vec![
        ("loss", mean(0)),
        ("grad_norm", norm),
        ("rewards/chosen", mean(1)),
        ("rewards/rejected", mean(2)),
        ("logps/chosen", mean(3)),
        ("logps/rejected", mean(4)),
        ("entropy", over_chosen(&log_probs.entropy, &log_probs.offsets)),
        ("mean_token_accuracy", over_chosen(&log_probs.greedy, &log_probs.offsets)),
    ]
}

/// Log-probs of single tokens, to 1e-5 nats.
pub fn token_log_probs_are_those_of_transformers(backend: &dyn Backend) {
    let runs = golden("trl_dpo_runs.json");
    for_each_model(&runs["models"], |name, folder| {
        let expected = runs["models"][name]["token_log_probs"].as_array().unwrap();
        let batch = pairs(&rows(&runs, name)[..expected.len()]);
        let all = open(backend, folder).log_probs(&batch, Statistics::default()).unwrap();
        let sides = expected.iter().flat_map(|row| [numbers(&row["chosen"]), numbers(&row["rejected"])]);
        let expected: Vec<f64> = sides.flatten().collect();
        assert_eq!(all.values.len(), expected.len());
        let worst = all.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{name}: {worst}");
    });
}

/// Eight steps of DPO on all weights: the figures that TRL logs, to 0.1%.
pub fn full_dpo_steps_are_those_of_trl(backend: &dyn Backend) {
    let runs = golden("trl_dpo_runs.json");
    for_each_model(&runs["models"], |name, folder| {
        let (mut session, mut reference) = (open(backend, folder.clone()), open(backend, folder));
        adopt_adamw(&mut *session, 0.0);
        for (i, step) in runs["models"][name]["train"]["steps"].as_array().unwrap().iter().enumerate() {
            let batch = pairs(&rows(&runs, name)[i * 4..][..4]);
            let figures = dpo_step(&mut *session, &mut *reference, &batch, [0.1, 1e-3], i);
            compare(&format!("{name}, step {i}"), step, &figures, 1e-3);
        }
    });
}

/// Steps of DPO on an adapter: the figures that TRL logs of PEFT's, to 0.1%.
pub fn lora_dpo_steps_are_those_of_peft<E: Engine>(backend: &dyn Backend, engine: fn() -> E) {
    let (runs, lora) = (golden("trl_dpo_runs.json"), golden("lora_runs.json"));
    let number = |key: &str| lora[key].as_f64().unwrap();
    for_each_model(&lora["models"], |name, folder| {
        let golden = &lora["models"][name];
        let targets = if name == "gpt2-tiny" { vec!["c_attn"] } else { vec!["q_proj", "v_proj"] };
        let adapter = Adapter::New(Lora::new(4, 8.0, targets.into_iter().collect::<Targets>()));
        let mut session =
            TransformerSession::open(engine(), &spec(folder.clone(), Some(adapter)), Options::default())
                .unwrap();
        let mut reference = open(backend, folder);
        // A as the figures were made with; B = 0.
        let mut start = vec![];
        let shapes: Vec<(bool, usize)> =
            session.trained().map(|(name, n)| (name.ends_with("lora_A.weight"), n)).collect();
        for &(is_a, n) in &shapes {
            let width = n / 4;
            let a = |i: usize| {
                ((1.0 + 0.37 * (i / width) as f64 + 0.11 * (i % width) as f64).sin() / 10.0) as f32
            };
            start.extend((0..n).map(|i| if is_a { a(i) } else { 0.0 }));
        }
        session.write(Vector::PARAMETERS, &start).unwrap();
        adopt_adamw(&mut session, 0.0);
        for (i, step) in golden["f64"].as_array().unwrap().iter().enumerate() {
            let batch = pairs(&rows(&runs, name)[i * 4..][..4]);
            let rates = [number("beta"), number("lr")];
            let figures = dpo_step(&mut session, &mut *reference, &batch, rates, i);
            compare(&format!("{name}, step {i}"), step, &figures[..6], 1e-3);
        }
    });
}

/// Steps of SFT under learning-rate schedules and weight decay: losses, norms of gradients and weights.
pub fn sft_steps_with_schedules_are_those_of_torch(backend: &dyn Backend) {
    let (runs, sft) = (golden("trl_dpo_runs.json"), golden("sft_runs.json"));
    for_each_model(&sft["models"], |name, folder| {
        for (schedule, golden) in sft["models"][name].as_object().unwrap() {
            let mut session = open(backend, folder.clone());
            adopt_adamw(&mut *session, 0.1);
            for (i, step) in golden["f64"].as_array().unwrap().iter().enumerate() {
                let batch = batch(&rows(&runs, name)[i * 4..][..4], &["chosen_ids"]);
                let mut loss = 0.0;
                let mut upstream = |log_probs: &LogProbs| {
                    let n = log_probs.values.len() as f64;
                    loss = -log_probs.values.iter().sum::<f64>() / n;
                    Ok(vec![-1.0 / n; log_probs.values.len()])
                };
                session.vectors().zero(Vector::GRADIENT).unwrap();
                session.backward(&batch, Statistics::default(), &mut upstream).unwrap();
                let norm = session.vectors().norm(Vector::GRADIENT).unwrap();
                update(&mut *session, step["lr"].as_f64().unwrap(), norm, i);
                let figures = [("loss", loss), ("grad_norm", norm)];
                compare(&format!("{name}, {schedule}, step {i}"), step, &figures, 1e-3);
            }
            let after = [("parameter_norm_after", session.vectors().norm(Vector::PARAMETERS).unwrap())];
            compare(&format!("{name}, {schedule}"), golden, &after, 1e-5);
        }
    });
}

/// Greedy continuations, to the token.
pub fn greedy_continuations_are_those_of_transformers(backend: &dyn Backend) {
    let golden = golden("generation.json");
    for_each_model(&golden["greedy"], |name, folder| {
        let rows = golden["greedy"][name].as_array().unwrap();
        let prompts: Vec<_> = rows.iter().map(|row| ids(&row["prompt_ids"])).collect();
        let sampling = Sampling::greedy(24, &[]);
        let new = open(backend, folder).generate(&prompts, &sampling).unwrap();
        let expected: Vec<_> = rows.iter().map(|row| ids(&row["new_ids"])).collect();
        assert_eq!(new, expected, "{name}");
    });
}

/// Entropy and collision probability of every position, to 1e-5.
pub fn token_statistics_are_those_of_torch(backend: &dyn Backend) {
    let golden = &golden("generation.json")["token_statistics"];
    let statistics = Statistics { entropy: true, collision: true, greedy: false };
    let model = json!({ golden["model"].as_str().unwrap(): golden });
    for_each_model(&model, |_, folder| {
        let mut session = open(backend, folder);
        for row in golden["rows"].as_array().unwrap() {
            let sides = [&row["chosen"], &row["rejected"]];
            let completions = sides.map(|side| ids(&side["ids"])).to_vec();
            let groups = vec![Group { prompt: ids(&row["prompt_ids"]), completions }];
            let scores = session.log_probs(&TokenBatch { groups }, statistics).unwrap();
            let figures = [
                ("log_prob", &scores.values),
                ("entropy", &scores.entropy),
                ("log_sum_sq_probs", &scores.collision),
            ];
            for (key, values) in figures {
                let expected = sides.map(|side| numbers(&side[key])).concat();
                assert_eq!(values.len(), expected.len());
                let worst = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "{key}: {worst}");
            }
        }
    });
}
