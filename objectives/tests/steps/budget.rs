//! The loops of `spo` on a problem with noise: a preference that can always be had for more G, batches that are not
//! alike, held-out rows on which G rises more than on those that are trained on, and Adam.

use proptest::prelude::*;
use serde_json::{Value, json};
use spo_api::{
    BilevelProblem, LevelWeights, Losses, MemorySpace, Progress, Result, Rise, Ruling, Vector, VectorSpace,
    Weigh,
};

use crate::world::build;

const DIMENSION: usize = 20;
/// How much more G rises on rows that are not trained on.
const UNSEEN: f64 = 1.5;
const STANDARD_ERROR: f64 = 0.002;

/// F = slope softplus(-m), m the sum of all coordinates; G = 1/2 ||x||^2, plus noise that grows with the distance from
/// the reference at 0.
struct Noisy {
    slope: f64,
    lr: f64,
    space: MemorySpace,
    moments: [Vec<f64>; 2],
    steps: usize,
    seed: u64,
}

impl Noisy {
    fn new(slope: f64, lr: f64) -> Self {
        let zeros = || vec![0.0; DIMENSION];
        let space = MemorySpace::new(zeros());
        Noisy { slope, lr, space, moments: [zeros(), zeros()], steps: 0, seed: 1 }
    }

    fn theta(&self) -> Vec<f64> {
        self.space.get(Vector::PARAMETERS).unwrap().clone()
    }

    /// Pseudo-random numbers with mean 0 and variance 1.
    fn random(&mut self) -> f64 {
        let mut sum = 0.0;
        for _ in 0..12 {
            self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            sum += (self.seed >> 33) as f64 / f64::from(1u32 << 31);
        }
        sum - 6.0
    }

    fn held_out(&self) -> f64 {
        UNSEEN * 0.5 * self.theta().iter().map(|x| x * x).sum::<f64>()
    }
}

impl BilevelProblem for Noisy {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        let Weigh::Known(LevelWeights { upper, lower }) = weigh else { unreachable!("not of this step") };
        let x = self.theta();
        let margin: f64 = x.iter().sum();
        let g = 0.5 * x.iter().map(|x| x * x).sum::<f64>();
        let losses = Losses {
            upper: self.slope * (-margin).exp().ln_1p(),
            lower: 2.0 + g + (0.01 + 0.3 * g) * self.random(),
        };
        let pull = -self.slope / (1.0 + margin.exp());
        let direction = x.iter().map(|x| {
            let noise = 0.1 * self.random();
            upper * pull * (1.0 + noise) + lower * (x + 0.05 * noise)
        });
        *self.space.get_mut(into)? = direction.collect();
        Ok(losses)
    }

    fn lower(&mut self) -> Result<f64> {
        unreachable!("not of this step")
    }

    fn lower_hessian_vector(&mut self, _: Vector, _: Vector) -> Result<()> {
        unreachable!("not of this step")
    }

    fn reference_lower(&mut self) -> Result<f64> {
        Ok(2.0)
    }

    fn upper_slope(&mut self) -> Result<f64> {
        Ok(self.slope)
    }

    fn next_lower(&mut self) -> Result<()> {
        unreachable!("not of this step")
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        self.steps += 1;
        let gradient = self.space.get(Vector::GRADIENT)?.clone();
        let decay = [0.9_f64, 0.999];
        let unbiased = decay.map(|b| 1.0 - b.powi(self.steps as i32));
        for (i, g) in gradient.into_iter().enumerate() {
            let [first, second] = &mut self.moments;
            first[i] = decay[0] * first[i] + (1.0 - decay[0]) * g;
            second[i] = decay[1] * second[i] + (1.0 - decay[1]) * g * g;
            let change = first[i] / unbiased[0] / ((second[i] / unbiased[1]).sqrt() + 1e-8);
            self.space.get_mut(Vector::PARAMETERS)?[i] -= self.lr * lr_factor * change;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress { step: self.steps, total: 400 }
    }
}

/// What came of a run.
#[derive(Debug)]
struct Course {
    /// The true held-out rise at the end.
    end: f64,
    /// The greatest that was met on the way.
    most: f64,
    returns: usize,
}

