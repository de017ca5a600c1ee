//! What `check` and a run say about the rows that they read, as text and as JSON.

use serde_json::{Value, json};
use test_support::Place;

use crate::recipes::with_model;
use crate::resume::killed;

const RECIPE: &str = r#"
[run]
output = "out"

[model]
path = "made/sft"

[data]
train = "train.jsonl"
max_length = 32

[[stage]]
name = "align"
objective = "dpo"
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

/// A model, a recipe for it, and these rows to train on.
fn folder(rows: &[Value]) -> Place {
    let place = with_model();
    place.write("recipe.toml", RECIPE);
    place.write("train.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    place
}

fn plain(prompt: &str) -> Value {
    json!({"id": 7, "prompt": prompt, "chosen": "3", "rejected": "4", "tools": []})
}

const UNUSED: &str = "columns not used: id, tools (train.jsonl)";

#[test]
fn columns_that_are_not_used_are_listed_by_check_and_by_runs_with_a_cache_and_without() {
    let place = folder(&[plain("1+2="), plain("2+1=")]);
    let times = |arguments: &[&str]| place.run(arguments).success().stdout.matches(UNUSED).count();
    assert_eq!(times(&["check", "recipe.toml"]), 1);
    for output in ["run.output=one", "run.output=two"] {
        assert_eq!(times(&["recipe.toml", "--set", output]), 1, "{output}");
    }
}

#[test]
fn check_speaks_json_with_token_ids_wherever_the_option_stands() {
    let place = folder(&[plain("1+2="), plain("2+1="), plain("")]);
    let spoken: Vec<String> = [
        &["check", "recipe.toml", "--json"][..],
        &["check", "--json", "recipe.toml"],
        &["--json", "check", "recipe.toml"],
        &["--set", "run.output=out", "--json", "check", "recipe.toml"],
        &["--set=run.output=out", "--json", "check", "recipe.toml"],
    ]
    .iter()
    .map(|arguments| place.run(arguments).success().stdout)
    .collect();
    assert!(spoken.iter().all(|other| *other == spoken[0]), "{spoken:?}");
    let told: Value = serde_json::from_str(&spoken[0]).unwrap();
    let report = &told["data"][0]["report"];
    assert_eq!(report["columns_not_used"], json!({"train.jsonl": ["id", "tools"]}));
    assert_eq!(report["findings"][0]["finding"], "empty_prompt");
    assert_eq!(report["findings"][0]["first"], json!(["train.jsonl:3"]));
    // The vocabulary tells which ids are right.
    let tokenizer: Value = serde_json::from_str(&place.read("made/sft/tokenizer.json")).unwrap();
    let ids = |tokens: &[&str]| -> Value {
        tokens.iter().map(|token| tokenizer["model"]["vocab"][token].clone()).collect()
    };
    let group = &told["stages"][0]["rows"][0]["groups"][0];
    assert_eq!(group["reads"], json!({"text": "1+2=", "ids": ids(&["1", "+", "2", "="])}));
    assert_eq!(group["scores"][1], json!({"text": "4</s>", "ids": ids(&["4", "</s>"])}));

    place.write("sweep.toml", format!("{RECIPE}\n[sweep]\nseeds = [0, 1]\n"));
    let told: Value =
        serde_json::from_str(&place.run(&["--json", "check", "sweep.toml"]).success().stdout).unwrap();
    assert_eq!(told["cells"].as_array().unwrap().len(), 2);
    // An option that the command does not know is refused, not passed over.
    assert_eq!(place.run(&["--json", "list"]).code, 2);
}

#[test]
fn a_run_says_that_answers_never_stop_and_that_the_prompt_goes_on_otherwise() {
    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let pair = |prompt: &str| json!({"prompt": prompt, "chosen": message("assistant", "3"), "rejected": message("assistant", "4")});
    let place = folder(&[pair("1+2="), pair("2+1=")]);
    place.write(
        "made/sft/chat_template.jinja",
        "{% for m in messages %}{{ m.content }},{% endfor %}{% if add_generation_prompt %}++{% endif %}",
    );
    let said = place.run(&["recipe.toml"]).success().stdout;
    for line in [
        r#"2 kept: the end of the prompt is left out: "++"; the template puts it before an answer to be generated, not before these (train.jsonl:1, 2)"#,
        r#"2 kept: no stop token in an answer: the template ends it with ",", and generation stops at "</s>" (train.jsonl:1, 2)"#,
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("columns not used"), "{said}");
    // Strict, the first of them ends it.
    let strict = place.run(&["recipe.toml", "--set", "data.strict=true", "--set", "run.output=strict"]);
    assert!(strict.code == 2 && strict.stderr.contains("left out"), "{}", strict.stderr);
}

#[test]
fn held_out_rows_that_are_none_are_not_called_training_rows() {
    let place = folder(&[plain("1+2="), plain("2+1=")]);
    let long = format!("{}\n", plain(&"1+".repeat(40)));
    place.write("empty.jsonl", "");
    place.write("long.jsonl", long);
    place.write("set/part.jsonl", "{}");
    let refused = |eval: &str| {
        let outcome = place.run(&["recipe.toml", "--set", &format!("data.eval=\"{eval}\"")]);
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        assert!(
            outcome.stderr.contains("data.eval") && !outcome.stderr.contains("train on"),
            "{}",
            outcome.stderr
        );
        outcome.stderr
    };
    assert!(refused("empty.jsonl").contains("empty.jsonl: the file is empty"));
    assert!(refused("long.jsonl").contains("no row is left: 1 rows read, 0 kept"));
    assert!(refused("set").contains("part.jsonl:1: there is no column `chosen`"));
    assert!(
        refused("set/*.csv").contains("set/*.csv: no file matches this pattern; set holds set/part.jsonl")
    );
}

/// The recipes of docs/data.md.
fn recipes_of_the_guide() -> Vec<String> {
    let guide = include_str!("../../docs/data.md");
    let blocks = guide.split("```toml sources\n").skip(1).map(|block| block.split("```").next().unwrap());
    // The model's tokenizer has no line break.
    blocks
        .map(|block| RECIPE.replace("[data]\ntrain = \"train.jsonl\"\n", &block.replace("\\n", "+")))
        .collect()
}

#[test]
fn the_recipes_of_the_guide_are_read() {
    let place = with_model();
    let row = |i: usize| {
        let (sum, long) = (format!("{}+{}=", i % 10, i / 10 % 10), "3".repeat(21 + i / 100));
        json!({
            "prompt": sum, "question": sum, "task": sum, "details": null, "source": "book", "chosen": long,
            "better": long, "rejected": "4",
        })
    };
    let rows: String = (0..400).map(|i| format!("{}\n", row(i))).collect();
    for name in ["rows.jsonl", "rows/a.jsonl", "rows/b.jsonl", "more/c.jsonl"] {
        place.write(name, &rows);
    }
    place.write("b.csv", "prompt,better,rejected\n1+2=,3,4\n");
    let recipes = recipes_of_the_guide();
    assert_eq!(recipes.len(), 5);
    let told: Vec<_> = recipes
        .iter()
        .map(|recipe| {
            place.write("guide.toml", recipe);
            place.run(&["check", "guide.toml"]).success().stdout
        })
        .collect();
    assert!(told[0].contains("training rows, rows.jsonl: 400 rows read, 400 kept"), "{}", told[0]);
    let read = 2 * 400 + 200 + 1;
    assert!(told[1].contains(&format!("rows/*.jsonl, more/, b.csv: {read} rows read")), "{}", told[1]);
    let form = "b.csv: pairs, plain text with a prompt of its own, from prompt, rejected, chosen";
    assert!(told[1].contains(form), "{}", told[1]);
    assert!(told[2].contains("left out as they are on the other side of the split"), "{}", told[2]);
    assert!(told[2].contains("held-out rows, rows.jsonl: "), "{}", told[2]);
    assert!(told[3].contains("from prompt, chosen, rejected"), "{}", told[3]);
    assert!(told[4].contains("training rows, rows/*.jsonl: 800 rows read"), "{}", told[4]);
}

#[test]
fn several_files_are_trained_on_kept_in_the_cache_and_not_written_over() {
    let place = folder(&[plain("1+2="), plain("2+1="), plain("2+2=")]);
    place.write("more/a.jsonl", format!("{}\n", plain("3+1=")));
    let train = "data.train=[\"train.jsonl\", \"more/*.jsonl\"]";
    let run = |output: &str| {
        place
            .run(&["recipe.toml", "--set", train, "--set", &format!("run.output=\"{output}\"")])
            .success()
            .stdout
    };
    let (first, second) = (run("one"), run("two"));
    assert!(!first.contains("taken from the cache"), "{first}");
    assert!(
        second.contains("train.jsonl, more/*.jsonl: the tokens of 4 rows are taken from the cache"),
        "{second}"
    );
    assert_eq!(place.read("one/metrics.jsonl"), place.read("two/metrics.jsonl"));
    place.write("more/a.jsonl", format!("{}\n", plain("3+2=")));
    assert!(!run("three").contains("taken from the cache"));
    // The run would write its stage where the rows are.
    place.write("out/align/a.jsonl", format!("{}\n{}\n", plain("3+1="), plain("1+1=")));
    let outcome = place.run(&["recipe.toml", "--set", "data.train=\"out/*/a.jsonl\""]);
    assert!(outcome.code == 2 && outcome.stderr.contains("would write over"), "{}", outcome.stderr);
}

/// Two stages: one on pairs with demonstrations from the same rows, one on unpaired answers with the desirable of them.
const STREAMED: &str = r#"
[run]
output = "memory"

[model]
path = "made/sft"

[data]
train = [{ path = "train.jsonl", sample = 37 }, { path = "table.csv", weight = 1.5 }]
split = { eval = 0.2 }
deduplicate = true
max_length = 24
stream = false

[checkpoint]
every = 2

[[stage]]
name = "pairs"
objective = "dpo"
bilevel = { step = "penalty", lambda = 0.5 }
steps = 14
batch_size = 4
micro_batch = { tokens = 60 }
optimizer = { lr = 1e-4 }

[[stage]]
name = "unpaired"
objective = "kto"
bilevel = { step = "penalty", lambda = 0.5 }
steps = 6
batch_size = 4
optimizer = { lr = 1e-4 }
"#;

#[test]
fn rows_whose_tokens_are_in_a_file_give_the_same_bits() {
    let row = |i: usize| {
        let chosen = (i % 10).to_string().repeat(1 + i % 9);
        json!({"prompt": format!("{}+{}=", i, i % 7), "chosen": chosen, "rejected": "1"})
    };
    let place = folder(&(0..60).map(row).collect::<Vec<_>>());
    let table = (0..20).map(|i| format!("\"{i}+{i}=\",{},3\n", 2 * i)).collect::<String>();
    place.write("table.csv", format!("prompt,chosen,rejected\n{table}"));
    place.write("recipe.toml", STREAMED);
    let run = |output: &str, more: &[&str]| {
        let output = format!("run.output={output}");
        place.run(&[&["recipe.toml", "--set", &output][..], more].concat()).success().stdout
    };
    run("runs/memory", &[]);
    let stream = ["--set", "data.stream=true"];
    // Held-out rows are the same in the cache; the rows to train on are another entry.
    let [first, second] = ["runs/disk", "runs/cached"].map(|output| run(output, &stream));
    let taken = |said: &str| said.matches(": the tokens of ").count();
    assert_eq!((taken(&first), taken(&second)), (2, 4), "{first}{second}");
    run("alone/disk", &[&stream[..], &["--set", "cache.enabled=false"]].concat());
    // The file has no name.
    let left: Vec<_> =
        std::fs::read_dir(place.path("alone")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["disk"]);
    place.write("recipe.toml", STREAMED.replace("stream = false", "stream = true"));
    killed(&place, "runs/killed", "00000016");
    place.run(&["resume", "runs/killed"]).success();
    // A cache that cannot be used is done without, with stream as in memory.
    let warned = place.run(&[
        "recipe.toml",
        "--set",
        "run.output=other/disk",
        "--set",
        "cache.folder=\"table.csv/a\"",
    ]);
    let warned = warned.success().stdout;
    assert!(warned.contains("going on without the cache in table.csv/a"), "{warned}");
    for run in ["runs/disk", "runs/cached", "alone/disk", "other/disk", "runs/killed"] {
        for log in ["metrics", "held_out"] {
            let lines = |run: &str| place.read(&format!("{run}/{log}.jsonl"));
            assert!(lines(run) == lines("runs/memory"), "{run}: {log}");
        }
    }
    let told = |more: &[&str]| {
        place.run(&[&["check", "--tokens", "2", "recipe.toml"], more].concat()).success().stdout
    };
    assert_eq!(told(&[]), told(&["--set", "data.stream=false"]));
    // A disk that is full is no fault of the data.
    let full = place.shell("ulimit -f 1; exec \"$0\" check recipe.toml");
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the tokens of the rows: File too large"), "{said}");
    // Errors name the line before anything is trained.
    place.write(
        "train.jsonl",
        "{\"prompt\": \"1\", \"chosen\": \"2\", \"rejected\": \"3\"}\n{\"prompt\": 1}\n",
    );
    let outcome = place.run(&["recipe.toml", "--set", "run.output=bad"]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("train.jsonl:2: "), "{}", outcome.stderr);
}

#[test]
fn splits_that_cannot_be_are_refused_at_their_key() {
    let place = folder(&[plain("1+2="), plain("2+1=")]);
    let refused = |set: &[&str]| {
        let arguments: Vec<_> = set.iter().flat_map(|set| ["--set", set]).collect();
        let outcome = place.run(&[&["recipe.toml"], &*arguments].concat());
        assert_eq!(outcome.code, 2, "{}", outcome.stdout);
        outcome.stderr
    };
    for share in ["0", "1.0", "-0.5"] {
        let told = refused(&[&format!("data.split={{ eval = {share} }}")]);
        let why = if share == "-0.5" { "must be at least 0" } else { "a share between 0 and 1" };
        assert!(told.contains("data.split.eval") && told.contains(why), "{told}");
    }
    let told = refused(&[
        "data={ train = \"train.jsonl\", eval = \"train.jsonl\", split = { eval = 0.5 }, max_length = 64 }",
    ]);
    assert!(told.contains("there are held-out rows already"), "{told}");
    assert!(refused(&["data.train=[]"]).contains("data.train"));
    let told = refused(&["data.train={ path = \"train.jsonl\", filter = \"len(chosn) > 0\" }"]);
    assert!(
        told.contains("train.jsonl:1: filter = \"len(chosn) > 0\": there is no column `chosn`"),
        "{told}"
    );
}
