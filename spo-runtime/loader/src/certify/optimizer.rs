//! What an optimizer owes: it goes down a slope, keeps nothing but its vectors, and rests where there is nothing to do.

use serde_json::Value;
use spo_api::{Constructor, MemorySpace, Optimizer, Result, Update, Vector, VectorSpace};

use super::fuse::{FAILURE, FusedSpace};
use super::{Check, Outcome};

#[derive(Clone)]
struct Subject {
    build: Constructor<dyn Optimizer>,
    config: Value,
}

impl Subject {
    fn make(&self) -> Result<Box<dyn Optimizer>, Outcome> {
        (self.build)(&self.config).map_err(|e| Outcome::Failed(e.to_string()))
    }
}

pub(super) fn checks<'a>(build: Constructor<dyn Optimizer>, config: Value) -> Vec<Check<'a>> {
    let subject = Subject { build, config };
    type Body = fn(&Subject) -> Result<String, Outcome>;
    let all: [(&'static str, Body); 8] = [
        ("descent", descent),
        ("clipping", clipping),
        ("learning rate", learning_rate),
        ("determinism", determinism),
        ("resume", resume),
        ("rest", rest),
        ("extreme gradients", extremes),
        ("failures", failures),
    ];
    let bind = |(name, body): (&'static str, Body)| -> Check<'a> {
        let subject = subject.clone();
        let check = move || match subject.make()?.needs_kernel() {
            true => Err(Outcome::Skipped("only the kernel of a backend can run it".into())),
            false => body(&subject),
        };
        (name, Box::new(check))
    };
    all.into_iter().map(bind).collect()
}

const START: [f64; 5] = [0.9, -1.4, 0.5, 0.02, -0.3];
/// Of the quadratic `1/2 sum_i h_i x_i^2`.
const CURVATURE: [f64; 5] = [1.0, 3.0, 0.5, 2.0, 0.1];

fn value(x: &[f64]) -> f64 {
    x.iter().zip(CURVATURE).map(|(x, h)| 0.5 * h * x * x).sum()
}

/// Parameters, their gradient, and what the optimizer keeps. The last parameter belongs to a bias.
#[derive(Clone)]
struct World {
    space: FusedSpace,
    state: Vec<Vector>,
    count: u64,
}

impl World {
    fn new(optimizer: &dyn Optimizer, start: &[f64]) -> Result<Self, Outcome> {
        let space = MemorySpace::new(start.to_vec()).sparing([false, false, false, false, true]);
        let mut space = FusedSpace::new(space);
        let state = (0..optimizer.states()).map(|_| space.allocate()).collect::<Result<_>>()?;
        Ok(World { space, state, count: 0 })
    }

    fn parameters(&self) -> &[f64] {
        self.space.parameters()
    }

    /// Everything but the gradient, which is the optimizer's to overwrite.
    fn kept(&self) -> Vec<(u32, Vec<u64>)> {
        let kept = self.space.space.vectors().iter().filter(|(handle, _)| **handle != Vector::GRADIENT.0);
        kept.map(|(handle, x)| (*handle, x.iter().map(|x| x.to_bits()).collect())).collect()
    }

    /// One update along a gradient; every third is clipped.
    fn update(&mut self, optimizer: &dyn Optimizer, gradient: &[f64]) -> Result<(), Outcome> {
        let gradient_scale = if self.count % 3 == 2 { 0.5 } else { 1.0 };
        self.update_by(optimizer, gradient, 1e-2, gradient_scale)
    }

    fn update_by(
        &mut self,
        optimizer: &dyn Optimizer,
        gradient: &[f64],
        lr: f64,
        gradient_scale: f64,
    ) -> Result<(), Outcome> {
        self.space.space.get_mut(Vector::GRADIENT)?.copy_from_slice(gradient);
        self.count += 1;
        optimizer.step(&mut self.space, &self.state, &Update { lr, gradient_scale, count: self.count })?;
        self.tidy()
    }

    /// No vector is left behind, and none was used that is not there.
    fn tidy(&self) -> Result<(), Outcome> {
        if let Some(words) = self.space.space.misuse() {
            return Err(words.to_owned().into());
        }
        match self.space.space.vectors().len() - 2 - self.state.len() {
            0 => Ok(()),
            left => Err(format!("{left} of its scratch vectors are left behind: see `with_scratch`").into()),
        }
    }

    /// One update down the quadratic.
    fn descend(&mut self, optimizer: &dyn Optimizer) -> Result<(), Outcome> {
        let gradient: Vec<f64> = self.parameters().iter().zip(CURVATURE).map(|(x, h)| h * x).collect();
        self.update(optimizer, &gradient)
    }
}

/// It goes down a quadratic, tidily.
fn descent(subject: &Subject) -> Result<String, Outcome> {
    let optimizer = subject.make()?;
    let mut world = World::new(&*optimizer, &START)?;
    for _ in 0..60 {
        world.descend(&*optimizer)?;
    }
    let (began, ended) = (value(&START), value(world.parameters()));
    if ended.is_nan() || ended >= began {
        return Err(format!("60 updates take a quadratic from {began:.4} to {ended:.4}: it must fall").into());
    }
    let states = optimizer.states();
    Ok(format!("{states} vectors of state; 60 updates take a quadratic from {began:.4} to {ended:.4}"))
}

/// A gradient that is to be scaled is the scaled gradient: clipping works.
fn clipping(subject: &Subject) -> Result<String, Outcome> {
    let (optimizer, other) = (subject.make()?, subject.make()?);
    let (mut clipped, mut scaled) = (World::new(&*optimizer, &START)?, World::new(&*other, &START)?);
    // Scales that differ from update to update: a rule that is blind to a common factor sees these.
    for (round, scale) in [1.0, 0.125, 0.5, 0.03125, 0.25].into_iter().enumerate() {
        let gradient: Vec<f64> =
            START.iter().zip(CURVATURE).map(|(x, h)| h * x + 0.1 * round as f64).collect();
        clipped.update_by(&*optimizer, &gradient, 1e-2, scale)?;
        let gradient: Vec<f64> = gradient.iter().map(|g| scale * g).collect();
        scaled.update_by(&*other, &gradient, 1e-2, 1.0)?;
        let apart = clipped.parameters().iter().zip(scaled.parameters()).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f64::max);
        if apart.is_nan() || apart > 1e-9 {
            return Err(format!(
                "an update with `gradient_scale` {scale} ends {apart:.1e} from one along the gradient times {scale}: \
                 multiply the gradient by `gradient_scale` before anything else, or it is not clipped"
            )
            .into());
        }
    }
    Ok("a clipped update is one along the scaled gradient".into())
}

/// The learning rate is that of the update.
fn learning_rate(subject: &Subject) -> Result<String, Outcome> {
    let optimizer = subject.make()?;
    let after = |lr: f64| -> Result<Vec<f64>, Outcome> {
        let mut world = World::new(&*optimizer, &START)?;
        for _ in 0..3 {
            world.update_by(&*optimizer, &CURVATURE, lr, 1.0)?;
        }
        Ok(world.parameters().to_vec())
    };
    if after(0.0)? != START {
        return Err("at a learning rate of 0 parameters move: the warm-up begins there".to_owned().into());
    }
    if after(1e-2)? == after(2e-2)? {
        let words = "twice the learning rate leads to the same place: use `update.lr`, in which warm-up and schedule are";
        return Err(words.to_owned().into());
    }
    Ok("nothing moves at 0, and elsewhere it counts".into())
}

/// From the same place it goes the same way.
fn determinism(subject: &Subject) -> Result<String, Outcome> {
    let run = || -> Result<_, Outcome> {
        let optimizer = subject.make()?;
        let mut world = World::new(&*optimizer, &START)?;
        for _ in 0..20 {
            world.descend(&*optimizer)?;
        }
        Ok(world.kept())
    };
    match run()? == run()? {
        true => Ok("bit-identical".into()),
        false => Err("twenty updates from one place end in two".to_owned().into()),
    }
}

/// Whatever it keeps is in its vectors: another instance goes on from them to the bit.
fn resume(subject: &Subject) -> Result<String, Outcome> {
    let optimizer = subject.make()?;
    let mut world = World::new(&*optimizer, &START)?;
    for round in 0..20 {
        let mut twin = world.clone();
        world.descend(&*optimizer)?;
        twin.descend(&*subject.make()?)?;
        if twin.kept() != world.kept() {
            return Err(format!(
                "after {round} updates another instance, given the same vectors, goes on otherwise: what it keeps \
                 elsewhere is lost on resume"
            )
            .into());
        }
    }
    Ok("another instance goes on from its vectors, to the bit".into())
}

/// Without a gradient nothing moves, but for weight decay.
fn rest(subject: &Subject) -> Result<String, Outcome> {
    let optimizer = subject.make()?;
    let mut world = World::new(&*optimizer, &[0.0; 5])?;
    for _ in 0..3 {
        world.update(&*optimizer, &[0.0; 5])?;
    }
    if world.kept().iter().any(|(_, bits)| bits.iter().any(|bits| f64::from_bits(*bits) != 0.0)) {
        return Err("without parameters, gradient and state, something moves".to_owned().into());
    }
    let mut world = World::new(&*optimizer, &START)?;
    world.update(&*optimizer, &[0.0; 5])?;
    let moved = world.parameters().iter().zip(START).filter(|(now, before)| *now != before);
    let moved: Vec<(f64, f64)> = moved.map(|(now, before)| (*now, before)).collect();
    match moved.iter().find(|(now, before)| (now - before) * before > 0.0) {
        Some((now, before)) => {
            Err(format!("without a gradient a parameter moves from {before} to {now}, away from 0").into())
        }
        None if moved.is_empty() => Ok("nothing moves without a gradient".into()),
        None => Ok("without a gradient nothing moves, but for weight decay".into()),
    }
}

/// Gradients from 1e-300 to 1e100.
fn extremes(subject: &Subject) -> Result<String, Outcome> {
    const MAGNITUDES: [f64; 7] = [0.0, 1e-300, 1e-30, 1e-8, 1.0, 1e30, 1e100];
    for a in MAGNITUDES {
        for b in MAGNITUDES {
            let optimizer = subject.make()?;
            let mut world = World::new(&*optimizer, &START)?;
            for gradient in [[a, -a, b, -b, 0.0], [b, a, -b, -a, a]] {
                world.update(&*optimizer, &gradient)?;
                if let Some(x) = world.parameters().iter().find(|x| !x.is_finite()) {
                    return Err(format!("gradients of {a:e} and {b:e} make a parameter {x}").into());
                }
            }
        }
    }
    Ok("finite at gradients from 1e-300 to 1e100".into())
}

/// A failure of the space is passed on, and leaves no vectors behind.
fn failures(subject: &Subject) -> Result<String, Outcome> {
    let optimizer = subject.make()?;
    for operation in 0.. {
        let mut world = World::new(&*optimizer, &START)?;
        world.space.fuse = Some(operation);
        match world.descend(&*optimizer) {
            Ok(()) if !world.space.blown => {
                return Ok(format!("each of {operation} vector operations failed in turn; all passed on"));
            }
            Ok(()) => {
                let words = format!("vector operation {operation} failed, and it went on as if it had not");
                return Err(words.into());
            }
            Err(Outcome::Failed(words)) if words.contains(FAILURE) => {
                world.tidy()?;
            }
            Err(other) => return Err(other),
        }
    }
    unreachable!("the operations of an update are finite")
}
