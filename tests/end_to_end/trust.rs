//! The folder of a run may come from somebody else. It names libraries, and loading a library runs its code.

use test_support::{Outcome, Place};

use crate::place;
use crate::plugins::hostile;

fn recipe(library: &str) -> String {
    format!(
        r#"
run = {{ output = "run" }}
[model.config]
model_type = "tabular"
kind = "table"
order = 1
[backend]
name = "tabular"
[plugins]
load = ["{library}"]
[data]
task = {{ name = "modular-chain", train = 16, held_out = 4 }}
[[stage]]
name = "align"
objective = "hostile"
steps = 2
batch_size = 4
optimizer = {{ lr = 1e-3 }}
"#
    )
}

/// A library, and a run with it.
fn run() -> Place {
    let place = place();
    hostile(&place, "mine", &[]);
    place.write("recipe.toml", recipe("./libmine.so"));
    place.run(&["recipe.toml", "--quiet"]).success();
    place
}

/// Runs the program as a user who has made no run yet.
fn as_stranger(place: &Place, arguments: &[&str]) -> Outcome {
    let output = place.command(arguments).env("XDG_CONFIG_HOME", place.path("elsewhere")).output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
fn asks(outcome: &Outcome, library: &str) {
    assert_eq!(outcome.code, 2, "{}{}", outcome.stdout, outcome.stderr);
    let said = &outcome.stderr;
    assert!(
        said.contains(library) && said.contains("`--trust-plugins`") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn commands_on_a_run_load_only_what_this_user_has_run() {
    let place = run();
    for command in ["resume", "mass", "audit"] {
        asks(&as_stranger(&place, &[command, "run"]), "libmine.so");
    }
    let mass = ["mass", "run"];
    place.run(&mass).success();
    place.run(&["resume", "run"]).success();
    as_stranger(&place, &["mass", "run", "--plugin", "./libmine.so"]).success();
    as_stranger(&place, &["mass", "run", "--trust-plugins"]).success();
    // That was for once.
    asks(&as_stranger(&place, &mass), "libmine.so");
    // Whoever continues a run has made a run with its libraries.
    as_stranger(&place, &["resume", "run", "--trust-plugins"]).success();
    as_stranger(&place, &["mass", "run"]).success();
}

#[test]
fn a_recipe_given_by_hand_is_run_and_remembered_with_all_it_lists() {
    let place = run();
    // It lists a library of which it uses no part.
    place.write(
        "other.toml",
        recipe("./libmine.so").replace("hostile", "dpo").replace("\"run\"", "\"other\""),
    );
    as_stranger(&place, &["other.toml", "--quiet"]).success();
    as_stranger(&place, &["resume", "other"]).success();
    as_stranger(&place, &["resume", "run"]).success();
}

#[test]
fn what_somebody_changed_in_a_folder_is_asked_for() {
    let place = run();
    // The same file at another place: what is beside it may differ.
    std::fs::create_dir(place.path("there")).unwrap();
    std::fs::copy(place.path("libmine.so"), place.path("there/libmine.so")).unwrap();
    let text = place.read("run/recipe.toml");
    place.write("run/recipe.toml", text.replace("./libmine.so", "./there/libmine.so"));
    asks(&place.run(&["mass", "run"]), "there/libmine.so");
    // A folder of libtorch is code, too.
    std::fs::create_dir(place.path("torch")).unwrap();
    place.write("run/recipe.toml", text.replace("[plugins]", "[plugins]\nlibtorch = \"torch\""));
    asks(&place.run(&["mass", "run"]), "torch");
    // So is another file under the same name, which the record does not know.
    hostile(&place, "mine", &["NAME=\"other\""]);
    place.write("run/recipe.toml", &text);
    asks(&place.run(&["mass", "run"]), "libmine.so");
}

#[test]
fn libraries_in_the_search_path_are_the_users_own() {
    let place = run();
    std::fs::create_dir_all(place.path("spo/plugins")).unwrap();
    std::fs::copy(place.path("libmine.so"), place.path("spo/plugins/libmine.so")).unwrap();
    place.write("recipe.toml", recipe("mine").replace("\"run\"", "\"installed\""));
    place.run(&["recipe.toml", "--quiet"]).success();
    as_stranger(&place, &["mass", "installed"]).success();
}

#[test]
fn a_sweep_and_its_cells_go_on_without_a_question() {
    let place = run();
    place.write(
        "sweep.toml",
        format!("sweep = {{ seeds = [1, 2] }}\n{}", recipe("./libmine.so").replace("\"run\"", "\"sweep\"")),
    );
    place.run(&["sweep.toml", "--quiet"]).success();
    std::fs::remove_file(place.path("sweep/base,seed=2/summary.json")).unwrap();
    asks(&as_stranger(&place, &["resume", "sweep", "--quiet"]), "libmine.so");
    place.run(&["resume", "sweep", "--quiet"]).success();
    assert!(place.path("sweep/base,seed=2/summary.json").exists());
    place.run(&["resume", "sweep/base,seed=1", "--quiet"]).success();
}
