//! What lies in the output folder and is no run's is left as it is, and the recipe is refused before training.

use test_support::Place;

use crate::recipes::with_model;

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
    let place = with_model();
    std::fs::rename(place.path("made/sft"), place.path("model")).unwrap();
    place.write(
        "train.jsonl",
        "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n",
    );
    place.write("recipe.toml", RECIPE);
    place
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
