//! The commands that train nothing, and the document generated from the schema.

use serde_json::{Value, json};
use test_support::golden;

use crate::{place, project};

#[test]
fn loss_gives_trl_figures_from_standard_input() {
    // The plain cases of four losses. The tests of the objectives compare all cases.
    let names = [("sigmoid", "dpo"), ("ipo", "ipo"), ("sft", "sft"), ("simpo", "simpo")];
    let file = golden("trl_losses.json");
    let place = place();
    for (recorded, ours) in names {
        let of_loss = |case: &&Value| {
            let hyper = case["hyper"].as_object().unwrap();
            let plain = hyper.iter().all(|(key, value)| {
                matches!(key.as_str(), "beta" | "simpo_gamma") || value.as_f64() == Some(0.0)
            });
            let trainer = if recorded == "simpo" { "cpo" } else { "dpo" };
            case["losses_mixed"] == json!([recorded]) && case["trainer"] == trainer && plain
        };
        let cases: Vec<&Value> = file["cases"].as_array().unwrap().iter().filter(of_loss).collect();
        assert!(cases.len() >= 4, "{recorded}: {}", cases.len());
        for case in cases {
            let (beta, gamma) = (&case["hyper"]["beta"], &case["hyper"]["simpo_gamma"]);
            let objective = match ours {
                "sft" => r#"{ name = "sft" }"#.to_owned(),
                "simpo" => format!(r#"{{ name = "simpo", beta = {beta}, gamma = {gamma} }}"#),
                name => format!(r#"{{ name = "{name}", beta = {beta} }}"#),
            };
            let printed =
                place.run_with_input(&["loss", "--objective", &objective], &case.to_string()).success();
            let answer: Value = serde_json::from_str(&printed.stdout).unwrap();
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
            if ours == "simpo" {
                for (loss, expected) in
                    answer["losses"].as_array().unwrap().iter().zip(case["losses"].as_array().unwrap())
                {
                    assert!(
                        near(loss.as_f64().unwrap(), expected.as_f64().unwrap()),
                        "{recorded}: {loss} {expected}"
                    );
                }
                continue;
            }
            let (loss, expected) = (answer["loss"].as_f64().unwrap(), case["batch_loss"].as_f64().unwrap());
            assert!(near(loss, expected), "{recorded}: {loss} {expected}");
            for side in ["grad_chosen", "grad_rejected"] {
                let flat = |v: &Value| -> Vec<f64> {
                    v.as_array()
                        .unwrap()
                        .iter()
                        .flat_map(|r| r.as_array().unwrap())
                        .map(|x| x.as_f64().unwrap())
                        .collect()
                };
                let (ours, theirs) = (flat(&answer[side]), flat(&case[side]));
                assert_eq!(ours.len(), theirs.len());
                assert!(ours.iter().zip(&theirs).all(|(a, b)| near(*a, *b)), "{recorded} {side}");
            }
        }
    }
}

#[test]
fn loss_says_what_is_wrong_with_its_input() {
    let place = place();
    let cases = [
        ("loss_not_json", r#""dpo""#, "{"),
        ("loss_without_reference", r#""dpo""#, r#"{"policy_chosen": [[-1]], "policy_rejected": [[-2]]}"#),
        (
            "loss_of_unequal_sides",
            r#""simpo""#,
            r#"{"policy_chosen": [[-1]], "policy_rejected": [[-2], [-3]]}"#,
        ),
        ("loss_of_an_empty_answer", r#""simpo""#, r#"{"policy_chosen": [[]], "policy_rejected": [[-2]]}"#),
        ("loss_of_nothing_known", r#""dopo""#, "{}"),
    ];
    for (name, objective, input) in cases {
        let outcome = place.run_with_input(&["loss", "--objective", objective], input);
        assert_eq!(outcome.code, 2, "{name}");
        insta::assert_snapshot!(name, outcome.stderr);
    }
}

#[test]
fn list_and_describe_tell_what_is_there() {
    let place = place();
    insta::assert_snapshot!("list", place.run(&["list"]).success().stdout);
    for name in ["dpo", "penalty", "candle"] {
        insta::assert_snapshot!(format!("describe_{name}"), place.run(&["describe", name]).success().stdout);
    }
    let outcome = place.run(&["describe", "penality"]);
    assert_eq!(outcome.code, 2);
    insta::assert_snapshot!("describe_unknown", outcome.stderr);
}

#[test]
fn check_shows_what_would_be_trained_on_and_trains_nothing() {
    let place = place();
    let quickstart = project("recipes/quickstart.toml");
    let outcome = place.run(&["check", quickstart.to_str().unwrap()]).success();
    // The number of threads depends on the machine.
    let stdout =
        outcome.stdout.lines().map(|l| l.split(" on CPU").next().unwrap()).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("check_quickstart", stdout);
    assert!(!place.path("runs").exists());
}

#[test]
fn the_recipe_reference_is_up_to_date() {
    let schema: Value = serde_json::from_str(&place().run(&["schema"]).success().stdout).unwrap();
    let path = project("docs/recipe.md");
    let expected = reference(&schema);
    if std::env::var_os("SPO_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/recipe.md is out of date: run the tests with SPO_WRITE_DOCS=1");
}

/// The reference of recipes, generated from their schema.
fn reference(schema: &Value) -> String {
    let mut text = String::from(
        "# Recipes\n\nThis page is generated from the program's own types; `spo-run schema` prints them as a JSON Schema for editors. \
         Unknown keys, wrong types and values out of range are errors. `--set PATH=VALUE` overrides any key. An element of \
         a list is selected by its index or its name: `--set stage.align.objective.beta=0.2`.\n",
    );
    let sections = [
        ("Recipe", schema),
        ("Run", &schema["$defs"]["Run"]),
        ("Model", &schema["$defs"]["Model"]),
        ("Adapter", &schema["$defs"]["Adapter"]),
        ("Data", &schema["$defs"]["Data"]),
        ("Stage", &schema["$defs"]["Stage"]),
        ("Optimizer", &schema["$defs"]["Optimizer"]),
        ("Evaluation", &schema["$defs"]["Evaluation"]),
        ("Checkpoint", &schema["$defs"]["Checkpoint"]),
        ("Best", &schema["$defs"]["Best"]),
        ("Cache", &schema["$defs"]["Cache"]),
        ("Sweep", &schema["$defs"]["Sweep"]),
        ("Case", &schema["$defs"]["Case"]),
        ("Diagnostics", &schema["$defs"]["Diagnostics"]),
        ("Guard", &schema["$defs"]["Guard"]),
        ("BackendChoice", &schema["$defs"]["BackendChoice"]),
    ];
    for (name, section) in sections {
        let about = section["description"].as_str().unwrap_or_else(|| panic!("{name} has no description"));
        // "`[run]`: what it is" becomes a heading and a sentence.
        let (heading, about) = about.split_once(": ").unwrap_or_else(|| panic!("{name}: {about}"));
        let (first, rest) = about.split_at(1);
        let about = first.to_uppercase() + &rest.replace('\n', " ");
        text += &format!("\n## {heading}\n\n{about}\n\n| key | default | meaning |\n|---|---|---|\n");
        for (key, property) in section["properties"].as_object().unwrap() {
            let required = section["required"].as_array().is_some_and(|r| r.contains(&json!(key)));
            let default = match property.get("default") {
                Some(value) if value.is_object() => "see below".to_owned(),
                Some(Value::Null) => String::new(),
                Some(value) => format!("`{value}`"),
                None if required => "required".to_owned(),
                None => String::new(),
            };
            let about =
                property["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
            text += &format!("| `{key}` | {default} | {about} |\n");
        }
    }
    text
}
