//! Weights in the files of `torch.save`: as those of safetensors, if they are asked for; and whatever else, refused.

use std::fs;
use std::path::{Path, PathBuf};

use spo_api::{
    Adapter, Backend, Group, ModelSource, ModelSpec, Result, Session, Statistics, TokenBatch, WeightType,
};
use spo_backend_candle::Candle;
use spo_transformer::convert;
use tempfile::TempDir;
use test_support::fuzz::fuzz;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn open(folder: &Path, allow_pickle: bool) -> Result<Box<dyn Session>> {
    let source = ModelSource::Folder(folder.to_owned());
    let (device, dtype) = ("cpu".into(), "f32".into());
    Candle::default().open(&ModelSpec {
        source,
        adapter: None,
        quantize: None,
        allow_pickle,
        seed: 0,
        device,
        dtype,
    })
}

fn log_probs(folder: &Path, allow_pickle: bool) -> Vec<f64> {
    let completions = vec![vec![5, 9, 2, 30], vec![5, 60]];
    let batch = TokenBatch { groups: vec![Group { prompt: vec![3, 1, 4], completions }] };
    open(folder, allow_pickle).unwrap().log_probs(&batch, Statistics::default()).unwrap().values
}

/// A folder with the configuration of a model, and its weights as torch saved them.
fn pickled(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = goldens().join("architectures").join(name).join("config.json");
    fs::copy(config, folder.path().join("config.json")).unwrap();
    for entry in goldens().join("pickled").join(name).read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn weights_are_those_of_safetensors() {
    for name in ["gpt2", "llama"] {
        let expected = log_probs(&goldens().join("architectures").join(name), false);
        let folder = pickled(name);
        assert_eq!(log_probs(folder.path(), true), expected, "{name}");
        let refused = open(folder.path(), false).err().unwrap().to_string();
        assert!(
            refused.contains("`model.allow_pickle`") && refused.contains("`spo-run convert`"),
            "{refused}"
        );

        let sizes =
            [None, Some(WeightType::Bf16), Some(WeightType::F32), Some(WeightType::F16)].map(|kind| {
                let converted = tempfile::tempdir().unwrap();
                convert(folder.path(), converted.path(), kind).unwrap();
                let found = log_probs(converted.path(), false);
                let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                // The weights are in bf16, of which f16 loses the smallest alone.
                let most = if kind == Some(WeightType::F16) { 1e-4 } else { 0.0 };
                assert!(error <= most, "{name}, {kind:?}: {error}");
                fs::metadata(converted.path().join("model.safetensors")).unwrap().len()
            });
        assert_eq!(sizes[0], sizes[1], "{name}");
        assert!(sizes[3].abs_diff(sizes[1]) < 400 && sizes[2] > 3 * sizes[1] / 2, "{name}: {sizes:?}");
    }
}

#[test]
fn an_adapter_is_that_of_safetensors() {
    let scores = |adapter: &Path, allow_pickle: bool| -> Result<Vec<f64>> {
        let spec = ModelSpec {
            source: ModelSource::Folder(goldens().join("architectures/llama")),
            adapter: Some(Adapter::Saved { path: adapter.to_owned() }),
            quantize: None,
            allow_pickle,
            seed: 0,
            device: "cpu".into(),
            dtype: "f32".into(),
        };
        let batch = TokenBatch {
            groups: vec![Group { prompt: vec![3, 1, 4], completions: vec![vec![5, 9, 2, 30]] }],
        };
        Ok(Candle::default().open(&spec)?.log_probs(&batch, Statistics::default())?.values)
    };
    let expected = scores(&goldens().join("adapters/patterns"), false).unwrap();
    let pickled = goldens().join("pickled/adapter");
    assert_eq!(scores(&pickled, true).unwrap(), expected);
    let refused = scores(&pickled, false).unwrap_err().to_string();
    assert!(refused.contains("adapter_model.bin") && refused.contains("`spo-run convert`"), "{refused}");
    let converted = tempfile::tempdir().unwrap();
    convert(&pickled, converted.path(), None).unwrap();
    assert_eq!(scores(converted.path(), false).unwrap(), expected);
}

#[test]
fn programs_are_refused_by_the_names_of_what_they_call() {
    let folder = pickled("gpt2");
    let path = folder.path().join("pytorch_model.bin");
    let mut bytes = fs::read(&path).unwrap();
    let (before, after) = ("torch._utils\n_rebuild_tensor_v2\n", "builtins\nexec__________________\n");
    assert_eq!(before.len(), after.len());
    let at = bytes.windows(before.len()).position(|part| part == before.as_bytes()).unwrap();
    bytes[at..at + after.len()].copy_from_slice(after.as_bytes());
    fs::write(&path, bytes).unwrap();
    let refused = open(folder.path(), true).err().unwrap().to_string();
    assert!(refused.contains("wants to call builtins.exec"), "{refused}");
}

#[test]
fn what_is_cut_off_is_refused() {
    let folder = pickled("gpt2");
    let path = folder.path().join("pytorch_model.bin");
    let bytes = fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(997) {
        fs::write(&path, &bytes[..length]).unwrap();
        let refused = open(folder.path(), true).err().unwrap().to_string();
        assert!(refused.contains("pytorch_model.bin is damaged"), "{length}: {refused}");
    }
}

/// Mutated files: each is read or refused, soon and in bounded memory. `SPO_FUZZ_SECONDS` says how long to try.
#[test]
fn damaged_files_are_read_or_refused() {
    let folder = pickled("gpt2");
    let path = folder.path().join("pytorch_model.bin");
    let shard = goldens().join("pickled/llama/pytorch_model-00001-of-00002.bin");
    let corpus = [fs::read(&path).unwrap(), fs::read(shard).unwrap()];
    let out = tempfile::tempdir().unwrap();
    let words =
        ["archive/data.pkl", "PK\x05\x06", "ctorch\nFloatStorage\n", "(((((", "}}}}", "))))", "h\x01h\x01R"];
    fuzz("pickled", &corpus, &words, |bytes| {
        fs::write(&path, bytes).unwrap();
        // An error is as good as a folder.
        let _ = convert(folder.path(), out.path(), Some(WeightType::F16));
    });
}
