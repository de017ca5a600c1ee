//! GGUF files against transformers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{
    Adapter, Backend, Export, Group, ModelSource, ModelSpec, Quantize, Session, Statistics, TokenBatch, Vector,
};
use spo_backend_candle::{Candle, ComposedEngine};
use spo_transformer::{Options, TransformerSession};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf")
}

/// The files of models, with what was computed for them.
fn models() -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut figures: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    figures.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    figures.iter().map(|path| (path.with_extension("gguf"), read(path))).collect()
}

fn spec(path: &Path, adapter: Option<Adapter>, quantize: Option<Quantize>) -> ModelSpec {
    let source = ModelSource::Folder(path.to_owned());
    ModelSpec { source, adapter, quantize, seed: 3, device: "cpu".into(), dtype: "f32".into() }
}

fn open(spec: &ModelSpec) -> Box<dyn Session> {
    Candle::default().open(spec).unwrap()
}

fn batch(figures: &Value) -> TokenBatch {
    let lists = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let group = |group: &Value| Group {
        prompt: serde_json::from_value(group["prompt"].clone()).unwrap(),
        completions: lists(&group["completions"]),
    };
    TokenBatch { groups: figures["groups"].as_array().unwrap().iter().map(group).collect() }
}

fn expected(figures: &Value) -> Vec<f64> {
    let groups = figures["groups"].as_array().unwrap();
    let lists = groups.iter().flat_map(|group| group["log_probs"].as_array().unwrap());
    lists.flat_map(|list| list.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
}

fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}

fn log_probs(session: &mut dyn Session, figures: &Value) -> Vec<f64> {
    session.log_probs(&batch(figures), Statistics::default()).unwrap().values
}

#[test]
fn log_probs_are_those_of_transformers() {
    let models = models();
    assert_eq!(models.len(), 13);
    for (path, figures) in models {
        let found = log_probs(&mut *open(&spec(&path, None, None)), &figures);
        let error = worst(&found, &expected(&figures));
        println!("{}: {error:.1e}", path.display());
        assert!(error < 1e-5, "{}: {error}", path.display());
    }
}
