use std::collections::BTreeSet;

use serde_json::Value;
use spo_api::Registry;
use spo_loader::certify::modes;

use crate::world::{Loss, World, build};

/// Each registered step in each of its modes.
pub fn all_modes() -> Vec<(&'static str, Value)> {
    let registry = Registry::linked().unwrap();
    let modes_of = |entry| modes(entry).into_iter().map(|mode| (entry.name, mode));
    registry.of_kind("step").flat_map(modes_of).collect()
}

#[test]
fn the_modes_reach_what_steps_can_do() {
    let modes: BTreeSet<_> = all_modes().iter().map(|(name, config)| format!("{name} {config}")).collect();
    for known in [
        r#"single {}"#,
        r#"penalty {"value":{"inner":{"steps":1,"lr":0.1}}}"#,
        r#"penalty {"value":"running-min","shape":"softplus"}"#,
        r#"bome {}"#,
        r#"lookahead {"inner_lr":0.1,"gradient":"exact","hessian":"double-backward"}"#,
    ] {
        assert!(modes.contains(known), "no {known} among {modes:#?}");
    }
}

pub fn world() -> World {
    let upper = Loss { quartic: 0.3, ..Loss::quadratic(&[1.0, -2.0], &[1.0, 3.0]) };
    let lower = Loss { quartic: 0.1, ..Loss::quadratic(&[-0.5, 0.5], &[0.5, 1.5]) };
    let mut world = World::new(upper, lower, &[0.3, 0.1]);
    world.reference = Some(0.2);
    world.lr = 0.02;
    world
}

#[test]
fn every_step_keeps_to_its_stated_cost_and_leaks_nothing() {
    for (name, config) in all_modes() {
        let (mut world, mut step) = (world(), build(name, config));
        for _ in 0..5 {
            world.run(&mut *step);
        }
    }
}

#[test]
fn a_failure_anywhere_leaves_parameters_and_memory_as_they_were() {
    for (name, config) in all_modes() {
        let forward = build(name, config.clone()).passes().forward;
        for n in 0..forward {
            world().run_failing(&mut *build(name, config.clone()), n);
        }
    }
}

#[test]
fn a_step_that_needs_the_reference_says_so() {
    for (name, config) in all_modes() {
        let (mut world, mut step) = (world(), build(name, config));
        world.reference = None;
        assert_eq!(step.step(&mut world).is_err(), step.needs().reference_lower, "{name}");
    }
}

#[test]
fn a_resumed_step_continues_bit_for_bit() {
    for (name, config) in all_modes() {
        let (mut world, mut step) = (world(), build(name, config.clone()));
        for round in 0..6 {
            world.lower[0].floor = f64::sin(f64::from(round));
            let mut resumed = build(name, config.clone());
            resumed.restore(&step.state()).unwrap();
            assert_eq!(resumed.state(), step.state());
            // Debug output compares equal where NaN would not.
            let mut twin = world.clone();
            let expected = format!("{:?}", world.run(&mut *step));
            assert_eq!(format!("{:?}", twin.run(&mut *resumed)), expected, "{name} {config}");
            assert_eq!(twin.theta(), world.theta());
        }
    }
}

#[test]
fn a_state_that_is_none_is_refused() {
    for (name, config) in all_modes() {
        let mut step = build(name, config);
        let message = step.restore(b"{\"lambda\": oops}").unwrap_err().to_string();
        assert!(message.contains("state"), "{message}");
    }
}
