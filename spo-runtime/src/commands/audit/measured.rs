//! Measures the update and the cost of a bilevel step, independently of the optimizer.

use spo_api::{BilevelProblem, BilevelStep, Losses, Passes, Progress, Result, Vector, VectorSpace, Weigh};

/// Wraps a problem to count the cost of a step. Updates are plain gradient descent.
pub(crate) struct Measured<'p> {
    problem: &'p mut dyn BilevelProblem,
    dimension: usize,
    lr: f64,
    passes: Passes,
    vectors: usize,
    most_vectors: usize,
}

impl<'p> Measured<'p> {
    /// Takes one step. Returns the number of passes over a batch and the most scratch vectors in use at a
    /// time.
    pub(crate) fn run(
        problem: &'p mut dyn BilevelProblem,
        step: &mut dyn BilevelStep,
        lr: f64,
    ) -> Result<(Passes, usize)> {
        let dimension = problem.vectors().dimension();
        let passes = Passes::default();
        let mut measured = Measured { problem, dimension, lr, passes, vectors: 0, most_vectors: 0 };
        step.step(&mut measured)?;
        Ok((measured.passes, measured.most_vectors))
    }
}

impl BilevelProblem for Measured<'_> {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        self.passes.forward += 1;
        self.passes.backward += 1;
        self.problem.gradient(weigh, into)
    }

    fn lower(&mut self) -> Result<f64> {
        self.passes.forward += 1;
        self.problem.lower()
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        self.passes.forward += 2;
        self.passes.backward += 2;
        self.problem.lower_hessian_vector(v, into)
    }

    fn reference_lower(&mut self) -> Result<f64> {
        self.problem.reference_lower()
    }

    fn upper_slope(&mut self) -> Result<f64> {
        self.problem.upper_slope()
    }

    /// An audit uses a single batch.
    fn next_lower(&mut self) -> Result<()> {
        Ok(())
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        self.problem.vectors().axpy(-self.lr * lr_factor, Vector::GRADIENT, Vector::PARAMETERS)
    }

    fn progress(&self) -> Progress {
        self.problem.progress()
    }
}

impl VectorSpace for Measured<'_> {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn allocate(&mut self) -> Result<Vector> {
        self.vectors += 1;
        self.most_vectors = self.most_vectors.max(self.vectors);
        self.problem.vectors().allocate()
    }

    fn release(&mut self, v: Vector) {
        self.vectors -= 1;
        self.problem.vectors().release(v);
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        self.problem.vectors().zero(v)
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        self.problem.vectors().copy(from, to)
    }

    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        self.problem.vectors().scale(a, v)
    }

    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        self.problem.vectors().axpy(a, x, y)
    }

    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        self.problem.vectors().dot(x, y)
    }
}
