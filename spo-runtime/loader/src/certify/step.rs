//! What a bilevel step owes: the cost it states, no memory left behind, the same way from the same place.

use serde_json::Value;
use spo_api::{
    BilevelProblem, BilevelStep, Constructor, Error, LevelWeights, Losses, MemorySpace, Passes, Progress,
    Result, StepNeeds, StepReport, Vector, VectorSpace, Weigh,
};

use super::fuse::{FAILURE, FusedSpace};
use super::{Check, Outcome};

#[derive(Clone)]
struct Subject {
    build: Constructor<dyn BilevelStep>,
    config: Value,
}

impl Subject {
    fn make(&self) -> Result<Box<dyn BilevelStep>, Outcome> {
        (self.build)(&self.config).map_err(|e| Outcome::Failed(e.to_string()))
    }
}

pub(super) fn checks<'a>(build: Constructor<dyn BilevelStep>, config: Value) -> Vec<Check<'a>> {
    let subject = Subject { build, config };
    type Body = fn(&Subject) -> Result<String, Outcome>;
    let all: [(&'static str, Body); 5] = [
        ("steps", steps),
        ("zero gradients", zero_gradients),
        ("determinism", determinism),
        ("failures", failures),
        ("state", state),
    ];
    let bind = |(name, body): (&'static str, Body)| -> Check<'a> {
        let subject = subject.clone();
        (name, Box::new(move || body(&subject)))
    };
    all.into_iter().map(bind).collect()
}

/// Two losses on a few parameters, `1/2 sum_i h_i (x_i - c_i)^2` with a quartic on top, and plain descent.
#[derive(Clone)]
struct World {
    /// Its fuse counts evaluations too.
    space: FusedSpace,
    needs: StepNeeds,
    passes: Passes,
    descents: usize,
    /// Evaluations of the upper level in this step.
    upper: usize,
    /// A call that no step may make, or not this one.
    misuse: Option<String>,
    step: usize,
}

const UPPER: ([f64; 4], [f64; 4]) = ([1.0, -2.0, 0.5, 0.0], [1.0, 3.0, 0.5, 2.0]);
const LOWER: ([f64; 4], [f64; 4]) = ([-0.5, 0.5, 0.0, 1.0], [0.5, 1.5, 2.0, 1.0]);

fn value((center, curvature): ([f64; 4], [f64; 4]), x: &[f64]) -> f64 {
    (0..4).map(|i| x[i] - center[i]).zip(curvature).map(|(z, h)| 0.5 * h * z * z + 0.005 * z.powi(4)).sum()
}

fn slope((center, curvature): ([f64; 4], [f64; 4]), x: &[f64]) -> Vec<f64> {
    (0..4).map(|i| x[i] - center[i]).zip(curvature).map(|(z, h)| h * z + 0.02 * z.powi(3)).collect()
}

/// The diagonal of the Hessian, which is all of it.
fn curvature((center, curvature): ([f64; 4], [f64; 4]), x: &[f64]) -> Vec<f64> {
    (0..4).map(|i| x[i] - center[i]).zip(curvature).map(|(z, h)| h + 0.06 * z.powi(2)).collect()
}

impl World {
    fn new(step: &dyn BilevelStep) -> Self {
        Self::at(step, [0.3, 0.1, -0.2, 0.4])
    }

    fn at(step: &dyn BilevelStep, parameters: [f64; 4]) -> Self {
        World {
            space: FusedSpace::new(MemorySpace::new(parameters.to_vec())),
            needs: step.needs(),
            passes: Passes::default(),
            descents: 0,
            upper: 0,
            misuse: None,
            step: 0,
        }
    }

    fn parameters(&self) -> &[f64] {
        self.space.parameters()
    }

    /// Vectors beside the parameters and the gradient.
    fn scratch(&self) -> usize {
        self.space.space.vectors().len() - 2
    }

    /// Refuses a call for which the step did not ask.
    fn asked(&mut self, asked: bool, words: &str) -> Result<()> {
        match asked {
            true => Ok(()),
            false => {
                self.misuse.get_or_insert_with(|| words.to_owned());
                Err(Error::Engine(words.to_owned()))
            }
        }
    }

    /// One step, as the training loop takes it.
    fn run(&mut self, step: &mut dyn BilevelStep) -> Result<StepReport, Outcome> {
        (self.passes, self.descents, self.upper) = Default::default();
        let report = step.step(self);
        self.step += 1;
        if let Some(words) = self.misuse.as_deref().or(self.space.space.misuse()) {
            return Err(words.to_owned().into());
        }
        let report = report?;
        if self.upper > 1 {
            return Err(format!(
                "it evaluates the upper level {} times in one step: an objective with running values counts each batch \
                 once, so evaluate it once",
                self.upper
            )
            .into());
        }
        Ok(report)
    }
}

impl BilevelProblem for World {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        let (upper, lower) = match &weigh {
            Weigh::By(_) | Weigh::Known(_) => (true, true),
            Weigh::Fixed(weights) => (weights.upper != 0.0, weights.lower != 0.0),
        };
        self.asked(
            self.needs.lower || !lower,
            "it takes a gradient of the lower level, and its needs say that it has none: `StepNeeds::two_levels()`",
        )?;
        self.passes.forward += 1;
        self.space.burn()?;
        self.passes.backward += 1;
        self.upper += usize::from(upper);
        let x = self.parameters().to_vec();
        let mut losses = Losses { upper: value(UPPER, &x), lower: value(LOWER, &x) };
        let LevelWeights { upper, lower } = match weigh {
            Weigh::By(rule) => rule(losses)?,
            Weigh::Known(weights) => weights,
            Weigh::Fixed(weights) => {
                if weights.upper == 0.0 {
                    losses.upper = f64::NAN;
                }
                if weights.lower == 0.0 {
                    losses.lower = f64::NAN;
                }
                weights
            }
        };
        let (df, dg) = (slope(UPPER, &x), slope(LOWER, &x));
        // What the accumulator held is lost; a step that relies on it must not get away with it.
        self.space.space.get_mut(Vector::GRADIENT)?.fill(f64::NAN);
        *self.space.space.get_mut(into)? = df.iter().zip(&dg).map(|(f, g)| upper * f + lower * g).collect();
        Ok(losses)
    }

    fn lower(&mut self) -> Result<f64> {
        self.asked(
            self.needs.lower,
            "it evaluates the lower level, and its needs say that it has none: `StepNeeds::two_levels()`",
        )?;
        self.passes.forward += 1;
        self.space.burn()?;
        Ok(value(LOWER, self.parameters()))
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        self.asked(
            self.needs.hessian,
            "it takes a Hessian-vector product, and its needs do not say so: `.hessian(true)`, or backends without such \
             products fail in the middle of a run",
        )?;
        for _ in 0..2 {
            self.passes.forward += 1;
            self.space.burn()?;
            self.passes.backward += 1;
        }
        if v.0 < 2 || into.0 < 2 {
            let words = "it takes a Hessian-vector product of, or into, vector 0 or 1".to_owned();
            self.misuse = Some(words.clone());
            return Err(Error::Engine(words));
        }
        let hessian = curvature(LOWER, self.parameters());
        let product = self.space.space.get_mut(v)?.iter().zip(hessian).map(|(v, h)| h * v).collect();
        self.space.space.get_mut(Vector::GRADIENT)?.fill(f64::NAN);
        *self.space.space.get_mut(into)? = product;
        Ok(())
    }

    fn reference_lower(&mut self) -> Result<f64> {
        self.asked(
            self.needs.reference_lower,
            "it asks for the loss of the reference, and its needs do not say so: `.reference_lower(true)`",
        )?;
        Ok(0.2)
    }

    fn next_lower(&mut self) -> Result<()> {
        Ok(())
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        if !(lr_factor.is_finite() && self.space.space.get(Vector::GRADIENT)?.iter().all(|x| x.is_finite())) {
            let words =
                "it descends with a gradient that is not finite; was it computed into vector 1?".to_owned();
            self.misuse = Some(words.clone());
            return Err(Error::NonFinite(words));
        }
        self.descents += 1;
        self.space.burn()?;
        self.space.space.axpy(-0.02 * lr_factor, Vector::GRADIENT, Vector::PARAMETERS)
    }

    fn progress(&self) -> Progress {
        Progress { step: self.step, total: 1000 }
    }
}

/// It moves, at the cost it states, and tidies up.
fn steps(subject: &Subject) -> Result<String, Outcome> {
    let mut step = subject.make()?;
    let (mut world, stated) = (World::new(&*step), step.passes());
    let began = world.parameters().to_vec();
    let mut kept = 0;
    for round in 0..200 {
        let report = world.run(&mut *step)?;
        if let Some((name, x)) = report.metrics.iter().find(|(_, x)| !x.is_finite()) {
            return Err(format!("its metric `{name}` is {x}").into());
        }
        if world.passes != stated {
            let Passes { forward, backward, .. } = world.passes;
            return Err(format!(
                "it states {} forward and {} backward passes a step, and makes {forward} and {backward}",
                stated.forward, stated.backward
            )
            .into());
        }
        // Soon, and at the end: what climbs for long leaves the numbers there are.
        let rises = |level| value(level, world.parameters()) > value(level, &began);
        if [20, 200].contains(&(round + 1)) && rises(UPPER) && rises(LOWER) {
            return Err(format!(
                "{} steps on a toy problem raise both losses: does it go along the gradient, not against it?",
                round + 1
            )
            .into());
        }
        let here = world.scratch();
        if round >= 2 && here > kept {
            return Err(format!(
                "it keeps more vectors every step ({here} after step {}): release them",
                round + 1
            )
            .into());
        }
        kept = here;
    }
    if world.parameters() == began {
        return Err("200 steps moved no parameter: does it `descend`?".to_owned().into());
    }
    let (f, g) = (value(UPPER, world.parameters()), value(LOWER, world.parameters()));
    Ok(format!(
        "{} forward, {} backward a step; 200 steps on a toy problem bring F from {:.3} to {f:.3}, G from {:.3} to {g:.3}",
        stated.forward,
        stated.backward,
        value(UPPER, &began),
        value(LOWER, &began)
    ))
}

/// Where a gradient vanishes, its length is no divisor.
fn zero_gradients(subject: &Subject) -> Result<String, Outcome> {
    for (level, (center, _)) in [("upper", UPPER), ("lower", LOWER)] {
        let mut step = subject.make()?;
        let mut world = World::at(&*step, center);
        for _ in 0..3 {
            let place = |words| format!("where the gradient of the {level} level is 0, {words}");
            let report = match world.run(&mut *step) {
                Err(Outcome::Failed(words)) => return Err(place(words).into()),
                other => other?,
            };
            if let Some((name, x)) = report.metrics.iter().find(|(_, x)| !x.is_finite()) {
                return Err(place(format!("its metric `{name}` is {x}")).into());
            }
        }
    }
    Ok("finite where the gradient of either level is 0".into())
}

/// From the same place it goes the same way.
fn determinism(subject: &Subject) -> Result<String, Outcome> {
    let run = || -> Result<_, Outcome> {
        let mut step = subject.make()?;
        let mut world = World::new(&*step);
        for _ in 0..20 {
            world.run(&mut *step)?;
        }
        Ok(world.parameters().to_vec())
    };
    if run()? != run()? {
        return Err("twenty steps from one place end in two".to_owned().into());
    }
    Ok("bit-identical".into())
}

/// A failure of the problem or of its vectors is passed on, and leaves no vectors behind.
fn failures(subject: &Subject) -> Result<String, Outcome> {
    for operation in 0.. {
        let mut step = subject.make()?;
        let mut world = World::new(&*step);
        world.space.fuse = Some(operation);
        match step.step(&mut world) {
            Ok(_) if !world.space.blown => {
                return Ok(format!(
                    "each of {operation} evaluations and operations failed in turn; all passed on"
                ));
            }
            Ok(_) => {
                return Err(format!(
                    "operation {} on the problem or its vectors failed, and the step went on as if it had not",
                    operation + 1
                )
                .into());
            }
            Err(error) if !error.to_string().contains(FAILURE) => {
                return Err(format!("the problem's own error is lost; the step says instead: {error}").into());
            }
            Err(_) => {}
        }
        // A step may keep vectors from one step to the next, and releases those of a step that fails.
        if world.scratch() > 0 {
            return Err(format!(
                "after a failure {} of its vectors are left behind: see `with_scratch`, which releases them",
                world.scratch()
            )
            .into());
        }
    }
    unreachable!("the operations of a step are finite")
}

/// What it remembers survives a resume.
fn state(subject: &Subject) -> Result<String, Outcome> {
    let mut step = subject.make()?;
    let (mut world, mut length) = (World::new(&*step), 0);
    for _ in 0..20 {
        world.run(&mut *step)?;
        let (mut twin, mut resumed) = (world.clone(), subject.make()?);
        resumed.restore(&step.state())?;
        twin.run(&mut *resumed)?;
        world.run(&mut *step)?;
        if twin.parameters() != world.parameters() || resumed.state() != step.state() {
            return Err("restored, it goes on otherwise than without the interruption".to_owned().into());
        }
        length = step.state().len();
    }
    if length == 0 {
        return match subject.make()?.restore(b"no state of this step") {
            Err(_) => Ok("it keeps none, and refuses one".into()),
            Ok(()) => Err("it keeps no state, and swallows one without a word".to_owned().into()),
        };
    }
    if subject.make()?.restore(b"?").is_ok() {
        return Err(format!("it takes 1 byte for a state of {length}").into());
    }
    Ok(format!("{length} bytes, restored to the bit; broken ones refused"))
}
