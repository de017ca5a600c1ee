//! Gradients against finite differences.

use spo_api::Vector;

use super::models::cases;
use super::support::{batch, derivative, gradient, hold_choices, loss, norm, open, wave};
use crate::engine::Engine;
use crate::session::Options;

/// The gradient of every trained tensor of every architecture agrees with central differences, both along the
/// gradient itself and along an arbitrary direction.
pub fn gradients_agree_with_finite_differences<E: Engine>(engine: impl Fn() -> E) {
    for (name, spec) in cases() {
        let mut session = open(engine(), &spec, Options::default());
        let batch = batch();
        hold_choices(&mut session, &batch);
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
                let difference = derivative(|step| {
                    let mut moved = start.clone();
                    for (value, d) in moved[first..first + len].iter_mut().zip(direction) {
                        *value += (step * scale * f64::from(*d)) as f32;
                    }
                    session.write(Vector::PARAMETERS, &moved).expect("as many values as parameters");
                    loss(&mut session, &batch)
                });
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
