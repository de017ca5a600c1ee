//! Tests the audit's exact gradients against finite differences of the composed losses.

use spo_api::{BilevelProblem, Vector};
use spo_objectives as _;
use test_support::world::{Loss, World, assert_close, plus};

use super::{Inner, implicit, sharpness, unrolled, value_function};

const INNER: Inner = Inner { steps: 3, lr: 0.15 };

/// Two losses whose Hessians are not constant.
fn curved() -> World {
    let upper = Loss { quartic: 0.2, ..Loss::quadratic(&[2.0, -1.0, 0.5], &[1.0, 0.5, 2.0]) };
    let lower = Loss { quartic: 0.7, ..Loss::quadratic(&[-1.0, 1.0, 0.0], &[2.0, 1.0, 0.25]) };
    World::new(upper, lower, &[0.4, 0.2, -0.7])
}

/// The vector computed by `exact`.
fn exact(world: &World, exact: impl FnOnce(&mut World, Vector, Vector)) -> Vec<f64> {
    let mut world = world.clone();
    let home = world.vectors().allocate().unwrap();
    let into = world.vectors().allocate().unwrap();
    world.vectors().copy(Vector::PARAMETERS, home).unwrap();
    exact(&mut world, home, into);
    world.vectors().copy(into, Vector::PARAMETERS).unwrap();
    world.theta().to_vec()
}

/// The gradient, by fourth-order central differences.
fn differences(f: impl Fn(&[f64]) -> f64, x: &[f64]) -> Vec<f64> {
    let h = 1e-3;
    let along = |i: usize, h: f64| {
        let mut x = x.to_vec();
        x[i] += h;
        f(&x)
    };
    let slope =
        |i| (8.0 * (along(i, h) - along(i, -h)) - (along(i, 2.0 * h) - along(i, -2.0 * h))) / (12.0 * h);
    (0..x.len()).map(slope).collect()
}

fn ahead(lower: &Loss, x: &[f64]) -> Vec<f64> {
    (0..INNER.steps).fold(x.to_vec(), |x, _| plus(&x, -INNER.lr, &lower.gradient(&x)))
}

#[test]
fn unrolled_is_the_gradient_of_the_loss_after_k_steps() {
    let world = curved();
    let found = exact(&world, |world, home, into| unrolled(world, home, INNER, into).unwrap());
    let composed = |x: &[f64]| world.upper.value(&ahead(&world.lower[0], x));
    assert_close(&found, &differences(composed, world.theta()), 1e-9);
}

#[test]
fn value_function_is_the_gradient_of_its_penalty() {
    let world = curved();
    let found = exact(&world, |world, home, into| value_function(world, home, INNER, 2.5, into).unwrap());
    let lower = &world.lower[0];
    let penalized = |x: &[f64]| world.upper.value(x) + 2.5 * (lower.value(x) - lower.value(&ahead(lower, x)));
    assert_close(&found, &differences(penalized, world.theta()), 1e-9);
}

#[test]
fn implicit_is_the_gradient_of_the_loss_at_the_proximal_point() {
    let world = curved();
    let a = INNER.steps as f64 * INNER.lr;
    let found = exact(&world, |world, home, into| implicit(world, home, INNER, into).unwrap());
    // The minimum, found independently by plain gradient descent.
    let proximal = |home: &[f64]| {
        (0..4000).fold(home.to_vec(), |t, _| {
            let slope = plus(&plus(&t, -1.0, home), a, &world.lower[0].gradient(&t));
            plus(&t, -0.1, &slope)
        })
    };
    let composed = |x: &[f64]| world.upper.value(&proximal(x));
    assert_close(&found, &differences(composed, world.theta()), 1e-9);
}

/// The three problems have different gradients here, so the tests above can tell them apart.
#[test]
fn the_problems_differ() {
    let world = curved();
    let one = exact(&world, |world, home, into| unrolled(world, home, INNER, into).unwrap());
    let other = exact(&world, |world, home, into| implicit(world, home, INNER, into).unwrap());
    let here = world.upper.gradient(world.theta());
    let far = |x: &[f64], y: &[f64]| x.iter().zip(y).any(|(x, y)| (x - y).abs() > 1e-2);
    assert!(far(&one, &other) && far(&one, &here) && far(&other, &here), "{one:?} {other:?} {here:?}");
}

#[test]
fn sharpness_is_the_greatest_curvature() {
    let mut world = curved();
    world.lower[0].quartic = 0.0;
    let home = world.vectors().allocate().unwrap();
    world.vectors().copy(Vector::PARAMETERS, home).unwrap();
    assert_close(&[sharpness(&mut world, home).unwrap()], &[2.0], 1e-9);
}

#[test]
fn where_there_is_no_minimum_there_is_no_implicit_gradient() {
    let mut world = curved();
    world.lower[0] = Loss::quadratic(&[-1.0, 1.0, 0.0], &[-9.0, 1.0, 1.0]);
    let home = world.vectors().allocate().unwrap();
    let into = world.vectors().allocate().unwrap();
    world.vectors().copy(Vector::PARAMETERS, home).unwrap();
    assert!(implicit(&mut world, home, INNER, into).is_err());
}
