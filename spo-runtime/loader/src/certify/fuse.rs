//! A vector space that fails when it is told to.

use spo_api::{Combine, Error, Map, MemorySpace, Result, Vector, VectorSpace};

/// What a failure says.
pub(super) const FAILURE: &str = "the failure that was asked for";

/// Vectors in memory, and a number of operations until one fails.
#[derive(Clone)]
pub(super) struct FusedSpace {
    pub space: MemorySpace,
    /// Operations until one fails; none does without it.
    pub fuse: Option<usize>,
    /// One has failed.
    pub blown: bool,
}

impl FusedSpace {
    pub(super) fn new(space: MemorySpace) -> Self {
        FusedSpace { space, fuse: None, blown: false }
    }

    /// Counts an operation, and fails if it is its turn; those after it do not fail.
    pub(super) fn burn(&mut self) -> Result<()> {
        match &mut self.fuse {
            Some(0) => {
                (self.fuse, self.blown) = (None, true);
                Err(Error::NonFinite(FAILURE.into()))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The parameters.
    pub(super) fn parameters(&self) -> &[f64] {
        &self.space.vectors()[&Vector::PARAMETERS.0]
    }
}

impl VectorSpace for FusedSpace {
    fn dimension(&self) -> usize {
        self.space.dimension()
    }
    fn allocate(&mut self) -> Result<Vector> {
        self.burn().and_then(|()| self.space.allocate())
    }
    fn release(&mut self, v: Vector) {
        self.space.release(v);
    }
    fn zero(&mut self, v: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.zero(v))
    }
    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.copy(from, to))
    }
    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.scale(a, v))
    }
    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.axpy(a, x, y))
    }
    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        self.burn().and_then(|()| self.space.dot(x, y))
    }
    fn map(&mut self, f: Map, v: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.map(f, v))
    }
    fn combine(&mut self, op: Combine, x: Vector, y: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.combine(op, x, y))
    }
    fn decay(&mut self, a: f64, v: Vector) -> Result<()> {
        self.burn().and_then(|()| self.space.decay(a, v))
    }
}
