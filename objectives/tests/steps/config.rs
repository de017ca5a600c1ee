use serde_json::json;
use spo_api::Registry;

#[test]
fn the_registered_steps_and_their_tables() {
    let mut listing = String::new();
    for entry in Registry::linked().unwrap().iter().filter(|e| e.build.kind() == "step") {
        let schema = serde_json::to_string_pretty(&(entry.schema)()).unwrap();
        listing += &format!(
            "## {} {:?}\n{}\n{}\n{schema}\n\n",
            entry.name, entry.aliases, entry.summary, entry.source
        );
    }
    insta::assert_snapshot!(listing);
}

#[test]
fn mistakes_are_named() {
    let mistakes = [
        ("single", json!({"lambda": 1})),
        ("weighted", json!({"lambda": -1})),
        ("weighted", json!({"lamda": 1})),
        ("alternating", json!({"sft_steps": 0})),
        ("alternating", json!({"sft_lr_factor": 0})),
        ("penalty", json!({"lambda": -0.5})),
        ("penalty", json!({"lambda": "dual"})),
        ("penalty", json!({"lambda": {"ramp": {"to": 1.0}}})),
        ("penalty", json!({"lambda": {"ramp": {"to": 1.0, "steps": 0}}})),
        ("penalty", json!({"lambda": {"ramp": {"to": 1.0, "steps": 9, "rho": 1}}})),
        ("penalty", json!({"lambda": {"dual-ascend": {"rho": 1.0}}})),
        ("penalty", json!({"lambda": {"dual-ascent": {"rho": 0}}})),
        ("penalty", json!({"lambda": {"dual-ascent": {"rho": 1}}, "shape": "hinge"})),
        ("penalty", json!({"sharpness": 3})),
        ("penalty", json!({"shape": "softplus", "sharpness": 0})),
        ("penalty", json!({"shape": "square-hinge"})),
        ("penalty", json!({"epsilon": -1})),
        ("penalty", json!({"value": "referense"})),
        ("penalty", json!({"value": true})),
        ("penalty", json!({"value": "inner"})),
        ("penalty", json!({"value": {"inner": {"steps": 0, "lr": 0.1}}})),
        ("penalty", json!({"value": {"inner": {"steps": 2}}})),
        ("penalty", json!({"value": {"inner": {"steps": 2, "lr": -1}}})),
        ("penalty", json!({"value": {"reference": 3}})),
        ("penalty", json!({"value": "reference", "inner_lr": 3})),
        ("bome", json!({"inner": {"steps": 3, "lr": 0.1}})),
        ("bome", json!({"phi": "value"})),
        ("bome", json!({"phi": "constraint"})),
        ("barrier", json!({"eta": 0})),
        ("barrier", json!({"value": {"inner": {"steps": -1, "lr": 0.1}}})),
        ("spo-v1", json!({"inner_steps": 0})),
        ("lookahead", json!({})),
        ("lookahead", json!({"inner_lr": 0})),
        ("lookahead", json!({"inner_lr": 0.1, "inner_steps": 0})),
        ("lookahead", json!({"inner_lr": 0.1, "difference": 0.1})),
        ("lookahead", json!({"inner_lr": 0.1, "gradient": "second-order"})),
        ("lookahead", json!({"inner_lr": 0.1, "hessian": "differences"})),
        ("lookahead", json!({"inner_lr": 0.1, "gradient": "exact", "hessian": "double-backwards"})),
        (
            "lookahead",
            json!({"inner_lr": 0.1, "gradient": "exact", "hessian": "double-backward", "difference": 0.1}),
        ),
        ("projected", json!({"eta": 1})),
        ("penality", json!({})),
    ];
    let registry = Registry::linked().unwrap();
    let mut listing = String::new();
    for (name, config) in mistakes {
        let error =
            registry.step(name, &config).err().unwrap_or_else(|| panic!("{name} {config} was accepted"));
        let hint = error.suggestion.as_ref().map(|s| format!("  [{s}?]")).unwrap_or_default();
        listing += &format!("{name} {config}\n  {error}{hint}\n");
    }
    insta::assert_snapshot!(listing);
}
