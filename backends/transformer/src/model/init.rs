//! Random initialisation. The same seed gives the same values on any device and with any number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use crate::parameters::{Id, Role, Spec};

/// Initial values of parameter `id`: matrices from N(0, `range`^2), zero biases, unit gains. Adapters start
/// as in PEFT: A is Kaiming-uniform (within `1 / sqrt(in)`), B is zero; of the embedding table, A is zero and B from N(0, 1).
pub(super) fn random(spec: &Spec, id: Id, seed: u64, range: f64) -> Vec<f32> {
    let n = spec.elements();
    // One random stream per parameter, so that adding a parameter does not change the others.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(id as u64);
    match spec.role {
        Role::Matrix => StandardNormal.sample_iter(rng).take(n).map(|z: f64| (z * range) as f32).collect(),
        Role::Bias | Role::GainFromOne | Role::AdapterB | Role::EmbeddingA => vec![0.0; n],
        Role::EmbeddingB => StandardNormal.sample_iter(rng).take(n).collect(),
        // Magnitudes begin as the norms that the rows have: see `decoder::RowNorms`.
        Role::Gain | Role::Magnitude => vec![1.0; n],
        Role::AdapterA => {
            let bound = 1.0 / (spec.shape[1] as f32).sqrt();
            let uniform = Uniform::new(-bound, bound).expect("the bound is positive");
            uniform.sample_iter(rng).take(n).collect()
        }
    }
}
