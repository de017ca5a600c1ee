//! What lies in the output folder and is no run's is left as it is, and the recipe is refused before training.

use test_support::Place;

use crate::recipes::with_demonstrations;

const RECIPE: &str = r#"
run = { output = "work" }
model = { path = "model" }
data = { train = "train.jsonl", max_length = 32 }
[[stage]]
name = "first"
objective = "sft"
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
[[stage]]
name = "second"
objective = "sft"
steps = 1
batch_size = 2
optimizer = { lr = 1e-4 }
"#;

fn folder() -> Place {
    with_demonstrations(RECIPE)
}

/// The error of a run and of `check`, which must be the same.
#[track_caller]
fn refused(place: &Place, recipe: &str, arguments: &[&str]) -> String {
    let run = place.run(&[&[recipe, "--quiet"], arguments].concat());
    let check = place.run(&[&["check", recipe], arguments].concat());
    assert_eq!((run.code, check.code), (2, 2), "{}{}", run.stderr, check.stdout);
    assert_eq!(run.stderr, check.stderr);
    run.stderr
}

#[test]
fn files_and_folders_that_no_run_has_made_stay() {
    for (name, content) in [
        ("second/notes.md", "mine"),
        ("first", "a file"),
        ("metrics.jsonl", "{\"mine\": 1}\n"),
        ("summary.json", "{}"),
        ("recipe.toml", "# mine\n"),
        ("checkpoints/mine", "mine"),
        ("run.json", "{\"name\": \"of another program\"}"),
    ] {
        let place = folder();
        let path = format!("work/{name}");
        place.write(&path, content);
        for overwrite in ["run.overwrite=false", "run.overwrite=true"] {
            let error = refused(&place, "recipe.toml", &["--set", overwrite]);
            let named = path.split('/').take(2).collect::<Vec<_>>().join("/");
            assert!(error.contains(&format!("{named} is there already")), "{error}");
        }
        assert_eq!(place.read(&path), content);
        assert!(!place.path("work/config.json").exists());
    }
}

#[test]
fn a_recipe_in_its_own_output_folder_stays() {
    let place = folder();
    place.write("work/recipe.toml", RECIPE);
    let error = refused(&place, "work/recipe.toml", &[]);
    assert!(error.contains("work/recipe.toml is there already"), "{error}");
    assert_eq!(place.read("work/recipe.toml"), RECIPE);
}

#[test]
fn an_earlier_run_is_replaced_and_what_lies_beside_it_stays() {
    let place = folder();
    std::fs::create_dir_all(place.path("work/first")).unwrap();
    place.write("work/notes.md", "mine");
    place.run(&["recipe.toml", "--quiet"]).success();
    place.run(&["recipe.toml", "--quiet", "--set", "run.overwrite=true"]).success();
    assert_eq!(place.read("work/notes.md"), "mine");
    // A stage that the earlier run does not have.
    place.write("work/third/notes.md", "mine");
    let third = ["--set", "run.overwrite=true", "--set", "stage.1.name=third"];
    assert!(refused(&place, "recipe.toml", &third).contains("work/third is there already"));
}

#[test]
fn an_edited_recipe_proves_nothing_and_one_of_an_early_version_counts() {
    let place = folder();
    place.run(&["recipe.toml", "--quiet"]).success();
    let (recipe, record) = (place.read("work/recipe.toml"), place.read("work/run.json"));
    place.write("work/recipe.toml", recipe.replace("\"second\"", "\"third\""));
    place.write("work/third/notes.md", "mine");
    let third = ["--set", "run.overwrite=true", "--set", "stage.1.name=third"];
    assert!(refused(&place, "recipe.toml", &third).contains("work/third is there already"));
    // Runs of early versions have their recipe nowhere else.
    let mut early: serde_json::Value = serde_json::from_str(&record).unwrap();
    early.as_object_mut().unwrap().remove("recipe");
    place.write("work/run.json", early.to_string());
    place.write("work/recipe.toml", recipe);
    place.run(&["recipe.toml", "--quiet", "--set", "run.overwrite=true"]).success();
    assert_eq!(place.read("work/third/notes.md"), "mine");
}

