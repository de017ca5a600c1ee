//! Files of every format and form, and what is said of those that are wrong.

#[path = "reading/columns.rs"]
mod columns;
#[path = "reading/files.rs"]
mod files;
#[path = "reading/guide.rs"]
mod guide;
#[path = "reading/sources.rs"]
mod sources;
#[path = "reading/tables.rs"]
mod tables;

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;
use spo_api::Layout;
use spo_data::{Dataset, Finding, Fit, Source, Tokenizer, Truncation};

/// Characters are tokens, so that expected ids can be read.
fn tokenizer() -> Tokenizer {
    let printable: String = (' '..='~').chain(['\n', '\r']).collect();
    Tokenizer::characters(&printable)
}

/// The same with a chat template.
fn chat_tokenizer(folder: &Path) -> Tokenizer {
    tokenizer().save(folder).unwrap();
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}\
                    {% if add_generation_prompt %}a:{% endif %}";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    Tokenizer::open(folder).unwrap()
}

fn fixture(name: &str) -> Source {
    Source::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
}

/// Context and completions of each group, as text.
fn texts(data: &Dataset, tokenizer: &Tokenizer) -> Vec<Vec<String>> {
    let text = |ids: &Vec<u32>| tokenizer.decode(ids).unwrap();
    let groups = data.examples.iter().flat_map(|example| example.in_memory());
    groups.map(|g| std::iter::once(&g.prompt).chain(&g.completions).map(text).collect()).collect()
}

/// Loads a file with this content.
fn load(
    name: &str,
    content: impl AsRef<[u8]>,
    layout: Layout,
    change: impl Fn(&mut Source, &mut Fit),
) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let mut source = Source::new(folder.path().join(name));
    fs::write(&source.path, content).unwrap();
    let mut fit = Fit::default();
    change(&mut source, &mut fit);
    let tokenizer = chat_tokenizer(folder.path());
    match Dataset::load(&[source], layout, &tokenizer, &fit) {
        Ok(data) => Loaded { texts: texts(&data, &tokenizer), data: Some(data), error: String::new() },
        Err(error) => {
            let error = error.to_string().replace(&format!("{}/", folder.path().display()), "");
            Loaded { texts: Vec::new(), data: None, error }
        }
    }
}

struct Loaded {
    texts: Vec<Vec<String>>,
    data: Option<Dataset>,
    error: String,
}

impl Loaded {
    fn report(&self) -> String {
        let report = self.data.as_ref().unwrap_or_else(|| panic!("{}", self.error)).report.to_string();
        // The folder is a temporary one.
        let words = report.split(' ').map(|word| match word.rfind('/') {
            Some(at) if word.starts_with('(') => format!("({}", &word[at + 1..]),
            Some(at) => word[at + 1..].to_owned(),
            None => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

fn lines(rows: &[serde_json::Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn user(text: &str) -> serde_json::Value {
    json!([{"role": "user", "content": text}])
}

fn assistant(text: &str) -> serde_json::Value {
    json!([{"role": "assistant", "content": text}])
}

#[test]
fn one_row_in_each_of_its_forms() {
    let plain = [json!({"prompt": "p ", "chosen": "good", "rejected": "bad"})];
    let read = |name: &str, content: String, layout| load(name, content, layout, |_, _| ()).texts;
    assert_eq!(read("a.jsonl", lines(&plain), Layout::Pairs), [["p ", "good</s>", "bad</s>"]]);
    assert_eq!(read("a.json", json!(plain).to_string(), Layout::Pairs), [["p ", "good</s>", "bad</s>"]]);
    // Many a .json holds lines, some begin with a byte order mark, and some end lines in CRLF.
    assert_eq!(
        read("a.json", format!("\u{feff}{}\r\n\r\n", plain[0]), Layout::Pairs),
        [["p ", "good</s>", "bad</s>"]]
    );
    assert_eq!(read("a.jsonl", lines(&plain), Layout::Demonstrations), [["p ", "good</s>"]]);
    assert_eq!(read("a.jsonl", lines(&plain), Layout::Unpaired), [["p ", "good</s>"], ["p ", "bad</s>"]]);

    let explicit = json!({"prompt": user("q"), "chosen": assistant("g"), "rejected": assistant("b")});
    let dialogue = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "g"}]);
    let other = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]);
    let share_gpt = json!({
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "g"},
        "rejected": {"from": "gpt", "value": "b"},
    });
    for row in [
        explicit,
        json!({"chosen": dialogue, "rejected": other}),
        // The prompt once more as text, as UltraFeedback has it.
        json!({"prompt": "q", "chosen": dialogue, "rejected": other}),
        share_gpt,
        json!({"instruction": "q", "input": "", "output": "?", "chosen": "g", "rejected": "b"}),
    ] {
        assert_eq!(read("a.jsonl", row.to_string(), Layout::Pairs), [["u:q;a:", "g;", "b;"]], "{row}");
        assert_eq!(read("a.jsonl", row.to_string(), Layout::Demonstrations), [["u:q;a:", "g;"]], "{row}");
    }
    for row in [
        json!({"messages": dialogue}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "g"}]}),
        json!({"prompt": user("q"), "completion": assistant("g")}),
        json!({"instruction": "q", "output": "g"}),
    ] {
        assert_eq!(read("a.jsonl", row.to_string(), Layout::Demonstrations), [["u:q;a:", "g;"]], "{row}");
    }
}

