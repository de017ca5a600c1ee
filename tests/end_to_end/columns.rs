//! Columns of the data that an objective reads.

use serde_json::Value;
use test_support::Place;

use crate::recipes::{steps, with_model_beside};

/// Prompt, chosen, rejected, the scores of both, and the margin that they make.
const ROWS: [(&str, &str, &str, f64, f64, f64); 4] = [
    ("1+1=", "2", "3", 4.0, 1.0, 3.0),
    ("2+2=", "4", "5", 1.25, 1.0, 0.25),
    ("3+1=", "4", "1", 0.5, 0.5, 0.0),
    ("1+2=", "3", "22", 7.0, 5.0, 2.0),
];

/// The loss at the reference: the mean of `log(1 + e^margin)`.
fn at_the_reference() -> f64 {
    ROWS.iter().map(|row| row.5.exp().ln_1p()).sum::<f64>() / ROWS.len() as f64
}

fn lines(line: impl Fn(&(&str, &str, &str, f64, f64, f64)) -> String) -> String {
    ROWS.iter().map(|row| line(row) + "\n").collect()
}

fn objects() -> String {
    lines(|(prompt, chosen, rejected, high, low, margin)| {
        format!(
            r#"{{"prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}", "high": {high}, "low": {low}, "margin": {margin}}}"#
        )
    })
}

fn recipe(train: &str, stage: &str) -> String {
    format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\npath = \"model\"\n[data]\ntrain = {train}\nmax_length = 48\n\
         [[stage]]\nname = \"s\"\n{stage}\nsteps = 3\nbatch_size = 4\noptimizer = {{ lr = 3e-3 }}\n"
    )
}

/// Losses, norms of the gradient and held-out losses of a run.
fn train(place: &Place, train: &str, stage: &str) -> Vec<f64> {
    place.write("recipe.toml", recipe(train, stage));
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let trained = steps(&metrics, "s");
    assert_eq!(trained.len(), 3);
    let steps = trained.iter().flat_map(|line| ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap()));
    steps.chain(metrics.iter().filter_map(|line| line.get("eval_loss").and_then(Value::as_f64))).collect()
}

#[track_caller]
fn close(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-2), "{what}: {ours:?} {theirs:?}");
    }
}

