//! Columns that data sets have, in every form: they are used, refused, or listed.

use insta::assert_snapshot;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::Finding;

use crate::{Loaded, assistant, lines, load, user};

fn read(row: &Value, layout: Layout) -> Loaded {
    load("a.jsonl", row.to_string(), layout, |_, _| ())
}

/// The texts of a row that is read.
#[track_caller]
fn texts(row: Value, layout: Layout) -> Vec<String> {
    let loaded = read(&row, layout);
    assert!(loaded.data.is_some(), "{row}: {}", loaded.error);
    loaded.texts.concat()
}

/// The error of a row that is refused.
#[track_caller]
fn refused(row: Value, layout: Layout) -> String {
    let loaded = read(&row, layout);
    assert!(loaded.data.is_none(), "{row}: {:?}", loaded.texts);
    loaded.error
}

#[test]
fn a_text_prompt_beside_messages_is_the_users_message() {
    let pair = json!({"prompt": "q", "chosen": assistant("g"), "rejected": assistant("b")});
    assert_eq!(texts(pair, Layout::Pairs), ["u:q;a:", "g;", "b;"]);
    let demonstration = json!({"prompt": "q", "completion": assistant("g")});
    assert_eq!(texts(demonstration, Layout::Demonstrations), ["u:q;a:", "g;"]);
    let unpaired = json!({"prompt": "q", "completion": assistant("g"), "label": true});
    assert_eq!(texts(unpaired, Layout::Unpaired), ["u:q;a:", "g;"]);
    // And the other way round: text that answers messages is the assistant's.
    let text = json!({"prompt": user("q"), "completion": "g"});
    assert_eq!(texts(text, Layout::Demonstrations), ["u:q;a:", "g;"]);
}

#[test]
fn a_text_prompt_is_found_in_the_conversation_or_the_row_is_refused() {
    let dialogue = |question: &str, answer: &str| json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
    let row = |prompt: &str| json!({"prompt": prompt, "chosen": dialogue("q", "g"), "rejected": dialogue("q", "b")});
    for held in ["q", " q\n", "Human: q\n\nAssistant:", ""] {
        assert_eq!(texts(row(held), Layout::Pairs), ["u:q;a:", "g;", "b;"], "{held:?}");
    }
    let demonstration = json!({"prompt": "q", "messages": dialogue("q", "g")});
    assert_eq!(texts(demonstration, Layout::Demonstrations), ["u:q;a:", "g;"]);
    assert_snapshot!(refused(row("z"), Layout::Pairs), @"a.jsonl:1: the prompt is text that the messages of the answers do not hold: remove the column `prompt` if the messages are whole conversations, else leave the assistant's messages alone in the answers");
    let other = json!({"prompt": "z", "messages": dialogue("q", "g")});
    assert!(refused(other, Layout::Demonstrations).contains("do not hold"));
}

#[test]
fn a_conversation_that_the_answers_repeat_is_read_once() {
    let dialogue = |answer: &str| json!([user("q")[0], assistant(answer)[0]]);
    let row = json!({"prompt": user("q"), "chosen": dialogue("g"), "rejected": dialogue("b")});
    assert_eq!(texts(row, Layout::Pairs), ["u:q;a:", "g;", "b;"]);
    let row = json!({"prompt": user("q"), "messages": dialogue("g")});
    assert_eq!(texts(row, Layout::Demonstrations), ["u:q;a:", "g;"]);
    // The question of a dialogue is in it.
    let row = json!({"question": "q", "messages": dialogue("g")});
    assert_eq!(texts(row, Layout::Demonstrations), ["u:q;a:", "g;"]);
}

#[test]
fn system_prompts_and_earlier_turns_are_used() {
    let rows = [
        json!({"system": "S", "instruction": "q", "input": "", "history": [["1", "2"]], "chosen": "g", "rejected": "b"}),
        json!({"system": "S", "question": "q", "history": [["1", "2"]], "chosen": "g", "rejected": "b"}),
        json!({"system": "S", "input": "q", "history": [["1", "2"]], "chosen": "g", "rejected": "b"}),
        json!({"system": "S", "conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}, {"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "g"}, "rejected": {"from": "gpt", "value": "b"}}),
    ];
    for row in rows {
        assert_eq!(texts(row, Layout::Pairs), ["s:S;u:1;a:2;u:q;a:", "g;", "b;"]);
    }
    let dialogue = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "g"}]);
    for row in [
        json!({"system": "S", "conversations": dialogue}),
        json!({"system": "S", "prompt": user("q"), "completion": assistant("g")}),
        json!({"system": "S", "prompt": "q", "completion": assistant("g")}),
        // The same system prompt once more is one.
        json!({"system": "S", "messages": [{"role": "system", "content": "S"}, user("q")[0], assistant("g")[0]]}),
    ] {
        assert_eq!(texts(row, Layout::Demonstrations), ["s:S;u:q;a:", "g;"]);
    }
    let without = json!({"system": "", "history": [], "images": [], "prompt": "q", "completion": "g"});
    assert_eq!(texts(without, Layout::Demonstrations), ["q", "g</s>"]);
}