#[test]
fn judged_answers_keep_their_judgement() {
    let rows = [
        json!({"prompt": "p", "completion": "a", "label": true}),
        json!({"prompt": "p", "completion": "b", "label": 0}),
    ];
    let loaded = load("a.jsonl", lines(&rows), Layout::Unpaired, |_, _| ());
    let desirable: Vec<_> = loaded.data.unwrap().examples.iter().map(|e| e.desirable).collect();
    assert_eq!(desirable, [true, false]);
}

#[test]
fn parquet_files_of_text_and_of_messages_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = chat_tokenizer(folder.path());
    let load = |source, layout| Dataset::load(&[source], layout, &tokenizer, &Fit::default());
    let chat = load(fixture("chat.parquet"), Layout::Pairs).unwrap();
    assert_eq!(texts(&chat, &tokenizer)[1], ["s:Be brief.;u:2+2?;a:", "4;", "five;"]);
    assert_eq!(chat.report.kept, 3);

    let columns = [("prompt", "question"), ("completion", "answer")];
    let plain = Source { columns: columns.into(), take: Some(1), ..fixture("plain.parquet") };
    let plain = load(plain, Layout::Unpaired).unwrap();
    assert_eq!(texts(&plain, &tokenizer), [["1+1?", "2</s>"]]);

    for codec in ["gzip", "lz4", "zstd", "brotli"] {
        let columns = [("prompt", "question"), ("completion", "answer")];
        let compressed =
            Source { columns: columns.into(), take: Some(1), ..fixture(&format!("{codec}.parquet")) };
        assert_eq!(texts(&load(compressed, Layout::Unpaired).unwrap(), &tokenizer), [["1+1?", "2</s>"]]);
    }
}

