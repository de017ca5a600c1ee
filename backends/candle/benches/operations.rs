//! The operations in which a training step spends its time, at SmolLM2-135M's widths: 640 packed tokens.

use std::hint::black_box;

use candle_core::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use spo_api::{Group, Statistics, TokenBatch};
use spo_backend_candle::FusedEngine;
use spo_transformer::{
    Activation, AdamWStep, Attention, BLOCK, Blockwise, Cluster, Engine, Head, Heads, Mat, Memory, Norm,
    NormKind, Options, Pairs, Precision, Rotation, Span, conformance,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 640;
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49152;
const HEADS: Heads = Heads { heads: 9, kv_heads: 3, dim: 64 };

/// Four pairs of 40 + 2 x 60 tokens.
fn clusters() -> Vec<Cluster> {
    let cluster = |i: usize| {
        let start = 160 * i;
        let prompt = start..start + 40;
        let own = |from: usize| Span {
            queries: start + from..start + from + 60,
            prefix: prompt.clone(),
            own: start + from..start + from + 60,
        };
        let first = Span { queries: prompt.clone(), prefix: start..start, own: prompt.clone() };
        Cluster {
            queries: start..start + 160,
            keys: start..start + 160,
            spans: vec![first, own(40), own(100)],
        }
    };
    (0..4).map(cluster).collect()
}

fn operations(c: &mut Criterion) {
    let e = FusedEngine::default();
    let matrix = |rows: usize, columns: usize| -> Tensor {
        let values = (0..rows * columns).map(|i| ((i % 1009) as f32 / 504.5 - 1.0) * 0.1).collect();
        e.memory().upload(values, &[rows, columns], Precision::Compute).unwrap()
    };
    let gain = e.memory().upload(vec![1.0; HIDDEN], &[HIDDEN], Precision::Full).unwrap();
    let (x, w, inner) = (matrix(TOKENS, HIDDEN), matrix(INNER, HIDDEN), matrix(TOKENS, INNER));
    let d_w = matrix(INNER, HIDDEN);

    c.bench_function("linear", |b| b.iter(|| e.linear(black_box(&x), &w, None).unwrap()));
    c.bench_function("linear backward, input", |b| {
        b.iter(|| e.matmul(Mat::new(black_box(&inner)), Mat::new(&w)).unwrap());
    });
    c.bench_function("linear backward, weight", |b| {
        b.iter(|| e.matmul_add(&d_w, 1.0, Mat::t(black_box(&inner)), Mat::new(&x)).unwrap());
    });
    let norm = Norm { kind: NormKind::Rms, epsilon: 1e-5, offset: 0.0, weight: &gain, bias: None };
    c.bench_function("rms_norm", |b| b.iter(|| e.norm(black_box(&x), norm).unwrap()));
    c.bench_function("rms_norm backward", |b| {
        b.iter(|| e.norm_backward(black_box(&x), norm, &x, [None, None]).unwrap());
    });
    let f = Activation::Silu;
    c.bench_function("swiglu", |b| b.iter(|| e.gate(f, black_box(&inner), &inner).unwrap()));
    c.bench_function("swiglu backward", |b| {
        b.iter(|| e.gate_backward(f, black_box(&inner), &inner, &inner).unwrap());
    });
    let table = || matrix(TOKENS, HEADS.dim / 2);
    let rotation = Rotation { cos: table(), sin: table(), dim: HEADS.dim, pairs: Pairs::Halves };
    c.bench_function("rope", |b| b.iter(|| e.rope(black_box(&x), &rotation, false).unwrap()));

    let clusters = clusters();
    let kv = matrix(TOKENS, HEADS.kv_heads * HEADS.dim);
    let how = Attention::plain(HEADS);
    let out = e.attention(&x, &kv, &kv, &how, &clusters).unwrap();
    c.bench_function("attention", |b| {
        b.iter(|| e.attention(black_box(&x), &kv, &kv, &how, &clusters).unwrap());
    });
    c.bench_function("attention backward", |b| {
        b.iter(|| e.attention_backward([black_box(&x), &kv, &kv], &out, &x, &how, &clusters).unwrap());
    });

    let table = matrix(VOCABULARY, HIDDEN);
    let head = Head { weight: &table, blocks: None, bias: None, low_rank: None, cap: None };
    let hidden = matrix(128, HIDDEN);
    let targets: Vec<u32> = (0..128).map(|i| i * 311).collect();
    let scores = e.score(&hidden, head, &targets, Statistics::default()).unwrap();
    let upstream = vec![0.5; 128];
    c.bench_function("head, 128 tokens", |b| {
        b.iter(|| e.score(black_box(&hidden), head, &targets, Statistics::default()).unwrap());
    });
    c.bench_function("head backward, 128 tokens", |b| {
        b.iter(|| {
            let normalizers = &scores.log_normalizers;
            e.score_backward(black_box(&hidden), head, &targets, normalizers, &upstream, [None; 3]).unwrap()
        });
    });

    let vector = || matrix(INNER, HIDDEN);
    let (p, g, m, v) =
        (vector(), vector(), vector(), e.memory().zeros(&[INNER, HIDDEN], Precision::Full).unwrap());
    let step = AdamWStep {
        lr: 1e-5,
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
        count: 10,
    };
    c.bench_function("adamw, 885k parameters", |b| {
        b.iter(|| e.adamw(&p, black_box(&g), [&m, &v], &step).unwrap());
    });
    let blocks = || Blockwise {
        codes: e.memory().zeros(&[INNER * HIDDEN], Precision::Byte).unwrap(),
        scales: e.memory().zeros(&[INNER * HIDDEN / BLOCK], Precision::Full).unwrap(),
    };
    let (first, second) = (blocks(), blocks());
    c.bench_function("adamw in 8 bits, 885k parameters", |b| {
        b.iter(|| e.adamw_8bit(&p, black_box(&g), [first.as_ref(), second.as_ref()], &step).unwrap());
    });
    c.bench_function("dot, 885k parameters", |b| b.iter(|| e.dot(black_box(&p), &g).unwrap()));
}

/// Laying out 64 pairs of 128 + 2 x 192 tokens, of which each two answers begin alike.
fn packing(c: &mut Criterion) {
    let config = json!({
        "model_type": "llama", "vocab_size": 1024, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    });
    let engine = FusedEngine::default();
    let spec = conformance::random(&config, None);
    let session = conformance::open(engine, &spec, Options::default());
    let tokens = |n: u32, salt: u32| (0..n).map(|i| (i * i + salt) % 1024).collect::<Vec<_>>();
    let pair = |i: u32| {
        let answer = |salt| [tokens(8, i), tokens(184, salt)].concat();
        Group { prompt: tokens(128, i), completions: vec![answer(i + 1), answer(i + 2)] }
    };
    let batch = TokenBatch { groups: (0..64).map(pair).collect() };
    c.bench_function("packing, 64 pairs", |b| b.iter(|| session.packed(black_box(&batch)).unwrap()));
}

criterion_group!(benches, operations, packing);
criterion_main!(benches);