#[test]
fn what_would_change_the_meaning_is_refused() {
    let with = |name: &str, value: Value| {
        let mut row = json!({"prompt": "q", "chosen": "g", "rejected": "b"});
        row[name] = value;
        refused(row, Layout::Pairs)
    };
    let image = json!([{"type": "image"}, {"type": "text", "text": "What is this?"}]);
    let errors = [
        with("system", json!("S")),
        with("history", json!([["1", "2"]])),
        with("images", json!(["a.png"])),
        with("audio", json!({"bytes": "x"})),
        refused(json!({"instruction": "q", "history": "before", "output": "g"}), Layout::Demonstrations),
        refused(
            json!({"system": "S", "messages": [{"role": "system", "content": "T"}, user("q")[0], assistant("g")[0]]}),
            Layout::Demonstrations,
        ),
        refused(
            json!({"messages": [{"role": "user", "content": image}, assistant("g")[0]]}),
            Layout::Demonstrations,
        ),
    ];
    assert_snapshot!(errors.join("\n"), @r#"
    a.jsonl:1: column `system`: a system prompt has no place in plain text; make the prompt a list of messages, or map its column to `question` instead of `prompt`: columns = { question = ... }
    a.jsonl:1: column `history`: earlier turns belong to an `instruction` or a `question`; write them as messages of the prompt
    a.jsonl:1: column `images`: only text is read, and without it the text may mean something else: remove such rows, or the column
    a.jsonl:1: column `audio`: only text is read, and without it the text may mean something else: remove such rows, or the column
    a.jsonl:1: column `history`: expected a list of turns, each a list of two texts: [question, answer]
    a.jsonl:1: column `system`: the messages begin with another system prompt; remove one of the two
    a.jsonl:1: column `messages`: a message has a part of type `image`: only text is read, and without that part the text may mean something else; remove such rows, or the part
    "#);
    // What the error proposes works.
    let row = json!({"system": "S", "prompt": "q", "chosen": "g", "rejected": "b"});
    let mapped = load("a.jsonl", row.to_string(), Layout::Pairs, |source, _| {
        source.columns.names.insert("question".into(), "prompt".into());
    });
    assert_eq!(mapped.texts, [["s:S;u:q;a:", "g;", "b;"]]);
}

#[test]
fn columns_that_are_not_used_are_listed_once() {
    let pair = |more: Value| {
        let mut row = json!({"prompt": "q", "chosen": "g", "rejected": "b", "id": 7});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        pair(json!({"source": "web", "empty": null})),
        // Known columns that have no place here: plain text is rendered by no template, and the pair needs no label.
        pair(json!({"source": "web", "tools": [], "label": true, "functions": [1]})),
    ];
    let loaded = load("a.jsonl", lines(&rows), Layout::Pairs, |_, _| ());
    assert_snapshot!(loaded.report(), @r"
    2 rows read, 2 kept
            columns not used: id, source, tools, label, functions (a.jsonl)
    ");
    // By the names that the file has for them.
    let loaded = load("a.jsonl", rows[1].to_string(), Layout::Pairs, |source, _| {
        source.columns.names.insert("chat_template_kwargs".into(), "functions".into());
    });
    assert!(
        loaded.report().contains("columns not used: id, source, tools, label, functions (a.jsonl)"),
        "{}",
        loaded.report()
    );
    // A file whose names are data does not fill the memory, nor the screen.
    let many: serde_json::Map<_, _> = (0..1000).map(|i| (format!("column {i}"), json!(1))).collect();
    let loaded = load("a.jsonl", pair(Value::Object(many)).to_string(), Layout::Pairs, |_, _| ());
    let report = loaded.report();
    assert!(report.contains("column 18, ... (") && report.len() < 1000, "{report}");
}

#[test]
fn messages_are_read_in_each_of_their_forms() {
    let text = |value: Value| Value::String(value.to_string());
    let parts = json!([{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]);
    for row in [
        json!({"prompt": text(user("q?")), "chosen": text(assistant("g")), "rejected": text(assistant("b"))}),
        json!({"prompt": [{"role": "human", "content": "q?"}], "chosen": {"role": "gpt", "content": "g"}, "rejected": {"role": "gpt", "content": "b"}}),
        json!({"prompt": [{"role": "user", "content": parts}], "chosen": assistant("g"), "rejected": assistant("b")}),
        json!({"prompt": "q?", "chosen": text(json!({"from": "gpt", "value": "g"})), "rejected": text(json!({"from": "gpt", "value": "b"}))}),
        // Null keys, as Parquet has them.
        json!({"prompt": [{"role": null, "content": null, "from": "human", "value": "q?"}], "chosen": "g", "rejected": "b"}),
    ] {
        assert_eq!(texts(row, Layout::Pairs), ["u:q?;a:", "g;", "b;"]);
    }
    let stored = json!({"conversations": text(json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "g"}]))});
    assert_eq!(texts(stored, Layout::Demonstrations), ["u:q;a:", "g;"]);
    // JSON that is no messages is text.
    let json = json!({"prompt": "Name a role: ", "completion": r#"[{"role": "cook"}]"#});
    assert_eq!(texts(json, Layout::Demonstrations)[1], r#"[{"role": "cook"}]</s>"#);
    // A role that the template alone knows.
    let critic =
        json!({"prompt": [user("q")[0], {"role": "critic", "content": "c"}], "completion": assistant("g")});
    assert_eq!(texts(critic, Layout::Demonstrations), ["u:q;c:c;a:", "g;"]);
}

#[test]
fn messages_that_are_none_are_told_what_they_are() {
    let chosen =
        |value: Value| refused(json!({"prompt": "q", "chosen": value, "rejected": "b"}), Layout::Pairs);
    let prompt = |value: Value| refused(json!({"prompt": value, "completion": "g"}), Layout::Demonstrations);
    let errors = [
        refused(json!({"prompt": "q", "chosen": "g", "rejected": ["b", "c"]}), Layout::Pairs),
        chosen(json!({"0": "a", "1": "b"})),
        chosen(json!("[{'role': 'assistant', 'content': 'g'}]")),
        chosen(assistant("g")),
        refused(json!({"prompt": user("q"), "chosen": user("g"), "rejected": user("b")}), Layout::Pairs),
        refused(
            json!({"prompt": user("q"), "completion": [{"role": "bot", "content": "g"}]}),
            Layout::Demonstrations,
        ),
        prompt(json!([{"role": "usr", "content": "q"}])),
        prompt(json!([{"role": "User", "content": "q"}])),
        prompt(json!([{"from": "humn", "value": "q"}])),
        prompt(json!([{"role": "user", "contents": "q"}])),
        prompt(json!([{"role": "user", "content": 7}])),
        prompt(json!([{"role": 1, "content": "q"}])),
        prompt(json!([{"role": "user", "content": ["q"]}])),
        prompt(json!([["q", "a"]])),
        prompt(json!([{}])),
    ];
    assert_snapshot!(errors.join("\n"), @r#"
    a.jsonl:1: column `rejected`: a list of texts, where one text or a list of messages is expected: a row has one answer of a kind, so write a row for each
    a.jsonl:1: column `chosen`: a whole column, by the numbers of its rows: pandas writes columns unless it is told `to_json(FILE, orient="records", lines=True)`
    a.jsonl:1: column `chosen`: a list of messages as Python prints it: store the list itself, or write it with `json.dumps`
    a.jsonl:1: one answer is plain text and the other a list of messages: both must have one form
    a.jsonl:1: an answer has no message of the role `assistant`, only of `user`: it is the assistant's that is learned
    a.jsonl:1: an answer has no message of the role `assistant`, only of `bot`: it is the assistant's that is learned
    a.jsonl:1: column `prompt`: unknown role `usr`; did you mean `user`?
    a.jsonl:1: column `prompt`: unknown role `User`; did you mean `user`?
    a.jsonl:1: column `prompt`: unknown speaker `humn`: expected human, gpt, system, user, assistant, tool or observation; did you mean `human`?
    a.jsonl:1: column `prompt`: a message of the user has no `content`; did you mean `contents`?
    a.jsonl:1: column `prompt`: a message's content must be text, not a number
    a.jsonl:1: column `prompt`: a message's role must be a string, not a number
    a.jsonl:1: column `prompt`: a part of a message's content has no `text`
    a.jsonl:1: column `prompt`: expected a message, found a list
    a.jsonl:1: column `prompt`: a message must have `role` and `content` (or `from` and `value`), this one has nothing
    "#);
}

#[test]
fn labels_are_read_as_tables_write_them() {
    let label = |value: Value| json!({"prompt": "p", "completion": "a", "label": value});
    let rows = [
        json!(true),
        json!(1.0),
        json!("True"),
        json!("1"),
        json!(false),
        json!(0.0),
        json!("false"),
        json!("0"),
    ];
    let loaded = load("a.jsonl", lines(&rows.map(label)), Layout::Unpaired, |_, _| ());
    let read: Vec<_> = loaded.data.unwrap().examples.iter().map(|e| e.desirable).collect();
    assert_eq!(read, [true, true, true, true, false, false, false, false]);
    let errors = [json!(0.5), json!(-1), json!("good"), json!([])]
        .map(|value| refused(label(value), Layout::Unpaired));
    assert_snapshot!(errors.join("\n"), @r#"
    a.jsonl:1: column `label`: expected true or false (or 1 or 0), found 0.5
    a.jsonl:1: column `label`: expected true or false (or 1 or 0), found -1
    a.jsonl:1: column `label`: expected true or false (or 1 or 0), found "good"
    a.jsonl:1: column `label`: expected true or false, found a list
    "#);
}

#[test]
fn a_null_among_prompts_is_told_from_a_file_of_two_forms() {
    let pair = |prompt: Value| json!({"prompt": prompt, "chosen": "g", "rejected": "b"});
    let error =
        load("a.jsonl", lines(&[pair(json!("p")), pair(json!(null))]), Layout::Pairs, |_, _| ()).error;
    assert_snapshot!(error, @r#"a.jsonl:2: `prompt` is null, and the first row (a.jsonl:1) has one: give this row its prompt ("" for none), or remove it"#);
    let error =
        load("a.jsonl", lines(&[pair(json!(null)), pair(json!("p"))]), Layout::Pairs, |_, _| ()).error;
    assert_snapshot!(error, @"a.jsonl:2: this row has plain text with a prompt of its own, the first row (a.jsonl:1) plain text without a prompt of its own: split the file");
}

/// Loads conversations with another chat template than that of the other tests.
fn with_template(template: &str, rows: &[Value]) -> String {
    let folder = tempfile::tempdir().unwrap();
    crate::tokenizer().save(folder.path()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = spo_data::Tokenizer::open(folder.path()).unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, lines(rows)).unwrap();
    let data = spo_data::Dataset::load(
        &[spo_data::Source::new(path)],
        Layout::Demonstrations,
        &tokenizer,
        &spo_data::Fit::default(),
    );
    let data = data.unwrap();
    assert!(
        data.report.findings.keys().all(|finding| [Finding::Endless, Finding::EndOfPrompt].contains(finding))
    );
    data.report.to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn answers_that_do_not_stop_and_prompts_that_do_not_go_on_are_found() {
    let rows = [
        json!({"prompt": "q", "completion": assistant("g")}),
        json!({"prompt": "r", "completion": assistant("h")}),
    ];
    let turns = "{% for m in messages %}{{ m.role }}:{{ m.content }}";
    let sound = with_template(
        &format!("{turns}</s>\n{{% endfor %}}{{% if add_generation_prompt %}}assistant:{{% endif %}}"),
        &rows,
    );
    assert_snapshot!(sound, @"2 rows read, 2 kept");
    let endless = with_template(
        &format!("{turns}<end>{{% endfor %}}{{% if add_generation_prompt %}}assistant:{{% endif %}}"),
        &rows,
    );
    assert_snapshot!(endless, @r#"
    2 rows read, 2 kept
          2 kept: no stop token in an answer: the template ends it with "<end>", and generation stops at "</s>" (a.jsonl:1, 2)
    "#);
    let thinking = with_template(
        &format!("{turns}</s>{{% endfor %}}{{% if add_generation_prompt %}}assistant:<think>{{% endif %}}"),
        &rows,
    );
    assert_snapshot!(thinking, @r#"
    2 rows read, 2 kept
          2 kept: the end of the prompt is left out: "<think>"; the template puts it before an answer to be generated, not before these (a.jsonl:1, 2)
    "#);
}
