//! Tensors side by side in one stretch of memory.
//!
//! A vector of a session is one array and is computed with as one: an operation costs the device one call,
//! not one for each of hundreds of parameters, and the allocator rounds one size up, not hundreds.

use spo_api::Result;

use crate::engine::{Engine, Memory, Precision};

/// An array, and the tensors that it is made of.
pub(crate) struct Flat<T> {
    /// All values, one tensor after the other.
    pub all: T,
    /// The tensors, which share the memory of `all`.
    pub parts: Vec<T>,
}

impl<T: Clone> Flat<T> {
    /// Zeros, in tensors of these shapes.
    pub fn zeros<'s, E: Engine<Tensor = T>>(
        engine: &E,
        shapes: impl Iterator<Item = &'s [usize]> + Clone,
        precision: Precision,
    ) -> Result<Self> {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let total: usize = shapes.clone().map(elements).sum();
        // Not every device can allocate nothing.
        let all = engine.memory().zeros(&[total.max(1)], precision)?;
        let mut start = 0;
        let part = |shape: &[usize]| {
            let part = engine.memory().view(&all, start, shape);
            start += elements(shape);
            part
        };
        Ok(Flat { parts: shapes.map(part).collect::<Result<_>>()?, all })
    }
}
