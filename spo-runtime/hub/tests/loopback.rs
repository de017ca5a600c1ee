//! The hub on this machine, as the Hugging Face Hub answers.

use std::fs;
use std::path::Path;

use spo_hub::{Hub, Progress, Repo, Snapshot, What};
use test_support::hub::{HubServer, Repository};

const ROWS: What<'static> = What::Rows { subset: None, split: None };

fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn model() -> Repo {
    Repo::model("owner/model").unwrap()
}

/// A model of 100 kB.
fn files() -> Vec<u8> {
    (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn repository() -> Repository {
    let weights = files();
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{\"a\": 1}"),
        ("tokenizer.json", b"{}"),
        ("README.md", b"text"),
        ("pytorch_model.bin", b"other weights"),
        ("model.safetensors", &weights),
    ];
    Repository { stored: true, ..Repository::new('a', &files) }
}

fn fetch(hub: &Hub, repo: &Repo, revision: Option<&str>, what: &What<'_>) -> spo_hub::Result<Snapshot> {
    hub.fetch(repo, revision, what, &mut |_| {})
}

fn said(hub: &Hub, repo: &Repo, revision: Option<&str>, what: &What<'_>) -> String {
    fetch(hub, repo, revision, what).unwrap_err().to_string()
}

#[test]
fn only_what_is_needed_is_downloaded_and_once() {
    let server = HubServer::start(&[("models/owner/model", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let found = fetch(&hub, &model(), None, &What::Model).unwrap();
    assert_eq!(found.commit, commit('a'));
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), files());
    let mut names: Vec<_> = found
        .folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    let folder = place.path().join("models--owner--model");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit('a'));
    let target = fs::read_link(found.folder.join("config.json")).unwrap();
    assert!(target.starts_with("../../blobs"), "{}", target.display());
    let asked = server.with(|state| state.requests.len());
    let again = fetch(&hub, &model(), Some(&commit('a')), &What::Model).unwrap();
    assert_eq!(
        (again, server.with(|state| state.requests.len())),
        (found, asked),
        "a commit needs no network"
    );
}

#[test]
fn a_download_goes_on_where_it_was_interrupted() {
    let server = HubServer::start(&[("models/owner/model", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    // Two small files, then the weights: lost twice within one run.
    server.with(|state| state.cuts = vec![99, 99, 30_000, 1_000]);
    let found = fetch(&hub, &model(), None, &What::Model).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), files());
    let ranges: Vec<String> = server
        .with(|state| state.requests.iter().filter(|asked| asked.contains(" from ")).cloned().collect());
    assert!(ranges.iter().any(|asked| asked.ends_with("model.safetensors from 30000")), "{ranges:?}");
    assert!(ranges.iter().any(|asked| asked.ends_with("model.safetensors from 31000")), "{ranges:?}");
}

#[test]
fn what_an_earlier_run_has_left_is_used() {
    let server = HubServer::start(&[("models/owner/model", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    server.with(|state| state.cuts = vec![99, 99, 40_000, 0, 0, 0, 0, 0, 0]);
    let message = said(&hub, &model(), None, &What::Model);
    assert!(message.contains("model.safetensors was interrupted after 40000 of 100000 bytes"), "{message}");
    server.with(|state| (state.cuts.clear(), state.requests.clear()));
    let mut first = None;
    let watch = &mut |progress: Progress<'_>| {
        if let Progress::File("model.safetensors", there, all) = progress {
            assert_eq!(all, 100_000);
            first.get_or_insert(there);
        }
    };
    let found = hub.fetch(&model(), None, &What::Model, watch).unwrap();
    assert!(first.unwrap() > 40_000);
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), files());
}

#[test]
fn what_is_not_what_the_hub_says_is_thrown_away() {
    let server = HubServer::start(&[("models/owner/model", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    server.with(|state| state.spoiled = true);
    assert!(said(&hub, &model(), None, &What::Model).contains("another SHA-256 than the hub says"));
    server.with(|state| state.spoiled = false);
    fetch(&hub, &model(), None, &What::Model).unwrap();
}

#[test]
fn a_gated_model_needs_a_token_which_the_store_is_not_told() {
    let gated = Repository { gate: Some("hf_secret".into()), ..repository() };
    let server = HubServer::start(&[("models/owner/model", gated)]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let message = said(&hub, &model(), None, &What::Model);
    let page = format!("ask for access at {}/owner/model", server.endpoint);
    assert!(
        message.contains("gated, and no token was given (HF_TOKEN") && message.contains(&page),
        "{message}"
    );
    let message = said(&hub.clone().with_token("wrong"), &model(), None, &What::Model);
    assert!(message.contains("gated, and the token has no access"), "{message}");
    fetch(&hub.with_token("hf_secret"), &model(), None, &What::Model).unwrap();
    assert_eq!(server.with(|state| state.leaks), 0);
}

#[test]
fn what_is_not_there_is_named() {
    let server = HubServer::start(&[("models/owner/model", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let other = Repo::model("owner/modle").unwrap();
    let message = said(&hub, &other, None, &What::Model);
    assert!(
        message.contains("has no model `owner/modle`, or it is private and no token was given"),
        "{message}"
    );
    let message = said(&hub, &model(), Some("v2"), &What::Model);
    assert!(message.contains("has no revision `v2`"), "{message}");
    let message = said(&hub, &model(), Some("../x"), &What::Model);
    assert!(message.contains("`../x` is no revision"), "{message}");
    let closed = Hub::at(place.path(), "http://127.0.0.1:9");
    let message = said(&closed, &Repo::model("owner/new").unwrap(), None, &What::Model);
    assert!(
        message.contains("not in the cache of the hub, and http://127.0.0.1:9 cannot be reached"),
        "{message}"
    );
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../escaped.json", "/etc/escaped.json", "a/../../x.json", "a\\b.json"] {
        let server = HubServer::start(&[("models/owner/model", Repository::new('b', &[(name, b"x")]))]);
        let place = tempfile::tempdir().unwrap();
        let hub = Hub::at(place.path(), &server.endpoint);
        let message = said(&hub, &model(), Some("main"), &What::Tokenizer);
        assert!(message.contains("a file is called"), "{message}");
    }
}

#[test]
fn a_repository_that_was_renamed_is_found() {
    let renamed = Repository { renamed: Some("new/model".into()), ..Repository::default() };
    let plain = Repository { stored: false, ..repository() };
    let server = HubServer::start(&[("models/old/model", renamed), ("models/new/model", plain)]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let found = fetch(&hub, &Repo::model("old/model").unwrap(), None, &What::Model).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), files());
}

#[test]
fn a_split_of_a_subset_is_downloaded() {
    let readme = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n---\n";
    let files: [(&str, &[u8]); 5] = [
        ("README.md", readme),
        ("data/train-00000-of-00002.parquet", b"1"),
        ("data/train-00001-of-00002.parquet", b"22"),
        ("data/test-00000-of-00001.parquet", b"333"),
        ("data/other.parquet", b"4444"),
    ];
    let server = HubServer::start(&[("datasets/owner/rows", Repository::new('c', &files))]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let repo = Repo::dataset("owner/rows").unwrap();
    let found = fetch(&hub, &repo, None, &ROWS).unwrap();
    let names = |split| {
        let files = spo_hub::in_folder(&found.folder, None, split).unwrap();
        files
            .iter()
            .map(|file| file.strip_prefix(&found.folder).unwrap().display().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]);
    assert!(!found.folder.join("data/test-00000-of-00001.parquet").exists());
    let test = What::Rows { subset: None, split: Some("test") };
    fetch(&hub, &repo, Some(&found.commit), &test).unwrap();
    assert_eq!(names(Some("test")), ["data/test-00000-of-00001.parquet"]);
    let wrong = What::Rows { subset: None, split: Some("tset") };
    assert!(said(&hub, &repo, None, &wrong).contains("no split `tset`: expected one of `train`, `test`"));
}

#[test]
fn other_formats_come_as_the_hub_has_converted_them() {
    let mut repository = Repository::new('d', &[("script.py", b"code"), ("rows.zip", b"zip")]);
    let converted: [(&str, &[u8]); 2] =
        [("default/train/0000.parquet", b"rows"), ("default/test/0000.parquet", b"more")];
    repository.revision("refs/convert/parquet", 'e', &converted);
    let server = HubServer::start(&[("datasets/owner/script", repository)]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let repo = Repo::dataset("owner/script").unwrap();
    let found = fetch(&hub, &repo, None, &ROWS).unwrap();
    assert_eq!(found.commit, commit('e'));
    assert!(found.folder.join("default/train/0000.parquet").is_file());
    assert!(!found.folder.join("default/test/0000.parquet").exists());
    let closed = Hub::at(place.path(), "http://127.0.0.1:9");
    assert_eq!(closed.cached(&repo, None, &ROWS), Some(found));
}

#[test]
fn a_branch_that_moves_is_followed_unless_the_hub_is_away() {
    let server = HubServer::start(&[("models/owner/moving", repository())]);
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::at(place.path(), &server.endpoint);
    let repo = Repo::model("owner/moving").unwrap();
    assert!(said(&hub, &repo, Some("dev"), &What::Model).contains("no revision"));
    let move_to = |digit| {
        server.with(|state| {
            let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"new")];
            state.repositories.get_mut("models/owner/moving").unwrap().revision("dev", digit, &files);
        });
    };
    move_to('1');
    assert_eq!(fetch(&hub, &repo, Some("dev"), &What::Model).unwrap().commit, commit('1'));
    move_to('2');
    let same = fetch(&hub, &repo, Some("dev"), &What::Model).unwrap();
    assert_eq!(same.commit, commit('1'), "one process sees one state of the hub");
    let mut why = String::new();
    let watch = &mut |progress: Progress<'_>| {
        if let Progress::Unreachable(reason) = progress {
            why = reason.to_owned();
        }
    };
    let away = Hub::at(place.path(), "http://127.0.0.1:9").fetch(&repo, Some("dev"), &What::Model, watch);
    assert_eq!(away.unwrap().commit, commit('1'));
    assert!(why.contains("http://127.0.0.1:9 cannot be reached"), "{why}");
}

/// The folder was made by the Python client (tests/goldens/hub).
#[test]
fn the_cache_of_the_python_client_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/hub/cache");
    let hub = Hub::at(&golden, "http://127.0.0.1:9").offline();
    let found = fetch(&hub, &Repo::model("owner/model").unwrap(), None, &What::Model).unwrap();
    assert_eq!(fs::read_to_string(found.folder.join("config.json")).unwrap(), "{\"model_type\": \"tiny\"}");
    let rows = fetch(&hub, &Repo::dataset("owner/rows").unwrap(), Some("v1"), &ROWS).unwrap();
    let files = spo_hub::in_folder(&rows.folder, None, None).unwrap();
    assert_eq!(files.len(), 1);
    assert!(fs::read_to_string(&files[0]).unwrap().contains("chosen"));
    let message = said(&hub, &Repo::model("owner/partial").unwrap(), None, &What::Model);
    assert!(message.contains("only a part of the model `owner/partial` is in the cache"), "{message}");
    let message = said(&hub, &Repo::model("owner/absent").unwrap(), None, &What::Model);
    assert!(
        message.contains("is not in the cache of the hub") && message.contains("hf download owner/absent"),
        "{message}"
    );
    let test = What::Rows { subset: None, split: Some("test") };
    let message = said(&hub, &Repo::dataset("owner/rows").unwrap(), Some("v1"), &test);
    assert!(message.contains("there is no split `test`"), "{message}");
}
