use serde_json::json;

use crate::world::{Loss, World, assert_close, build, dot, plus};

fn world() -> World {
    let upper = Loss { floor: 0.3, ..Loss::quadratic(&[2.0, -1.0, 0.5], &[1.0, 0.5, 2.0]) };
    let lower = Loss { floor: 1.1, ..Loss::quadratic(&[-1.0, 1.0, 0.0], &[2.0, 1.0, 0.25]) };
    World::new(upper, lower, &[0.4, 0.2, -0.7])
}

/// Gradient by central differences.
fn differences(f: impl Fn(&[f64]) -> f64, x: &[f64]) -> Vec<f64> {
    let h = 1e-5;
    let along = |i: usize, h: f64| {
        let mut x = x.to_vec();
        x[i] += h;
        f(&x)
    };
    (0..x.len()).map(|i| (along(i, h) - along(i, -h)) / (2.0 * h)).collect()
}

#[test]
fn single_follows_the_upper_gradient_and_leaves_the_lower_level_alone() {
    let mut world = world();
    let theta = world.theta().to_vec();
    let report = world.run(&mut *build("single", json!({})));
    assert_eq!(world.direction(), world.upper.gradient(&theta));
    assert_eq!(report.losses.upper, world.upper.value(&theta));
    assert!(report.losses.lower.is_nan() && report.metrics.is_empty());
}

#[test]
fn weighted_adds_lambda_times_the_lower_gradient() {
    let mut world = world();
    let theta = world.theta().to_vec();
    let report = world.run(&mut *build("weighted", json!({"lambda": 0.7})));
    let (df, dg) = (world.upper.gradient(&theta), world.lower[0].gradient(&theta));
    assert_close(world.direction(), &plus(&df, 0.7, &dg), 1e-15);
    assert_eq!(report.losses.lower, world.lower[0].value(&theta));
    assert_eq!(report.metrics["bilevel/weight"], 0.7);
}

#[test]
fn alternating_takes_its_lower_steps_on_fresh_batches_and_then_the_upper_one() {
    let mut world = world();
    world.lower.push(Loss::quadratic(&[3.0, 3.0, 3.0], &[1.0, 1.0, 1.0]));
    let theta = world.theta().to_vec();
    let report = world.run(&mut *build("alternating", json!({"sft_steps": 2, "sft_lr_factor": 0.5})));
    let first = world.lower[0].gradient(&theta);
    let after_first = plus(&theta, -0.05, &first);
    let second = world.lower[1].gradient(&after_first);
    let after_second = plus(&after_first, -0.05, &second);
    let third = world.upper.gradient(&after_second);
    assert_eq!(world.trace.descents, [(first, 0.5), (second, 0.5), (third, 1.0)]);
    assert_eq!(report.losses.lower, world.lower[0].value(&theta));
    assert_eq!(report.losses.upper, world.upper.value(&after_second));
}

#[test]
fn penalty_is_inactive_inside_the_safe_set() {
    for shape in ["hinge", "squared-hinge"] {
        let mut world = world();
        let theta = world.theta().to_vec();
        let value = world.lower[0].value(&theta) - 0.2;
        let config = json!({"lambda": 100, "value": value, "epsilon": 0.21, "shape": shape});
        let report = world.run(&mut *build("penalty", config));
        assert_eq!(world.direction(), world.upper.gradient(&theta));
        assert_eq!(report.metrics["bilevel/weight"], 0.0);
        assert!(report.losses.lower.is_finite(), "the constraint is watched all the same");
    }
}

