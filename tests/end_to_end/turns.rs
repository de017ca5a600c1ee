//! `train_on = "all-assistant"`: every turn of the assistant is learned.

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::{steps, with_model_beside};

/// A model whose chat template puts messages one after the other, and the end token behind those of the assistant.
fn with_template() -> Place {
    let place = with_model_beside();
    place.write(
        "model/chat_template.jinja",
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    );
    place
}

fn dialogue(turns: &[&str]) -> Value {
    let role = |i| if i % 2 == 0 { "user" } else { "assistant" };
    turns.iter().enumerate().map(|(i, text)| json!({ "role": role(i), "content": text })).collect()
}

const TURNS: [&str; 6] = ["1+1=", "2", "2+2=", "4", "3+1=", "44"];

fn recipe(data: &str, stage: &str) -> String {
    format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\npath = \"model\"\n[data]\n{data}\nmax_length = 48\n\
         [[stage]]\nname = \"s\"\n{stage}\noptimizer = {{ lr = 3e-3 }}\n"
    )
}

/// Losses, norms of the gradient and held-out losses.
fn train(place: &Place, data: &str, stage: &str) -> Vec<f64> {
    place.write("recipe.toml", recipe(data, stage));
    place.run(&["recipe.toml", "--quiet"]).success();
    let metrics = place.metrics("out");
    let trained = steps(&metrics, "s");
    assert_eq!(trained.len(), 3);
    let figures =
        trained.iter().flat_map(|line| ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap()));
    figures.chain(metrics.iter().filter_map(|line| line.get("eval_loss").and_then(Value::as_f64))).collect()
}

#[track_caller]
fn close(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1e-2), "{ours:?} {theirs:?}");
    }
}

/// Learning all turns of a dialogue is learning each in a row of its own.
#[test]
fn all_turns_of_a_dialogue_are_learned_as_if_each_were_a_row() {
    let place = with_template();
    place.write("one.jsonl", json!({ "messages": dialogue(&TURNS) }).to_string());
    let row = |turns| json!({ "messages": dialogue(&TURNS[..turns]) }).to_string();
    place.write("three.jsonl", [row(2), row(4), row(6)].join("\n"));
    let all = "train = \"one.jsonl\"\neval = \"one.jsonl\"\ntrain_on = \"all-assistant\"";
    let each = "train = \"three.jsonl\"\neval = \"three.jsonl\"";
    for bilevel in ["", "\nbilevel = { step = \"penalty\", lambda = 0.5, lower = \"sft\" }"] {
        let stage = |rows: usize| format!("objective = \"sft\"\nsteps = 3\nbatch_size = {rows}{bilevel}");
        let (together, apart) = (train(&place, all, &stage(1)), train(&place, each, &stage(3)));
        close(&together, &apart);
        let last = train(&place, "train = \"one.jsonl\"\neval = \"one.jsonl\"", &stage(1));
        assert!((last[0] - together[0]).abs() > 1e-3, "the turns are alike: nothing is shown");
    }
    // `eval` measures the same turns.
    let trained = train(&place, all, "objective = \"sft\"\nsteps = 3\nbatch_size = 1");
    for (turns, same) in [("all-assistant", true), ("last", false)] {
        let found = place.run(&["eval", "out/s", "one.jsonl", "--train-on", turns, "--json"]).success();
        let found: Value = serde_json::from_str(&found.stdout).unwrap();
        let loss = found["figures"]["sft_loss"]["mean"].as_f64().unwrap();
        assert_eq!((loss - trained.last().unwrap()).abs() < 1e-9, same, "{turns}: {loss} {trained:?}");
    }
}

/// What others say between the turns of two answers is read, and no part of their log-probs.
#[test]
fn pairs_of_several_turns_learn_the_assistants_tokens_alone() {
    let place = with_template();
    let turns = |answers: [&str; 3]| {
        let role = ["assistant", "user", "assistant"];
        role.iter()
            .zip(answers)
            .map(|(role, text)| json!({ "role": role, "content": text }))
            .collect::<Value>()
    };
    let pair = |chosen, rejected| {
        json!({ "prompt": dialogue(&["1+1="]), "chosen": turns(chosen), "rejected": turns(rejected) })
            .to_string()
    };
    place.write(
        "rows.jsonl",
        [pair(["2", "2+2=", "4"], ["3", "2+2=", "5"]), pair(["2", "1+2=", "3"], ["2", "1+2=", "22"])]
            .join("\n"),
    );
    let data = "train = \"rows.jsonl\"\neval = \"rows.jsonl\"\ntrain_on = \"all-assistant\"";
    let stage = "objective = \"dpo\"\nsteps = 3\nbatch_size = 2";
    let whole = train(&place, data, stage);
    close(&train(&place, data, &format!("{stage}\nmicro_batch = {{ rows = 1 }}")), &whole);
    // Another loss than that of all tokens behind the prompt.
    let last = train(&place, "train = \"rows.jsonl\"\neval = \"rows.jsonl\"", stage);
    assert!((last[3] - whole[3]).abs() > 1e-5, "{last:?} {whole:?}");

    let shown =
        place.run(&["check", "recipe.toml", "--set", "data.train_on=\"all-assistant\""]).success().stdout;
    for line in ["scores [\"2</s>\"]", "reads  \"2+2=\"", "scores [\"4</s>\"]"] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    let json = place
        .run(&["check", "recipe.toml", "--json", "--set", "data.train_on=\"all-assistant\""])
        .success()
        .stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["stages"][0]["rows"][0]["groups"][0]["scores"][0]["scored"], json!([[0, 2], [6, 8]]));
    let tokens =
        place.run(&["check", "recipe.toml", "--tokens", "1", "--set", "data.train_on=\"all-assistant\""]);
    assert_eq!(tokens.success().stdout.matches("mask 1  ").count(), 4);
}

#[test]
fn what_cannot_be_told_is_refused() {
    let place = with_template();
    place.write("one.jsonl", json!({ "messages": dialogue(&TURNS) }).to_string());
    let refused = |data: &str, more: &str, words: &[&str]| {
        place.write("recipe.toml", recipe(data, "objective = \"sft\"\nsteps = 3\nbatch_size = 1") + more);
        let outcome = place.run(&["check", "recipe.toml"]);
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        for words in words {
            assert!(outcome.stderr.contains(words), "no {words:?} in:\n{}", outcome.stderr);
        }
    };
    let all = "train = \"one.jsonl\"\ntrain_on = \"all-assistant\"";
    refused(&all.replace("all-assistant", "all"), "", &["train_on", "expected `last` or `all-assistant`"]);
    let diagnostics = "[diagnostics]\nevery = 1\nprobes = 1\n";
    refused(&format!("{all}\neval = \"one.jsonl\""), diagnostics, &["one.jsonl:1", "several turns"]);
    place.write(
        "model/chat_template.jinja",
        "{% for m in messages %}{{ m.content if loop.last else m.content[0] }}{% endfor %}</s>",
    );
    refused(all, "", &["one.jsonl:1: ", "renders message 2 otherwise", "generation"]);
}
