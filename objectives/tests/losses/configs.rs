//! Configurations that make no sense are refused, under the name of the key to change.

use serde_json::{Value, json};

use crate::batches::registry;

/// The key and the message of the error that a configuration gives.
fn refusal(name: &str, config: &Value) -> (String, String) {
    let error = registry().objective(name, config).err().unwrap_or_else(|| panic!("{name} takes {config}"));
    (error.key.unwrap_or_default(), error.message)
}

#[test]
fn bounds_hold_for_every_objective_that_has_the_key() {
    let bounds: [(&str, &[f64], &str); 7] = [
        ("beta", &[0.0, -1.0], "must be greater than 0"),
        ("label_smoothing", &[0.5, 2.0], "must be less than 0.5"),
        ("ld_alpha", &[-0.1, 1.1], "must be at "),
        ("gamma", &[-0.1], "must be at least 0"),
        ("sft_weight", &[-0.1], "must be at least 0"),
        ("desirable_weight", &[0.0], "must be greater than 0"),
        ("lambda", &[-0.1], "must be "),
    ];
    for (key, values, message) in bounds {
        let with_key = registry().iter().filter(|e| {
            e.build.kind() == "objective"
                && (e.schema)().get("properties").is_some_and(|p| p.get(key).is_some())
        });
        let mut tried = 0;
        for entry in with_key {
            for value in values {
                let (at, said) = refusal(entry.name, &json!({key: value}));
                assert_eq!(at, key, "{}: {said}", entry.name);
                assert!(said.starts_with(message), "{}: {said}", entry.name);
                tried += 1;
            }
        }
        assert!(tried > 0, "no objective has `{key}`");
    }
}

#[test]
fn every_objective_names_an_unknown_key() {
    for entry in registry().iter().filter(|e| e.build.kind() == "objective") {
        let (key, message) = refusal(entry.name, &json!({"bta": 0.1}));
        assert_eq!(key, "bta", "{}: {message}", entry.name);
    }
}

#[test]
fn options_without_effect_are_refused() {
    for (name, config, key) in [
        ("cpo", json!({"loss_type": "hinge", "label_smoothing": 0.1}), "label_smoothing"),
        ("cpo", json!({"loss_type": "simpo"}), "loss_type"),
        ("tpo", json!({"loss_type": "ipo", "label_smoothing": 0.1}), "label_smoothing"),
        ("tpo", json!({"loss_type": "sigmoid", "gamma": 1.0}), "gamma"),
        ("dpo", json!({"f_divergence": "alpha_divergence"}), "f_divergence"),
        ("dpo", json!({"f_divergence": "js_divergence", "reference_free": true}), "f_divergence"),
        ("exo_pair", json!({"label_smoothing": 0.0}), "label_smoothing"),
        ("hinge", json!({"label_smoothing": 0.1}), "label_smoothing"),
        ("bco_pair", json!({"f_divergence": "js_divergence"}), "f_divergence"),
        ("aot", json!({"use_weighting": true}), "use_weighting"),
        ("sft", json!({"beta": 0.1}), "beta"),
        ("bco", json!({"mean": 1.0}), "mean"),
    ] {
        assert_eq!(refusal(name, &config).0, key, "{name} {config}: {}", refusal(name, &config).1);
    }
}
