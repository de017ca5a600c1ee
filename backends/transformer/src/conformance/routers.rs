//! The loss of routers.

use spo_api::{Session, Statistics, TokenBatch, Vector, VectorSpace};

use super::models::cases;
use super::sharing::unshared;
use super::support::{batch, derivative_along, distance, hold_choices, norm, open, wave, weights, worst};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

const WEIGHT: f64 = 0.7;

/// The gradient with the routers' loss, and the sum of the losses that it is of.
fn gradient<E: Engine>(session: &mut TransformerSession<E>, batch: &TokenBatch) -> (Vec<f32>, f64) {
    session.zero(Vector::GRADIENT).expect("a gradient");
    let of = |n| weights(n).into_iter().map(|w| w / 10.0).collect::<Vec<_>>();
    let seen = session
        .backward(batch, Statistics::default(), &mut |l| Ok(of(l.values.len())))
        .expect("a valid batch");
    let loss: f64 = seen.values.iter().zip(of(seen.values.len())).map(|(l, w)| l * w).sum();
    (session.read(Vector::GRADIENT).expect("a gradient"), loss + WEIGHT * session.router_loss())
}

/// With the loss of routers, the gradient of every model with experts agrees with central differences of both losses. A shared
/// prompt counts once per completion, log-probs are the same, and recomputation changes nothing.
pub fn the_loss_of_routers_has_its_gradient<E: Engine>(engine: impl Fn() -> E) {
    let sparse = cases()
        .into_iter()
        .filter(|(name, _)| ["mixtral", "qwen3_moe", "olmoe"].iter().any(|family| name.starts_with(family)));
    for (name, spec) in sparse {
        let mut session = open(engine(), &spec, Options::default());
        let batch = batch();
        let plain = session.log_probs(&batch, Statistics::default()).expect("a valid batch").values;
        session.weigh_router_loss(WEIGHT).expect("routers");
        let (shared, loss) = gradient(&mut session, &batch);
        let (apart, expected) = gradient(&mut session, &unshared(&batch));
        let error = distance(&shared, &apart) / norm(&apart);
        assert!(
            (loss - expected).abs() < 1e-4 && error < 1e-4,
            "{name}: {loss} {expected}, gradient {error}"
        );
        let seen = session.backward(&batch, Statistics::default(), &mut |l| Ok(vec![0.0; l.values.len()]));
        assert!(worst(&seen.expect("a valid batch").values, &plain) < 1e-5, "{name}");

        let mut recomputed = open(engine(), &spec, Options { checkpoint: true, ..Options::default() });
        recomputed.weigh_router_loss(WEIGHT).expect("routers");
        assert_eq!(gradient(&mut recomputed, &batch), (shared.clone(), loss), "{name}");

        hold_choices(&mut session, &batch);
        let arbitrary = wave(shared.len(), 1.0);
        for direction in [&shared, &arbitrary] {
            let scale = 1.0 / norm(direction);
            let along = shared.iter().zip(direction).map(|(&g, &d)| f64::from(g) * f64::from(d) * scale);
            let slope: f64 = along.sum();
            let difference = derivative_along(&mut session, direction, |session| gradient(session, &batch).1);
            let error = (difference - slope).abs();
            assert!(error < 1e-2 * norm(&shared), "{name}: gradient {slope}, finite difference {difference}");
        }
    }
}
