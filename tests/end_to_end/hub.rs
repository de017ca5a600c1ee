//! Models and data sets by their ids on the hub, which is on this machine here.

use std::process::Output;

use serde_json::Value;
use test_support::Place;
use test_support::hub::{HubServer, Repository};

use crate::recipes::with_model_beside;

/// A recipe of ids.
const RECIPE: &str = "[run]\noutput = \"out\"\nresume = \"auto\"\n[model]\npath = \"Owner/tiny\"\n\
    [data]\ntrain = \"Owner/rows\"\neval = { path = \"Owner/rows\", split = \"test\" }\nmax_length = 48\n\
    [[stage]]\nname = \"s\"\nobjective = \"dpo\"\nreference = { external = { path = \"Owner/tiny\" } }\n\
    steps = 2\nbatch_size = 2\noptimizer = { lr = 1e-3 }\n";

const ROWS: &str = "{\"prompt\": \"1\", \"chosen\": \"22\", \"rejected\": \"3\"}\n{\"prompt\": \"2\", \"chosen\": \"1\", \"rejected\": \"33\"}\n";

/// A folder without a model, and a hub with one and with rows.
fn hub() -> (Place, HubServer) {
    let place = with_model_beside();
    let folder = place.path("model");
    let files: Vec<(String, Vec<u8>)> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    std::fs::remove_dir_all(folder).unwrap();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let model = Repository { stored: true, ..Repository::new('a', &files) };
    let rows = Repository::new('b', &[("train.jsonl", ROWS.as_bytes()), ("test.jsonl", ROWS.as_bytes())]);
    let server = HubServer::start(&[("models/Owner/tiny", model), ("datasets/Owner/rows", rows)]);
    place.write("recipe.toml", RECIPE);
    (place, server)
}

/// Runs the program with this hub.
fn online(place: &Place, server: &HubServer, arguments: &[&str]) -> Output {
    let mut command = place.command(arguments);
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", &server.endpoint).env_remove("HF_TOKEN");
    command.output().unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    let all =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{all}");
    all
}

fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

#[test]
fn a_run_downloads_what_it_names_and_goes_on_with_the_same_commits() {
    let (place, server) = hub();
    let said = text(&online(&place, &server, &["recipe.toml"]));
    assert!(said.contains(&format!("model: Owner/tiny of the hub at {}", commit('a'))), "{said}");
    assert!(said.contains("downloading model.safetensors of Owner/tiny"), "{said}");
    assert!(said.contains(&format!("held-out rows, Owner/rows split test at {}", commit('b'))), "{said}");
    let record: Value = serde_json::from_str(&place.read("out/run.json")).unwrap();
    let recipe = &record["recipe"];
    let path = |at: &Value| format!("{} {}", at["path"].as_str().unwrap(), at["revision"].as_str().unwrap());
    assert_eq!(path(&recipe["model"]), format!("Owner/tiny {}", commit('a')));
    assert_eq!(path(&recipe["data"]["train"]), format!("Owner/rows {}", commit('b')));
    let reference = &recipe["stage"][0]["reference"]["external"]["path"];
    assert_eq!(*reference, format!("Owner/tiny@{}", commit('a')));

    // The branches move on. The run does not, with its own recipe nor with the one that named no revision.
    server.with(|state| {
        let rows = ROWS.replace("22", "2");
        let files = [("train.jsonl", rows.as_bytes()), ("test.jsonl", rows.as_bytes())];
        state.repositories.get_mut("datasets/Owner/rows").unwrap().revision("main", 'c', &files);
        state.requests.clear();
    });
    std::fs::remove_file(place.path("out/summary.json")).unwrap();
    place.run(&["resume", "out"]).success();
    std::fs::remove_file(place.path("out/summary.json")).unwrap();
    text(&online(&place, &server, &["recipe.toml"]));
    assert_eq!(server.with(|state| state.requests.len()), 0, "commits that are there are not asked for");

    // Another run takes what is there now.
    let said = text(&online(&place, &server, &["check", "recipe.toml", "--set", "run.output=other"]));
    assert!(said.contains(&format!("Owner/rows at {}", commit('c'))), "{said}");
}

#[test]
fn commands_take_ids_too() {
    let (place, server) = hub();
    text(&online(&place, &server, &["eval", "Owner/tiny", "Owner/rows", "--reference", "Owner/tiny@main"]));
    text(&online(&place, &server, &["generate", "Owner/tiny", "12", "--max-new-tokens", "2"]));
    text(&online(
        &place,
        &server,
        &["generate", "Owner/tiny", "--prompts", "{ path = \"Owner/rows\", split = \"test\" }"],
    ));
    text(&online(&place, &server, &["export", "Owner/tiny", "exported"]));
    assert!(place.path("exported/model.safetensors").exists());
    // What is in the cache needs no network.
    place.run(&["generate", &format!("Owner/tiny@{}", commit('a')), "12", "--max-new-tokens", "2"]).success();
    place.run(&["eval", "Owner/tiny", "Owner/rows"]).success();
}

#[test]
fn what_is_neither_here_nor_on_the_hub_is_said_of_both() {
    let (place, server) = hub();
    let outcome = place.run(&["check", "recipe.toml"]);
    assert_eq!(outcome.code, 2);
    let parts = [
        "the model `Owner/tiny` is not in the cache of the hub",
        "HF_HUB_OFFLINE forbids",
        "hf download Owner/tiny",
    ];
    assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    let refused = |set: &str, parts: &[&str]| {
        let output = online(&place, &server, &["check", "recipe.toml", "--set", set]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in parts {
            assert!(said.contains(part), "`{said}` does not say `{part}`");
        }
    };
    refused(
        "model.path=Owner/tyni",
        &["there is no Owner/tyni; and as an id on the hub:", "has no model `Owner/tyni`"],
    );
    refused("data.train=Owner/rosw", &["data.train", "there is no Owner/rosw; and as an id on the hub:"]);
    refused(
        "data.eval={ path = \"Owner/rows\", split = \"tset\" }",
        &["no split `tset`: expected one of", "`train`"],
    );
    refused("model.revision=v9", &["has no revision `v9`"]);
    refused("data.train=Owner/rows.jsonl", &["there is no Owner/rows.jsonl"]);
    refused("data.train={ path = \"recipe.toml\", revision = \"v1\" }", &["`revision` has no effect"]);
}
