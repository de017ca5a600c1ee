//! The optimizers that a session runs itself.

use serde_json::json;
use spo_api::{Kernel, LogProbs, Optimizer, Session, Statistics, Update, Vector, VectorSpace};

use super::models::{adapter, configurations, random, tiny, wide};
use super::support::{batch, gradient, open, wave, weights};
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// AdamW's kernel with these hyper-parameters.
pub(super) fn adamw(weight_decay: f64, decay_bias_and_norm: bool) -> Kernel {
    let config = json!({
        "betas": [0.8, 0.95], "epsilon": 1e-3, "weight_decay": weight_decay,
        "decay_bias_and_norm": decay_bias_and_norm,
    });
    Kernel { name: "adamw".into(), config }
}

/// The same in 8 bits.
pub(super) fn in_8_bits(kernel: Kernel) -> Kernel {
    Kernel { name: "adamw-8bit".into(), ..kernel }
}

/// A session whose model has every kind of parameter that can be exempt from weight decay.
fn session<E: Engine>(engine: E) -> TransformerSession<E> {
    let (_, config) = configurations()
        .into_iter()
        .find(|(name, _)| name.contains("biases"))
        .expect("a model with biases and norms");
    open(engine, &random(&config, None), Options::default())
}

/// AdamW agrees with its formula, in f64, over three updates. Runs twice, since adopting an optimizer again
/// resets it.
pub fn adamw_follows_its_formula<E: Engine>(engine: impl Fn() -> E) {
    let mut session = session(engine());
    let decays: Vec<bool> = session
        .trained()
        .flat_map(|(name, n)| std::iter::repeat_n(!name.contains("norm") && !name.ends_with("bias"), n))
        .collect();
    assert!(decays.contains(&false) && decays.contains(&true));
    for round in 0..2 {
        assert!(session.adopt_optimizer(Some(&adamw(0.3, false))).expect("a kernel"));
        let start = session.read(Vector::PARAMETERS).expect("parameters");
        let mut p: Vec<f64> = start.iter().map(|&v| v.into()).collect();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for t in 1..=3 {
            let gradient = wave(p.len(), 0.1 * f64::from(t));
            session.write(Vector::GRADIENT, &gradient).expect("as many values as parameters");
            let update = Update { lr: 0.01, gradient_scale: 0.5, count: t as u64 };
            session.optimize(&update).expect("an update");
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
    }
}

/// The kernel updates the parameters as the same optimizer does with vector operations.
pub fn the_kernel_is_its_rule<E: Engine>(engine: impl Fn() -> E) {
    let config = json!({ "betas": [0.9, 0.99], "weight_decay": 0.1, "decay_bias_and_norm": false });
    let rule: spo_objectives::optimizers::AdamW = serde_json::from_value(config).expect("hyper-parameters");
    let mut session = session(engine());
    let start = session.read(Vector::PARAMETERS).expect("parameters");
    let gradients: Vec<_> = (1..=10).map(|t| wave(start.len(), 0.1 * f64::from(t))).collect();
    let mut run = |update: &mut dyn FnMut(&mut TransformerSession<E>, &Update)| {
        session.write(Vector::PARAMETERS, &start).expect("as many values as parameters");
        for (count, gradient) in (1..).zip(&gradients) {
            session.write(Vector::GRADIENT, gradient).expect("as many values as parameters");
            update(&mut session, &Update { lr: 1e-3, gradient_scale: 0.7, count });
        }
        session.read(Vector::PARAMETERS).expect("parameters")
    };
    let mut state = Vec::new();
    let by_vectors = run(&mut |session, update| {
        if state.is_empty() {
            state = (0..rule.states()).map(|_| session.vectors().allocate().expect("memory")).collect();
        }
        rule.step(session.vectors(), &state, update).expect("an update");
    });
    let by_kernel = run(&mut |session, update| {
        if update.count == 1 {
            assert!(session.adopt_optimizer(rule.kernel().as_ref()).expect("a kernel"));
        }
        session.optimize(update).expect("an update");
    });
    for ((kernel, vectors), start) in by_kernel.iter().zip(&by_vectors).zip(&start) {
        let (error, moved) = ((kernel - vectors).abs(), (kernel - start).abs());
        assert!(error < 1e-4 * moved + 1e-7, "{kernel} and {vectors}, from {start}");
    }
}

/// Updating each parameter within the backward pass gives the bits of a backward pass and an update, and the same norm. It does
/// so if activations are recomputed, if no token has an influence, and if the whole gradient is asked for in between.
pub fn updates_in_the_backward_pass_are_the_same<E: Engine>(engine: impl Fn() -> E) {
    let models = configurations().into_iter().chain([("wide", wide())]);
    for ((name, config), checkpoint) in models.zip([false, true].into_iter().cycle()) {
        let kernel = adamw(0.1, false);
        let kernel = if name == "wide" { in_8_bits(kernel) } else { kernel };
        let open = || {
            let options = Options { checkpoint, ..Options::default() };
            let mut session = open(engine(), &random(&config, None), options);
            assert!(session.info().updates_in_backward);
            assert!(session.adopt_optimizer(Some(&kernel)).expect("a kernel"));
            session
        };
        let (mut whole, mut released) = (open(), open());
        let before = released.forecast(0);
        for count in 1..=4 {
            let update = Update { lr: 1e-2, gradient_scale: 1.0, count };
            let influence = if count == 2 { 0.0 } else { 1.0 };
            let mut upstream =
                |seen: &LogProbs| Ok(weights(seen.values.len()).into_iter().map(|w| influence * w).collect());
            whole.zero(Vector::GRADIENT).expect("a gradient");
            let seen = whole.backward(&batch(), Statistics::default(), &mut upstream).expect("a pass");
            let norm = whole.norm(Vector::GRADIENT).expect("a norm");
            whole.optimize(&update).expect("an update");
            let also =
                released.backward_and_optimize(&batch(), Statistics::default(), &mut upstream, &update);
            let (also, same_norm) = also.expect("a pass with an update");
            assert_eq!(also, seen, "{name}, step {count}");
            assert!((same_norm - norm).abs() <= 1e-6 * norm, "{name}: {same_norm} and {norm}");
            let read = |session: &TransformerSession<E>| session.read(Vector::PARAMETERS).expect("values");
            assert!(read(&whole) == read(&released), "{name}, step {count}");
            assert!(released.read(Vector::GRADIENT).is_err_and(|e| e.to_string().contains("not kept")));
            assert!(released.forecast(0) < before, "{name}");
            if count == 3 {
                assert_eq!(gradient(&mut released, &batch()), gradient(&mut whole, &batch()), "{name}");
                assert_eq!(released.forecast(0), before, "{name}");
            }
        }
    }
    let mut adapted = open(engine(), &random(&tiny(ModelType::Llama), Some(adapter())), Options::default());
    assert!(!adapted.info().updates_in_backward);
    let update = Update { lr: 0.1, gradient_scale: 1.0, count: 1 };
    let refused =
        adapted.backward_and_optimize(&batch(), Statistics::default(), &mut |_| unreachable!(), &update);
    assert!(refused.is_err_and(|e| e.to_string().contains("adopted no optimizer")));
}

/// A session without a kernel for an optimizer does not adopt it and allocates no moments for it. A kernel
/// with unsupported settings is rejected.
pub fn optimizers_are_adopted_or_left_to_others<E: Engine>(engine: impl Fn() -> E) {
    let mut plain = session(engine());
    let bare = plain.forecast(0);
    let unknown = Kernel { name: "no-such-rule".into(), config: json!({}) };
    for kernel in [None, Some(&unknown)] {
        assert!(plain.adopt_optimizer(Some(&adamw(0.0, true))).expect("a kernel"));
        assert!(plain.forecast(0) > bare);
        assert!(!plain.adopt_optimizer(kernel).expect("nothing to refuse"));
        assert_eq!(plain.forecast(0), bare);
        let update = Update { lr: 0.1, gradient_scale: 1.0, count: 1 };
        let refused = plain.optimize(&update).expect_err("nothing to run").to_string();
        assert!(refused.contains("adopted no optimizer"), "{refused}");
    }
    let strange = Kernel { config: json!({ "amsgrad": true }), ..adamw(0.0, true) };
    let refused = plain.adopt_optimizer(Some(&strange)).expect_err("an unknown option").to_string();
    assert!(refused.contains("amsgrad"), "{refused}");

    let half = Options { half_moments: true, ..Options::default() };
    let mut half = open(engine(), &random(&tiny(ModelType::Llama), None), half);
    for kernel in [&unknown, &in_8_bits(adamw(0.0, true))] {
        let refused = half.adopt_optimizer(Some(kernel)).expect_err("no such moments").to_string();
        assert!(refused.contains("bf16") && refused.contains(&kernel.name), "{refused}");
    }
}

/// 8-bit moments take one byte per parameter and four per block, for each of the two moments; those of small
/// tensors stay in f32.
pub fn moments_in_8_bits_are_small<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&wide(), None), Options::default());
    let bare = session.forecast(0);
    assert!(session.adopt_optimizer(Some(&in_8_bits(adamw(0.0, true)))).expect("a kernel"));
    let bytes = |n: usize| if n < 4096 { 4 * n } else { n + 4 * n.div_ceil(256) };
    let expected: usize = session.trained().map(|(_, n)| 2 * bytes(n)).sum();
    assert_eq!(session.forecast(0) - bare, expected as u64);
    assert!(
        session.trained().any(|(_, n)| n < 4096) && session.trained().any(|(_, n)| n % 256 != 0 && n > 4096)
    );
}
