//! Vectors of the size of the trainable parameters, and what can be done with them.

use crate::{BilevelProblem, Error, Result};

/// A handle on a vector in parameter space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector(pub u32);

impl Vector {
    /// The trainable parameters themselves. Writing to it moves the model.
    pub const PARAMETERS: Vector = Vector(0);
    /// The gradient that [`BilevelProblem::descend`] hands to the optimizer. Engines accumulate in it,
    /// so a gradient computed into another vector destroys what it held.
    pub const GRADIENT: Vector = Vector(1);
}

/// An operation on each element of one vector, for [`VectorSpace::map`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Map {
    /// `x + a`.
    Add(f64),
    /// `x / a`, rounded once: not `x * (1 / a)`.
    Divide(f64),
    /// The square root of `x`; NaN below 0.
    SquareRoot,
    /// -1, 0 or 1. Zero for either zero, NaN for NaN.
    Sign,
    /// `|x|`.
    Absolute,
}

/// An operation on the elements of two vectors, for [`VectorSpace::combine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Combine {
    /// `y * x`.
    Multiply,
    /// `y / x`.
    Divide,
    /// The greater of the two; NaN if either is.
    Maximum,
}

/// Linear algebra on vectors of the size of the trainable parameters, wherever they live.
///
/// The two vectors of an operation may be one and the same.
pub trait VectorSpace {
    /// Number of trainable parameters.
    fn dimension(&self) -> usize;
    /// A new vector of zeros.
    ///
    /// # Errors
    /// When memory runs out.
    fn allocate(&mut self) -> Result<Vector>;
    /// Gives a vector's memory back; the two well-known ones cannot be released.
    fn release(&mut self, v: Vector);
    /// `v <- 0`.
    ///
    /// # Errors
    /// When the engine fails; so for the operations below.
    fn zero(&mut self, v: Vector) -> Result<()>;
    /// `to <- from`.
    fn copy(&mut self, from: Vector, to: Vector) -> Result<()>;
    /// `v <- a v`.
    fn scale(&mut self, a: f64, v: Vector) -> Result<()>;
    /// `y <- y + a x`.
    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()>;
    /// `<x, y>`, accumulated in f64.
    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64>;
    /// Euclidean norm.
    fn norm(&mut self, x: Vector) -> Result<f64> {
        Ok(self.dot(x, x)?.sqrt())
    }

    /// `v <- f(v)`, element by element.
    ///
    /// # Errors
    /// When the engine fails, or has no elementwise operations; so for the two below.
    fn map(&mut self, _f: Map, _v: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
    /// `y <- y op x`, element by element.
    fn combine(&mut self, _op: Combine, _x: Vector, _y: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
    /// `v <- a v` for the elements of all tensors but biases and norms, which weight decay usually spares.
    fn decay(&mut self, _a: f64, _v: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
}

fn no_elementwise_operations() -> Error {
    Error::Engine("the backend has no elementwise operations".into())
}

/// What a vector space is reached through: the space itself, or a problem in it.
pub trait SpaceOwner {
    /// The space of trainable parameters.
    fn space(&mut self) -> &mut dyn VectorSpace;
}

impl SpaceOwner for dyn VectorSpace + '_ {
    fn space(&mut self) -> &mut dyn VectorSpace {
        self
    }
}

impl SpaceOwner for dyn BilevelProblem + '_ {
    fn space(&mut self) -> &mut dyn VectorSpace {
        self.vectors()
    }
}

/// Runs `f` with `count` scratch vectors of zeros and gives their memory back, whether or not `f` fails.
///
/// # Errors
/// When memory runs out, and those of `f`.
pub fn with_scratch<O: SpaceOwner + ?Sized, T>(
    owner: &mut O,
    count: usize,
    f: impl FnOnce(&mut O, &[Vector]) -> Result<T>,
) -> Result<T> {
    let mut scratch = Vec::with_capacity(count);
    let allocated = (0..count).try_for_each(|_| owner.space().allocate().map(|v| scratch.push(v)));
    let result = allocated.and_then(|()| f(owner, &scratch));
    scratch.into_iter().for_each(|v| owner.space().release(v));
    result
}
