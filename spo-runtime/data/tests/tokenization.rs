//! Tokenization and truncation against TRL's (tests/goldens/tokenized_prefs.json, and the rows of its
//! reference runs). The tokenizers and data sets lie in the folder that SPO_SHARED names.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::{Dataset, Finding, Fit, Format, Source, SpecialTokens, Tokenizer, TrainOn, Truncation};
use test_support::{golden, shared};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Writes one row to a file of its own and loads it.
fn load(folder: &Path, row: &Value, tokenizer: &Tokenizer, fit: &Fit) -> spo_data::Result<Dataset> {
    let path = folder.join("row.jsonl");
    fs::write(&path, row.to_string()).unwrap();
    Dataset::load(&[Source::new(path)], Layout::Pairs, tokenizer, fit)
}

/// Context and completion of the chosen (0) or rejected (1) answer.
fn side(data: &Dataset, side: usize) -> (&[u32], &[u32]) {
    let groups = data.examples[0].in_memory();
    match groups.len() {
        1 => (&groups[0].prompt, &groups[0].completions[side]),
        _ => (&groups[side].prompt, &groups[side].completions[0]),
    }
}

/// TRL's index wraps round in this row, and the rejected answer loses its first letter.
const WRAPPED: &str = "differs at once, chosen ends in a blank (index -1)";

#[test]
fn rows_become_the_ids_that_trl_makes_of_them() {
    let Some(shared) = shared() else { return };
    let tokenizer = Tokenizer::open(&shared.join("models/llama-tiny")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let uncut = Fit { max_length: 4096, ..Fit::default() };
    let mut compared = 0;
    for golden in golden("tokenized_prefs.json")["rows"].as_array().unwrap() {
        let about = golden["about"].as_str().unwrap();
        if about == WRAPPED || golden.get("error").is_some() {
            continue;
        }
        let data = load(folder.path(), &golden["row"], &tokenizer, &uncut).unwrap();
        let expected = &golden["expected"];
        for (i, name) in ["chosen_ids", "rejected_ids"].into_iter().enumerate() {
            let (context, completion) = side(&data, i);
            let prompt = ids(&expected["prompt_ids"]);
            let answer = ids(&expected[name]);
            assert_eq!([context, completion].concat(), [prompt.clone(), answer].concat(), "{about}");
            // Without a prompt the answer's first token is read, not scored.
            assert_eq!(context.len(), prompt.len().max(1), "{about}");
        }
        compared += 1;
    }
    assert_eq!(compared, 47);
}

/// `train_on = "all-assistant"`: the tokens of a conversation, and which of them are scored.
#[test]
fn the_assistants_tokens_are_those_that_transformers_masks() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::open(&shared.join("models/llama-tiny")).unwrap().save(folder.path()).unwrap();
    let fit = Fit { max_length: 4096, train_on: TrainOn::AllAssistant, ..Fit::default() };
    let goldens = golden("assistant_masks.json");
    assert_eq!(goldens.as_array().unwrap().len(), 15);
    for case in goldens.as_array().unwrap() {
        // Without marks, the same is found by rendering the beginnings of the conversation.
        for template in ["marked", "plain"] {
            fs::write(folder.path().join("chat_template.jinja"), case[template].as_str().unwrap()).unwrap();
            let tokenizer = Tokenizer::open(folder.path()).unwrap();
            fs::write(folder.path().join("row.jsonl"), json!({ "messages": case["messages"] }).to_string())
                .unwrap();
            let source = [Source::new(folder.path().join("row.jsonl"))];
            let data = Dataset::load(&source, Layout::Demonstrations, &tokenizer, &fit).unwrap();
            let example = &data.examples[0];
            let group = &example.in_memory()[0];
            let mut mask = vec![0; group.prompt.len() + group.completions[0].len()];
            for at in example.scored(0, group.completions[0].len()).into_iter().flatten() {
                mask[group.prompt.len() + at] = 1;
            }
            let mut expected = ids(&case["mask"]);
            // The first token of all is read: none precedes it.
            expected[0] = 0;
            let found = [group.prompt.as_slice(), &group.completions[0]].concat();
            let about = format!("{}, {template}", case["about"]);
            assert_eq!(found, ids(&case["ids"]), "{about}");
            assert_eq!(mask, expected, "{about}");
        }
    }
}

