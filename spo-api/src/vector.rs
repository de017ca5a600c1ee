//! Vectors with one element per trainable parameter, and operations on them.

use crate::{BilevelProblem, Error, Result};

/// A handle to a vector in parameter space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector(pub u32);

impl Vector {
    /// The trainable parameters themselves. Writing to this vector changes the model.
    pub const PARAMETERS: Vector = Vector(0);
    /// The gradient that [`BilevelProblem::descend`] passes to the optimizer. Engines accumulate gradients
    /// in this vector, so computing a gradient into another vector overwrites it.
    pub const GRADIENT: Vector = Vector(1);
}

/// An operation on each element of one vector, for [`VectorSpace::map`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Map {
    /// `x + a`.
    Add(f64),
    /// `x / a`, rounded once, unlike `x * (1 / a)`.
    Divide(f64),
    /// The square root of `x`; NaN for negative `x`.
    SquareRoot,
    /// -1, 0 or 1. 0 for both zeros, NaN for NaN.
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
    /// The larger of the two; NaN if either is NaN.
    Maximum,
}

/// Linear algebra on vectors with one element per trainable parameter, on whatever device they are stored.
///
/// An operation on two vectors accepts the same vector twice.
pub trait VectorSpace {
    /// Number of trainable parameters.
    fn dimension(&self) -> usize;
    /// A new vector of zeros.
    ///
    /// # Errors
    /// When memory runs out.
    fn allocate(&mut self) -> Result<Vector>;
    /// Frees a vector's memory. [`Vector::PARAMETERS`] and [`Vector::GRADIENT`] cannot be released.
    fn release(&mut self, v: Vector);
    /// `v <- 0`.
    ///
    /// # Errors
    /// When the engine fails. The same holds for the operations below.
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
    /// When the engine fails, or has no elementwise operations. The same holds for the two methods below.
    fn map(&mut self, _f: Map, _v: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
    /// `y <- y op x`, element by element.
    fn combine(&mut self, _op: Combine, _x: Vector, _y: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
    /// `v <- a v` for all tensors except biases and norms, which are usually excluded from weight decay.
    fn decay(&mut self, _a: f64, _v: Vector) -> Result<()> {
        Err(no_elementwise_operations())
    }
}

fn no_elementwise_operations() -> Error {
    Error::Engine("the backend has no elementwise operations".into())
}

/// Gives access to a vector space: either the space itself, or a problem in it.
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

/// Runs `f` with `count` zeroed scratch vectors and releases them afterwards, whether or not `f` fails.
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
