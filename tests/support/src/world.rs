//! A bilevel problem with closed forms: two losses on vectors of f64, and gradient descent.

use spo_api::{
    BilevelProblem, BilevelStep, Error, LevelWeights, Losses, MemorySpace, Passes, Progress, Registry,
    Result, StepReport, Vector, VectorSpace, Weigh,
};

/// `floor + 1/2 (x - center)' H (x - center) + quartic/4 sum_i (x_i - center_i)^4`, H = Q diag(curvature) Q'
/// with a fixed rotation Q in the first two coordinates.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Where the loss is lowest.
    pub center: Vec<f64>,
    /// The Hessian's eigenvalues, without the quartic part.
    pub curvature: Vec<f64>,
    /// Weight of the part that makes the Hessian change.
    pub quartic: f64,
    /// The loss at its center.
    pub floor: f64,
}

impl Loss {
    /// Without a quartic part, 0 at its center.
    pub fn quadratic(center: &[f64], curvature: &[f64]) -> Self {
        Loss { center: center.to_vec(), curvature: curvature.to_vec(), quartic: 0.0, floor: 0.0 }
    }

    fn rotate(v: &mut [f64], angle: f64) {
        let (s, c) = angle.sin_cos();
        (v[0], v[1]) = (c * v[0] - s * v[1], s * v[0] + c * v[1]);
    }

    /// The loss at `x`.
    pub fn value(&self, x: &[f64]) -> f64 {
        let z: Vec<f64> = x.iter().zip(&self.center).map(|(x, c)| x - c).collect();
        let mut r = z.clone();
        Self::rotate(&mut r, -0.6);
        let quadratic: f64 = r.iter().zip(&self.curvature).map(|(z, h)| 0.5 * h * z * z).sum();
        self.floor + quadratic + z.iter().map(|z| self.quartic / 4.0 * z.powi(4)).sum::<f64>()
    }

    /// The gradient at `x`.
    pub fn gradient(&self, x: &[f64]) -> Vec<f64> {
        let z: Vec<f64> = x.iter().zip(&self.center).map(|(x, c)| x - c).collect();
        let mut r = z.clone();
        Self::rotate(&mut r, -0.6);
        r.iter_mut().zip(&self.curvature).for_each(|(z, h)| *z *= h);
        Self::rotate(&mut r, 0.6);
        r.iter().zip(&z).map(|(g, z)| g + self.quartic * z.powi(3)).collect()
    }

    /// The Hessian at `x`, times `v`.
    pub fn hessian_times(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let mut r = v.to_vec();
        Self::rotate(&mut r, -0.6);
        r.iter_mut().zip(&self.curvature).for_each(|(v, h)| *v *= h);
        Self::rotate(&mut r, 0.6);
        let quartic = |i: usize| 3.0 * self.quartic * (x[i] - self.center[i]).powi(2) * v[i];
        r.iter().enumerate().map(|(i, h)| h + quartic(i)).collect()
    }
}

/// Inner product.
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The calls that a step made to the problem.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Forward passes.
    pub forward: usize,
    /// Backward passes.
    pub backward: usize,
    /// Gradients that the upper level had a part in.
    pub upper_evaluations: usize,
    /// Direction and learning-rate factor of every descent.
    pub descents: Vec<(Vec<f64>, f64)>,
}

/// The problem: parameters and the losses of the two levels.
#[derive(Clone)]
pub struct World {
    /// The upper level.
    pub upper: Loss,
    /// Batches of the lower level, drawn in turn.
    pub lower: Vec<Loss>,
    /// The lower loss of the reference, if it is kept.
    pub reference: Option<f64>,
    /// Learning rate of a descent.
    pub lr: f64,
    /// Whether a descent moves every coordinate alike, as the first update of an adaptive optimizer does.
    pub by_sign: bool,
    /// The gradient evaluation that fails, counted from now.
    pub fail_after: Option<usize>,
    /// What the last step did.
    pub trace: Trace,
    space: MemorySpace,
    batch: usize,
    step: usize,
}

impl World {
    /// A problem that starts at `start`, its lower level on one batch.
    pub fn new(upper: Loss, lower: Loss, start: &[f64]) -> Self {
        World {
            upper,
            lower: vec![lower],
            reference: None,
            lr: 0.1,
            by_sign: false,
            fail_after: None,
            trace: Trace::default(),
            space: MemorySpace::new(start.to_vec()),
            batch: 0,
            step: 0,
        }
    }

    /// The parameters.
    pub fn theta(&self) -> &[f64] {
        &self.space.vectors()[&Vector::PARAMETERS.0]
    }

    /// The lower level on the current batch.
    pub fn lower_batch(&self) -> &Loss {
        &self.lower[self.batch % self.lower.len()]
    }