#[test]
fn penalty_outside_the_safe_set_is_the_gradient_of_its_formula() {
    let sharpness = 3.0;
    type Formula = fn(f64, f64) -> f64;
    let shapes: [(&str, Formula); 3] = [
        ("hinge", |c, _| c.max(0.0)),
        ("squared-hinge", |c, _| c.max(0.0).powi(2)),
        ("softplus", |c, s| (s * c).exp().ln_1p() / s),
    ];
    for (shape, h) in shapes {
        for epsilon in [0.0, 0.4, 9.0] {
            let mut world = world();
            let theta = world.theta().to_vec();
            let mut config = json!({"lambda": 2.5, "value": 1.2, "epsilon": epsilon, "shape": shape});
            if shape == "softplus" {
                config["sharpness"] = json!(sharpness);
            }
            world.run(&mut *build("penalty", config));
            let penalized = |x: &[f64]| {
                let c = world.lower[0].value(x) - 1.2 - epsilon;
                world.upper.value(x) + 2.5 * h(c, sharpness)
            };
            assert_close(world.direction(), &differences(penalized, &theta), 1e-8);
        }
    }
}

#[test]
fn penalty_against_the_reference_takes_its_loss_on_the_same_batch() {
    let mut world = world();
    world.reference = Some(1.5);
    let lower = world.lower[0].value(world.theta());
    let report = world.run(&mut *build("penalty", json!({"epsilon": 0.1})));
    assert_eq!(report.metrics["bilevel/value"], 1.5);
    assert_close(&[report.metrics["bilevel/constraint"]], &[lower - 1.6], 1e-15);
}

#[test]
fn penalty_with_an_inner_value_descends_from_here_and_comes_back() {
    let mut world = world();
    let theta = world.theta().to_vec();
    let config = json!({"value": {"inner": {"steps": 3, "lr": 0.2}}});
    let report = world.run(&mut *build("penalty", config));
    let mut inner = theta.clone();
    for _ in 0..3 {
        inner = plus(&inner, -0.2, &world.lower[0].gradient(&inner));
    }
    assert_close(&[report.metrics["bilevel/value"]], &[world.lower[0].value(&inner)], 1e-14);
    let expected = plus(&world.upper.gradient(&theta), 1.0, &world.lower[0].gradient(&theta));
    assert_close(world.direction(), &expected, 1e-14);

    let diverging = json!({"value": {"inner": {"steps": 3, "lr": 5.0}}});
    let lower = world.lower[0].value(world.theta());
    let report = world.run(&mut *build("penalty", diverging));
    assert_eq!(report.metrics["bilevel/value"], lower, "an inner descent that climbs is not an optimum");
}

#[test]
fn running_min_is_the_least_moving_average() {
    let mut world = world();
    let mut step = build("penalty", json!({"value": "running-min"}));
    let (mut average, mut least) = (f64::NAN, f64::INFINITY);
    for i in 0..30 {
        world.lower[0].floor = 1.0 + f64::sin(f64::from(i));
        let lower = world.lower[0].value(world.theta());
        average = if i == 0 { lower } else { 0.9 * average + 0.1 * lower };
        least = least.min(average);
        let report = world.run(&mut *step);
        assert_close(&[report.metrics["bilevel/value"]], &[least], 1e-14);
    }
}

#[test]
fn a_ramp_grows_from_zero_and_stays() {
    let mut world = world();
    let config = json!({"lambda": {"ramp": {"to": 2.0, "steps": 4}}, "value": 0});
    let mut step = build("penalty", config);
    let lambdas: Vec<f64> = (0..6).map(|_| world.run(&mut *step).metrics["bilevel/lambda"]).collect();
    assert_eq!(lambdas, [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]);
}

/// min 1/2 (x - 3)^2 + 1/2 y^2  such that  1/2 x^2 <= 1/2: x = 1, y = 0, multiplier 2.
#[test]
fn dual_ascent_finds_the_constrained_optimum_and_its_multiplier() {
    let upper = Loss::quadratic(&[3.0, 0.0], &[1.0, 1.0]);
    let mut world = World::new(upper, Loss::quadratic(&[0.0, 0.0], &[1.0, 1.0]), &[0.2, 0.9]);
    let config = json!({"lambda": {"dual-ascent": {"rho": 0.2}}, "value": 0, "epsilon": 0.5});
    let mut step = build("penalty", config);
    let first = world.run(&mut *step);
    assert_eq!(first.metrics["bilevel/lambda"], 0.0, "nothing to do inside the safe set");
    for _ in 0..2000 {
        world.run(&mut *step);
    }
    let last = world.run(&mut *step);
    assert_close(world.theta(), &[1.0, 0.0], 1e-9);
    assert_close(&[last.metrics["bilevel/lambda"], last.metrics["bilevel/constraint"]], &[2.0, 0.0], 1e-9);
}

