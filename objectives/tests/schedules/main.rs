//! Schedules against transformers' own, their contract, and the border.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use spo_api::{Registry, Schedule, Span, abi};
use spo_loader::certify::{Event, Options, Verdict, certify, modes};
use spo_objectives as _;

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Value,
    warmup: usize,
    total: usize,
    /// The factor of the peak learning rate at every step, the warm-up's too.
    factors: Vec<f64>,
}

#[test]
fn every_step_has_the_factor_of_transformers() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/goldens/schedules.json")).unwrap();
    let registry = Registry::linked().unwrap();
    for Case { name, config, warmup, total, factors } in &cases {
        let schedule = registry.schedule(name, config).unwrap();
        let span = Span { warmup: *warmup, total: *total };
        assert_eq!(factors.len(), *total);
        for (step, theirs) in factors.iter().enumerate().skip(*warmup) {
            let ours = schedule.factor(step, span);
            assert!((ours - theirs).abs() < 1e-14, "{name} {config} step {step}: {ours}, not {theirs}");
        }
    }
    let covered: BTreeSet<_> = cases.iter().map(|case| &*case.name).collect();
    for entry in registry.of_kind("schedule") {
        assert!(covered.contains(entry.name), "{} has no reference", entry.name);
    }
}

#[test]
fn the_names_of_transformers_serve_as_well() {
    let registry = Registry::linked().unwrap();
    for name in [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] {
        registry.schedule(name, &json!({})).map(drop).unwrap();
    }
}

/// Their contract, and the same to the last bit when they are loaded instead of linked.
#[test]
fn every_schedule_is_certified_and_crosses_the_border_in_every_mode() {
    let registry = Registry::linked().unwrap();
    for entry in registry.of_kind("schedule") {
        for config in modes(entry) {
            let options = Options { config: Some(config.clone()), ..Options::default() };
            certify(entry, &options, &mut |event| {
                if let Event::Ended(Verdict::Failed(words)) = event {
                    panic!("{} {config}: {words}", entry.name);
                }
            });
            let make = |entry: &spo_api::Entry| entry.make::<dyn Schedule>(&config).unwrap();
            let (linked, loaded) = (make(entry), make(abi::through(entry)));
            let span = Span { warmup: 3, total: 30 };
            for step in 3..30 {
                let (ours, theirs) = (linked.factor(step, span), loaded.factor(step, span));
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{} {config} step {step}", entry.name);
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let registry = Registry::linked().unwrap();
    for (name, config, key) in [
        ("warmup-stable-decay", json!({"decay": 1.5}), "decay"),
        ("warmup-stable-decay", json!({"decay": "steps"}), "decay"),
        ("warmup-stable-decay", json!({"decay": {"step": 3}}), "decay.step"),
        ("polynomial", json!({"power": 0}), "power"),
        ("cosine-with-restarts", json!({"num_cycles": 0}), "num_cycles"),
        ("inverse-sqrt", json!({"timescale": 0}), "timescale"),
        ("linear", json!({"end_factor": 0.1}), "end_factor"),
    ] {
        let error = registry.schedule(name, &config).err().unwrap();
        assert_eq!(error.key.as_deref(), Some(key), "{name} {config}: {error}");
    }
}
