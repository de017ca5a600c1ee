//! Every registered optimizer keeps its contract, in every mode.

use spo_api::{Registry, parse};
use spo_loader::certify::{Event, Options, Verdict, certify, modes};
use spo_objectives::optimizers::{AdamW, AdamW8bit};

#[test]
fn every_optimizer_is_certified_in_every_mode() {
    let registry = Registry::linked().unwrap();
    for entry in registry.of_kind("optimizer") {
        let modes = modes(entry);
        for config in &modes {
            let options = Options { config: Some(config.clone()), ..Options::default() };
            certify(entry, &options, &mut |event| {
                if let Event::Ended(Verdict::Failed(words)) = event {
                    panic!("{} {config}: {words}", entry.name);
                }
            });
        }
        assert!(modes.len() > 1, "{}: {modes:?}", entry.name);
    }
}

#[test]
fn mistakes_are_named() {
    let registry = Registry::linked().unwrap();
    for (name, config, key) in [
        ("adamw", r#"{"betas": [0.9, 1.0]}"#, "betas"),
        ("adamw-8bit", r#"{"betas": [0.9, 1.0]}"#, "betas"),
        ("adamw-8bit", r#"{"epsilon": 0}"#, "epsilon"),
        ("lion", r#"{"betas": [-0.1, 0.5]}"#, "betas"),
        ("sgd", r#"{"dampening": 0.1}"#, "dampening"),
        ("sgd", r#"{"nesterov": true}"#, "nesterov"),
        ("rmsprop", r#"{"alpha": 1}"#, "alpha"),
    ] {
        let error = registry.optimizer(name, &serde_json::from_str(config).unwrap()).err().unwrap();
        assert_eq!(error.key.as_deref(), Some(key), "{name} {config}: {error}");
    }
}

/// A kernel is told everything, whatever the recipe leaves to defaults.
#[test]
fn kernels_come_with_all_their_hyper_parameters() {
    let registry = Registry::linked().unwrap();
    for entry in registry.of_kind("optimizer") {
        let Some(kernel) = registry.optimizer(entry.name, &serde_json::json!({})).unwrap().kernel() else {
            continue;
        };
        assert_eq!(kernel.name, entry.name);
        let schema = (entry.schema)();
        for key in schema.get("properties").unwrap().as_object().unwrap().keys() {
            assert!(kernel.config.get(key).is_some(), "{}: no {key} in {}", entry.name, kernel.config);
        }
        registry.optimizer(&kernel.name, &kernel.config).map(drop).unwrap();
    }
    let quarter: AdamW8bit = parse(&serde_json::json!({"epsilon": 1e-6})).unwrap();
    let whole: AdamW = parse(&serde_json::json!({"epsilon": 1e-6})).unwrap();
    assert_eq!(quarter.0, whole);
}