/// Exactness of the hinge: once lambda passes the multiplier (here 2), its minimum is the constrained one.
#[test]
fn a_strong_hinge_holds_the_policy_at_the_border() {
    let upper = Loss::quadratic(&[3.0, 0.0], &[1.0, 1.0]);
    let mut world = World::new(upper, Loss::quadratic(&[0.0, 0.0], &[1.0, 1.0]), &[0.2, 0.0]);
    world.lr = 1e-3;
    let mut step = build("penalty", json!({"lambda": 5, "value": 0.25, "epsilon": 0.25}));
    for _ in 0..4000 {
        world.run(&mut *step);
    }
    assert_close(world.theta(), &[1.0, 0.0], 5e-3);
}

/// The same optimum as above. No lambda to choose.
#[test]
fn barrier_finds_the_constrained_optimum_and_its_multiplier() {
    let upper = Loss::quadratic(&[3.0, 0.0], &[1.0, 1.0]);
    for start in [[0.2, 0.0], [-2.0, 2.0]] {
        let mut world = World::new(upper.clone(), Loss::quadratic(&[0.0, 0.0], &[1.0, 1.0]), &start);
        let mut step = build("barrier", json!({"value": 0, "epsilon": 0.5}));
        for _ in 0..2000 {
            world.run(&mut *step);
        }
        let last = world.run(&mut *step);
        assert_close(world.theta(), &[1.0, 0.0], 1e-6);
        assert_close(&[last.metrics["bilevel/weight"]], &[2.0], 1e-6);
    }
}

#[test]
fn barrier_leaves_the_upper_gradient_alone_far_inside_the_safe_set() {
    let mut world = world();
    let theta = world.theta().to_vec();
    let report = world.run(&mut *build("barrier", json!({"value": 0, "epsilon": 100})));
    assert_eq!(world.direction(), world.upper.gradient(&theta));
    assert_eq!(report.metrics["bilevel/weight"], 0.0);
}

#[test]
fn barrier_and_projected_leave_a_vanished_lower_gradient_alone() {
    for (name, config) in [("barrier", json!({"value": 0})), ("projected", json!({}))] {
        let mut world = world();
        world.lower[0].center = world.theta().to_vec();
        let theta = world.theta().to_vec();
        let report = world.run(&mut *build(name, config));
        assert_eq!(world.direction(), world.upper.gradient(&theta));
        assert!(!report.metrics.contains_key("bilevel/cosine"), "undefined");
    }
}

#[test]
fn projected_removes_the_conflict_and_nothing_else() {
    let mut conflicting = world();
    let theta = conflicting.theta().to_vec();
    let (df, dg) = (conflicting.upper.gradient(&theta), conflicting.lower[0].gradient(&theta));
    let product = dot(&df, &dg);
    assert!(product < 0.0, "the test needs a conflict");
    let report = conflicting.run(&mut *build("projected", json!({})));
    assert_close(conflicting.direction(), &plus(&df, -product / dot(&dg, &dg), &dg), 1e-14);
    assert_close(&[dot(conflicting.direction(), &dg)], &[0.0], 1e-14);
    let cosine = product / (dot(&df, &df) * dot(&dg, &dg)).sqrt();
    assert_close(&[report.metrics["bilevel/cosine"]], &[cosine], 1e-14);

    let mut agreeing = World::new(conflicting.upper.clone(), conflicting.upper.clone(), &theta);
    agreeing.run(&mut *build("projected", json!({})));
    assert_eq!(agreeing.direction(), df);
}

