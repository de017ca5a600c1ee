//! Twenty updates by torch's optimizers and lion-pytorch, in f64.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use spo_api::{MemorySpace, Optimizer, Registry, Update, Vector, VectorSpace};
use spo_objectives::optimizers::AdamW;

#[derive(Deserialize)]
struct Goldens {
    start: Vec<f64>,
    /// So many elements are weights; the rest is a bias.
    weights: usize,
    gradients: Vec<Vec<f64>>,
    rates: Vec<f64>,
    scales: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Value,
    /// The parameters after each update.
    after: Vec<Vec<f64>>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("../../../tests/goldens/optimizers.json")).unwrap()
}

impl Goldens {
    /// The parameters after each update of an optimizer.
    fn run(&self, optimizer: &dyn Optimizer) -> Vec<Vec<f64>> {
        let bias = |i| i >= self.weights;
        let mut space = MemorySpace::new(self.start.clone()).sparing((0..self.start.len()).map(bias));
        let state: Vec<_> = (0..optimizer.states()).map(|_| space.allocate().unwrap()).collect();
        let step = |(step, gradient): (usize, &Vec<f64>)| {
            space.get_mut(Vector::GRADIENT).unwrap().copy_from_slice(gradient);
            let (lr, gradient_scale) = (self.rates[step], self.scales[step]);
            let update = Update { lr, gradient_scale, count: step as u64 + 1 };
            optimizer.step(&mut space, &state, &update).unwrap();
            space.get(Vector::PARAMETERS).unwrap().clone()
        };
        self.gradients.iter().enumerate().map(step).collect()
    }
}

#[test]
fn twenty_updates_are_those_of_the_reference() {
    let (goldens, registry) = (goldens(), Registry::linked().unwrap());
    for Case { name, config, after } in &goldens.cases {
        let ours = goldens.run(&*registry.optimizer(name, config).unwrap());
        for (step, (ours, theirs)) in ours.iter().zip(after).enumerate() {
            for (x, y) in ours.iter().zip(theirs) {
                assert!(
                    (x - y).abs() <= 1e-12 * (1.0 + y.abs()),
                    "{name} {config} step {step}: {x}, not {y}"
                );
            }
        }
    }
    let covered: BTreeSet<_> = goldens.cases.iter().map(|case| &*case.name).collect();
    for entry in registry.of_kind("optimizer") {
        let needs_kernel = registry.optimizer(entry.name, &serde_json::json!({})).unwrap().needs_kernel();
        assert!(needs_kernel || covered.contains(entry.name), "{} has no reference", entry.name);
    }
}

/// The same bits as one loop over the elements gives, which is how backends in f64 have always done it.
#[test]
fn adamw_by_vector_operations_is_the_loop_over_elements_to_the_last_bit() {
    let goldens = goldens();
    for config in [
        serde_json::json!({}),
        serde_json::json!({"betas": [0.8, 0.95], "epsilon": 1e-3, "weight_decay": 0.3}),
        serde_json::json!({"weight_decay": 0.3, "decay_bias_and_norm": false}),
    ] {
        let adamw: AdamW = spo_api::parse(&config).unwrap();
        let mut parameters = goldens.start.clone();
        let (mut first, mut second) = (vec![0.0; parameters.len()], vec![0.0; parameters.len()]);
        let ours = goldens.run(&adamw);
        for (step, gradient) in goldens.gradients.iter().enumerate() {
            let (lr, [beta1, beta2]) = (goldens.rates[step], adamw.betas);
            let correction = adamw.betas.map(|beta| 1.0 - beta.powf(step as f64 + 1.0));
            let moments = first.iter_mut().zip(&mut second);
            for (i, ((p, g), (m, v))) in parameters.iter_mut().zip(gradient).zip(moments).enumerate() {
                let g = g * goldens.scales[step];
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let exempt = i >= goldens.weights && !adamw.decay_bias_and_norm;
                let decay = if exempt { 0.0 } else { lr * adamw.weight_decay };
                let update = (*m / correction[0]) / ((*v / correction[1]).sqrt() + adamw.epsilon);
                *p = *p * (1.0 - decay) - lr * update;
            }
            assert_eq!(ours[step], parameters, "{config} step {step}");
        }
    }
}
