//! `spo-run generate` and `spo-run chat`: prompts from everywhere, sampling, stop texts, conversations.

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::with_model_beside;

/// A folder with a model that has a chat template.
fn with_template() -> Place {
    let place = with_model_beside();
    let mut config: Value = serde_json::from_str(&place.read("model/tokenizer_config.json")).unwrap();
    config["chat_template"] = json!(
        "{% for m in messages %}{{ m.role[0] }}{{ m.content }};{% endfor %}{% if add_generation_prompt %}={% endif %}"
    );
    place.write("model/tokenizer_config.json", config.to_string());
    place
}

fn answers(place: &Place, more: &[&str]) -> Vec<Value> {
    answers_within(place, "6", more)
}

fn answers_within(place: &Place, tokens: &str, more: &[&str]) -> Vec<Value> {
    let arguments = ["generate", "model", "--json", "--max-new-tokens", tokens];
    let outcome = place.run(&[&arguments, more].concat()).success();
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn prompts_come_from_the_command_line_standard_input_and_files() {
    let place = with_model_beside();
    let text = |answers: &[Value]| answers[0]["answer"].as_str().unwrap().to_owned();
    let given = answers(&place, &["1+2="]);
    assert_eq!((&given[0]["tokens"], &given[0]["end"]), (&json!(6), &json!("length")));
    let read = place.run_with_input(&["generate", "model", "-", "--max-new-tokens", "6"], "1+2=").success();
    assert_eq!(read.stdout, format!("{}\n", text(&given)), "printed as it grows, and whole");
    assert!(read.stderr.contains("the answer to standard input was cut"), "{}", read.stderr);
    place.write("rows.jsonl", "{\"ask\": \"1+2=\"}\n{\"ask\": \"3+4+5=\"}\n");
    let rows = answers(&place, &["--prompts", "{ path = \"rows.jsonl\", columns = { prompt = \"ask\" } }"]);
    assert_eq!((rows.len(), text(&rows)), (2, text(&given)));
    assert_eq!((&rows[1]["place"], &given[0]["prompt"]), (&json!("rows.jsonl:2"), &json!("1+2=")));
}

#[test]
fn samples_differ_follow_their_seed_and_a_single_candidate_is_the_most_probable() {
    let place = with_model_beside();
    let greedy = answers(&place, &["1+2="]);
    let hot = ["1+2=", "-n", "4", "--temperature", "1.5"];
    let drawn = answers(&place, &hot);
    assert_eq!((drawn.len(), drawn.clone()), (4, answers(&place, &hot)));
    assert!(drawn.iter().any(|answer| answer["answer"] != drawn[0]["answer"]), "{drawn:?}");
    assert_ne!(drawn, answers(&place, &[&hot[..], &["--seed", "1"]].concat()));
    for narrow in [["--top-k", "1"], ["--top-p", "1e-9"], ["--min-p", "1"]] {
        let found = answers(&place, &[&hot[..], &narrow].concat());
        assert!(found.iter().all(|answer| answer["answer"] == greedy[0]["answer"]), "{narrow:?}: {found:?}");
    }
    // Greedy, and no token twice: those of the prompt, and those that were said.
    let said =
        answers(&place, &["1+2=", "--repetition-penalty", "1e9"])[0]["answer"].as_str().unwrap().to_owned();
    let characters: std::collections::BTreeSet<char> = said.chars().collect();
    assert!(!said.contains(['1', '+', '2', '=']) && characters.len() == said.chars().count(), "{said}");
}

#[test]
fn a_stop_text_ends_an_answer_before_it() {
    let place = with_model_beside();
    let whole = answers(&place, &["1+2="])[0]["answer"].as_str().unwrap().to_owned();
    let (at, _) = whole.char_indices().nth(2).unwrap();
    let stop = &whole[at..];
    let first = whole.find(stop).unwrap();
    let found = answers(&place, &["1+2=", "--stop", stop, "--stop", "never"]);
    assert_eq!((&found[0]["answer"], &found[0]["end"]), (&json!(whole[..first]), &json!("stop_text")));
    let arguments = ["generate", "model", "1+2=", "--max-new-tokens", "6", "--stop", stop];
    let printed = place.run(&arguments).success();
    assert_eq!(printed.stdout, format!("{}\n", &whole[..first]), "nothing of the stop text was printed");
    assert_eq!(printed.stderr, "", "it ended as it should");
}

#[test]
fn what_has_no_effect_on_answers_is_refused() {
    let place = with_model_beside();
    place.write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"1\"}, {\"role\": \"assistant\", \"content\": \"2\"}]}\n");
    for (arguments, expected) in [
        (vec!["1", "--top-k", "3"], "--top-k, --top-p and --min-p have no effect without a --temperature"),
        (vec!["1", "-n", "2"], "-n has no effect"),
        (vec!["1", "-n", "0"], "-n must be at least 1"),
        (vec!["1", "--min-p", "2"], "--min-p"),
        (vec!["1", "--repetition-penalty", "0"], "--repetition-penalty"),
        (vec!["1", "--stop", ""], "--stop"),
        (vec!["1", "--system", "5"], "the model has no chat template"),
        (vec!["--prompts", "chat.jsonl"], "chat.jsonl:1: the conversation ends with the assistant"),
        (vec!["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (vec!["1", "--prompts", "chat.jsonl"], "cannot be used with"),
        (vec![], "required"),
    ] {
        let outcome = place.run(&[&["generate", "model"], arguments.as_slice()].concat());
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
    let outcome = place.run(&["chat", "model"]);
    assert!(outcome.code == 2 && outcome.stderr.contains("no chat template"), "{}", outcome.stderr);
}

#[test]
fn a_system_prompt_is_part_of_the_conversation() {
    let place = with_template();
    let plain = answers(&place, &["u12;=", "--plain"]);
    assert_eq!(plain[0]["answer"], answers(&place, &["12"])[0]["answer"]);
    let with_system = answers(&place, &["s5;u12;=", "--plain"]);
    assert_eq!(with_system[0]["answer"], answers(&place, &["12", "--system", "5"])[0]["answer"]);
}

#[test]
fn a_conversation_is_remembered_until_it_is_reset() {
    let place = with_template();
    let say = |input: &str, more: &[&str]| {
        let arguments = [&["chat", "model", "--max-new-tokens", "4"], more].concat();
        place.run_with_input(&arguments, input).success()
    };
    let first = answers_within(&place, "4", &["12"])[0]["answer"].as_str().unwrap().to_owned();
    let shown = format!("{first} (cut after 4 tokens)\n");
    let reset = say("12\n\n/reset\n12\n/quit\n34\n", &[]);
    assert_eq!(reset.stdout, shown.repeat(2), "the second time as the first, and nothing after the end");
    let second = format!("u12;a{first};u34;=");
    let second = answers_within(&place, "4", &[&second, "--plain"])[0]["answer"].clone();
    let remembered = say("12\n34\n", &[]);
    assert_eq!(remembered.stdout, format!("{shown}{} (cut after 4 tokens)\n", second.as_str().unwrap()));
    let of_system = answers_within(&place, "4", &["12", "--system", "5"])[0]["answer"].clone();
    let of_system = format!("{} (cut after 4 tokens)\n", of_system.as_str().unwrap());
    assert_eq!(say("/system 5\n12\n/reset\n12\n", &[]).stdout, of_system.repeat(2));
    assert_eq!(say("12\n", &["--system", "5"]).stdout, of_system);
    // Two models answer one after the other where there is no wide terminal.
    let both = say("12\n/rest\n/help\n", &["--against", "model"]);
    assert!(both.stdout.starts_with(&format!("[model]\n{shown}[model]\n{shown}/reset")), "{}", both.stdout);
    assert!(both.stderr.contains("there is no command /rest; did you mean /reset?"), "{}", both.stderr);
    // What does not fit is told, and the conversation goes on.
    let long = format!("{}\n12\n", "1".repeat(60));
    let told = say(&long, &[]);
    assert!(told.stderr.contains("/reset begins a new conversation"), "{}", told.stderr);
    assert_eq!(told.stdout, shown);
}

#[cfg(unix)]
#[test]
fn an_interrupt_does_not_end_a_conversation() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    let place = with_template();
    let mut command = place.command(&["chat", "model", "--max-new-tokens", "4"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut answers = Vec::new();
    for _ in 0..2 {
        input.write_all(b"/reset\n12\n").unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        answers.push(answer);
        let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(answers[0].contains("cut after") && answers[0] == answers[1], "{answers:?}");
}