/// Trains as the runtime does.
fn train(config: Value, slope: f64, lr: f64) -> Course {
    let (mut step, mut world) = (build("spo", config), Noisy::new(slope, lr));
    let (mut kept, mut most, mut returns, mut last) = (world.theta(), 0.0_f64, 0, Ruling::Keep);
    for n in 1..=400 {
        let report = step.step(&mut world).unwrap();
        assert!(report.metrics.values().all(|x| x.is_finite()), "{:?}", report.metrics);
        assert!(report.metrics["bilevel/lambda"] >= 0.0);
        most = most.max(world.held_out());
        if n % 20 > 0 {
            continue;
        }
        let mean = world.held_out() + STANDARD_ERROR * world.random();
        last = step.measured(Rise { mean, standard_error: STANDARD_ERROR });
        match last {
            Ruling::Keep => kept = world.theta(),
            Ruling::GoOn => {}
            Ruling::GoBack | Ruling::End => {
                returns += 1;
                *world.space.get_mut(Vector::PARAMETERS).unwrap() = kept.clone();
                world.moments.iter_mut().for_each(|moment| moment.fill(0.0));
                world.steps = 0;
            }
        }
        if last == Ruling::End {
            break;
        }
    }
    if last != Ruling::Keep {
        *world.space.get_mut(Vector::PARAMETERS).unwrap() = kept;
    }
    Course { end: world.held_out(), most, returns }
}

#[test]
fn the_budget_is_kept_and_used_whatever_the_scale_of_the_loss() {
    for slope in [0.02, 0.161, 1.0, 7.0, 50.0] {
        for (lr, budget) in [(2e-4, 0.02), (1e-3, 0.02), (1e-3, 0.05), (5e-3, 0.05), (5e-3, 0.1), (1e-2, 0.1)]
        {
            let course = train(json!({ "budget": budget }), slope, lr);
            let what = format!("slope {slope}, lr {lr}, budget {budget}: {course:?}");
            assert!(course.end <= budget, "{what}");
            assert!(course.end >= 0.2 * budget, "{what}");
            assert!(course.most <= 3.0 * budget, "{what}");
            assert!(course.returns <= 1, "{what}");
        }
    }
}

#[test]
fn an_absurd_learning_rate_goes_back_until_the_budget_is_kept() {
    let course = train(json!({ "budget": 0.02 }), 1.0, 0.2);
    assert!(course.returns > 0 && course.most > 0.1, "{course:?}");
    assert!(course.end <= 0.02, "{course:?}");
}

#[test]
fn without_scaling_a_steep_loss_is_held_all_the_same() {
    let course = train(json!({ "budget": 0.05, "normalize": false }), 20.0, 1e-3);
    assert!(course.end <= 0.05, "{course:?}");
}

#[test]
fn a_rise_that_is_no_number_goes_back_at_once_and_the_fourth_time_ends() {
    let mut step = build("spo", json!({}));
    for mean in [f64::NAN, f64::INFINITY, 0.2] {
        assert_eq!(step.measured(Rise { mean, standard_error: 0.0 }), Ruling::GoBack);
    }
    assert_eq!(step.measured(Rise { mean: 0.2, standard_error: 0.01 }), Ruling::End);
    // What it remembers can still be written and read.
    build("spo", json!({})).restore(&step.state()).unwrap();
}

#[test]
fn a_rise_beyond_doubt_counts_twice_before_it_goes_back() {
    let mut step = build("spo", json!({ "budget": 0.05 }));
    let mut rule = |mean| step.measured(Rise { mean, standard_error: 0.005 });
    assert_eq!(rule(0.03), Ruling::Keep);
    // Within half of the margin of the budget.
    assert_eq!(rule(0.047), Ruling::GoOn);
    assert_eq!(rule(0.07), Ruling::GoOn);
    assert_eq!(rule(0.058), Ruling::GoOn, "not beyond doubt");
    assert_eq!(rule(0.1), Ruling::GoOn);
    assert_eq!(rule(0.075), Ruling::GoOn, "on its way down");
    assert_eq!(rule(0.075), Ruling::GoBack);
    assert_eq!(rule(0.2), Ruling::GoBack, "once is enough for this much");
}

proptest! {
    /// Whatever the losses and the measurements are, lambda is a number and not negative, and the state survives.
    #[test]
    fn lambda_is_a_number_and_not_negative(
        rises in prop::collection::vec((-1e6..1e6, -1e3..1e3, 0.0..1e2), 1..40), budget in 1e-6..1e3, margin in 0.0..10.0,
    ) {
        let config = json!({ "budget": budget, "margin": margin });
        let mut step = build("spo", config.clone());
        let mut world = crate::contract::world();
        for (lower, mean, standard_error) in rises {
            world.reference = Some(lower);
            world.lr = 0.0;
            let report = world.run(&mut *step);
            let lambda = report.metrics["bilevel/lambda"];
            prop_assert!(lambda.is_finite() && (0.0..=100.0).contains(&lambda), "{}", lambda);
            step.measured(Rise { mean, standard_error });
            let mut twin = build("spo", config.clone());
            twin.restore(&step.state()).unwrap();
            prop_assert_eq!(twin.state(), step.state());
        }
    }
}
