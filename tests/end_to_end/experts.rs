//! The loss of routers (`model.router_aux_loss`).

use serde_json::Value;
use test_support::Place;

/// A tiny model with experts that learns codewords. `model` and `stage` are more keys of these sections.
fn recipe(model: &str, stage: &str) -> String {
    format!(
        r#"
[run]
output = "out"
overwrite = true
[model]
{model}
[model.config]
model_type = "olmoe"
hidden_size = 16
intermediate_size = 8
num_hidden_layers = 2
num_attention_heads = 2
num_experts = 4
num_experts_per_tok = 2
max_position_embeddings = 64
router_aux_loss_coef = 0.5
[data]
task = {{ name = "codewords", train = 12 }}
[[stage]]
name = "s"
objective = "sft"
steps = 3
batch_size = 4
{stage}
"#
    )
}

const KEPT: &str = "optimizer = { lr = 1e-3, max_grad_norm = 0 }";

fn metrics(place: &Place, recipe: &str, more: &[&str]) -> Vec<Value> {
    place.write("recipe.toml", recipe);
    place.run(&[&["recipe.toml", "--quiet"], more].concat()).success();
    place.metrics("out").into_iter().filter(|line| line.get("grad_norm").is_some()).collect()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{line} has no {key}"))
}

#[test]
fn the_loss_of_routers_is_added_to_gradients_and_changes_no_loss() {
    let place = crate::place();
    let without = metrics(&place, &recipe("", KEPT), &[]);
    assert!(without.iter().all(|line| line.get("aux_loss").is_none()));
    let with = metrics(&place, &recipe("router_aux_loss = 0.5", KEPT), &[]);
    assert!((number(&with[0], "loss") - number(&without[0], "loss")).abs() < 1e-5);
    assert!((number(&with[0], "grad_norm") - number(&without[0], "grad_norm")).abs() > 1e-3);
    assert!(
        with.iter().all(|line| number(line, "aux_loss") >= 2.0 - 1e-3),
        "two experts are chosen: {with:?}"
    );

    let asked = metrics(&place, &recipe("", KEPT), &["--set", "model.config.output_router_logits=true"]);
    assert_eq!(asked, with, "as config.json says");
    let off = ["--set", "model.config.output_router_logits=true", "--set", "model.router_aux_loss=0"];
    assert_eq!(metrics(&place, &recipe("", KEPT), &off), without);
    let in_backward = "optimizer = { lr = 1e-3, max_grad_norm = 0, in_backward = true }";
    let released = metrics(&place, &recipe("router_aux_loss = 0.5", in_backward), &[]);
    for (one, other) in released.into_iter().zip(&with) {
        // Sums of squares in another order.
        let norms = [&one, other].map(|line| number(line, "grad_norm"));
        assert!((norms[0] - norms[1]).abs() < 1e-9, "{norms:?}");
        let losses = [&one, other].map(|line| [number(line, "loss"), number(line, "aux_loss")]);
        assert_eq!(losses[0], losses[1]);
    }

    // The mean over the parts.
    let parts = metrics(
        &place,
        &recipe("router_aux_loss = 0.5", KEPT),
        &["--set", "stage.s.micro_batch={ rows = 1 }"],
    );
    assert!((number(&parts[0], "loss") - number(&with[0], "loss")).abs() < 1e-5);
    assert!(number(&parts[0], "aux_loss") > number(&with[0], "aux_loss"), "small parts are less even");
}

#[test]
fn a_loss_of_routers_without_routers_is_refused() {
    let place = crate::place();
    let dense = recipe("router_aux_loss = 0.5", KEPT).replace("\"olmoe\"", "\"llama\"");
    for (recipe, expected) in [
        (dense, "model.router_aux_loss: is for models with experts, and this one (llama, candle backend)"),
        (recipe("router_aux_loss = -1", KEPT), "model.router_aux_loss: must be at least 0, got -1"),
    ] {
        place.write("recipe.toml", recipe);
        for arguments in [["check", "recipe.toml"].as_slice(), &["recipe.toml", "--quiet"]] {
            let outcome = place.run(arguments);
            assert_eq!(outcome.code, 2, "{}", outcome.stderr);
            assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("recipe.toml:6"), "{}", outcome.stderr);
        }
    }
}
