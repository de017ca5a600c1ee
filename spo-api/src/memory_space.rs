//! A vector space in main memory.

use std::collections::BTreeMap;

use crate::{Combine, Error, Map, Result, Vector, VectorSpace};

/// Vectors of `f64` in memory, the simplest [`VectorSpace`]. It is used by tests of steps and optimizers
/// and by the tabular backend.
#[derive(Clone, Debug)]
pub struct MemorySpace {
    vectors: BTreeMap<u32, Vec<f64>>,
    /// Which elements belong to biases and norms. Elements beyond the end do not.
    spared: Vec<bool>,
    misuse: Option<String>,
}

impl MemorySpace {
    /// A space with these parameters and a gradient of zeros.
    pub fn new(parameters: Vec<f64>) -> Self {
        let gradient = vec![0.0; parameters.len()];
        let vectors = BTreeMap::from([(Vector::PARAMETERS.0, parameters), (Vector::GRADIENT.0, gradient)]);
        MemorySpace { vectors, spared: Vec::new(), misuse: None }
    }

    /// Sets for each element whether it belongs to a bias or a norm, which [`VectorSpace::decay`] skips.
    pub fn sparing(self, spared: impl IntoIterator<Item = bool>) -> Self {
        MemorySpace { spared: spared.into_iter().collect(), ..self }
    }

    /// The elements of a vector.
    ///
    /// # Errors
    /// When the vector is not allocated.
    pub fn get(&self, v: Vector) -> Result<&Vec<f64>> {
        self.vectors.get(&v.0).ok_or_else(|| Error::Engine(missing(v)))
    }

    /// Mutable access to the elements of a vector.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_mut(&mut self, v: Vector) -> Result<&mut Vec<f64>> {
        self.vectors.get_mut(&v.0).ok_or_else(|| {
            self.misuse.get_or_insert_with(|| missing(v));
            Error::Engine(missing(v))
        })
    }

    /// All vectors by handle, including the parameters and the gradient.
    pub fn vectors(&self) -> &BTreeMap<u32, Vec<f64>> {
        &self.vectors
    }

    /// Replaces all allocated vectors.
    pub fn replace(&mut self, vectors: BTreeMap<u32, Vec<f64>>) {
        self.vectors = vectors;
    }

    /// Describes the first operation on a vector that was not allocated, even if the caller ignored its
    /// error.
    pub fn misuse(&self) -> Option<&str> {
        self.misuse.as_deref()
    }

    fn each(&mut self, v: Vector, f: impl Fn(f64) -> f64) -> Result<()> {
        self.get_mut(v)?.iter_mut().for_each(|x| *x = f(*x));
        Ok(())
    }

    /// `y <- f(y, x)`.
    fn pairs(&mut self, x: Vector, y: Vector, f: impl Fn(f64, f64) -> f64) -> Result<()> {
        let x = self.get_mut(x)?.clone();
        self.get_mut(y)?.iter_mut().zip(x).for_each(|(y, x)| *y = f(*y, x));
        Ok(())
    }
}

fn missing(v: Vector) -> String {
    format!("vector {} was never allocated, or was released", v.0)
}

impl VectorSpace for MemorySpace {
    fn dimension(&self) -> usize {
        self.vectors[&Vector::PARAMETERS.0].len()
    }

    fn allocate(&mut self) -> Result<Vector> {
        let next = self.vectors.keys().next_back().copied().unwrap_or_default() + 1;
        self.vectors.insert(next, vec![0.0; self.dimension()]);
        Ok(Vector(next))
    }

    fn release(&mut self, v: Vector) {
        let well_known = v == Vector::PARAMETERS || v == Vector::GRADIENT;
        if well_known || self.vectors.remove(&v.0).is_none() {
            self.misuse.get_or_insert_with(|| format!("vector {} was released, and is not allocated", v.0));
        }
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        self.get_mut(v)?.fill(0.0);
        Ok(())
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        self.pairs(from, to, |_, x| x)
    }

    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        self.each(v, |x| x * a)
    }

    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        self.pairs(x, y, |y, x| y + a * x)
    }

    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        let (x, y) = (self.get(x)?, self.get(y)?);
        Ok(x.iter().zip(y).fold(0.0, |sum, (x, y)| sum + x * y))
    }

    fn map(&mut self, f: Map, v: Vector) -> Result<()> {
        match f {
            Map::Add(a) => self.each(v, |x| x + a),
            Map::Divide(a) => self.each(v, |x| x / a),
            Map::SquareRoot => self.each(v, f64::sqrt),
            Map::Sign => self.each(v, |x| if x == 0.0 { 0.0 } else { x.signum() }),
            Map::Absolute => self.each(v, f64::abs),
        }
    }

    fn combine(&mut self, op: Combine, x: Vector, y: Vector) -> Result<()> {
        match op {
            Combine::Multiply => self.pairs(x, y, |y, x| y * x),
            Combine::Divide => self.pairs(x, y, |y, x| y / x),
            // `f64::max` would ignore a NaN.
            Combine::Maximum => self.pairs(x, y, |y, x| if x > y || x.is_nan() { x } else { y }),
        }
    }

    fn decay(&mut self, a: f64, v: Vector) -> Result<()> {
        let spared = self.spared.clone();
        let spared = spared.into_iter().chain(std::iter::repeat(false));
        self.get_mut(v)?.iter_mut().zip(spared).filter(|(_, spared)| !spared).for_each(|(x, _)| *x *= a);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementwise_operations_follow_their_definitions() {
        let mut space = MemorySpace::new(vec![4.0, -0.25, 0.0, f64::NAN]).sparing([false, true]);
        let y = space.allocate().unwrap();
        let mut after = |change: &dyn Fn(&mut MemorySpace) -> Result<()>| {
            space.copy(Vector::PARAMETERS, y).unwrap();
            change(&mut space).unwrap();
            let found = space.get(y).unwrap();
            assert!(found[3].is_nan(), "{found:?}");
            [found[0], found[1], found[2]]
        };
        assert_eq!(after(&|s| s.map(Map::Add(0.5), y)), [4.5, 0.25, 0.5]);
        assert_eq!(after(&|s| s.map(Map::Divide(8.0), y)), [0.5, -0.03125, 0.0]);
        assert_eq!(after(&|s| s.map(Map::Sign, y)), [1.0, -1.0, 0.0]);
        assert_eq!(after(&|s| s.map(Map::Absolute, y)), [4.0, 0.25, 0.0]);
        assert_eq!(
            after(&|s| s.map(Map::Absolute, y).and_then(|()| s.map(Map::SquareRoot, y))),
            [2.0, 0.5, 0.0]
        );
        assert_eq!(after(&|s| s.combine(Combine::Multiply, y, y)), [16.0, 0.0625, 0.0]);
        assert_eq!(after(&|s| s.combine(Combine::Maximum, Vector::GRADIENT, y)), [4.0, 0.0, 0.0]);
        assert_eq!(
            after(&|s| s.map(Map::Add(1.0), y).and_then(|()| s.combine(
                Combine::Divide,
                Vector::PARAMETERS,
                y
            )))[..2],
            [1.25, -3.0]
        );
        assert_eq!(after(&|s| s.decay(0.5, y)), [2.0, -0.25, 0.0]);
        assert_eq!(space.misuse(), None);
        space.release(y);
        space.release(y);
        assert!(space.misuse().unwrap().contains("is not allocated"));
        assert!(space.axpy(1.0, y, Vector::GRADIENT).is_err());
    }
}
