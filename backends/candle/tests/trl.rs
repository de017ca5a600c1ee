//! What transformers and TRL computed for five tiny models: token log-probs, and eight DPO steps.

use std::path::PathBuf;

use serde_json::Value;
use spo_api::{
    AdamW, Backend, Group, LogProbs, ModelSource, ModelSpec, Session, Statistics, TokenBatch, Vector,
};
use spo_backend_candle::Candle;

const MODELS: [&str; 5] = ["llama-tiny", "llama-tied-tiny", "qwen2-tiny", "qwen3-tiny", "gpt2-tiny"];

fn goldens() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/trl_dpo_runs.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn models() -> Option<PathBuf> {
    let shared = std::env::var_os("SPO_SHARED");
    if shared.is_none() {
        eprintln!("SKIPPED: set SPO_SHARED to the folder that holds models/ to compare with TRL");
    }
    shared.map(|shared| PathBuf::from(shared).join("models"))
}

fn open(folder: PathBuf) -> Box<dyn Session> {
    let spec = ModelSpec {
        source: ModelSource::Folder(folder),
        adapter: None,
        seed: 0,
        device: "cpu".into(),
        dtype: "f32".into(),
    };
    Candle::default().open(&spec).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn batch(rows: &[Value]) -> TokenBatch {
    let group = |row: &Value| Group {
        prompt: ids(&row["prompt_ids"]),
        completions: vec![ids(&row["chosen_ids"]), ids(&row["rejected_ids"])],
    };
    TokenBatch { groups: rows.iter().map(group).collect() }
}

#[test]
fn token_log_probs_are_those_of_transformers() {
    let Some(models) = models() else { return };
    let goldens = goldens();
    for name in MODELS {
        let golden = &goldens["models"][name];
        let expected = golden["token_log_probs"].as_array().unwrap();
        let rows = &golden["tokens"].as_array().unwrap()[..expected.len()];
        let mut session = open(models.join(name));
        let all = session.log_probs(&batch(rows), Statistics::default()).unwrap();
        let expected: Vec<f64> =
            expected.iter().flat_map(|row| [numbers(&row["chosen"]), numbers(&row["rejected"])]).flatten().collect();
        assert_eq!(all.values.len(), expected.len());
        let worst = all.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        eprintln!("{name}: {} token log-probs, worst difference {worst:.2e}", expected.len());
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

/// Sums of the completions: chosen and rejected of each pair.
fn sums(log_probs: &LogProbs) -> Vec<[f64; 2]> {
    let sum = |i: usize| log_probs.values[log_probs.offsets[i]..log_probs.offsets[i + 1]].iter().sum();
    (0..log_probs.offsets.len() / 2).map(|pair| [sum(2 * pair), sum(2 * pair + 1)]).collect()
}

#[test]
fn eight_steps_of_dpo_are_those_of_trl() {
    let Some(models) = models() else { return };
    let goldens = goldens();
    for name in MODELS {
        let golden = &goldens["models"][name];
        let run = &golden["train"];
        let number = |key: &str| run[key].as_f64().unwrap();
        let (beta, size) = (number("beta"), number("batch") as usize);
        let statistics = Statistics { entropy: true, greedy: true, ..Statistics::default() };
        let mut session = open(models.join(name));
        let mut reference = open(models.join(name));
        let mut worst: f64 = 0.0;
        for (i, step) in run["steps"].as_array().unwrap().iter().enumerate() {
            let batch = batch(&golden["tokens"].as_array().unwrap()[i * size..(i + 1) * size]);
            let anchors = sums(&reference.log_probs(&batch, Statistics::default()).unwrap());
            let mut seen = vec![];
            session.vectors().zero(Vector::GRADIENT).unwrap();
            let log_probs = session
                .backward(&batch, statistics, &mut |log_probs| {
                    let mut gradient = vec![0.0; log_probs.values.len()];
                    for (pair, ([c, r], [ac, ar])) in sums(log_probs).into_iter().zip(&anchors).enumerate() {
                        let margin = beta * ((c - ac) - (r - ar));
                        seen.push([(-margin).exp().ln_1p(), beta * (c - ac), beta * (r - ar), c, r]);
                        let slope = -beta / (1.0 + margin.exp()) / size as f64;
                        let o = &log_probs.offsets[2 * pair..];
                        gradient[o[0]..o[1]].fill(slope);
                        gradient[o[1]..o[2]].fill(-slope);
                    }
                    Ok(gradient)
                })
                .unwrap();
            let mean = |column: usize| seen.iter().map(|s| s[column]).sum::<f64>() / size as f64;
            let all = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let norm = session.vectors().norm(Vector::GRADIENT).unwrap();
            let figures = [
                ("loss", mean(0)),
                ("grad_norm", norm),
                ("rewards/chosen", mean(1)),
                ("rewards/rejected", mean(2)),
                ("rewards/margins", mean(1) - mean(2)),
                ("logps/chosen", mean(3)),
                ("logps/rejected", mean(4)),
                ("entropy", all(&log_probs.entropy)),
                ("mean_token_accuracy", all(&log_probs.greedy)),
            ];
            for (key, value) in figures {
                let expected = step[key].as_f64().unwrap();
                let difference = (value - expected).abs() / expected.abs().max(1e-2);
                worst = worst.max(difference);
                assert!(difference < 1e-3, "{name}, step {i}, {key}: {value}, TRL {expected}");
            }
            let hyper = AdamW {
                lr: number("lr") * (1.0 - i as f64 / 8.0),
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                exempt_bias_and_norm: false,
                gradient_scale: (number("max_grad_norm") / (norm + 1e-6)).min(1.0),
            };
            session.optimizer_step(&hyper).unwrap();
        }
        eprintln!("{name}: eight steps, worst relative difference {worst:.2e}");
    }
}
