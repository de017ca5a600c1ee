//! Tensors stored contiguously in one array.
//!
//! Computing on a whole vector as one array takes one device call per operation instead of hundreds, one for
//! each parameter. The allocator also rounds up one size instead of hundreds.

use spo_api::Result;

use crate::engine::{Engine, Memory, Precision};

/// An array, and the tensors it consists of.
pub(crate) struct Flat<T> {
    /// All values, one tensor after another.
    pub all: T,
    /// The tensors, which share the memory of `all`.
    pub parts: Vec<T>,
}

impl<T: Clone> Flat<T> {
    /// Zeros, as tensors of these shapes.
    pub fn zeros<'s, E: Engine<Tensor = T>>(
        engine: &E,
        shapes: impl Iterator<Item = &'s [usize]> + Clone,
        precision: Precision,
    ) -> Result<Self> {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let total: usize = shapes.clone().map(elements).sum();
        // Some devices cannot allocate zero elements.
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
