//! Chat templates that ask for the time: a run has one moment, whenever it is resumed and whatever the cache holds.

use serde_json::Value;
use test_support::Place;

use crate::recipes::with_model;

const RECIPE: &str = r#"
[run]
output = "runs/a"

[model]
path = "made/sft"

[data]
train = "rows.jsonl"
max_length = 64

[[stage]]
name = "align"
objective = "dpo"
steps = 2
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

/// A model whose template is this one, a recipe, and conversations.
fn with_template(template: &str) -> Place {
    let place = with_model();
    place.write("made/sft/chat_template.jinja", template);
    place.write("recipe.toml", RECIPE);
    let row = |i: usize| {
        let message =
            |role: &str, text: usize| serde_json::json!([{ "role": role, "content": text.to_string() }]);
        let [prompt, chosen, rejected] = [("user", i), ("assistant", i + 1), ("assistant", i + 3)];
        let [prompt, chosen, rejected] = [prompt, chosen, rejected].map(|(role, text)| message(role, text));
        serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }).to_string()
    };
    place.write("rows.jsonl", (0..4).map(row).collect::<Vec<_>>().join("\n"));
    place
}

/// Tells the time to the microsecond, so that no two runs are planned at the same one.
fn with_time() -> Place {
    with_template("{{ strftime_now('%H%M%S%f') }}{% for m in messages %}={{ m.content }}{% endfor %}")
}

fn record(place: &Place, run: &str) -> Value {
    serde_json::from_str(&place.read(&format!("{run}/run.json"))).unwrap()
}

fn tokens(place: &Place, run: &str) -> String {
    record(place, run)["data"][0]["sha256_of_tokens"].as_str().unwrap().to_owned()
}

/// As if the run had been stopped.
fn unfinish(place: &Place, run: &str) {
    std::fs::remove_file(place.path(&format!("{run}/summary.json"))).unwrap();
}

#[test]
fn a_run_is_resumed_with_its_own_moment() {
    let place = with_time();
    let off = ["--set", "cache.enabled=false"];
    place.run(&[&["recipe.toml"], &off[..]].concat()).success();
    let (before, metrics) = (record(&place, "runs/a"), place.read("runs/a/metrics.jsonl"));
    assert!(before["moment"].is_string(), "{before}");
    for again in [&["resume", "runs/a"][..], &["recipe.toml", "--set", "run.resume=auto", off[0], off[1]]] {
        unfinish(&place, "runs/a");
        place.run(again).success();
        assert_eq!(record(&place, "runs/a"), before, "{again:?}");
        assert_eq!(place.read("runs/a/metrics.jsonl"), metrics, "{again:?}");
    }
    // A run that replaces it has a moment of its own.
    place.run(&[&["recipe.toml", "--set", "run.overwrite=true"], &off[..]].concat()).success();
    assert_ne!(record(&place, "runs/a")["moment"], before["moment"]);
    assert_ne!(tokens(&place, "runs/a"), before["data"][0]["sha256_of_tokens"]);
}

#[test]
fn the_cache_gives_the_tokens_of_the_same_moment_only() {
    let place = with_time();
    let run = |output: &str, more: &[&str]| {
        let output = format!("run.output=runs/{output}");
        place.run(&[&["recipe.toml", "--set", &output], more].concat()).success().stdout
    };
    let cached = |printed: &str| printed.contains("are taken from the cache");
    assert!(!cached(&run("first", &[])));
    assert!(!cached(&run("second", &[])));
    assert_ne!(tokens(&place, "runs/first"), tokens(&place, "runs/second"));
    let moment = record(&place, "runs/first")["moment"].as_str().unwrap().to_owned();
    let printed = run("again", &["--set", &format!("run.moment={moment:?}")]);
    assert!(cached(&printed), "{printed}");
    assert_eq!(tokens(&place, "runs/again"), tokens(&place, "runs/first"));
}

#[test]
fn a_template_that_does_not_ask_for_the_time_has_no_moment() {
    let place = with_template("{% for m in messages %}={{ m.content }}{% endfor %}");
    place.run(&["recipe.toml"]).success();
    let given = ["--set", "run.moment=\"2024-07-26T12:00:00\""];
    let printed =
        place.run(&[&["recipe.toml", "--set", "run.output=runs/b"], &given[..]].concat()).success().stdout;
    assert!(printed.contains("are taken from the cache"), "{printed}");
    for run in ["runs/a", "runs/b"] {
        assert!(record(&place, run)["moment"].is_null());
        assert!(!place.read(&format!("{run}/recipe.toml")).contains("moment"));
    }
}

#[test]
fn the_cells_of_a_sweep_share_one_moment() {
    let place = with_time();
    place.write(
        "recipe.toml",
        format!("{RECIPE}\n[sweep]\ngrid = {{ \"stage.align.optimizer.lr\" = [1e-4, 1e-3] }}\n"),
    );
    place.run(&["recipe.toml"]).success();
    let cells = ["runs/a/lr=0.0001", "runs/a/lr=0.001"];
    assert_eq!(tokens(&place, cells[0]), tokens(&place, cells[1]));
    // A cell that is added later is told the same.
    let before = tokens(&place, cells[0]);
    std::fs::remove_dir_all(place.path(cells[1])).unwrap();
    place.run(&["resume", "runs/a"]).success();
    assert_eq!(tokens(&place, cells[1]), before);
}

#[test]
fn a_moment_must_be_a_time() {
    let place = with_time();
    let refused = place.run(&["check", "recipe.toml", "--set", "run.moment=\"yesterday\""]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("run.moment") && refused.stderr.contains("`yesterday`"),
        "{}",
        refused.stderr
    );
    let shown = place.run(&["check", "recipe.toml", "--set", "run.moment=\"2024-07-26T01:02:03\""]).success();
    assert!(shown.stdout.contains("010203000000"), "{}", shown.stdout);
}
