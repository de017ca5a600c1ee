//! Exact hypergradients, which bilevel steps approximate. Affordable only for small problems.
//!
//! F is the upper loss, G the lower loss, theta the parameters. Let `U` be the result of K plain gradient
//! steps on G, `theta_(k+1) = theta_k - alpha dG(theta_k)`. The problems are:
//!
//! - *unrolled*: `theta -> F(U(theta))`. By the chain rule its gradient is
//!   `(I - alpha H(theta_0)) ... (I - alpha H(theta_(K-1))) dF(theta_K)`, H the Hessian of G;
//! - *implicit*: `theta -> F(t(theta))` with `t(theta) = argmin_t G(t) + |t - theta|^2 / (2a)` and
//!   `a = K alpha`. This is SFT run to convergence, with a proximal term that keeps it about as close to
//!   theta as K steps would. From `dG(t) + (t - theta) / a = 0` follows `dt/dtheta = (I + a H(t))^-1`, so
//!   the gradient is `(I + a H(t))^-1 dF(t)`;
//! - *value function*: `theta -> F(theta) + lambda (G(theta) - G(U(theta)))`, a penalty on how far G is above
//!   its value after K steps. Its gradient is `dF + lambda (dG - d(G o U))`. Bilevel steps leave out the last
//!   term, which vanishes where U reaches a minimum of G.
//!
//! Hessian-vector products are computed exactly by the backend.

use spo_api::{BilevelProblem, Error, LevelWeights, Result, Vector, Weigh};

/// K plain gradient steps of length alpha on G.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    /// K.
    pub(crate) steps: usize,
    /// Alpha, the learning rate.
    pub(crate) lr: f64,
}

/// Convergence threshold of Newton's method and conjugate gradients, relative to the initial norm.
const TOLERANCE: f64 = 1e-11;

/// Calls a function with scratch vectors and always releases them.
fn scratch<T>(
    problem: &mut dyn BilevelProblem,
    count: usize,
    work: impl FnOnce(&mut dyn BilevelProblem, &[Vector]) -> Result<T>,
) -> Result<T> {
    let mut vectors = Vec::with_capacity(count);
    for _ in 0..count {
        vectors.push(problem.vectors().allocate()?);
    }
    let done = work(problem, &vectors);
    for v in vectors {
        problem.vectors().release(v);
    }
    done
}

/// The gradient of one level at `point`.
fn gradient_at(
    problem: &mut dyn BilevelProblem,
    point: Vector,
    level: LevelWeights,
    into: Vector,
) -> Result<()> {
    problem.vectors().copy(point, Vector::PARAMETERS)?;
    problem.gradient(Weigh::Fixed(level), into).map(|_| ())
}

/// `into <- H(point) v`. Leaves the parameters at `point`.
fn hessian_times(problem: &mut dyn BilevelProblem, point: Vector, v: Vector, into: Vector) -> Result<()> {
    problem.vectors().copy(point, Vector::PARAMETERS)?;
    problem.lower_hessian_vector(v, into)
}

/// The gradient of `theta -> level(U(theta))` at `home`.
fn through_steps(
    problem: &mut dyn BilevelProblem,
    home: Vector,
    inner: Inner,
    level: LevelWeights,
    into: Vector,
) -> Result<()> {
    scratch(problem, inner.steps + 2, |problem, scratch| {
        let (&[product, end], points) = scratch.split_first_chunk().expect("two and one for each step");
        problem.vectors().copy(home, end)?;
        for &point in points {
            problem.vectors().copy(end, point)?;
            gradient_at(problem, point, LevelWeights::LOWER, product)?;
            problem.vectors().axpy(-inner.lr, product, end)?;
        }
        gradient_at(problem, end, level, into)?;
        for &point in points.iter().rev() {
            hessian_times(problem, point, into, product)?;
            problem.vectors().axpy(-inner.lr, product, into)?;
        }
        Ok(())
    })
}

/// The gradient of `theta -> F(U(theta))` at `home`.
pub(crate) fn unrolled(
    problem: &mut dyn BilevelProblem,
    home: Vector,
    inner: Inner,
    into: Vector,
) -> Result<()> {
    through_steps(problem, home, inner, LevelWeights::UPPER, into)
}

/// The gradient of `theta -> F(theta) + lambda (G(theta) - G(U(theta)))`.
pub(crate) fn value_function(
    problem: &mut dyn BilevelProblem,
    home: Vector,
    inner: Inner,
    lambda: f64,
    into: Vector,
) -> Result<()> {
    scratch(problem, 1, |problem, scratch| {
        through_steps(problem, home, inner, LevelWeights::LOWER, scratch[0])?;
        gradient_at(problem, home, LevelWeights { upper: 1.0, lower: lambda }, into)?;
        problem.vectors().axpy(-lambda, scratch[0], into)
    })
}

