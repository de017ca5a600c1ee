//! Several files, and which of their rows are used, and how they are made of the columns.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::{Dataset, Fit, LeftOut, Mapping, Result, Side, Source, Split};

use crate::{chat_tokenizer, fixture, lines, load, texts};

fn pair(prompt: &str) -> Value {
    json!({"prompt": prompt, "chosen": "g", "rejected": "b"})
}

fn pairs(count: usize) -> Vec<Value> {
    (0..count).map(|i| pair(&i.to_string())).collect()
}

fn read(sources: &[Source], fit: &Fit) -> Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    Dataset::load(sources, Layout::Pairs, &chat_tokenizer(folder.path()), fit)
}

/// The prompts of the rows.
fn prompts(data: &Dataset) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    texts(data, &chat_tokenizer(folder.path())).into_iter().map(|mut texts| texts.swap_remove(0)).collect()
}

/// The prompts of a file with these rows.
fn used(rows: &[Value], change: impl Fn(&mut Source, &mut Fit)) -> Vec<String> {
    let loaded = load("a.jsonl", lines(rows), Layout::Pairs, change);
    prompts(&loaded.data.unwrap_or_else(|| panic!("{}", loaded.error)))
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn folders_and_patterns_are_their_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| Source::new(folder.path().join(path));
    write(folder.path(), "set/b.csv", "prompt,chosen,rejected\n2,g,b\n3,g,b\n");
    write(folder.path(), "set/a.jsonl", &lines(&pairs(2)));
    write(folder.path(), "set/README.md", "# Rows");
    write(folder.path(), "set/.hidden.jsonl", "{");
    write(folder.path(), "set/deep/c.jsonl", &lines(&[pair("4")]));
    write(folder.path(), "odd[1].jsonl", &lines(&[pair("5")]));
    let prompts = |source: Source| prompts(&read(&[source], &Fit::default()).unwrap());
    assert_eq!(prompts(at("set")), ["0", "1", "2", "3"]);
    assert_eq!(prompts(at("set/*.jsonl")), ["0", "1"]);
    assert_eq!(prompts(at("set/**/*.jsonl")), ["0", "1", "4"]);
    assert_eq!(prompts(at("odd[1].jsonl")), ["5"]);
    // Rows are passed over and taken across the files.
    assert_eq!(prompts(Source { skip: 1, take: Some(2), ..at("set") }), ["1", "2"]);
    // What identifies the rows covers each file.
    let before = at("set").identity().unwrap();
    write(folder.path(), "set/b.csv", "prompt,chosen,rejected\n2,g,b\n");
    assert_ne!(at("set").identity().unwrap(), before);

    write(folder.path(), "none/README.md", "");
    write(folder.path(), "above/data/train.parquet", "");
    write(folder.path(), "both/a.jsonl", &lines(&pairs(1)));
    write(folder.path(), "both/b.jsonl", "");
    let error = |path: &str| {
        let error = read(&[at(path)], &Fit::default()).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    let errors = ["none", "above", "both", "set/*.json", "sets/*.jsonl", "set/**.jsonl"].map(error);
    assert_snapshot!(errors.join("\n"), @r#"
    none: a folder without data files (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow); it holds none/README.md
    above: a folder without data files (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow); name one below it, or a pattern: above/data/train.parquet
    both/b.jsonl: the file is empty, not a byte is in it: was it written to its end?
    set/*.json: no file matches this pattern; set holds set/README.md, set/a.jsonl, set/b.csv, set/deep
    sets/*.jsonl: no file matches this pattern; there is no folder sets
    set/**.jsonl: not a pattern: recursive wildcards must form a single path component
    "#);
}

#[test]
fn a_folder_of_save_to_disk_is_its_rows() {
    let splits = |name: &str| Source { split: Some(name.into()), ..fixture("saved") };
    let train = read(&[fixture("saved")], &Fit::default()).unwrap();
    assert_eq!(train.hash(), read(&[splits("train")], &Fit::default()).unwrap().hash());
    // The rows of `fixtures/packed.py`.
    assert_eq!(train.hash(), read(&[fixture("rows.jsonl.xz")], &Fit::default()).unwrap().hash());
    let first = Source { take: Some(3), ..fixture("saved/train") };
    let test = read(&[splits("test")], &Fit::default()).unwrap();
    assert_eq!(test.hash(), read(&[first], &Fit::default()).unwrap().hash());
    assert_eq!(test.report.read, 3);

    let folder = tempfile::tempdir().unwrap();
    let state = |files: &str, more: &str| {
        write(
            folder.path(),
            "saved/state.json",
            &format!("{{\"_data_files\": [{files}], {more} \"_split\": \"test\"}}"),
        );
        let error = |split: Option<&str>| {
            let source = Source { split: split.map(Into::into), ..Source::new(folder.path().join("saved")) };
            read(&[source], &Fit::default()).unwrap_err().to_string()
        };
        [None, Some("train")].map(error).join("\n")
    };
    let errors = [
        read(&[splits("tset")], &Fit::default()).unwrap_err().to_string(),
        read(&[Source { subset: Some("s".into()), ..fixture("saved") }], &Fit::default())
            .unwrap_err()
            .to_string(),
        read(&[Source { split: Some("s".into()), ..fixture("saved/test") }], &Fit::default())
            .unwrap_err()
            .to_string(),
        state("{\"filename\": \"../a.arrow\"}", ""),
        state("", ""),
        state("{}", ""),
        state("", "\"_indices_data_files\": [{\"filename\": \"i.arrow\"}],"),
    ];
    let errors = errors.join("\n").replace(&format!("{}/", folder.path().display()), "");
    let errors = errors.replace(&format!("{}", fixture("").path.display()), "");
    assert_snapshot!(errors, @r"
    saved: there is no split `tset`: name one as `split`, of `train`, `test`; did you mean `test`?
    saved: `subset` has no effect: a folder that `save_to_disk` wrote has splits alone
    saved/test: `split` has no effect: it holds rows of no split
    saved: `../a.arrow` is no name of a file in it
    saved: there is no split `train`: it holds `test` alone
    saved: state.json names no file: the data set is empty
    saved: there is no split `train`: it holds `test` alone
    saved/state.json: not what `save_to_disk` of the Python package `datasets` writes: missing field `filename` at line 1 column 19
    saved/state.json: not what `save_to_disk` of the Python package `datasets` writes: missing field `filename` at line 1 column 19
    saved: an old version of `datasets` wrote it: load it with a newer one, and save it again
    saved: an old version of `datasets` wrote it: load it with a newer one, and save it again
    ");
}

#[test]
fn sources_are_mixed_as_their_weights_say() {
    let rows = pairs(400);
    let all = used(&rows, |_, _| ());
    let weighted =
        |weight: f64, seed| used(&rows, |source, _| (source.weight, source.seed) = (Some(weight), seed));
    assert_eq!(weighted(1.0, 0), all);
    assert_eq!(weighted(2.0, 0), [all.clone(), all.clone()].concat());
    let half = weighted(0.5, 0);
    assert_eq!(half.len(), 200);
    assert_eq!(half, weighted(0.5, 0));
    assert_ne!(half, weighted(0.5, 1));
    assert_eq!(weighted(1.5, 0), [all.clone(), half].concat());
    // A larger sample holds a smaller one, in the order of the file, and another order of rows has the same sample.
    let sample = |rows: &[Value], count| used(rows, |source, _| source.sample = Some(count));
    let (few, more) = (sample(&rows, 10), sample(&rows, 50));
    assert_eq!((few.len(), more.len(), sample(&rows, 1000).len()), (10, 50, 400));
    let in_more: Vec<_> = more.iter().filter(|row| few.contains(row)).cloned().collect();
    assert_eq!(in_more, few);
    let mut turned = rows.clone();
    turned.reverse();
    let mut again = sample(&turned, 10);
    again.reverse();
    assert_eq!(again, few);
    // The same row many times over is many rows.
    assert_eq!(sample(&vec![pair("p"); 30], 7).len(), 7);
    let none = load("a.jsonl", lines(&rows), Layout::Pairs, |source, _| source.sample = Some(0));
    assert_eq!(none.error, "sample = 0: expected at least 1");
    for weight in [0.0, -1.0, f64::NAN, 1e9] {
        let loaded = load("a.jsonl", lines(&rows), Layout::Pairs, |source, _| source.weight = Some(weight));
        assert!(loaded.error.contains("expected a number above 0, at most 1000"), "{}", loaded.error);
    }
}

#[test]
fn what_is_held_out_depends_on_the_row_alone() {
    let (rows, split) = (pairs(1000), Split { eval: 0.1 });
    let side = |rows: &[Value], side: Side| -> BTreeSet<String> {
        used(rows, |_, fit| fit.side = Some(side)).into_iter().collect()
    };
    let (train, eval) = (side(&rows, Side::Train(split)), side(&rows, Side::Eval(split)));
    assert!(train.is_disjoint(&eval) && train.len() + eval.len() == 1000 && (60..140).contains(&eval.len()));
    let mut others: Vec<_> = rows.iter().rev().step_by(2).cloned().collect();
    others.push(others[0].clone());
    let some = side(&others, Side::Eval(split));
    let kept: BTreeSet<_> = others.iter().map(|row| row["prompt"].as_str().unwrap().to_owned()).collect();
    assert_eq!(some, eval.intersection(&kept).cloned().collect());
    // However the rows are used.
    let demonstrations =
        load("a.jsonl", lines(&rows), Layout::Demonstrations, |_, fit| fit.side = Some(Side::Eval(split)));
    let demonstrations: BTreeSet<_> = prompts(&demonstrations.data.unwrap()).into_iter().collect();
    assert_eq!(demonstrations, eval);
}

#[test]
fn duplicates_are_left_out_once_and_counted() {
    let rows = [pair("a"), pair("b"), pair("a"), json!({"rejected": "b", "chosen": "g", "prompt": "a"})];
    let loaded = load("a.jsonl", lines(&rows), Layout::Pairs, |source, fit| {
        (fit.deduplicate, source.weight) = (true, Some(2.0));
    });
    assert_snapshot!(loaded.report(), @r#"
    4 rows read, 4 kept
          2 left out as duplicates
    "#);
    let data = loaded.data.unwrap();
    assert_eq!(prompts(&data), ["a", "b", "a", "b"]);
    assert_eq!(data.report.left_out[&LeftOut::Duplicate], 2);
}

#[test]
fn a_filter_is_an_expression_over_the_row() {
    let mut rows = pairs(3);
    rows[1]["tags"] = json!(["x"]);
    rows[2]["chosen"] = json!("a longer one");
    rows[2]["tags"] = json!(null);
    let filtered = |filter: &str| {
        let loaded =
            load("a.jsonl", lines(&rows), Layout::Pairs, |source, _| source.filter = Some(filter.into()));
        loaded.data.map_or(loaded.error, |data| prompts(&data).join(" "))
    };
    let cases = [
        "len(chosen) > 5",
        "chosen|length < 5",
        "prompt|int >= 1 and chosen != rejected",
        "tags is defined and tags and 'x' in tags",
        "tags|default([])",
        "prompt == '0' or 'longer' in chosen",
        "len(chosn) > 20",
        "not chosn",
        "prompt > 1",
        "len(chosen) > ",
        "{{ chosen }}",
        "prompt }}{{ chosen",
        "false",
    ];
    let told = cases.map(|filter| format!("{filter}: {}", filtered(filter)));
    assert_snapshot!(told.join("\n"), @r#"
    len(chosen) > 5: 2
    chosen|length < 5: 0 1
    prompt|int >= 1 and chosen != rejected: 1 2
    tags is defined and tags and 'x' in tags: 1
    tags|default([]): 1
    prompt == '0' or 'longer' in chosen: 0 2
    len(chosn) > 20: a.jsonl:1: filter = "len(chosn) > 20": there is no column `chosn`; the row has `prompt`, `chosen`, `rejected`; did you mean `chosen`?
    not chosn: a.jsonl:1: filter = "not chosn": there is no column `chosn`; the row has `prompt`, `chosen`, `rejected`; did you mean `chosen`?
    prompt > 1: a.jsonl:1: filter = "prompt > 1": a string and an int have no order
    len(chosen) > : filter = "len(chosen) > ": expected an expression, found `}}`
    {{ chosen }}: filter = "{{ chosen }}": expected `:`, found `}`
    prompt }}{{ chosen: filter = "prompt }}{{ chosen": not one expression: write it without `{{` and `}}`
    false: no row is left: 0 rows read, 0 kept
          3 left out by the filter
    "#);
    // It sees columns by both of their names.
    let mapped = used(&rows, |source, _| {
        source.columns = Mapping::from([("question", "prompt")]);
        source.filter = Some("question == prompt and prompt != '1'".into());
    });
    assert_eq!(mapped, ["u:0;a:", "u:2;a:"]);
}

#[test]
fn columns_may_be_templates() {
    let row = json!({"task": "Add.", "data": "2, 2", "system": "s", "chosen": "g", "rejected": "b", "id": 1});
    let mapped = |template: &str| {
        let loaded = load("a.jsonl", row.to_string(), Layout::Pairs, |source, _| {
            source.columns = Mapping::from([("prompt", template)]);
        });
        match &loaded.data {
            Some(_) => format!("{:?} {}", loaded.texts[0][0], loaded.report()),
            None => loaded.error,
        }
    };
    let told = [
        "{{ system }}: {{ task }}\n{{ data }}",
        "{% if data %}{{ data|upper }}{% endif %}{{ system[:0] }}",
        "{{ task }} {{ dta }}",
        "{{ task ",
        "{{ none }}{{ system }}",
        "{{ len(task) }}{{ system[:0] }}",
    ]
    .map(mapped);
    assert_snapshot!(told.join("\n"), @r#"
    "s: Add.\n2, 2" 1 rows read, 1 kept
            columns not used: id (a.jsonl)
    "2, 2" 1 rows read, 1 kept
            columns not used: task, id (a.jsonl)
    a.jsonl:1: columns: prompt = "{{ task }} {{ dta }}": there is no column `dta`; the row has `task`, `data`, `system`, `chosen`, `rejected`, `id`; did you mean `data`?
    columns: prompt = "{{ task ": a tag without its end `}}`
    a.jsonl:1: columns: prompt = "{{ none }}{{ system }}": a null would be printed: write for example `{{ input or '' }}`
    "4" 1 rows read, 1 kept
            columns not used: data, id (a.jsonl)
    "#);
}

#[test]
fn forms_of_rows_have_names() {
    let mapped = |columns: Value, row: Value| {
        load("a.jsonl", row.to_string(), Layout::Pairs, |source, _| {
            source.columns = serde_json::from_value(columns.clone()).unwrap();
        })
    };
    let read = |name: &str, row: Value| {
        let loaded = mapped(json!(name), row);
        let report = loaded.data.as_ref().map(|data| data.report.left_out.clone());
        (loaded.texts.clone(), report.unwrap_or_default(), loaded.error)
    };
    let asked = "\n\nHuman: q\nmore\n\nAssistant: a\n\nHuman: And?\n\nAssistant:";
    let hh = json!({"chosen": format!("{asked} good"), "rejected": format!("{asked} bad: Human: no")});
    assert_eq!(read("hh", hh).0, [["u:q\nmore;a:a;u:And?;a:", "good;", "bad: Human: no;"]]);
    let scored = json!({"prompt": "p", "responses": ["a", "b", "c", "d"], "scores": [2, 9, "2.5", 9]});
    let expected = ["b</s>", "a</s>"];
    assert_eq!(read("ranked", scored.clone()).0, [["p", expected[0], expected[1]]]);
    let all: Vec<_> = read("ranked-pairs", scored).0.into_iter().map(|texts| texts[1..].concat()).collect();
    assert_eq!(all, ["b</s>c</s>", "b</s>a</s>", "d</s>c</s>", "d</s>a</s>", "c</s>a</s>"]);
    // The best with each of the others, now and then; the same for the same answers, whatever is beside them.
    let random = |a: usize| {
        let texts = ["a", "b", "c"].map(|text| text.repeat(a));
        let row = |id: usize| json!({"id": id, "prompt": "p", "responses": texts, "scores": [1, 3, 2]});
        let [first, again] = [1, 2].map(|id| read("ranked-random", row(id)).0);
        assert_eq!(first, again);
        assert_eq!((first.len(), &*first[0][1]), (1, &*format!("{}</s>", texts[1])));
        first[0][2].clone()
    };
    let drawn: BTreeSet<_> = (1..20).map(|a| random(a).chars().next()).collect();
    assert_eq!(drawn.len(), 2);
    let nectar =
        json!({"prompt": "p", "answers": [{"answer": "x", "rank": 2}, {"answer": "y", "rank": 1.0}]});
    assert_eq!(read("ranked", nectar).0, [["p", "y</s>", "x</s>"]]);
    let ultra = json!({
        "instruction": "q",
        "completions": [{"response": "x", "overall_score": 3}, {"response": "y", "overall_score": 7.5}],
    });
    assert_eq!(read("ranked", ultra).0, [["u:q;a:", "y;", "x;"]]);

    // A weight may be made of what the form makes, and of what it takes apart.
    let graded = json!({"prompt": "p", "answers": ["a", "b", "c"], "scores": [1, 5, 3]});
    let weight = |weight: &str| {
        let data = mapped(json!({"form": "ranked", "weight": weight}), graded.clone()).data.unwrap();
        data.examples[0].weight
    };
    assert_eq!(weight("{{ (score_chosen - score_rejected) / scores | length }}"), 4.0 / 3.0);
    assert_eq!(weight("score_chosen"), 5.0);

    let errors = [
        mapped(json!({"form": "ranked", "score_chosen": "{{ scores[0] }}"}), graded.clone()).error,
        mapped(json!({"form": "ranked-pairs", "chosen": "best"}), graded.clone()).error,
        read("ranked", json!({"prompt": "p", "answers": ["a", "b"], "scores": [1, 1]})).2,
        read("ranked", json!({"prompt": "p", "answers": ["a", "b"], "scores": [1]})).2,
        read("ranked", json!({"prompt": "p", "answers": ["a", "b"]})).2,
        read("ranked", json!({"prompt": "p", "answers": "a"})).2,
        read("ranked", json!({"prompt": "p", "chosen": "a"})).2,
        read("hh", json!({"chosen": "a", "rejected": "b"})).2,
    ]
    .into_iter()
    .chain(
        ["alpaca", "rankd"]
            .map(|name| serde_json::from_value::<Mapping>(json!(name)).unwrap_err().to_string()),
    );
    assert_snapshot!(errors.collect::<Vec<_>>().join("\n"), @r#"
    columns: `score_chosen` is made by the form "ranked": leave the key out
    columns: `chosen` is made by the form "ranked-pairs": leave the key out
    no row is left: 0 rows read, 0 kept
          1 left out as no answer is better than another
    a.jsonl:1: 1 `scores` for 2 `answers`
    a.jsonl:1: column `answers`: an answer needs a score. Either there is a column `scores` beside it, or each answer is an object with its text as one of answer, response, text, content, completion, and one of score, overall_score, rating, reward, rank
    a.jsonl:1: column `answers`: expected a list, found a string
    a.jsonl:1: there is no list of answers: expected one of the columns answers, responses, completions
    a.jsonl:1: column `chosen`: expected a dialogue, which is text that begins "\n\nHuman: " and has "\n\nAssistant: " before each answer
    rows of the form "alpaca" are recognized by their columns: leave the key out
    no form of rows is called "rankd": expected one of hh, ranked, ranked-pairs, ranked-random, or a table; did you mean `ranked`?
    "#);
}