#[test]
fn what_became_of_the_rows_is_told() {
    let pair = |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    let rows = [
        pair("p", "good", "bad"),
        pair("p", "same", "same"),
        pair("p", "", "bad"),
        pair("", "good", "bad"),
        pair("p", "a long answer", "bad"),
        pair("a long prompt", "good", "bad"),
    ];
    let keep = |truncation| {
        load("a.jsonl", lines(&rows), Layout::Pairs, |_, fit| {
            (fit.max_length, fit.truncation) = (8, truncation);
        })
    };
    let start = keep(Truncation::KeepStart);
    assert_snapshot!(start.report(), @r#"
    6 rows read, 5 kept
          1 kept: truncated to max_length (a.jsonl:5)
          1 kept: chosen and rejected are the same (a.jsonl:2)
          1 kept: empty answer (a.jsonl:3)
          1 kept: empty prompt (a.jsonl:4)
          1 dropped: the prompt fills max_length (a.jsonl:6)
    "#);
    assert_eq!(start.texts[3..5], [["g", "ood</s>"], ["b", "ad</s>"]]);
    assert_eq!(start.texts[5], ["p", "a long ", "bad</s>"]);
    let end = keep(Truncation::KeepEnd);
    assert_snapshot!(end.report(), @r#"
    6 rows read, 6 kept
          2 kept: truncated to max_length (a.jsonl:5, 6)
          1 kept: chosen and rejected are the same (a.jsonl:2)
          1 kept: empty answer (a.jsonl:3)
          1 kept: empty prompt (a.jsonl:4)
    "#);
    // Cut at the beginning, the two answers have contexts of their own.
    assert_eq!(
        end.texts[5..9],
        [[" ", "answer</s>"], ["p", "bad</s>"], ["mpt", "good</s>"], ["ompt", "bad</s>"]]
            .map(|texts| texts.map(str::to_owned).to_vec())[..]
    );
    assert_snapshot!(keep(Truncation::Drop).report(), @r#"
    6 rows read, 4 kept
          1 kept: chosen and rejected are the same (a.jsonl:2)
          1 kept: empty answer (a.jsonl:3)
          1 kept: empty prompt (a.jsonl:4)
          2 dropped: longer than max_length (a.jsonl:5, 6)
    "#);

    let strict = load("a.jsonl", lines(&rows), Layout::Pairs, |_, fit| fit.strict = true);
    assert_snapshot!(strict.error, @"a.jsonl:2: chosen and rejected are the same, and the recipe says strict");
    let none = load("a.jsonl", lines(&rows), Layout::Pairs, |_, fit| fit.max_length = 1);
    assert_snapshot!(none.error, @"max_length must be at least 2: a token to read and one to score");
    let none = load("a.jsonl", lines(&rows[5..]), Layout::Pairs, |_, fit| fit.max_length = 8);
    assert_snapshot!(none.error, @r#"
    no row is left: 1 rows read, 0 kept
          1 dropped: the prompt fills max_length (a.jsonl:1)
    "#);
    assert_eq!(start.data.unwrap().report.count(Finding::IdenticalPair), 1);
}

#[test]
fn wrong_files_are_refused_in_words() {
    let pair = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;
    let chat = json!({"prompt": user("q"), "chosen": assistant("a"), "rejected": assistant("b")});
    let refused = |name: &str, content: &str, layout| {
        let loaded = load(name, content, layout, |_, _| ());
        assert!(loaded.data.is_none(), "{content}");
        loaded.error
    };
    let cases: Vec<(&str, &str, Layout)> = vec![
        ("empty.jsonl", "", Layout::Pairs),
        ("blank.jsonl", "\n \n", Layout::Pairs),
        ("empty.json", "[]", Layout::Pairs),
        ("unknown.txt", pair, Layout::Pairs),
        ("broken.jsonl", "{\"prompt\": \"p\", \"chosen\": \"a\",\n", Layout::Pairs),
        ("number.jsonl", "7", Layout::Pairs),
        ("array.jsonl", "[{}]", Layout::Pairs),
        ("object.json", "\"text\"", Layout::Pairs),
        ("broken.json", "[{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"},\n]", Layout::Pairs),
        ("numbers.json", "[7]", Layout::Pairs),
        ("text.parquet", pair, Layout::Pairs),
        ("misspelt.jsonl", r#"{"prompt": "p", "choosen": "a", "rejected": "b"}"#, Layout::Pairs),
        ("null.jsonl", r#"{"prompt": "p", "chosen": null, "rejected": "b"}"#, Layout::Pairs),
        ("question.jsonl", r#"{"question": "q", "answer": "a"}"#, Layout::Demonstrations),
        ("unlabelled.jsonl", r#"{"prompt": "p", "completion": "a"}"#, Layout::Unpaired),
        ("labelled.jsonl", r#"{"prompt": "p", "completion": "a", "label": false}"#, Layout::Demonstrations),
        ("label.jsonl", r#"{"prompt": "p", "completion": "a", "label": "good"}"#, Layout::Unpaired),
        ("promptless.jsonl", r#"{"completion": "a"}"#, Layout::Demonstrations),
        ("type.jsonl", r#"{"prompt": "p", "chosen": 1, "rejected": "b"}"#, Layout::Pairs),
        (
            "roleless.jsonl",
            r#"{"prompt": [{"content": "q"}], "chosen": "a", "rejected": "b"}"#,
            Layout::Pairs,
        ),
        ("speaker.jsonl", r#"{"conversations": [{"from": "bot", "value": "q"}]}"#, Layout::Demonstrations),
        ("user.jsonl", r#"{"messages": [{"role": "user", "content": "q"}]}"#, Layout::Demonstrations),
        ("half.jsonl", r#"{"prompt": "p", "chosen": [], "rejected": "b"}"#, Layout::Pairs),
    ];
    let mut errors: Vec<_> =
        cases.into_iter().map(|(name, content, layout)| refused(name, content, layout)).collect();
    errors.push(refused("mixed.jsonl", &format!("{pair}\n{chat}\n"), Layout::Pairs));
    errors.push(load("latin.jsonl", b"{\"prompt\": \"\xFC\"}", Layout::Pairs, |_, _| ()).error);
    let change = |name: &str, change: &dyn Fn(&mut Source)| {
        load(name, pair, Layout::Pairs, |source, _| change(source)).error
    };
    errors.push(change("skipped.jsonl", &|source| source.skip = 5));
    errors.push(change("columns.jsonl", &|source| {
        source.columns.names.insert("promt".into(), "prompt".into());
    }));
    errors.push(change("mapped.jsonl", &|source| {
        source.columns.names.insert("chosen".into(), "choosen".into());
    }));
    errors.push(change("gone.jsonl", &|source| fs::remove_file(&source.path).unwrap()));
    assert_snapshot!(errors.join("\n"), @r#"
    empty.jsonl: the file is empty, not a byte is in it: was it written to its end?
    blank.jsonl: the file has no rows
    empty.json: the file has no rows
    unknown.txt: cannot tell the format from the extension: expected one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, or format = "jsonl", "json", "csv", "tsv", "parquet" or "arrow"
    broken.jsonl:2:0: malformed JSON: EOF while parsing a value (the first object does not end in its line, so the file is read as objects over several lines, without commas between them)
    number.jsonl:1: expected a row, which is a JSON object, found a number
    array.jsonl row 1: there is no column `chosen`; the row has no columns (pairs need `chosen` and `rejected`)
    object.json:1: expected a row, which is a JSON object, found a string
    broken.json:2:1: malformed JSON: trailing comma (take it out: a bracket closes here)
    numbers.json row 1: expected a row, which is a JSON object, found a number
    text.parquet: JSON and not Parquet: name it .jsonl, or say format = "jsonl"
    misspelt.jsonl:1: there is no column `chosen`; the row has `prompt`, `choosen`, `rejected` (pairs need `chosen` and `rejected`); did you mean `choosen`?
    null.jsonl:1: there is no column `chosen`; the row has `prompt`, `rejected` (pairs need `chosen` and `rejected`)
    question.jsonl:1: there is no column `completion`; the row has `question`, `answer` (demonstrations need `prompt` and `completion`, or `messages`)
    unlabelled.jsonl:1: there is no column `label`; the row has `prompt`, `completion` (unpaired answers need `prompt`, `completion` and `label`)
    labelled.jsonl:1: the row has a `label`: imitating it would imitate undesirable answers too
    label.jsonl:1: column `label`: expected true or false (or 1 or 0), found "good"
    promptless.jsonl:1: there is no column `prompt`, and the answer is plain text
    type.jsonl:1: column `chosen`: expected text or a list of messages, found a number
    roleless.jsonl:1: column `prompt`: a message must have `role` and `content` (or `from` and `value`), this one has `content`
    speaker.jsonl:1: column `conversations`: unknown speaker `bot`: expected human, gpt, system, user, assistant, tool or observation
    user.jsonl:1: the last message must be the assistant's: it is what is demonstrated
    half.jsonl:1: one answer is plain text and the other a list of messages: both must have one form
    mixed.jsonl:2: this row has messages with a prompt of its own, the first row (mixed.jsonl:1) plain text with a prompt of its own: split the file
    latin.jsonl:1:13: not UTF-8
    skipped.jsonl: nothing left to read: skip = 5 and the file has 1 rows
    columns: `promt` has no meaning here, expected one of prompt, chosen, rejected, score_chosen, score_rejected, weight, completion, label, messages, conversations, instruction, input, output, history, question, choices, answer, system, tools, chat_template_kwargs; did you mean `prompt`?
    mapped.jsonl:1: there is no column `choosen`; the row has `prompt`, `chosen`, `rejected`; did you mean `chosen`?
    gone.jsonl: No such file or directory (os error 2)
    "#);
}

#[test]
fn a_template_that_refuses_is_quoted_with_the_row() {
    let folder = tempfile::tempdir().unwrap();
    tokenizer().save(folder.path()).unwrap();
    let template = "{% if messages[0].role == 'user' %}\n{{ raise_exception('no users here') }}{% endif %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, json!({"prompt": user("q"), "completion": assistant("a")}).to_string()).unwrap();
    let error =
        Dataset::load(&[Source::new(path)], Layout::Demonstrations, &tokenizer, &Fit::default()).unwrap_err();
    let message = error.message.replace(&folder.path().display().to_string(), "MODEL");
    assert_snapshot!(message, @"the chat template refuses the messages: no users here (MODEL/chat_template.jinja:2)");
    assert!(error.place.unwrap().to_string().ends_with("a.jsonl:1"));
}
