//! Expressions and statements of templates against what transformers' Jinja renders (tests/goldens/jinja.json).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use spo_data::{ChatTemplate, Message};

/// A template renders to the same text as in transformers, or has an error as there. The cases that are not
/// supported are listed in a file: each of them must be refused by name.
#[test]
fn every_case_is_rendered_as_transformers_renders_it_or_refused() {
    let goldens = test_support::golden("jinja.json");
    let refused = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/not_supported.txt");
    let refused = std::fs::read_to_string(refused).unwrap();
    let mut refused: BTreeSet<&str> = refused.lines().collect();
    let mut wrong = Vec::new();
    for case in goldens["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let row = row(&goldens);
        let here =
            ChatTemplate::new(source, Map::new()).and_then(|template| template.render(&[], false, &row));
        let right = match (&here, case["expected"].as_str()) {
            (Err(error), Some(_)) => {
                refused.remove(source) && error.message.contains("is not supported here")
            }
            (Ok(text), Some(expected)) => text == expected,
            (Err(_), None) => true,
            (Ok(_), None) => false,
        };
        if !right {
            wrong.push(format!("{source}\n  here     {here:?}\n  expected {case}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.is_empty(), "no cases, or supported: {refused:?}");
}

/// The row of the goldens. Whole numbers beyond 64 bits are kept as a file's reader keeps them.
fn row(goldens: &Value) -> Map<String, Value> {
    let text = goldens["row"].as_str().unwrap();
    let mut row: Map<String, Value> = serde_json::from_str(text).unwrap();
    for name in ["big", "huge"] {
        let digits = text.split(&format!("\"{name}\": ")).nth(1).unwrap().split(',').next().unwrap();
        row.insert(name.into(), json!({ "\u{1}whole number": digits }));
    }
    row
}

fn render(template: &str, messages: Value) -> Result<String, String> {
    let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
    let template = ChatTemplate::new(template, Map::new()).map_err(|e| e.to_string())?;
    template.render(&messages, false, &Map::new()).map_err(|e| e.to_string())
}

/// As `apply_chat_template` does: keys of a message whose value is null are absent, deeper nulls stay.
#[test]
fn null_counts_as_absent_in_a_message_and_not_deeper() {
    let template =
        "{% for m in messages %}{{ m.keys()|list }}{{ m.tool_calls is defined }}{{ m.content }}{% endfor %}";
    let calls = json!([{ "function": { "name": "f", "arguments": { "a": null } }, "id": null }]);
    let rendered =
        render(template, json!([{ "role": "user", "content": null, "tool_calls": null }])).unwrap();
    assert_eq!(rendered, "['role']False");
    let deeper =
        render("{{ messages[0].tool_calls }}", json!([{ "role": "assistant", "tool_calls": calls }]));
    assert_eq!(deeper.unwrap(), "[{'function': {'name': 'f', 'arguments': {'a': None}}, 'id': None}]");
    let thinking =
        json!([{ "role": "assistant", "reasoning_content": null, "reasoning": "r", "content": "" }]);
    let rendered = render("{{ messages[0] }}", thinking).unwrap();
    assert_eq!(
        rendered,
        "{'thinking': 'r', 'role': 'assistant', 'reasoning': 'r', 'content': '', 'reasoning_content': 'r'}"
    );
}

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    let cases = [
        ("a\n{{ 'x'|urlize }}", "the filter `urlize` of Jinja is not supported here"),
        ("a\n{% include 'x' %}", "the statement `include` of Jinja is not supported here"),
        ("a\n{{ 'x'.encode() }}", "`encode` of a string is not supported here"),
        ("a\n{{ 'x'|nope }}", "there is no filter `nope`"),
        ("a\n{{ 2 ** 200 }}", "arithmetic with whole numbers beyond 128 bits is not supported here"),
        ("a\n{{ 1 < 'a' }}", "an int and a string have no order"),
        ("a\n{{ missing.name }}", "`missing` is undefined"),
        ("a\n{{ strftime_now('%Q') }}", "the field `%Q` of the time format `%Q` is not supported here"),
    ];
    for (template, expected) in cases {
        let error = render(template, json!([])).unwrap_err();
        assert!(error.contains(expected) && error.contains("template line 2"), "{template:?}: {error}");
    }
}

/// Templates come with models from elsewhere: they must not be able to crash the program.
#[test]
fn endless_and_enormous_templates_are_errors() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for template in [
        format!("{{{{ {deep} }}}}"),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "1+".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "1 and ".repeat(100_000)),
        format!("{{{{ 1{} }}}}", ".real".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "|abs".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " if 1".repeat(100_000)),
        "{% if 1 %}".repeat(100_000),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".into(),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into(),
        "{{ 'x' * 1000000000000 }}".into(),
        "{{ [1] * 1000000000000 }}".into(),
        "{{ '%1000000000000d' % 1 }}".into(),
        "{{ '{:1000000000000}'.format(1) }}".into(),
        "{{ range(1000000000000)|list }}".into(),
        "{{ 'x'.center(1000000000000) }}".into(),
        "{{ 'x'|indent(1000000000000) }}".into(),
    ] {
        assert!(render(&template, json!([])).is_err(), "{}", &template[..template.len().min(80)]);
    }
}
