//! What every engine must pass: each function panics where the engine is wrong.
//!
//! A backend's test suite calls them all with its engine. The models are tiny, random, and of every
//! architecture; nothing is read from elsewhere.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Value, json};
use spo_api::{
    AdamW, Adapter, Export, Group, ModelSource, ModelSpec, Sampling, Session, Statistics, Tangent,
    TokenBatch, Vector, VectorSpace,
};

use crate::decoder::Keep;
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

const VOCABULARY: u32 = 37;

/// A tiny configuration of every architecture and of every option that changes the computation.
pub fn configurations() -> Vec<(&'static str, Value)> {
    let llama = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
        "tie_word_embeddings": false,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
    });
    // Null takes a key away.
    let changed = |changes: Value| {
        let mut config = llama.clone();
        let fields = config.as_object_mut().expect("it is a table");
        for (key, value) in changes.as_object().into_iter().flatten() {
            fields.insert(key.clone(), value.clone());
        }
        fields.retain(|_, value| !value.is_null());
        config
    };
    vec![
        ("llama", llama.clone()),
        (
            "llama with biases, tied, linear rope",
            changed(json!({
                "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true,
                "rope_parameters": null, "rope_theta": 5000.0,
                "rope_scaling": { "type": "linear", "factor": 2.0 },
            })),
        ),
        (
            "llama 3 rope",
            changed(json!({
                "rope_parameters": {
                    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                },
            })),
        ),
        ("mistral", changed(json!({ "model_type": "mistral", "sliding_window": 100 }))),
        ("qwen2", changed(json!({ "model_type": "qwen2", "head_dim": null, "tie_word_embeddings": true }))),
        ("qwen3", changed(json!({ "model_type": "qwen3", "head_dim": 8 }))),
        (
            "gpt2",
            json!({
                "model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 24, "n_head": 4, "n_layer": 2,
                "n_positions": 128, "initializer_range": 0.3,
            }),
        ),
    ]
}

/// The specification of a model to be initialised at random.
pub fn random(config: &Value, adapter: Option<Adapter>) -> ModelSpec {
    ModelSpec {
        source: ModelSource::Random(config.clone()),
        adapter,
        seed: 7,
        device: "cpu".into(),
        dtype: "f32".into(),
    }
}

/// An adapter on every linear layer.
pub fn adapter() -> Adapter {
    Adapter { rank: 3, alpha: 6.0, targets: vec!["all-linear".into()], path: None }
}

/// Shared prompts, completions of very different lengths, among them 1 and 0 tokens, and some that begin alike,
/// end within another or are the same.
pub fn batch() -> TokenBatch {
    let tokens =
        |n: u32, salt: u32| -> Vec<u32> { (0..n).map(|i| (i * i * 5 + i * 3 + salt) % VOCABULARY).collect() };
    let alike = |end: u32| [tokens(4, 10), vec![end, 1, 2]].concat();
    TokenBatch {
        groups: vec![
            Group { prompt: tokens(5, 1), completions: vec![tokens(7, 2), tokens(1, 3), tokens(4, 4)] },
            Group { prompt: tokens(1, 5), completions: vec![tokens(3, 6), vec![]] },
            Group { prompt: tokens(70, 7), completions: vec![tokens(6, 8), tokens(20, 9)] },
            Group { prompt: tokens(3, 11), completions: vec![alike(6), alike(7)] },
            Group { prompt: tokens(3, 12), completions: vec![tokens(6, 13), tokens(2, 13)] },
            Group { prompt: tokens(2, 14), completions: vec![tokens(3, 15), tokens(3, 15)] },
        ],
    }
}

/// The same completions, each with a prompt of its own.
fn unshared(batch: &TokenBatch) -> TokenBatch {
    let alone = |group: &Group| {
        let prompt = group.prompt.clone();
        let one = move |c: &Vec<u32>| Group { prompt: prompt.clone(), completions: vec![c.clone()] };
        group.completions.iter().map(one).collect::<Vec<_>>()
    };
    TokenBatch { groups: batch.groups.iter().flat_map(alone).collect() }
}

