//! Random initialisation: the same values for the same seed, whatever the device or thread count.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use crate::parameters::{Id, Role, Spec};

/// Values of parameter `id`: matrices from N(0, `range`^2), zero biases, unit gains; adapters as PEFT
/// begins them, A kaiming-uniform (within `1 / sqrt(in)`), B zero.
pub(super) fn random(spec: &Spec, id: Id, seed: u64, range: f64) -> Vec<f32> {
    let n = spec.elements();
    // A stream per parameter: adding one to a model does not change the others.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(id as u64);
    match spec.role {
        Role::Matrix => StandardNormal.sample_iter(rng).take(n).map(|z: f64| (z * range) as f32).collect(),
        Role::Bias | Role::AdapterB => vec![0.0; n],
        Role::Gain => vec![1.0; n],
        Role::AdapterA => {
            let bound = 1.0 / (spec.shape[1] as f32).sqrt();
            let uniform = Uniform::new(-bound, bound).expect("the bound is positive");
            uniform.sample_iter(rng).take(n).collect()
        }
    }
}
