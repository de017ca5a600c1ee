//! Hessian-vector products against finite differences.

use spo_api::{Session, Tangent, Vector, VectorSpace};

use super::models::cases;
use super::support::{batch, distance, gradient, norm, open, wave, weights, worst};
use crate::engine::Engine;
use crate::session::Options;

/// For engines with a tape: exact Hessian-vector products agree with differences of gradients, and the
/// derivatives with differences of log-probs. Nothing left behind affects a later pass.
pub fn hessian_vector_products_agree_with_finite_differences<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        if session.model.decoder.architecture.experts.is_some() {
            assert!(!session.info().hessian_vectors, "{name}");
            continue;
        }
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
        // Fourth-order differences, as for gradients.
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