/// Weights of the loss `sum_i w_i log_prob_i`: of both signs, some zero.
fn weights(n: usize) -> Vec<f64> {
    (0..n).map(|i| [0.7, -1.1, 0.0, 0.4, 1.3, -0.2][i % 6]).collect()
}

/// Opens a model, and moves an adapter off its beginning, where B = 0 hides half of the gradient.
pub fn open<E: Engine>(engine: E, spec: &ModelSpec, options: Options) -> TransformerSession<E> {
    let mut session = TransformerSession::open(engine, spec, options).expect("a valid model");
    if spec.adapter.is_some() {
        let values = wave(session.dimension(), 0.2);
        session.write(Vector::PARAMETERS, &values).expect("as many values as parameters");
    }
    session
}

fn wave(n: usize, size: f64) -> Vec<f32> {
    (0..n).map(|i| (size * (i as f64 * 0.7 + (i as f64).sqrt()).sin()) as f32).collect()
}

fn loss<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) -> f64 {
    let log_probs = session.log_probs(batch, Statistics::default()).expect("a valid batch");
    log_probs.values.iter().zip(weights(log_probs.values.len())).map(|(l, w)| l * w).sum()
}

/// The gradient, and the log-probs it is of.
pub fn gradient<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) -> (Vec<f32>, Vec<f64>) {
    session.zero(Vector::GRADIENT).expect("a gradient");
    let log_probs = session
        .backward(batch, Statistics::default(), &mut |l| Ok(weights(l.values.len())))
        .expect("a valid batch");
    (session.read(Vector::GRADIENT).expect("a gradient"), log_probs.values)
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn distance(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

fn worst(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Every model to check: each configuration trained in full, and by an adapter.
fn cases() -> Vec<(String, ModelSpec)> {
    let both = |(name, config): (&str, Value)| {
        [
            (format!("{name}, full"), random(&config, None)),
            (format!("{name}, adapter"), random(&config, Some(adapter()))),
        ]
    };
    configurations().into_iter().flat_map(both).collect()
}

/// Every trained tensor of every architecture has the gradient that central differences find, along the
/// gradient itself and along an arbitrary direction.
pub fn gradients_agree_with_finite_differences<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let batch = batch();
        let (gradient, _) = gradient(&mut session, &batch);
        let start = session.read(Vector::PARAMETERS).expect("parameters");
        let trained: Vec<(String, usize)> = session.trained().map(|(n, len)| (n.to_owned(), len)).collect();
        let mut first = 0;
        for (tensor, len) in trained {
            let own = &gradient[first..first + len];
            let size = norm(own);
            let arbitrary = wave(len, 1.0);
            for (direction, scale) in [(own, 1.0 / size), (&arbitrary, 1.0 / norm(&arbitrary))] {
                let slope: f64 =
                    own.iter().zip(direction).map(|(&g, &d)| f64::from(g) * f64::from(d) * scale).sum();
                let mut at = |step: f64| {
                    let mut moved = start.clone();
                    for (value, d) in moved[first..first + len].iter_mut().zip(direction) {
                        *value += (step * scale * f64::from(*d)) as f32;
                    }
                    session.write(Vector::PARAMETERS, &moved).expect("as many values as parameters");
                    loss(&mut session, &batch)
                };
                // Fourth order: a step long enough for the noise of f32 is too long for second order.
                let h = 4e-3;
                let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                let error = (difference - slope).abs();
                assert!(
                    size > 1e-6 && error < 1e-2 * size.max(0.05),
                    "{name}: {tensor}: gradient {slope}, finite difference {difference}, norm {size}"
                );
            }
            first += len;
        }
    }
}

/// For engines that record: exact Hessian-vector products are the differences of gradients, the derivatives beside
/// them those of log-probs, and nothing is left behind that a later pass would notice.
pub fn hessian_vector_products_agree_with_finite_differences<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let start = session.read(Vector::PARAMETERS).expect("parameters");
        let (expected_gradient, expected) = gradient(&mut session, &batch());
        let [v, product] = [(); 2].map(|()| session.allocate().expect("memory"));
        let direction = wave(start.len(), 1.0);
        session.write(v, &direction).expect("as many values as parameters");
        let Tangent { log_probs, derivatives } = session
            .hessian_vector(&batch(), &mut |l| Ok(weights(l.values.len())), v, product)
            .expect("an engine that records");
        let exact = session.read(product).expect("a vector");
        assert!(worst(&log_probs.values, &expected) < 1e-5, "{name}");
        assert_eq!(
            gradient(&mut session, &batch()),
            (expected_gradient, expected.clone()),
            "{name}: afterwards"
        );
        let mut at = |step: f64| {
            let scale = step / norm(&direction);
            let moved =
                start.iter().zip(&direction).map(|(p, d)| (f64::from(*p) + scale * f64::from(*d)) as f32);
            session.write(Vector::PARAMETERS, &moved.collect::<Vec<_>>()).expect("as many values");
            gradient(&mut session, &batch())
        };
        // Fourth order, as for gradients.
        let h = 2e-2;
        let sides = [at(h), at(-h), at(2.0 * h), at(-2.0 * h)];
        let factor = norm(&direction) / (12.0 * h);
        let slope = |[a, b, c, d]: [f64; 4]| factor * (8.0 * (a - b) - (c - d));
        let of_gradient = |i: usize| slope(sides.each_ref().map(|(gradient, _)| gradient[i].into())) as f32;
        let differences: Vec<f32> = (0..start.len()).map(of_gradient).collect();
        let error = distance(&exact, &differences) / norm(&differences);
        assert!(error < 1e-3, "{name}: {error}");
        let of_log_prob = |i: usize| slope(sides.each_ref().map(|(_, log_probs)| log_probs[i]));
        let along: Vec<f64> = (0..expected.len()).map(of_log_prob).collect();
        let greatest = along.iter().fold(0.0, |most, x| x.abs().max(most));
        let error = worst(&derivatives, &along) / greatest;
        assert!(error < 1e-3, "{name}: log-probs along v: {error}");
    }
}

