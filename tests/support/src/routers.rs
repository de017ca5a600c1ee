//! Compares the loss of routers with `load_balancing_loss_func` of transformers, and steps with it with TRL's trainer.

use serde_json::Value;
use spo_api::{Backend, LogProbs, Statistics, Vector};

use crate::architectures::{Model, adamw_dpo_steps, backward, relative};
use crate::golden;

/// The value, the norm of the gradient of all weights, and three steps of DPO with the loss, to 1e-4 of themselves.
pub fn the_loss_of_routers_is_that_of_transformers(backend: &dyn Backend) {
    let golden = golden("routers.json");
    let number = |value: &Value| value.as_f64().expect("a number");
    for (name, figures) in golden["models"].as_object().expect("models") {
        let model = Model::read(name);
        let (mut session, batch) = (model.open(backend), model.batch());
        assert_eq!(session.info().router_loss, Some(0.0), "{name}: not unless the configuration asks for it");
        let unweighted = session.log_probs(&batch, Statistics::default()).expect("a valid batch");
        session.weigh_router_loss(1.0).expect("routers");
        let mut seen = None;
        let nothing = |log_probs: &LogProbs| (0.0, vec![0.0; log_probs.values.len()]);
        backward(&mut *session, &batch, |log_probs| {
            seen = Some(log_probs.clone());
            nothing(log_probs)
        });
        assert!(
            crate::architectures::worst(&seen.expect("log-probs").values, &unweighted.values) < 1e-6,
            "{name}"
        );
        let norm = session.vectors().norm(Vector::GRADIENT).expect("a gradient");
        let error = relative(&[(session.router_loss(), &figures["loss"]), (norm, &figures["grad_norm"])]);
        println!("{name}: loss of routers {error:.1e}");
        assert!(error < 1e-4, "{name}: {error}");

        let mut session = model.open(backend);
        let weight = number(&golden["coefficient"]);
        session.weigh_router_loss(weight).expect("routers");
        let mut error: f64 = 0.0;
        let steps = figures["dpo"]["steps"].as_array().expect("steps");
        let after = adamw_dpo_steps(&mut *session, &batch, steps.len(), &mut |i, session, loss, norm| {
            let aux = session.router_loss();
            let found = [(loss + weight * aux, "loss"), (norm, "grad_norm"), (aux, "aux_loss")];
            let compared = found.map(|(found, key)| (found, &steps[i][key]));
            error = error.max(relative(&compared));
        });
        error = error.max(relative(&[(after, &figures["dpo"]["parameter_norm_after"])]));
        println!("{name}: steps with the loss of routers {error:.1e}");
        assert!(error < 1e-3, "{name}: {error}");
    }
}