/// The gradient of `theta -> F(t(theta))`.
pub(crate) fn implicit(
    problem: &mut dyn BilevelProblem,
    home: Vector,
    inner: Inner,
    into: Vector,
) -> Result<()> {
    let a = inner.steps as f64 * inner.lr;
    scratch(problem, 2, |problem, scratch| {
        let &[t, gradient] = scratch else { unreachable!("two were asked for") };
        problem.vectors().copy(home, t)?;
        proximal_point(problem, home, a, t)?;
        gradient_at(problem, t, LevelWeights::UPPER, gradient)?;
        match solve(problem, t, a, gradient, into)? {
            Solved::Whole => Ok(()),
            Solved::UntilConcave => Err(Error::Engine(format!(
                "where SFT held near the policy (a = {a}) ends is no strict minimum: the implicit gradient is not defined"
            ))),
        }
    })
}

/// The largest absolute curvature of G at `home`. Plain gradient steps longer than 2 divided by it overshoot.
/// Computed by power iteration, starting from dG.
pub(crate) fn sharpness(problem: &mut dyn BilevelProblem, home: Vector) -> Result<f64> {
    scratch(problem, 2, |problem, scratch| {
        let &[direction, product] = scratch else { unreachable!("two were asked for") };
        gradient_at(problem, home, LevelWeights::LOWER, direction)?;
        let mut curvature = 0.0;
        for _ in 0..100 {
            let norm = problem.vectors().norm(direction)?;
            if norm == 0.0 {
                return Ok(0.0);
            }
            problem.vectors().scale(1.0 / norm, direction)?;
            hessian_times(problem, home, direction, product)?;
            curvature = problem.vectors().norm(product)?;
            problem.vectors().copy(product, direction)?;
        }
        Ok(curvature)
    })
}

/// Moves `t` downhill to a minimum of `a G(t) + |t - home|^2 / 2` by truncated Newton steps (Dembo and
/// Steihaug 1983).
fn proximal_point(problem: &mut dyn BilevelProblem, home: Vector, a: f64, t: Vector) -> Result<()> {
    scratch(problem, 4, |problem, scratch| {
        let &[slope, step, before, offset] = scratch else { unreachable!("four were asked for") };
        // The value at t. Also writes its gradient to `slope`.
        let value = |problem: &mut dyn BilevelProblem| -> Result<f64> {
            problem.vectors().copy(t, Vector::PARAMETERS)?;
            let lower = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), slope)?.lower;
            let space = problem.vectors();
            space.copy(t, offset)?;
            space.axpy(-1.0, home, offset)?;
            space.scale(a, slope)?;
            space.axpy(1.0, offset, slope)?;
            Ok(a * lower + 0.5 * space.dot(offset, offset)?)
        };
        let mut here = value(problem)?;
        let mut norm = problem.vectors().norm(slope)?;
        let enough = TOLERANCE * norm.max(1.0);
        for _ in 0..200 {
            if norm <= enough {
                return Ok(());
            }
            solve(problem, t, a, slope, step)?;
            problem.vectors().copy(t, before)?;
            let (mut length, last) = (1.0, here);
            loop {
                problem.vectors().copy(before, t)?;
                problem.vectors().axpy(-length, step, t)?;
                here = value(problem)?;
                let next = problem.vectors().norm(slope)?;
                // Near the minimum, differences in value are below rounding error, so the norm of the slope
                // decides.
                if here < last || (next < norm && here <= last + 1e-12 * last.abs()) || length < 1e-9 {
                    norm = next;
                    break;
                }
                length *= 0.5;
            }
        }
        Err(Error::Engine(format!(
            "SFT held near the policy (a = {a}) has not come to rest: take fewer inner steps"
        )))
    })
}

/// How conjugate gradients ended.
enum Solved {
    Whole,
    /// Stopped at a direction of non-positive curvature. The result so far is a descent direction.
    UntilConcave,
}

/// `x <- (I + a H(point))^-1 b` by conjugate gradients (Hestenes and Stiefel 1952).
fn solve(problem: &mut dyn BilevelProblem, point: Vector, a: f64, b: Vector, x: Vector) -> Result<Solved> {
    scratch(problem, 3, |problem, scratch| {
        let &[residual, direction, product] = scratch else { unreachable!("three were asked for") };
        problem.vectors().zero(x)?;
        problem.vectors().copy(b, residual)?;
        problem.vectors().copy(b, direction)?;
        let mut squared = problem.vectors().dot(residual, residual)?;
        let enough = TOLERANCE * squared.sqrt();
        // In exact arithmetic, one iteration per dimension is enough; rounding may require a few more.
        for round in 0..2 * problem.vectors().dimension() {
            if squared.sqrt() <= enough {
                break;
            }
            hessian_times(problem, point, direction, product)?;
            let space = problem.vectors();
            space.scale(a, product)?;
            space.axpy(1.0, direction, product)?;
            let curvature = space.dot(direction, product)?;
            if curvature <= 0.0 {
                if round == 0 {
                    space.copy(b, x)?;
                }
                return Ok(Solved::UntilConcave);
            }
            let length = squared / curvature;
            space.axpy(length, direction, x)?;
            space.axpy(-length, product, residual)?;
            let next = space.dot(residual, residual)?;
            space.scale(next / squared, direction)?;
            space.axpy(1.0, residual, direction)?;
            squared = next;
        }
        Ok(Solved::Whole)
    })
}

#[cfg(test)]
mod tests;
