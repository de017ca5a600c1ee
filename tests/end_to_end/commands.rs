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
            let sides = ["policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"];
            let input: Value = sides.map(|side| (side.to_owned(), case[side].clone())).into_iter().collect();
            let printed =
                place.run_with_input(&["loss", "--objective", &objective], &input.to_string()).success();
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
        ("loss_of_a_misspelt_field", r#""dpo""#, r#"{"policy_chosen": [[-1]], "policy_rejectd": [[-2]]}"#),
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
fn check_forecasts_the_time_and_shows_tokens_with_their_masks() {
    let place = place();
    let quickstart = project("recipes/quickstart.toml");
    let quickstart = quickstart.to_str().unwrap();
    let shown = place.run(&["check", quickstart, "--tokens", "1"]).success().stdout;
    assert!(shown.contains("    mask 0  ") && shown.contains("    mask 1  "), "{shown}");
    assert!(!shown.contains('\u{1b}'), "colours are for terminals");
    let told = place.run(&["check", quickstart, "--time", "--json"]).success().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let stages = told["time"]["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    for (stage, steps) in stages.iter().zip([600, 200, 200]) {
        assert_eq!(stage["steps"], steps);
        assert!(stage["step_seconds"].as_f64().unwrap() > 0.0 && stage["rows_scored"].as_u64().unwrap() > 0);
    }
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
         a list is selected by its index or its name: `--set stage.align.objective.beta=0.2`.\n\n\
         The keys of objectives are on [their own page](objectives.md); [another](bilevel-steps.md) explains the bilevel \
         steps.\n",
    );
    let defined = |name: &str| &schema["$defs"][name];
    let section = |text: &mut String, about: &Value| {
        // "`[run]`: what it is" becomes a heading and a sentence.
        let description = about["description"].as_str().expect("every section has a description");
        let (heading, about_it) = description.split_once(": ").expect("a heading and a sentence");
        let (first, rest) = about_it.split_at(1);
        let sentence = first.to_uppercase() + &rest.replace('\n', " ");
        *text += &format!("\n## {heading}\n\n{sentence}\n\n{}", keys(schema, about, &[]));
    };
    section(&mut text, defined("Recipe"));
    for name in ["Run", "Model", "Adapter", "Plugins", "Data"] {
        section(&mut text, defined(name));
    }
    text += "\n## A data file\n\n";
    text += defined("Source")["description"].as_str().unwrap();
    text += &format!("\n\n{}", keys(schema, defined("Source"), &[]));
    parts(&mut text, schema, "A generated task", &defined("Data")["properties"]["task"], &["name"]);
    section(&mut text, defined("Stage"));
    section(&mut text, defined("EarlyStopping"));
    let bilevel = &defined("Stage")["properties"]["bilevel"];
    parts(&mut text, schema, "`stage.bilevel`", bilevel, &["step"]);
    let optimizer = &defined("Stage")["properties"]["optimizer"];
    parts(&mut text, schema, "`stage.optimizer`", optimizer, &["name"]);
    let mut schedule = variants(optimizer)[0]["properties"]["schedule"].clone();
    schedule["anyOf"] = defined("optimizer.own.schedule")["anyOf"].clone();
    parts(&mut text, schema, "`stage.optimizer.schedule`", &schedule, &["name"]);
    for name in ["Evaluation", "Checkpoint", "Best", "Cache", "Sweep", "Case", "Diagnostics", "Guard"] {
        section(&mut text, defined(name));
    }
    let backend = &defined("Recipe")["properties"]["backend"];
    parts(&mut text, schema, "`[backend]`", backend, &["name", "options"]);
    text
}

/// The tables that a value may be: those among its alternatives that have keys.
fn variants(value: &Value) -> Vec<&Value> {
    match value["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().flat_map(variants).collect(),
        None if value["properties"].is_object() => vec![value],
        None => Vec::new(),
    }
}

/// A section on a choice of parts: the keys that all of them have, then each part with its own. The keys in `left_out`
/// are in no table.
fn parts(text: &mut String, schema: &Value, title: &str, choice: &Value, left_out: &[&str]) {
    let about = choice["description"].as_str().expect("a choice has a description").replace('\n', " ");
    *text += &format!("\n## {title}\n\n{about}\n");
    let variants = variants(choice);
    let first = variants[0]["properties"].as_object().unwrap();
    let of_all =
        |key: &&String| variants.iter().all(|v| v["properties"][key.as_str()] == first[key.as_str()]);
    let shared: Vec<&str> = first.keys().filter(of_all).map(String::as_str).collect();
    let own: Vec<&str> = first.keys().map(String::as_str).filter(|key| !shared.contains(key)).collect();
    if !shared.is_empty() {
        *text += &format!("\n{}", keys(schema, variants[0], &[&own, left_out].concat()));
    }
    for variant in variants {
        let named = ["name", "step"].iter().find_map(|key| variant["properties"][*key]["enum"].as_array());
        let names = named.expect("a part has a name");
        let names: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_str().unwrap())).collect();
        let about = variant["description"].as_str().unwrap_or_default();
        *text += &format!("\n### {}\n\n{about}\n", names.join(", "));
        let options = &variant["properties"]["options"];
        for table in [variant, options].into_iter().filter(|table| table["properties"].is_object()) {
            let rows = keys(schema, table, &[&shared, left_out].concat());
            if !rows.is_empty() {
                *text += &format!("\n{rows}");
            }
        }
    }
}

/// A table of the keys of a table, without some; nothing if none is left.
fn keys(schema: &Value, table: &Value, left_out: &[&str]) -> String {
    let mut rows = String::new();
    for (key, property) in table["properties"].as_object().unwrap() {
        if left_out.contains(&key.as_str()) {
            continue;
        }
        let required = table["required"].as_array().is_some_and(|r| r.contains(&json!(key)));
        let default = match property.get("default") {
            Some(value) if value.is_object() => "see below".to_owned(),
            Some(Value::Null) => String::new(),
            Some(value) => format!("`{value}`"),
            None if required => "required".to_owned(),
            None => String::new(),
        };
        let mut about = property["description"].as_str().unwrap_or_default().replace('\n', " ");
        let choices = choices(schema, property);
        if !choices.is_empty() && !choices.iter().any(|choice| about.contains(choice)) {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
            about += &format!(" One of {}.", quoted.join(", "));
        }
        rows += &format!("| `{key}` | {default} | {} |\n", about.replace('|', "\\|"));
    }
    if rows.is_empty() { rows } else { format!("| key | default | meaning |\n|---|---|---|\n{rows}") }
}

/// The words that a value is chosen from, if it is.
fn choices<'a>(schema: &'a Value, value: &'a Value) -> Vec<&'a str> {
    let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| value[key].as_array());
    match (value["$ref"].as_str(), alternatives) {
        (Some(target), _) => choices(schema, &schema["$defs"][target.trim_start_matches("#/$defs/")]),
        (None, Some(alternatives)) => alternatives.iter().flat_map(|a| choices(schema, a)).collect(),
        (None, None) => value["const"].as_str().into_iter().collect(),
    }
}