#[test]
fn every_turn_of_the_assistant_is_scored_and_nothing_between_them() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("abcdu:").save(folder.path()).unwrap();
    let template = |text: &str| fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
    template("{% for m in messages %}{{ m.content }}{{ ':' if m.role == 'user' else '</s>' }}{% endfor %}");
    let said = |role: &str, text: &str| json!({ "role": role, "content": text });
    let (user, assistant) = (|text| said("user", text), |text| said("assistant", text));
    let open = || Tokenizer::open(folder.path()).unwrap();
    let loaded = |row: &Value, layout, fit: &Fit| {
        fs::write(folder.path().join("row.jsonl"), row.to_string()).unwrap();
        Dataset::load(&[Source::new(folder.path().join("row.jsonl"))], layout, &open(), fit)
    };
    // What is scored of each answer.
    let scored = |row: &Value, layout, fit: &Fit| -> Vec<Vec<String>> {
        let example = loaded(row, layout, fit).unwrap().examples.remove(0);
        let answers: Vec<_> =
            example.in_memory().iter().flat_map(|group| group.completions.clone()).collect();
        let text = |answer: usize, span| open().decode(&answers[answer][span]).unwrap();
        (0..answers.len())
            .map(|i| example.scored(i, answers[i].len()).into_iter().map(|span| text(i, span)).collect())
            .collect()
    };
    let all = Fit { train_on: TrainOn::AllAssistant, ..Fit::default() };
    let messages = json!({ "messages": [user("u"), assistant("a"), user("uu"), assistant("bb")] });
    assert_eq!(scored(&messages, Layout::Demonstrations, &all), [["a</s>", "bb</s>"]]);
    assert_eq!(scored(&messages, Layout::Demonstrations, &Fit::default()), [["bb</s>"]]);
    // Of a pair, what follows the prompt.
    let pair = json!({
        "prompt": [user("u"), assistant("a"), user("u")],
        "chosen": [assistant("a"), user("u"), assistant("c")],
        "rejected": [assistant("a"), user("uu"), assistant("d")],
    });
    assert_eq!(scored(&pair, Layout::Pairs, &all), [["a</s>", "c</s>"], ["a</s>", "d</s>"]]);
    let last = Fit::default();
    assert_eq!(scored(&pair, Layout::Pairs, &last), [["a</s>u:c</s>"], ["a</s>uu:d</s>"]]);
    // A turn without text is found among others.
    let silent = json!({ "messages": [user("u"), assistant(""), user("u"), assistant("b")] });
    let found = |fit: &Fit| loaded(&silent, Layout::Demonstrations, fit).unwrap().report.findings;
    assert!(
        found(&all).contains_key(&Finding::EmptyAnswer) && !found(&last).contains_key(&Finding::EmptyAnswer)
    );
    // One turn is what it is with `last`, and has the same hash.
    let one = json!({ "messages": [user("u"), assistant("a")] });
    let hash = |row, fit: &Fit| loaded(row, Layout::Demonstrations, fit).unwrap().hash();
    assert_eq!(hash(&one, &all), hash(&one, &last));
    assert_ne!(hash(&messages, &all), hash(&messages, &last));
    // Cut anywhere, it is the same tokens that are scored, less what is cut.
    for (truncation, max_length, left) in [
        (Truncation::KeepStart, 8, vec![vec!["a</s>", "b"]]),
        (Truncation::KeepStart, 5, vec![vec!["a</s>"]]),
        (Truncation::KeepEnd, 8, vec![vec!["</s>", "bb</s>"]]),
        (Truncation::KeepEnd, 4, vec![vec!["bb</s>"]]),
    ] {
        let fit = Fit { truncation, max_length, ..all.clone() };
        assert_eq!(scored(&messages, Layout::Demonstrations, &fit), left, "{truncation:?} {max_length}");
    }

    let refused = |row: &Value| loaded(row, Layout::Demonstrations, &all).unwrap_err().to_string();
    let plain = refused(&json!({ "prompt": "u", "completion": "a" }));
    assert!(plain.contains("row.jsonl:1") && plain.contains("this row is plain text"), "{plain}");
    // A template that shortens earlier turns.
    template("{% for m in messages %}{{ m.content if loop.last else m.content[0] }}:{% endfor %}");
    let again = json!({ "messages": [user("u"), assistant("ab"), user("u"), assistant("c")] });
    let words = refused(&again);
    assert!(words.contains("row.jsonl:1") && words.contains("renders message 2 otherwise"), "{words}");
    // Marks tell what is what.
    template(
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}:{% else %}{% generation %}\
         {{ m.content if loop.last else m.content[0] }}</s>{% endgeneration %}{% endif %}{% endfor %}",
    );
    assert_eq!(scored(&again, Layout::Demonstrations, &all), [["a</s>", "c</s>"]]);
    template(
        "{% for m in messages %}{% if m.role == 'model' %}{% generation %}{% endgeneration %}{% endif %}{{ m.content }}{% endfor %}",
    );
    let words = refused(&again);
    assert!(words.contains("puts no text of this conversation between {% generation %}"), "{words}");
    template(
        "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{% for x in messages %}{{ m(x.content) }}{% endfor %}",
    );
    let words = refused(&again);
    assert!(words.contains("inside of a macro"), "{words}");
}

