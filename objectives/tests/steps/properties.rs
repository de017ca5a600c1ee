use proptest::{array::uniform3, prelude::*};
use serde_json::json;

use crate::world::{Loss, World, build, dot};

fn loss() -> impl Strategy<Value = Loss> {
    (uniform3(-3.0..3.0), uniform3(0.01..3.0), 0.0..0.5, -1.0..1.0).prop_map(
        |(center, curvature, quartic, floor)| Loss { quartic, floor, ..Loss::quadratic(&center, &curvature) },
    )
}

proptest! {
    /// `<d, dG> >= phi`, at every step, wherever the run goes.
    #[test]
    fn barrier_and_bome_keep_their_inequality(
        upper in loss(), lower in loss(), start in uniform3(-2.0..2.0),
        eta in 0.01..2.0, value in -2.0..2.0, epsilon in 0.0..1.0, by_gradient: bool,
    ) {
        let mut step = match by_gradient {
            true => build("bome", json!({"eta": eta})),
            false => build("barrier", json!({"eta": eta, "value": value, "epsilon": epsilon})),
        };
        let mut world = World::new(upper, lower, &start);
        world.lr = 1e-2;
        for _ in 0..10 {
            let theta = world.theta().to_vec();
            let report = world.run(&mut *step);
            let dg = world.lower[0].gradient(&theta);
            let phi: f64 = match by_gradient {
                true => eta * dot(&dg, &dg),
                false => eta * (world.lower[0].value(&theta) - value - epsilon),
            };
            let falls = dot(world.direction(), &dg);
            prop_assert!(falls >= phi - 1e-9 * (1.0 + phi.abs()), "{falls} < {phi}");
            // And it changes dF no more than it must.
            if report.metrics["bilevel/weight"] > 0.0 {
                prop_assert!((falls - phi).abs() <= 1e-9 * (1.0 + phi.abs()), "{falls} != {phi}");
            } else {
                prop_assert_eq!(world.direction(), world.upper.gradient(&theta));
            }
        }
    }

    /// `<d, dG> >= 0`: no step of `projected` works against the lower level.
    #[test]
    fn projected_never_opposes_the_lower_level(
        upper in loss(), lower in loss(), start in uniform3(-2.0..2.0),
    ) {
        let mut step = build("projected", json!({}));
        let mut world = World::new(upper, lower, &start);
        world.lr = 1e-2;
        for _ in 0..10 {
            let dg = world.lower[0].gradient(world.theta());
            world.run(&mut *step);
            prop_assert!(dot(world.direction(), &dg) >= -1e-9);
        }
    }

    /// With `update = true` that holds for what the optimizer makes of d, whatever it is.
    #[test]
    fn a_projected_update_never_opposes_the_lower_level(
        upper in loss(), lower in loss(), start in uniform3(-2.0..2.0),
    ) {
        let mut step = build("projected", json!({"update": true}));
        let mut world = World::new(upper, lower, &start);
        (world.lr, world.by_sign) = (1e-2, true);
        for _ in 0..10 {
            let before = world.theta().to_vec();
            let dg = world.lower[0].gradient(&before);
            let report = world.run(&mut *step);
            let moved: Vec<f64> = world.theta().iter().zip(&before).map(|(a, b)| a - b).collect();
            prop_assert!(dot(&moved, &dg) <= 1e-9, "{moved:?} {dg:?}");
            // What was in order stays as the optimizer left it.
            if report.metrics["bilevel/update_rise"] <= 0.0 {
                prop_assert!(moved.iter().all(|x| (x.abs() - 1e-2).abs() < 1e-9), "{moved:?}");
            }
        }
    }
}