#[test]
fn a_run_in_a_folder_with_any_name_is_continued_and_the_commands_shown_can_be_pasted() {
    let long = "n".repeat(255);
    for name in [
        "it's \"so\"",
        "back\\slash",
        "two\nlines",
        "läufe ü",
        "$(exit 3)`id`",
        "-rf",
        "tab\there",
        "del\u{7f}",
        &long,
    ] {
        let place = folder();
        let run = toml::Value::from(toml::Table::from_iter([("output".to_owned(), name.into())]));
        place.write("recipe.toml", RECIPE.replace("{ output = \"work\" }", &run.to_string()));
        place.run(&["recipe.toml", "--quiet"]).success();
        let folder = place.path(name);
        let shown = folder.to_str().unwrap();
        for command in ["resume", "mass", "report"] {
            let outcome = place.run(&[command, shown]);
            assert!(
                outcome.code == 0 || outcome.stderr.contains("held-out rows"),
                "{name:?} {command}: {}",
                outcome.stderr
            );
        }
        // A run that is not finished: the message names the command that continues it.
        std::fs::remove_file(folder.join("summary.json")).unwrap();
        let error = place.run(&["recipe.toml", "--quiet"]).stderr;
        let command =
            error.split_once("`spo-run ").and_then(|(_, rest)| rest.split_once("` continues")).unwrap().0;
        // What a terminal would obey is shown as an escape; the rest is as it has to be typed.
        if !name.contains('\u{7f}') {
            let line = format!("\"$0\" {command} --quiet");
            let ended = place.shell(&line);
            assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
            assert!(folder.join("summary.json").exists(), "{line}");
        }
    }
}

#[test]
fn what_a_run_reads_is_never_written_over() {
    let place = folder();
    place.run(&["recipe.toml", "--quiet"]).success();
    let model = std::fs::read(place.path("work/first/model.safetensors")).unwrap();
    let over = |key: &str, value: &str| {
        let setting = format!("{key}={value}");
        refused(&place, "recipe.toml", &["--set", "run.overwrite=true", "--set", &setting])
    };
    let said = over("model.path", "work/first");
    assert!(said.contains("stage[0].name: the run would write over work/first, which it reads"), "{said}");
    let rows = over("data.train", "work/held_out.jsonl");
    assert!(rows.contains("the run would write over work/held_out.jsonl"), "{rows}");
    assert!(std::fs::read(place.path("work/first/model.safetensors")).unwrap() == model);
}

#[test]
fn a_sweep_replaces_only_a_sweep() {
    let place = folder();
    place.write("sweep.toml", format!("sweep = {{ seeds = [1, 2] }}\n{RECIPE}"));
    for name in ["results.csv", "base,seed=2.toml"] {
        place.write(&format!("work/{name}"), "mine");
        let error = refused(&place, "sweep.toml", &[]);
        assert!(error.contains(&format!("work/{name} is there already")), "{error}");
        std::fs::remove_file(place.path(&format!("work/{name}"))).unwrap();
    }
    place.run(&["sweep.toml", "--quiet"]).success();
    place.run(&["sweep.toml", "--quiet"]).success();
}

#[test]
fn names_are_checked_before_anything_else() {
    let place = folder();
    for (setting, key) in [
        ("stage.1.name=summary.json", "stage[1].name"),
        ("stage.1.name=FIRST", "stage[1].name"),
        ("stage.0.name=sweep", "stage[0].name"),
        ("run.output=\"\"", "run.output"),
        ("run={ name = \"../up\" }", "run.name"),
        ("run={ name = \"\" }", "run.name"),
    ] {
        let error = refused(&place, "recipe.toml", &["--set", setting]);
        assert!(error.starts_with(&format!("error: {key}: ")), "{setting}: {error}");
    }
    let case = "sweep={ case = [{ name = \"a.toml\" }] }";
    assert!(refused(&place, "recipe.toml", &["--set", case]).starts_with("error: sweep.case[0].name: "));
}
