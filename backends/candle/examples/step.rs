//! Seconds per training step and peak memory on a random model of SmolLM2-135M's shape:
//!
//! ```text
//! cargo run --release -p spo-backend-candle --example step [full|lora] [plain|checkpoint] [steps]
//! ```

use std::time::Instant;

use serde_json::json;
use spo_api::{AdamW, Adapter, Backend, Group, ModelSource, ModelSpec, Statistics, TokenBatch, Vector};
use spo_backend_candle::Candle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seconds of processor time so far, in this program and in the kernel for it; 0 where there is no /proc.
fn processor_seconds() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    [(); 2].map(|()| fields.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0) / 100.0)
}

fn main() -> spo_api::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let said = |word: &str| arguments.iter().any(|a| a == word);
    let steps = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(5);
    let config = json!({
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
        "initializer_range": 0.04, "tie_word_embeddings": true,
    });
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let adapter = Adapter { rank: 16, alpha: 32.0, targets: targets.map(str::to_owned).to_vec(), path: None };
    let spec = ModelSpec {
        source: ModelSource::Random(config),
        adapter: said("lora").then_some(adapter),
        seed: 0,
        device: "auto".into(),
        dtype: "f32".into(),
    };
    let mut session = Candle { checkpoint: said("checkpoint") }.open(&spec)?;
    let tokens = |n: u32, salt: u32| (0..n).map(|i| (i * 7919 + salt * 104_729) % 49152).collect();
    let groups = (0..4)
        .map(|i| Group {
            prompt: tokens(36 + 2 * i, i),
            completions: vec![tokens(60, 10 + i), tokens(60, 20 + i)],
        })
        .collect();
    let batch = TokenBatch { groups };
    let info = session.info();
    println!("{} parameters, {} trained, on {}", info.parameters, info.trainable, info.device);
    for step in 0..steps {
        let (start, before) = (Instant::now(), processor_seconds());
        session.vectors().zero(Vector::GRADIENT)?;
        session.backward(&batch, Statistics::default(), &mut |l| Ok(vec![1e-3; l.values.len()]))?;
        let hyper = AdamW {
            lr: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            exempt_bias_and_norm: false,
            gradient_scale: 1.0,
        };
        session.optimizer_step(&hyper)?;
        let (elapsed, after) = (start.elapsed().as_secs_f64(), processor_seconds());
        println!(
            "step {step}: {elapsed:.2} s, {:.0} tokens/s; processor {:.2} s, kernel {:.2} s",
            batch.tokens() as f64 / elapsed,
            after[0] - before[0],
            after[1] - before[1],
        );
    }
    let (start, before) = (Instant::now(), processor_seconds());
    session.log_probs(&batch, Statistics::default())?;
    let processor = processor_seconds()[0] - before[0];
    println!("scoring alone: {:.2} s; processor {processor:.2} s", start.elapsed().as_secs_f64());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("peak {line}"));
    }
    Ok(())
}
