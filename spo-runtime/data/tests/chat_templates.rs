//! Chat templates against what transformers renders (tests/goldens/chat_templates.json).

use serde_json::{Map, Value};
use spo_data::{ChatTemplate, Message};

#[test]
fn every_case_is_rendered_as_transformers_renders_it() {
    assert_rendered(&test_support::golden("chat_templates.json"));
}

/// Cases of the same form in a file that is not part of the project, such as the templates of a collection.
#[test]
fn further_cases_are_rendered_as_transformers_renders_them() {
    let Some(path) = std::env::var_os("SPO_TEMPLATE_CASES") else {
        return test_support::skip("SPO_TEMPLATE_CASES names no file of further chat templates");
    };
    assert_rendered(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
}

/// Where the text in `{% generation %}` lies, in code points.
#[test]
fn marked_text_lies_where_transformers_finds_it() {
    let goldens = test_support::golden("chat_templates.json");
    let marked = |case: &&Value| case.get("generation_spans").is_some();
    let mut compared = 0;
    for case in goldens["cases"].as_array().unwrap().iter().filter(marked) {
        let (template, messages, variables) = compiled(case, &goldens["templates"]).unwrap();
        assert!(template.marks_answers(), "{}", case["name"]);
        let (text, spans) = template.render_marked(&messages, &variables).unwrap();
        let points = |bytes: usize| text[..bytes].chars().count();
        let spans: Vec<_> = spans.iter().map(|span| [points(span.start), points(span.end)]).collect();
        assert_eq!(serde_json::json!(spans), case["generation_spans"], "{}", case["name"]);
        compared += 1;
    }
    assert!(compared > 0);
}

#[track_caller]
fn assert_rendered(goldens: &Value) {
    let cases = goldens["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let same = match (render(case, &goldens["templates"]), &case["error"]["message"]) {
            (Ok(text), Value::Null) => text == case["expected"],
            (Err(error), Value::String(message)) => {
                // Jinja's own words differ, a template's are repeated.
                case["error"]["kind"] != "raise_exception" || error.contains(message)
            }
            _ => false,
        };
        if !same {
            wrong.push(format!(
                "{} ({}):\n  here     {:?}\n  expected {:?}",
                case["name"],
                case["level"],
                render(case, &goldens["templates"]),
                case["expected"].as_str().or(case["error"]["message"].as_str()),
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Template, messages and variables of a case.
type Compiled = (ChatTemplate, Vec<Message>, Map<String, Value>);

fn render(case: &Value, templates: &Value) -> Result<String, String> {
    let (template, messages, variables) = compiled(case, templates)?;
    template
        .render(&messages, case["add_generation_prompt"].as_bool().unwrap(), &variables)
        .map_err(|e| e.to_string())
}

fn compiled(case: &Value, templates: &Value) -> Result<Compiled, String> {
    let mut special_tokens = Map::new();
    for name in ["bos_token", "eos_token"] {
        if let Some(token) = case.get(name).filter(|token| !token.is_null()) {
            special_tokens.insert(name.into(), token.clone());
        }
    }
    let source = templates[case["template"].as_str().unwrap()].as_str().unwrap();
    let template = ChatTemplate::new(source, special_tokens).map_err(|e| e.to_string())?;
    let messages: Vec<_> =
        case["messages"].as_array().unwrap().iter().map(|m| m.as_object().unwrap().clone()).collect();
    let mut variables = case.get("variables").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(tools) = case.get("tools") {
        variables.insert("tools".into(), tools.clone());
    }
    Ok((template, messages, variables))
}
