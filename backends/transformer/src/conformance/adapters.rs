//! Adapters.

use spo_api::{Session, Statistics, Update, Vector, VectorSpace};

use super::models::{adapter, configurations, random};
use super::optimizer::adamw;
use super::support::{batch, gradient, open};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// Training an adapter changes no other parameter, and allocates no other gradients.
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
        assert!(session.adopt_optimizer(Some(&adamw(0.1, true))).expect("a kernel"));
        session.optimize(&Update { lr: 0.1, gradient_scale: 1.0, count: 1 }).expect("an update");
        let moved = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert!(moved != expected, "{name}");
        session.zero(Vector::PARAMETERS).expect("a vector");
        let off = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert_eq!(off, expected, "{name}: without the adapter");
    }
}