/// Sharing a prompt changes neither log-probs nor gradients.
pub fn sharing_a_prompt_is_exact<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let (shared, log_probs) = gradient(&mut session, &batch());
        let (apart, expected) = gradient(&mut session, &unshared(&batch()));
        let (forward, backward) = (worst(&log_probs, &expected), distance(&shared, &apart) / norm(&apart));
        assert!(forward < 1e-5 && backward < 1e-4, "{name}: log-probs {forward}, gradient {backward}");
    }
}

/// Two engines compute the same log-probs, statistics and gradients.
pub fn engines_agree<A: Engine, B: Engine>(one: impl Fn() -> A, other: impl Fn() -> B) {
    let all = Statistics { entropy: true, collision: true, greedy: true };
    for (name, spec) in cases() {
        let mut one = open(one(), &spec, Options::default());
        let mut other = open(other(), &spec, Options::default());
        let ((a, _), (b, _)) = (gradient(&mut one, &batch()), gradient(&mut other, &batch()));
        let error = distance(&a, &b) / norm(&b);
        assert!(error < 1e-4, "{name}: gradient {error}");
        let (a, b) =
            (one.log_probs(&batch(), all).expect("valid"), other.log_probs(&batch(), all).expect("valid"));
        assert_eq!(a.offsets, b.offsets);
        let error = worst(&a.values, &b.values)
            .max(worst(&a.entropy, &b.entropy))
            .max(worst(&a.collision, &b.collision))
            .max(worst(&a.greedy, &b.greedy));
        assert!(error < 5e-5, "{name}: statistics {error}");
    }
}

/// A half-precision engine computes what a full one does, as nearly as its digits allow.
pub fn half_stays_near_full<A: Engine, B: Engine>(full: impl Fn() -> A, half: impl Fn() -> B) {
    for (name, config) in configurations() {
        for adapter in [None, Some(adapter())] {
            let spec = random(&config, adapter);
            let (full, expected) = gradient(&mut open(full(), &spec, Options::default()), &batch());
            let (half, log_probs) = gradient(&mut open(half(), &spec, Options::default()), &batch());
            let worst = log_probs.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
            };
            let cosine = dot(&half, &full) / (dot(&half, &half) * dot(&full, &full)).sqrt();
            assert!(worst < 1.0 && cosine > 0.95, "{name}: log-probs {worst}, cosine {cosine}");
        }
    }
}