#[test]
fn special_tokens_in_messages_are_found_and_can_be_made_text() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("ab<>/s").save(folder.path()).unwrap();
    let template = "{% for m in messages %}{{ m.content | trim }}</s>{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let (_, end) = tokenizer.eos().unwrap();
    let row = serde_json::json!({
        "prompt": [{"role": "user", "content": " a</s>b"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "</s>b </s>"}],
    });
    let tokens = |special_tokens| {
        let fit = Fit { special_tokens, ..Fit::default() };
        let data = load(folder.path(), &row, &tokenizer, &fit).unwrap();
        let [prompt, chosen, rejected] = [side(&data, 0).0, side(&data, 0).1, side(&data, 1).1]
            .map(|ids| (tokenizer.decode(ids).unwrap(), ids.iter().filter(|id| **id == end).count()));
        (prompt, chosen, rejected, data.report)
    };
    let text = |text: &str, ends| (text.to_owned(), ends);
    let (prompt, chosen, rejected, report) = tokens(SpecialTokens::AsText);
    assert_eq!(
        [prompt, chosen, rejected],
        [text("a</s>b</s>", 1), text("a</s>", 1), text("</s>b<unk></s></s>", 1)]
    );
    assert_eq!(report.count(Finding::SpecialToken), 0);
    let (prompt, _, rejected, report) = tokens(SpecialTokens::AsTokens);
    assert_eq!([prompt, rejected], [text("a</s>b</s>", 2), text("</s>b<unk></s></s>", 3)]);
    assert_eq!(report.count(Finding::SpecialToken), 1);
    assert_eq!(
        report.findings[&Finding::SpecialToken].detail,
        "\"</s>\", which is the token and not its text"
    );
}