#[test]
fn a_margin_comes_from_every_format_from_templates_and_from_scores() {
    let place = with_model_beside();
    place.write("rows.jsonl", objects());
    let csv = lines(|(prompt, chosen, rejected, high, low, margin)| {
        format!("{prompt},{chosen},{rejected},{high},{low},{margin}")
    });
    place.write("rows.csv", format!("prompt,chosen,rejected,high,low,margin\n{csv}"));
    // The row whose two scores are equal is no pair.
    place.write(
        "ranked.jsonl",
        lines(|(prompt, chosen, rejected, high, low, _)| {
            format!(r#"{{"prompt": "{prompt}", "answers": ["{rejected}", "{chosen}"], "scores": [{low}, {high}]}}"#)
        }),
    );
    let stage = r#"objective = "margin-dpo""#;
    let known = train(&place, r#""rows.jsonl""#, stage);
    close(&known[..1], &[at_the_reference()], "at the reference");
    for from in [
        r#""rows.csv""#,
        r#"{ path = "rows.jsonl", columns = { margin = "{{ high - low }}" } }"#,
        r#"{ path = "rows.csv", columns = { margin = "{{ high|float - low|float }}" } }"#,
        r#"{ path = "rows.csv", columns = { margin = "margin", score_chosen = "high", score_rejected = "low" } }"#,
    ] {
        assert_eq!(train(&place, from, stage), known, "{from}: to the bit");
    }
    for form in ["ranked", "ranked-pairs"] {
        let from = format!(
            r#"{{ path = "ranked.jsonl", columns = {{ form = "{form}", margin = "{{{{ score_chosen - score_rejected }}}}" }} }}"#
        );
        let unequal = r#"{ path = "rows.jsonl", filter = "margin > 0" }"#;
        let three = format!("{stage}\nmicro_batch = {{ rows = 2 }}").replace("batch_size", "");
        let set = |train: &str| recipe(train, &three).replace("batch_size = 4", "batch_size = 3");
        let loss = |train: &str| {
            place.write("recipe.toml", set(train));
            place.run(&["recipe.toml", "--quiet"]).success();
            place.read("out/metrics.jsonl")
        };
        assert_eq!(loss(&from), loss(unequal), "{form}");
    }
}

#[test]
fn a_margin_counts_in_parts_of_a_batch_in_evaluation_and_in_sums() {
    let place = with_model_beside();
    place.write("rows.jsonl", objects());
    let from = "\"rows.jsonl\"\neval = \"rows.jsonl\"";
    let whole = train(&place, from, r#"objective = "margin-dpo""#);
    let parts = train(&place, from, "objective = \"margin-dpo\"\nmicro_batch = { rows = 1 }");
    close(&parts, &whole, "in parts");
    close(&whole[6..7], &[at_the_reference()], "held out, before training");
    let sum =
        train(&place, from, r#"objective = [{ name = "margin-dpo" }, { name = "dpo", weight = 1e-9 }]"#);
    close(&sum, &whole, "in a sum");
    // A gradient that is scaled by the slope of the loss takes it at the mean margin.
    train(&place, from, "objective = \"margin-dpo\"\nbilevel = { step = \"weighted\", normalize = true }");

    let measured = place
        .run(&["eval", "model", "rows.jsonl", "--objective", "margin-dpo", "--reference", "model", "--json"])
        .success();
    let measured: Value = serde_json::from_str(&measured.stdout).unwrap();
    close(
        &[measured["figures"]["loss"]["mean"].as_f64().unwrap_or(f64::NAN)],
        &[at_the_reference()],
        &measured.to_string(),
    );
}

#[test]
fn a_changed_margin_changes_the_hash_of_the_rows() {
    let place = with_model_beside();
    let hash = |rows: String, objective: &str| {
        place.write("rows.jsonl", rows);
        train(&place, r#""rows.jsonl""#, &format!("objective = \"{objective}\""));
        let run: Value = serde_json::from_str(&place.read("out/run.json")).unwrap();
        run["data"][0]["sha256_of_tokens"].as_str().unwrap().to_owned()
    };
    let known = hash(objects(), "margin-dpo");
    assert_ne!(hash(objects().replace("\"margin\": 2", "\"margin\": 2.5"), "margin-dpo"), known);
    let unread = hash(objects(), "dpo");
    assert_eq!(hash(objects().replace("\"margin\": 2", "\"margin\": 2.5"), "dpo"), unread);
    assert_ne!(unread, known);
}

#[test]
fn a_column_that_is_no_number_is_refused_with_its_place() {
    let place = with_model_beside();
    let refused = |rows: &str, train: &str, words: &[&str]| {
        place.write("rows.jsonl", rows);
        place.write("recipe.toml", recipe(train, r#"objective = "margin-dpo""#));
        let outcome = place.run(&["check", "recipe.toml"]);
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        for words in words {
            assert!(outcome.stderr.contains(words), "no {words:?} in:\n{}", outcome.stderr);
        }
    };
    let plain = r#""rows.jsonl""#;
    let line = |margin: &str| objects().replace("\"margin\": 0.25", margin);
    let place_of = "rows.jsonl:2: ";
    refused(
        &line("\"margn\": 0.25"),
        plain,
        &[place_of, "there is no column `margin`", "did you mean `margn`?"],
    );
    refused(&line("\"margin\": null"), plain, &[place_of, "there is no column `margin`", "needs a number"]);
    refused(&line("\"margin\": \"\""), plain, &[place_of, "the column `margin` has no value here"]);
    refused(&line("\"margin\": \"much\""), plain, &[place_of, "column `margin`", "found the text \"much\""]);
    refused(&line("\"margin\": \"nan\""), plain, &[place_of, "expected a finite number"]);
    refused(&line("\"margin\": true"), plain, &[place_of, "expected a finite number, found"]);
    let mapped =
        |template: &str| format!(r#"{{ path = "rows.jsonl", columns = {{ margin = "{template}" }} }}"#);
    refused(&objects(), &mapped("{{ hihg - low }}"), &["rows.jsonl:1: ", "`hihg`", "did you mean `high`?"]);
    refused(&objects(), &mapped("high - low"), &["rows.jsonl:1: ", r#"margin = "{{ high - low }}""#]);
    // Nobody reads it: a name that is misspelt.
    refused(
        &objects(),
        r#"{ path = "rows.jsonl", columns = { margn = "high" } }"#,
        &["`margn` has no meaning", "did you mean `margin`?"],
    );
    // A generated task has no columns.
    place.write(
        "recipe.toml",
        recipe("\"rows.jsonl\"", "objective = \"margin-dpo\"")
            .replace("train = \"rows.jsonl\"", "task = { name = \"modular-chain\" }"),
    );
    let outcome = place.run(&["check", "recipe.toml"]);
    assert!(outcome.code == 2 && outcome.stderr.contains("reads the column `margin`"), "{}", outcome.stderr);
    let measured = place.run(&["eval", "model", "rows.jsonl", "--objective", "dpo", "--reference", "model"]);
    assert_eq!(measured.code, 0, "{}", measured.stderr);
}

/// A stage that reads the column does not disturb one of the same data that does not.
#[test]
fn a_mapped_column_is_for_the_stages_that_read_it() {
    let place = with_model_beside();
    place.write("rows.jsonl", objects());
    let from = r#"{ path = "rows.jsonl", columns = { margin = "{{ high - low }}" } }"#;
    let both = recipe(from, r#"objective = "sft""#)
        + "[[stage]]\nname = \"t\"\nobjective = \"margin-dpo\"\nsteps = 2\nbatch_size = 4\noptimizer = { lr = 1e-3 }\n";
    place.write("recipe.toml", &both);
    place.run(&["recipe.toml", "--quiet"]).success();
    assert_eq!(steps(&place.metrics("out"), "t").len(), 2);
    // Without the second stage, the name means nothing.
    place.write("recipe.toml", recipe(from, r#"objective = "sft""#));
    for stream in ["data.stream=false", "data.stream=true"] {
        let outcome = place.run(&["check", "recipe.toml", "--set", stream]);
        assert!(
            outcome.code == 2 && outcome.stderr.contains("`margin` has no meaning here"),
            "{stream}: {}",
            outcome.stderr
        );
    }
}

/// The test plugin with these definitions.
#[cfg(target_os = "linux")]
fn plugin(place: &Place, name: &str, definitions: &[&str]) -> String {
    let made = std::process::Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(crate::project("spo-api/include"))
        .args(definitions.iter().map(|definition| format!("-D{definition}")))
        .args(["-o", name])
        .arg(crate::project("tests/plugins/margin_dpo.c"))
        .arg("-lm")
        .current_dir(place.path("."))
        .output()
        .expect("a C compiler");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("./{name}")
}

#[test]
#[cfg(target_os = "linux")]
fn a_plugin_reads_columns_and_one_that_was_built_before_them_still_works() {
    let place = with_model_beside();
    place.write("rows.jsonl", objects());
    let (now, earlier) = (plugin(&place, "now.so", &[]), plugin(&place, "earlier.so", &["EARLIER"]));
    let with = |library: &str, stage: &str| {
        let loaded = format!("{stage}\nmicro_batch = {{ rows = 3 }}");
        place.write(
            "recipe.toml",
            recipe("\"rows.jsonl\"", &loaded) + &format!("[plugins]\nload = [\"{library}\"]\n"),
        );
        place.run(&["recipe.toml", "--quiet"]).success();
        let metrics = place.metrics("out");
        let figures = steps(&metrics, "s")
            .into_iter()
            .flat_map(|line| ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap()));
        figures.collect::<Vec<_>>()
    };
    for library in [&now, &earlier] {
        place.run(&["plugin", "test", library]).success();
    }
    let margin = with(&now, r#"objective = "margin-c""#);
    close(&margin, &with(&now, r#"objective = "margin-dpo""#), "in C");
    close(
        &with(&earlier, r#"objective = "margin-c""#),
        &with(&earlier, r#"objective = "dpo""#),
        "built before",
    );
    let sum = with(&now, r#"objective = [{ name = "dpo", weight = 1e-9 }, { name = "margin-c" }]"#);
    close(&sum, &margin, "in a sum");

    place.write(
        "recipe.toml",
        recipe("\"rows.jsonl\"", r#"objective = "margin-c""#) + "[plugins]\nload = [\"./now.so\"]\n",
    );
    place.write("rows.jsonl", objects().replace(", \"margin\": 0.25", ""));
    let outcome = place.run(&["check", "recipe.toml"]);
    assert!(
        outcome.code == 2 && outcome.stderr.contains("rows.jsonl:2: there is no column `margin`"),
        "{}",
        outcome.stderr
    );
    let twice = plugin(&place, "twice.so", &["TWICE"]);
    let outcome = place.run(&["plugin", "test", &twice]);
    assert!(
        outcome.code == 1 && outcome.stdout.contains("asks for the column `margin`"),
        "{}",
        outcome.stdout
    );
}

/// A lower level that multiplies by a column does what the weights of rows do.
#[test]
#[cfg(target_os = "linux")]
fn the_lower_level_reads_columns_too() {
    let place = with_model_beside();
    let library = plugin(&place, "lower.so", &["LOWER"]);
    place.run(&["plugin", "test", &library]).success();
    let numbers = ["0.5", "2", "0", ""];
    let rows = |column: &str| {
        let numbers = std::cell::RefCell::new(numbers.iter());
        lines(|(prompt, chosen, rejected, ..)| {
            let given = numbers.borrow_mut().next().unwrap();
            format!(
                r#"{{"prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}", "{column}": "{given}"}}"#
            )
        })
    };
    place.write("sure.jsonl", rows("confidence"));
    place.write("weighted.jsonl", rows("weight"));
    place.write("plain.jsonl", objects());
    let with = |data: &str, lower: &str| {
        format!(
            "objective = \"dpo\"\nbilevel = {{ step = \"penalty\", lambda = 0.7, lower = \"{lower}\"{data} }}\nmicro_batch = {{ rows = 2 }}"
        )
    };
    let train = |rows: &str, stage: &str| {
        place.write(
            "recipe.toml",
            recipe(&format!("\"{rows}\""), stage) + "[plugins]\nload = [\"./lower.so\"]\n",
        );
        place.run(&["recipe.toml", "--quiet"]).success();
        let metrics = place.metrics("out");
        steps(&metrics, "s")
            .into_iter()
            .map(|line| line["loss/lower"].as_f64().unwrap_or_else(|| panic!("{line}")))
            .collect::<Vec<_>>()
    };
    // Of its own data.
    let own = |data: &str, lower| train("plain.jsonl", &with(&format!(", lower_data = \"{data}\""), lower));
    close(&own("sure.jsonl", "margin-c"), &own("weighted.jsonl", "sft"), "data of its own");
    // Of the batch of the upper level, at the first step.
    let shared = train("sure.jsonl", &with("", "margin-c"));
    close(&shared[..1], &own("weighted.jsonl", "sft")[..1], "the upper batch");
}