/// Computing blocks again instead of keeping their insides changes no bit; nor does doing it all twice.
pub fn recomputation_is_exact<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let kept = gradient(&mut open(engine(), &spec, Options::default()), &batch());
        let mut session = open(engine(), &spec, Options { checkpoint: true, ..Options::default() });
        for _ in 0..2 {
            assert_eq!(gradient(&mut session, &batch()), kept, "{name}");
        }
        // Within a budget, it is done for the batches that would exceed it.
        let gib = session.forecast(20) as f64 / f64::from(1 << 30);
        let budget = Options { memory: Some(gib), ..Options::default() };
        let mut session = open(engine(), &spec, budget);
        assert_eq!((session.keep(20), session.keep(21)), (Keep::All, Keep::Inputs), "{name}");
        assert_eq!(gradient(&mut session, &batch()), kept, "{name}");
    }
}

/// Statistics are those of the distribution: against its definition, from the log-probs of all tokens.
pub fn statistics_follow_their_definitions<E: Engine>(engine: impl Fn() -> E) {
    let all = Statistics { entropy: true, collision: true, greedy: true };
    let mut session = open(engine(), &random(&configurations()[0].1, None), Options::default());
    let group = Group { prompt: vec![3, 1, 4], completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
    let scores = session.log_probs(&TokenBatch { groups: vec![group] }, all).expect("a valid batch");
    let p: Vec<f64> = scores.values.iter().map(|l| l.exp()).collect();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    let entropy: f64 = -p.iter().zip(&scores.values).map(|(p, l)| p * l).sum::<f64>();
    let collision = p.iter().map(|p| p * p).sum::<f64>().ln();
    let best = (0..p.len()).max_by(|&i, &j| p[i].total_cmp(&p[j])).expect("tokens");
    for i in 0..p.len() {
        assert!((scores.entropy[i] - entropy).abs() < 1e-5, "{} {entropy}", scores.entropy[i]);
        assert!((scores.collision[i] - collision).abs() < 1e-5, "{} {collision}", scores.collision[i]);
        assert_eq!(scores.greedy[i], f64::from(u8::from(i == best)));
    }
    let none = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
    assert!(none.entropy.is_empty() && none.collision.is_empty() && none.greedy.is_empty());
}

/// Parameter space is a vector space, handles are safe to mix, and the model follows its parameters.
pub fn vectors_behave<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&configurations()[0].1, None), Options::default());
    let start = session.read(Vector::PARAMETERS).expect("parameters");
    let before = loss(&mut session, &batch());
    let space = session.vectors();
    let (x, y) = (space.allocate().expect("memory"), space.allocate().expect("memory"));
    assert!(x != y && x != Vector::PARAMETERS && x != Vector::GRADIENT);
    assert_eq!(space.norm(x).expect("a vector"), 0.0);
    space.copy(Vector::PARAMETERS, x).expect("vectors");
    space.copy(x, y).expect("vectors");
    space.axpy(-3.0, x, y).expect("vectors"); // y = -2 x
    space.axpy(0.5, y, y).expect("vectors"); // y = -3 x
    let (xx, xy) = (space.dot(x, x).expect("vectors"), space.dot(x, y).expect("vectors"));
    let exact: f64 = start.iter().map(|&v| f64::from(v).powi(2)).sum();
    assert!(
        (xx - exact).abs() < 1e-6 * exact && (xy + 3.0 * exact).abs() < 1e-5 * exact,
        "{xx} {xy} {exact}"
    );
    space.scale(0.5, Vector::PARAMETERS).expect("a vector");
    assert!(loss(&mut session, &batch()) != before);
    let space = session.vectors();
    space.copy(x, Vector::PARAMETERS).expect("vectors");
    space.release(y);
    assert!(space.norm(y).is_err() && space.norm(Vector(99)).is_err());
    let z = space.allocate().expect("memory");
    assert!(z != x && space.norm(z).expect("a vector") == 0.0);
    assert_eq!(session.read(Vector::PARAMETERS).expect("parameters"), start);
    assert_eq!(loss(&mut session, &batch()), before);
}