#[test]
fn rows_are_cut_where_trl_cuts_them() {
    let Some(shared) = shared() else { return };
    let tokenizer = Tokenizer::open(&shared.join("models/llama-tiny")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let goldens = golden("tokenized_prefs.json");
    for golden in goldens["truncation"].as_array().unwrap() {
        let row = &goldens["rows"][golden["row"].as_u64().unwrap() as usize];
        let max_length = golden["max_length"].as_u64().unwrap() as usize;
        let truncation = match golden["truncation_mode"].as_str().unwrap() {
            "keep_start" => Truncation::KeepStart,
            _ => Truncation::KeepEnd,
        };
        let fit = Fit { max_length, truncation, ..Fit::default() };
        let loaded = load(folder.path(), &row["row"], &tokenizer, &fit);
        let scored = |name: &str| golden[name]["scored"].as_u64().unwrap_or(0) as usize;
        // TRL keeps rows of which nothing is scored; their loss is 0 or NaN.
        if golden.get("dropped").is_some() || scored("chosen") == 0 || scored("rejected") == 0 {
            assert!(loaded.is_err(), "{golden}");
            continue;
        }
        let data = loaded.unwrap();
        for (i, name) in ["chosen", "rejected"].into_iter().enumerate() {
            let (context, completion) = side(&data, i);
            let expected = &row["expected"];
            let whole = [ids(&expected["prompt_ids"]), ids(&expected[format!("{name}_ids")])].concat();
            let start = golden[name]["start"].as_u64().unwrap() as usize;
            let length = golden[name]["length"].as_u64().unwrap() as usize;
            assert_eq!([context, completion].concat(), whole[start..start + length], "{golden}");
            assert_eq!(completion.len(), scored(name), "{golden}");
        }
    }
}

#[test]
fn the_reference_runs_have_the_same_ids() {
    let Some(shared) = shared() else { return };
    let runs = golden("trl_dpo_runs.json");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    fs::write(&path, runs["rows"].to_string()).unwrap();
    for (model, run) in runs["models"].as_object().unwrap() {
        let tokenizer = Tokenizer::open(&shared.join("models").join(model)).unwrap();
        let data = Dataset::load(&[Source::new(&path)], Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
        let expected = run["tokens"].as_array().unwrap();
        assert_eq!(data.examples.len(), expected.len());
        for (example, tokens) in data.examples.iter().zip(expected) {
            let [group] = example.in_memory() else { panic!("a pair shares its prompt") };
            assert_eq!(group.prompt, ids(&tokens["prompt_ids"]), "{}", example.place);
            assert_eq!(group.completions[0], ids(&tokens["chosen_ids"]), "{}", example.place);
            assert_eq!(group.completions[1], ids(&tokens["rejected_ids"]), "{}", example.place);
        }
    }
}

#[test]
fn the_instruction_rows_are_the_same_in_each_of_their_two_forms() {
    let Some(shared) = shared() else { return };
    let tokenizer = Tokenizer::open(&shared.join("models/llama-tiny")).unwrap();
    let load = |name: &str| {
        Dataset::load(
            &[Source::new(shared.join("data").join(name))],
            Layout::Pairs,
            &tokenizer,
            &Fit::default(),
        )
        .unwrap()
    };
    let conversational = load("instruct_prefs.jsonl");
    assert_eq!((conversational.report.read, conversational.report.kept), (1100, 1100));
    assert_eq!(conversational.report.count(Finding::IdenticalPair), 6);
    let alpaca = load("instruction-data-with-preference.json");
    assert_eq!(conversational.hash(), alpaca.hash());

    let part = |skip, take| Source { skip, take, ..Source::new(shared.join("data/instruct_prefs.jsonl")) };
    let parts = [part(0, Some(990)), part(990, None)];
    let train = Dataset::load(&parts[..1], Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
    assert_eq!(train.examples.len(), 990);
    let both = Dataset::load(&parts, Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
    assert_eq!(both.hash(), conversational.hash());
}

#[test]
fn dialogues_in_share_gpt_form_and_columns_of_other_names_are_read() {
    let Some(shared) = shared() else { return };
    let tokenizer = Tokenizer::open(&shared.join("models/llama-tiny")).unwrap();
    let dialogues = [Source::new(shared.join("data/dpo_en_demo.json"))];
    let data = Dataset::load(&dialogues, Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
    assert_eq!(data.report.read, 300);
    let filled = data.report.count(Finding::PromptFillsWindow);
    assert_eq!(data.report.kept, 300 - filled);
    let longest =
        data.examples.iter().flat_map(|e| e.in_memory()).map(|g| g.prompt.len() + g.completions[0].len());
    assert_eq!(longest.max(), Some(1024));

    let columns = [("prompt", "question"), ("completion", "answer")];
    let columns = columns.into();
    let gsm =
        Source { columns, format: Some(Format::Jsonl), ..Source::new(shared.join("data/gsm_train.jsonl")) };
    let data = Dataset::load(&[gsm], Layout::Demonstrations, &tokenizer, &Fit::default()).unwrap();
    assert_eq!(data.report.read, 7473);
}

#[test]
fn a_template_that_is_missing_is_named() {
    let row = json!({"prompt": [{"role": "user", "content": "hi"}], "chosen": [], "rejected": []});
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path(), &row, &Tokenizer::characters("abc"), &Fit::default()).unwrap_err();
    assert!(error.message.contains("no chat template"), "{error}");
}