/// A world whose lower Hessian changes along the way.
fn curved_world() -> World {
    let mut world = world();
    world.lower[0].quartic = 0.7;
    world.upper.quartic = 0.2;
    world
}

/// Where `steps` inner steps lead.
fn ahead(lower: &Loss, x: &[f64], steps: usize, lr: f64) -> Vec<f64> {
    (0..steps).fold(x.to_vec(), |x, _| plus(&x, -lr, &lower.gradient(&x)))
}

#[test]
fn first_order_lookahead_is_the_gradient_ahead_applied_from_home() {
    for steps in [1, 4] {
        let mut world = curved_world();
        let theta = world.theta().to_vec();
        let report = world.run(&mut *build("lookahead", json!({"inner_steps": steps, "inner_lr": 0.15})));
        let there = ahead(&world.lower[0], &theta, steps, 0.15);
        assert_eq!(world.direction(), world.upper.gradient(&there));
        assert_eq!(world.theta(), plus(&theta, -world.lr, world.direction()));
        assert_eq!(report.losses.upper, world.upper.value(&there));
        assert_eq!(report.losses.lower, world.lower[0].value(&theta));
    }
}

/// `(I - alpha H(theta_0)) ... (I - alpha H(theta_(K-1))) dF(theta_K)`.
fn chain_rule(world: &World, theta: &[f64], steps: usize) -> Vec<f64> {
    let lower = &world.lower[0];
    let end = world.upper.gradient(&ahead(lower, theta, steps, 0.15));
    (0..steps).rev().fold(end, |d, k| {
        let point = ahead(lower, theta, k, 0.15);
        plus(&d, -0.15, &lower.hessian_times(&point, &d))
    })
}

#[test]
fn exact_lookahead_is_the_gradient_of_the_composed_loss() {
    for steps in [1, 2, 5] {
        let mut world = curved_world();
        let theta = world.theta().to_vec();
        let (mut first_order, mut double_backward) = (world.clone(), world.clone());
        let config = json!({
            "inner_steps": steps, "inner_lr": 0.15, "gradient": "exact", "difference": 1e-4,
        });
        world.run(&mut *build("lookahead", config));
        let composed = |x: &[f64]| world.upper.value(&ahead(&world.lower[0], x, steps, 0.15));
        assert_close(world.direction(), &differences(composed, &theta), 1e-7);
        assert_eq!(world.theta(), plus(&theta, -world.lr, world.direction()));

        let config = json!({
            "inner_steps": steps, "inner_lr": 0.15, "gradient": "exact", "hessian": "double-backward",
        });
        double_backward.run(&mut *build("lookahead", config));
        assert_close(double_backward.direction(), &chain_rule(&world, &theta, steps), 1e-14);
        assert_close(double_backward.direction(), world.direction(), 1e-6);

        first_order.run(&mut *build("lookahead", json!({"inner_steps": steps, "inner_lr": 0.15})));
        let gap = plus(world.direction(), -1.0, first_order.direction());
        assert!(dot(&gap, &gap).sqrt() > 0.1, "the test must be able to tell the two apart");
    }
}

/// On quadratics the default difference is exact: `(I - alpha H)^K dF(theta')`.
#[test]
fn exact_lookahead_on_a_quadratic_multiplies_by_its_hessian() {
    let world = world();
    let theta = world.theta().to_vec();
    for hessian in ["differences", "double-backward"] {
        let mut world = world.clone();
        let config = json!({"inner_steps": 3, "inner_lr": 0.2, "gradient": "exact", "hessian": hessian});
        world.run(&mut *build("lookahead", config));
        let lower = &world.lower[0];
        let hessian_times = |v: &[f64]| plus(&lower.gradient(v), -1.0, &lower.gradient(&[0.0; 3]));
        let mut expected = world.upper.gradient(&ahead(lower, &theta, 3, 0.2));
        for _ in 0..3 {
            expected = plus(&expected, -0.2, &hessian_times(&expected));
        }
        assert_close(world.direction(), &expected, 1e-11);
    }
}