/// The optimizer against its formula, in f64, over three steps.
pub fn adamw_follows_its_formula<E: Engine>(engine: impl Fn() -> E) {
    let config = &configurations()[1].1;
    let mut session = open(engine(), &random(config, None), Options::default());
    let hyper = AdamW {
        lr: 0.01,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-3,
        weight_decay: 0.3,
        exempt_bias_and_norm: true,
        gradient_scale: 0.5,
    };
    let decays: Vec<bool> = session
        .trained()
        .flat_map(|(name, n)| std::iter::repeat_n(!name.contains("norm") && !name.ends_with("bias"), n))
        .collect();
    assert!(decays.contains(&false) && decays.contains(&true));
    for round in 0..2 {
        let start = session.read(Vector::PARAMETERS).expect("parameters");
        let mut p: Vec<f64> = start.iter().map(|&v| v.into()).collect();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for t in 1..=3 {
            let gradient = wave(p.len(), 0.1 * f64::from(t));
            session.write(Vector::GRADIENT, &gradient).expect("as many values as parameters");
            session.optimizer_step(&hyper).expect("a step");
            for i in 0..p.len() {
                let g = 0.5 * f64::from(gradient[i]);
                m[i] = 0.8 * m[i] + 0.2 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.8f64.powi(t)), v[i] / (1.0 - 0.95f64.powi(t)));
                let decay = if decays[i] { 0.3 } else { 0.0 };
                p[i] -= 0.01 * (decay * p[i] + m_hat / (v_hat.sqrt() + 1e-3));
            }
        }
        let got = session.read(Vector::PARAMETERS).expect("parameters");
        let worst = got.iter().zip(&p).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-6, "round {round}: {worst}");
        session.reset_optimizer();
    }
}

/// With a cache, or reading everything again for every token: the same continuations, whatever else is
/// continued beside them; stop tokens end them and are kept.
pub fn generation_is_that_of_recomputation<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let prompts = vec![vec![5, 9, 2], vec![1], vec![8; 30], vec![4, 4, 30, 12]];
        let greedy = Sampling { max_new_tokens: 9, temperature: 0.0, top_p: 1.0, seed: 0, stop: Vec::new() };
        let together = session.generate(&prompts, &greedy).expect("valid prompts");
        for (prompt, new) in prompts.iter().zip(&together) {
            assert_eq!(new.len(), 9);
            let greedy = Statistics { greedy: true, ..Statistics::default() };
            let group = Group { prompt: prompt.clone(), completions: vec![new.clone()] };
            let scores = session.log_probs(&TokenBatch { groups: vec![group] }, greedy).expect("valid");
            assert!(scores.greedy.iter().all(|&g| g == 1.0), "{name}: {new:?} {:?}", scores.greedy);
        }
        let stop = together[0][1];
        let stopped = session
            .generate(&prompts[..1], &Sampling { stop: vec![stop], ..greedy.clone() })
            .expect("valid prompts");
        let end = together[0].iter().position(|&t| t == stop).expect("it is the second") + 1;
        assert_eq!(stopped[0], together[0][..end], "{name}");
        let nucleus = Sampling { temperature: 1.0, top_p: 1e-9, seed: 3, ..greedy };
        assert_eq!(session.generate(&prompts, &nucleus).expect("valid prompts"), together, "{name}");
    }
}

