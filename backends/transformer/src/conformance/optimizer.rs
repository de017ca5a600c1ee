//! Optimizers against their formulas.

use spo_api::{AdamW, Session, Vector};

use super::models::{configurations, random};
use super::support::{open, wave};
use crate::engine::Engine;
use crate::session::Options;

/// The optimizer against its formula, in f64, over three steps.
pub fn adamw_follows_its_formula<E: Engine>(engine: impl Fn() -> E) {
    let (_, config) = configurations()
        .into_iter()
        .find(|(name, _)| name.contains("biases"))
        .expect("a model with everything that may be exempt from decay");
    let mut session = open(engine(), &random(&config, None), Options::default());
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