    /// Takes one step as the training loop does, and checks what holds for every step.
    pub fn run(&mut self, step: &mut dyn BilevelStep) -> StepReport {
        self.trace = Trace::default();
        let report = step.step(self).unwrap();
        self.step += 1;
        self.assert_tidy();
        let Passes { forward, backward, .. } = step.passes();
        assert_eq!((self.trace.forward, self.trace.backward), (forward, backward), "the cost it states");
        assert_eq!(self.trace.upper_evaluations, 1, "running values of the upper level advance once");
        assert!(report.metrics.values().all(|x| x.is_finite()), "{:?}", report.metrics);
        report
    }

    /// Takes a step that fails at its `n`-th evaluation. It must restore the parameters and release its vectors.
    pub fn run_failing(&mut self, step: &mut dyn BilevelStep, n: usize) {
        self.trace = Trace::default();
        self.fail_after = Some(n);
        let before = self.theta().to_vec();
        step.step(self).unwrap_err();
        self.assert_tidy();
        if self.trace.descents.is_empty() {
            assert_eq!(self.theta(), before);
        }
        self.fail_after = None;
    }

    fn assert_tidy(&self) {
        assert_eq!(self.space.vectors().len(), 2, "scratch vectors must be released");
        assert_eq!(self.space.misuse(), None);
    }

    /// Direction of the last descent.
    pub fn direction(&self) -> &[f64] {
        &self.trace.descents.last().expect("a descent").0
    }

    fn evaluate(&mut self) -> Result<()> {
        self.trace.forward += 1;
        match &mut self.fail_after {
            Some(0) => Err(Error::NonFinite("the failure that was asked for".into())),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl BilevelProblem for World {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        self.evaluate()?;
        self.trace.backward += 1;
        let theta = self.theta().to_vec();
        let mut losses = Losses { upper: self.upper.value(&theta), lower: self.lower_batch().value(&theta) };
        let (weights, both) = match weigh {
            Weigh::Fixed(weights) => (weights, false),
            Weigh::By(f) => (f(losses)?, true),
            Weigh::Known(weights) => (weights, true),
        };
        let LevelWeights { upper, lower } = weights;
        if upper == 0.0 && !both {
            losses.upper = f64::NAN;
        }
        if lower == 0.0 && !both {
            losses.lower = f64::NAN;
        }
        self.trace.upper_evaluations += usize::from(upper != 0.0 || both);
        let (df, dg) = (self.upper.gradient(&theta), self.lower_batch().gradient(&theta));
        // The content of the accumulator is lost. A step that relies on it must fail.
        self.space.get_mut(Vector::GRADIENT)?.fill(f64::NAN);
        *self.space.get_mut(into)? = df.iter().zip(&dg).map(|(f, g)| upper * f + lower * g).collect();
        Ok(losses)
    }

    fn lower(&mut self) -> Result<f64> {
        self.evaluate()?;
        Ok(self.lower_batch().value(self.theta()))
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        assert!(v.0 > 1 && into.0 > 1, "{v:?} and {into:?} must be the step's own");
        for _ in 0..2 {
            self.evaluate()?;
            self.trace.backward += 1;
        }
        let product = self.lower_batch().hessian_times(self.theta(), self.space.get(v)?);
        self.space.get_mut(Vector::GRADIENT)?.fill(f64::NAN);
        *self.space.get_mut(into)? = product;
        Ok(())
    }

    fn reference_lower(&mut self) -> Result<f64> {
        self.reference.ok_or_else(|| Error::Batch("this run keeps no reference".into()))
    }

    fn next_lower(&mut self) -> Result<()> {
        self.batch += 1;
        Ok(())
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        let d = self.space.get(Vector::GRADIENT)?.clone();
        assert!(d.iter().all(|x| x.is_finite()), "{d:?}");
        if self.by_sign {
            let signs: Vec<f64> = d.iter().map(|x| x.signum()).collect();
            self.space.get_mut(Vector::GRADIENT)?.copy_from_slice(&signs);
        }
        self.trace.descents.push((d, lr_factor));
        self.space.axpy(-self.lr * lr_factor, Vector::GRADIENT, Vector::PARAMETERS)
    }

    fn progress(&self) -> Progress {
        Progress { step: self.step, total: 1000 }
    }
}

/// The step for this table of a recipe.
pub fn build(name: &str, config: serde_json::Value) -> Box<dyn BilevelStep> {
    Registry::linked().unwrap().step(name, &config).unwrap()
}

/// `x + a y`.
pub fn plus(x: &[f64], a: f64, y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + a * y).collect()
}

/// Asserts `|got - expected| <= tolerance * (1 + |expected|)` of every entry.
#[track_caller]
pub fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= tolerance * (1.0 + e.abs()), "{got:?} is not {expected:?}");
    }
}