/// Samples follow the distribution that temperature and top_p make, and repeat with their seed.
pub fn sampling_follows_the_distribution<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&configurations()[0].1, None), Options::default());
    let prompt = vec![3, 1, 4];
    let group = Group { prompt: prompt.clone(), completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
    let scores =
        session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).expect("valid");
    let (temperature, top_p) = (0.7, 0.8);
    let mut p: Vec<(usize, f64)> =
        scores.values.iter().map(|l| (l / temperature).exp()).enumerate().collect();
    let total: f64 = p.iter().map(|(_, p)| p).sum();
    p.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut mass = 0.0;
    p.retain(|(_, q)| {
        let wanted = mass < top_p * total;
        mass += q;
        wanted
    });
    let kept: f64 = p.iter().map(|(_, p)| p).sum();
    let expected: BTreeMap<u32, f64> = p.iter().map(|&(t, q)| (t as u32, q / kept)).collect();

    let n = 4000;
    let sampling = Sampling { max_new_tokens: 1, temperature, top_p, seed: 11, stop: Vec::new() };
    let drawn = session.generate(&vec![prompt; n], &sampling).expect("valid prompts");
    let mut counts = BTreeMap::<u32, f64>::new();
    drawn.iter().for_each(|new| *counts.entry(new[0]).or_default() += 1.0 / n as f64);
    assert!(counts.keys().all(|t| expected.contains_key(t)), "{counts:?} {expected:?}");
    for (token, p) in expected {
        let share = counts.get(&token).copied().unwrap_or(0.0);
        let deviation = (p * (1.0 - p) / n as f64).sqrt();
        assert!(
            (share - p).abs() < 5.0 * deviation + 1e-3,
            "token {token}: {share} of the samples, expected {p}"
        );
    }
}

/// What is saved opens again, to the last bit; an adapter merged into the weights is the adapter on.
pub fn saving_and_opening_are_inverse<E: Engine>(engine: impl Fn() -> E, folder: &std::path::Path) {
    for (i, (name, spec)) in cases().into_iter().enumerate() {
        let mut session = open(engine(), &spec, Options::default());
        let before = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        let model = folder.join(format!("{i}-model"));
        std::fs::create_dir(&model).expect("a folder");
        session.save(&model, Export::Model).expect("a writable folder");
        let mut again = spec.clone();
        again.source = ModelSource::Folder(model);
        again.adapter = None;
        let mut again = open(engine(), &again, Options::default());
        let after = again.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        match &spec.adapter {
            None => assert_eq!(before, after, "{name}"),
            Some(adapter) => {
                let error = worst(&before.values, &after.values);
                assert!(error < 2e-5, "{name}: merged {error}");
                let saved = folder.join(format!("{i}-adapter"));
                std::fs::create_dir(&saved).expect("a folder");
                session.save(&saved, Export::Adapter).expect("a writable folder");
                let mut resumed = spec.clone();
                resumed.adapter = Some(Adapter { path: Some(saved), ..adapter.clone() });
                let mut resumed = TransformerSession::open(engine(), &resumed, Options::default())
                    .expect("a valid adapter");
                let after = resumed.log_probs(&batch(), Statistics::default()).expect("a valid batch");
                assert_eq!(before, after, "{name}");
            }
        }
    }
}

/// Frozen matrices that come in bf16 stay so: the same numbers as in f32, in less memory.
pub fn frozen_halves_lose_nothing<E: Engine>(engine: impl Fn() -> E, folder: &std::path::Path) {
    for (i, (name, config)) in configurations().into_iter().enumerate() {
        let save = |session: &mut TransformerSession<E>, dtype: Dtype| {
            let model = folder.join(format!("{i}-{dtype:?}"));
            std::fs::create_dir(&model).expect("a folder");
            session.model.stored.iter_mut().for_each(|(_, stored)| *stored = dtype);
            session.save(&model, Export::Model).expect("a writable folder");
            ModelSpec { source: ModelSource::Folder(model), ..random(&config, None) }
        };
        let half = save(&mut open(engine(), &random(&config, None), Options::default()), Dtype::BF16);
        let full = save(&mut open(engine(), &half, Options::default()), Dtype::F32);
        let [(half, of_half), (full, of_full)] = [half, full].map(|spec| {
            let spec = ModelSpec { adapter: Some(adapter()), ..spec };
            let mut session = open(engine(), &spec, Options::default());
            (session.forecast(100), gradient(&mut session, &batch()))
        });
        assert!(half < full, "{name}: {half} bytes, {full} in f32");
        let error = distance(&of_half.0, &of_full.0) / norm(&of_full.0);
        assert!(error < 1e-6, "{name}: gradient {error}");
        let error = worst(&of_half.1, &of_full.1);
        assert!(error < 1e-6, "{name}: log-probs {error}");
    }
}

