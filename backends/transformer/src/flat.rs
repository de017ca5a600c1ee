//! Tensors side by side in one stretch of memory.
//!
//! A vector of a session is one array and is computed with as one: an operation costs the device one call,
//! not one for each of hundreds of parameters, and the allocator rounds one size up, not hundreds.

use spo_api::Result;

use crate::engine::{Engine, Precision};
use crate::parameters::Spec;

/// An array, and the tensors that it is made of.
pub(crate) struct Flat<T> {
    /// All values, one tensor after the other.
    pub all: T,
    /// The tensors, which share the memory of `all`.
    pub parts: Vec<T>,
}

impl<T: Clone> Flat<T> {
    /// Zeros, in the shapes of `specs`.
    pub fn zeros<E: Engine<Tensor = T>>(engine: &E, specs: &[&Spec], precision: Precision) -> Result<Self> {
        let total: usize = specs.iter().map(|spec| spec.elements()).sum();
        // Not every device can allocate nothing.
        let all = engine.zeros(&[total.max(1)], precision)?;
        let mut start = 0;
        let part = |spec: &&Spec| {
            let part = engine.view(&all, start, &spec.shape);
            start += spec.elements();
            part
        };
        Ok(Flat { parts: specs.iter().map(part).collect::<Result<_>>()?, all })
    }
}