/// A state that is taken back, here or in another session, continues to the last bit; a damaged one, or one
/// of another model, is refused and changes nothing.
pub fn a_restored_state_continues_exactly<E: Engine>(
    engine: impl Fn() -> E,
    options: Options,
    folder: &std::path::Path,
) {
    let step = AdamW {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.1,
        exempt_bias_and_norm: true,
        gradient_scale: 1.0,
    };
    let train = |session: &mut TransformerSession<E>| {
        gradient(session, &batch());
        session.optimizer_step(&step).expect("a step");
    };
    let mut other: Option<std::path::PathBuf> = None;
    for (i, (name, spec)) in cases().into_iter().enumerate() {
        let everything = |session: &TransformerSession<E>, kept: Vector| {
            [Vector::PARAMETERS, kept].map(|v| session.read(v).expect("a vector"))
        };
        let file = folder.join(format!("{i}.state"));
        let mut session = open(engine(), &spec, options);
        let fresh = session.read(Vector::PARAMETERS).expect("parameters");
        train(&mut session);
        let released = session.allocate().expect("memory");
        let kept = session.allocate().expect("memory");
        session.copy(Vector::PARAMETERS, kept).expect("vectors");
        session.release(released);
        train(&mut session);
        session.save_state(&file).expect("a writable folder");
        train(&mut session);
        let expected = everything(&session, kept);

        let mut again = open(engine(), &spec, options);
        let stray = again.allocate().expect("memory");
        if let Some(other) = &other {
            assert!(again.restore_state(other).is_err(), "{name}: a state of another model");
        }
        let whole = std::fs::read(&file).expect("it was written");
        let damaged = folder.join(format!("{i}.damaged"));
        std::fs::write(&damaged, &whole[..whole.len() - 1]).expect("a writable folder");
        assert!(again.restore_state(&damaged).is_err(), "{name}: a state that was cut off");
        assert_eq!(again.read(Vector::PARAMETERS).expect("parameters"), fresh, "{name}: nothing is changed");
        for session in [&mut again, &mut session] {
            session.restore_state(&file).expect("its own state");
            train(session);
            assert_eq!(everything(session, kept), expected, "{name}");
        }
        assert!(kept == stray || again.read(stray).is_err(), "{name}: a vector of before is still there");

        // Without moments.
        session.reset_optimizer();
        session.save_state(&file).expect("a writable folder");
        train(&mut session);
        again.restore_state(&file).expect("its own state");
        train(&mut again);
        assert_eq!(everything(&again, kept), everything(&session, kept), "{name}: moments were forgotten");
        other = Some(file);
    }
}

/// Training an adapter moves nothing else, and keeps no gradient of anything else.
pub fn adapters_leave_the_rest_alone<E: Engine>(engine: impl Fn() -> E) {
    for (name, config) in configurations() {
        let mut bare = open(engine(), &random(&config, None), Options::default());
        let expected = bare.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        let spec = random(&config, Some(adapter()));
        let mut session =
            TransformerSession::open(engine(), &spec, Options::default()).expect("a valid model");
        assert!(session.trained().all(|(tensor, _)| tensor.contains(".lora_")), "{name}");
        assert_eq!(session.info().parameters, bare.info().parameters + session.info().trainable);
        let fresh = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert_eq!(fresh, expected, "{name}: an adapter begins as the identity");

        gradient(&mut session, &batch());
        let step = AdamW {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            exempt_bias_and_norm: false,
            gradient_scale: 1.0,
        };
        session.optimizer_step(&step).expect("a step");
        let moved = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert!(moved != expected, "{name}");
        session.zero(Vector::PARAMETERS).expect("a vector");
        let off = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert_eq!(off, expected, "{name}: without the adapter");
    }
}
