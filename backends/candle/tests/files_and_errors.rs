//! Files, configurations and batches: what is read, and what is refused with which message.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Error, Export, Group, Lora, ModelSource, ModelSpec, Sampling, Session, Statistics,
    Targets, TokenBatch,
};
use spo_backend_candle::Candle;
use spo_transformer::ModelType;
use spo_transformer::conformance::{random, tiny};
use tempfile::TempDir;

fn open(spec: &ModelSpec) -> Result<Box<dyn Session>, Error> {
    Candle::default().open(spec)
}

fn refused(spec: &ModelSpec) -> String {
    match open(spec) {
        Ok(_) => panic!("opened: {spec:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// A folder with the first tiny model, and a specification that reads it.
fn saved() -> (TempDir, ModelSpec) {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = random(&tiny(ModelType::Llama), None);
    open(&spec).unwrap().save(folder.path(), Export::Model).unwrap();
    spec.source = ModelSource::Folder(folder.path().to_owned());
    (folder, spec)
}

fn weights(folder: &TempDir) -> PathBuf {
    folder.path().join("model.safetensors")
}

/// Rewrites the header of a safetensors file.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    edit(&mut header);
    let header = header.to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &header, &bytes[end..]].concat()).unwrap();
}

#[test]
fn weight_files_that_cannot_be_used_are_named() {
    let (folder, spec) = saved();
    let whole = fs::read(weights(&folder)).unwrap();
    for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], b"not safetensors at all".as_slice()]
    {
        fs::write(weights(&folder), bytes).unwrap();
        says(&refused(&spec), &["model.safetensors", "truncated or not a safetensors file"]);
    }
    fs::write(weights(&folder), b"").unwrap();
    says(&refused(&spec), &["model.safetensors"]);
    fs::remove_file(weights(&folder)).unwrap();
    says(&refused(&spec), &["neither model.safetensors nor model.safetensors.index.json"]);
    fs::write(folder.path().join("consolidated.safetensors"), &whole).unwrap();
    says(&refused(&spec), &["only consolidated.safetensors"]);
    fs::write(folder.path().join("model-00001-of-00002.safetensors"), &whole).unwrap();
    says(
        &refused(&spec),
        &["model.safetensors.index.json", "model-00001-of-00002.safetensors", "get it too"],
    );
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let rename = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
        header["model.layers.1.mlp.upp_proj.weight"] = tensor;
    };
    let (folder, spec) = saved();
    edit_header(&weights(&folder), rename);
    says(&refused(&spec), &["model.safetensors", "upp_proj.weight is no part of a llama"]);

    let (folder, spec) = saved();
    let config = folder.path().join("config.json");
    let change = |key: &str, value: Value| {
        let mut edited: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        edited[key] = value;
        fs::write(&config, edited.to_string()).unwrap();
    };
    change("intermediate_size", json!(22));
    says(&refused(&spec), &["model.safetensors", "mlp", "shape [20, 24]", "[22, 24]"]);
    change("intermediate_size", json!(20));
    change("num_hidden_layers", json!(3));
    says(&refused(&spec), &["model.safetensors", "model.layers.2.", "is missing"]);
    change("num_hidden_layers", json!(2));
    edit_header(&weights(&folder), |header| header["model.norm.weight"]["dtype"] = json!("I32"));
    says(&refused(&spec), &["model.norm.weight", "I32", "F32, F16, BF16"]);
}

#[test]
fn shards_are_read_and_checked() {
    let (folder, spec) = saved();
    let before = log_probs(&mut *open(&spec).unwrap());
    // The head goes into a second shard.
    let bytes = fs::read(weights(&folder)).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let head = header.as_object_mut().unwrap().remove("lm_head.weight").unwrap();
    let offsets = head["data_offsets"].as_array().unwrap();
    let [from, to] = [0, 1].map(|i| end + offsets[i].as_u64().unwrap() as usize);
    let shard = |header: Value, data: &[u8]| {
        let header = header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
    };
    let own = json!({ "lm_head.weight": {
        "dtype": head["dtype"], "shape": head["shape"], "data_offsets": [0, to - from],
    }});
    assert_eq!(to, bytes.len(), "the head is the last tensor");
    fs::write(folder.path().join("b.safetensors"), shard(own, &bytes[from..to])).unwrap();
    let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
    fs::write(folder.path().join("a.safetensors"), shard(header, &bytes[end..from])).unwrap();
    fs::remove_file(weights(&folder)).unwrap();
    let mut map = json!({ "lm_head.weight": "b.safetensors" });
    names.iter().filter(|n| *n != "__metadata__").for_each(|n| map[n] = json!("a.safetensors"));
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(log_probs(&mut *open(&spec).unwrap()), before);

    fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    says(&refused(&spec), &["index.json", "2 shards", "b.safetensors is not there"]);
    map["lm_head.weight"] = json!("a.safetensors");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    says(&refused(&spec), &["index.json", "lm_head.weight", "no shard holds it"]);
    fs::write(&index, "{").unwrap();
    says(&refused(&spec), &["index.json", "not valid JSON"]);
}

#[test]
fn half_precision_files_come_back_to_the_bit() {
    for (dtype, stored) in [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")] {
        let mut config = tiny(ModelType::Llama);
        config["dtype"] = json!(dtype);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut spec = random(&config, None);
        open(&spec).unwrap().save(folders[0].path(), Export::Model).unwrap();
        spec.source = ModelSource::Folder(folders[0].path().to_owned());
        open(&spec).unwrap().save(folders[1].path(), Export::Model).unwrap();
        for file in ["model.safetensors", "config.json"] {
            let [first, second] =
                folders.each_ref().map(|folder| fs::read(folder.path().join(file)).unwrap());
            assert_eq!(first, second, "{dtype}, {file}");
        }
        edit_header(&weights(&folders[0]), |header| assert_eq!(header["model.norm.weight"]["dtype"], stored));
    }
}

/// Adds tensors to a safetensors file.
fn append(path: &Path, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) {
    let mut data = Vec::new();
    edit_header(path, |header| {
        let ends = header.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64());
        let begin = ends.max().unwrap() as usize;
        for (name, dtype, shape, bytes) in tensors {
            let at = begin + data.len();
            data.extend(bytes);
            let offsets = [at, at + bytes.len()];
            header[*name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        }
    });
    let file = fs::read(path).unwrap();
    fs::write(path, [file, data].concat()).unwrap();
}

/// Where a file holds the bytes of a tensor.
fn bytes_in(path: &Path, name: &str) -> Range<usize> {
    let mut offsets = [0, 0];
    edit_header(path, |header| {
        offsets = [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
    });
    let start = 8 + u64::from_le_bytes(fs::read(path).unwrap()[..8].try_into().unwrap()) as usize;
    start + offsets[0]..start + offsets[1]
}

fn bytes_of(path: &Path, name: &str) -> Vec<u8> {
    let range = bytes_in(path, name);
    fs::read(path).unwrap()[range].to_vec()
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A folder with a tied model of this type.
fn tied(model_type: ModelType) -> (TempDir, ModelSpec) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny(model_type);
    config["tie_word_embeddings"] = json!(true);
    let mut spec = random(&config, None);
    open(&spec).unwrap().save(folder.path(), Export::Model).unwrap();
    spec.source = ModelSource::Folder(folder.path().to_owned());
    (folder, spec)
}

const VOCABULARY: usize = 37;
const HIDDEN: usize = 24;

#[test]
fn a_head_of_its_own_is_used_and_saved_though_the_configuration_says_tied() {
    for (model_type, adapted) in
        [(ModelType::Llama, false), (ModelType::Gpt2, false), (ModelType::Qwen2, true)]
    {
        let (folder, mut spec) = tied(model_type);
        if adapted {
            spec.adapter = Some(Adapter::New(Lora::new(2, 4.0, Targets::ALL)));
        }
        let as_tied = log_probs(&mut *open(&spec).unwrap());
        let head = floats((0..VOCABULARY * HIDDEN).map(|i| (i as f32 * 0.37).sin() * 0.3));
        append(&weights(&folder), &[("lm_head.weight", "F32", vec![VOCABULARY, HIDDEN], head.clone())]);
        let mut session = open(&spec).unwrap();
        says(&session.info().remarks.join(""), &["config.json", "lm_head.weight", "tie_word_embeddings"]);
        let with_head = log_probs(&mut *session);
        assert_ne!(with_head, as_tied);

        // The same as when the configuration is right.
        edit_json(&folder.path().join("config.json"), |config| config["tie_word_embeddings"] = json!(false));
        let mut right = open(&spec).unwrap();
        assert_eq!(log_probs(&mut *right), with_head, "{model_type:?}");
        assert_eq!(right.info().parameters, session.info().parameters);
        assert_eq!(right.info().trainable, session.info().trainable);
        assert!(right.info().remarks.is_empty());

        let saved = tempfile::tempdir().unwrap();
        session.save(saved.path(), Export::Model).unwrap();
        assert_eq!(config_of(saved.path())["tie_word_embeddings"], json!(false));
        assert!(bytes_of(&weights(&saved), "lm_head.weight") == head, "the head is saved to the bit");
    }
}

#[test]
fn a_head_that_is_the_table_needs_no_word() {
    for (model_type, table) in
        [(ModelType::Llama, "model.embed_tokens.weight"), (ModelType::Gpt2, "transformer.wte.weight")]
    {
        let (folder, spec) = tied(model_type);
        let before = log_probs(&mut *open(&spec).unwrap());
        let bytes = bytes_of(&weights(&folder), table);
        append(&weights(&folder), &[("lm_head.weight", "F32", vec![VOCABULARY, HIDDEN], bytes)]);
        let mut session = open(&spec).unwrap();
        assert_eq!(log_probs(&mut *session), before);
        assert!(session.info().remarks.is_empty());
        let saved = tempfile::tempdir().unwrap();
        session.save(saved.path(), Export::Model).unwrap();
        edit_header(&weights(&saved), |header| assert!(header.get("lm_head.weight").is_none()));

        // One bit of the head makes it another.
        let mut file = fs::read(weights(&folder)).unwrap();
        *file.last_mut().unwrap() ^= 0x80;
        fs::write(weights(&folder), file).unwrap();
        assert_eq!(open(&spec).unwrap().info().remarks.len(), 1);
    }
}

#[test]
fn a_table_under_the_name_of_the_head_is_found() {
    let (folder, spec) = tied(ModelType::Llama);
    let before = log_probs(&mut *open(&spec).unwrap());
    edit_header(&weights(&folder), |header| {
        let table = header.as_object_mut().unwrap().remove("model.embed_tokens.weight").unwrap();
        header["lm_head.weight"] = table;
    });
    let mut session = open(&spec).unwrap();
    assert_eq!(log_probs(&mut *session), before);
    assert!(session.info().remarks.is_empty());
}

/// A causal mask as GPT-2's older files hold it.
fn mask(n: usize) -> Vec<u8> {
    floats((0..n * n).map(|i| if i % n <= i / n { 1.0 } else { 0.0 }))
}

#[test]
fn names_of_older_files_are_understood() {
    let (folder, spec) = tied(ModelType::Gpt2);
    let before = log_probs(&mut *open(&spec).unwrap());
    // Without the prefix, with a causal mask among the weights and the head beside the table it is.
    edit_header(&weights(&folder), |header| {
        let tensors = std::mem::take(header.as_object_mut().unwrap());
        for (name, tensor) in tensors {
            header[name.strip_prefix("transformer.").unwrap_or(&name)] = tensor;
        }
    });
    let table = bytes_of(&weights(&folder), "wte.weight");
    let tensors = [
        ("lm_head.weight", "F32", vec![VOCABULARY, HIDDEN], table),
        ("h.0.attn.bias", "F32", vec![1, 1, 8, 8], mask(8)),
        ("h.0.attn.masked_bias", "F32", vec![], floats([-1e4])),
    ];
    append(&weights(&folder), &tensors);
    let mut older = open(&spec).unwrap();
    assert_eq!(log_probs(&mut *older), before);

    let saved = tempfile::tempdir().unwrap();
    older.save(saved.path(), Export::Model).unwrap();
    edit_header(&weights(&saved), |header| {
        assert!(header.get("wte.weight").is_some() && header.get("lm_head.weight").is_none());
    });
}

#[test]
fn tables_that_say_something_else_are_refused() {
    let (folder, spec) = tied(ModelType::Gpt2);
    let mut full = mask(4);
    full[4..8].copy_from_slice(&1f32.to_le_bytes());
    append(&weights(&folder), &[("transformer.h.1.attn.bias", "F32", vec![1, 1, 4, 4], full)]);
    says(&refused(&spec), &["model.safetensors", "transformer.h.1.attn.bias", "causal mask"]);

    let (folder, spec) = saved();
    let theta = |theta: f32| floats((0..3).map(|i| theta.powf(-(i as f32) / 3.0)));
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    append(&weights(&folder), &[(name, "F32", vec![3], theta(10_000.0))]);
    assert!(open(&spec).is_ok());
    let other = "model.layers.1.self_attn.rotary_emb.inv_freq";
    append(&weights(&folder), &[(other, "F32", vec![3], theta(20_000.0))]);
    says(&refused(&spec), &[other, "rope_theta", "config.json"]);
}

fn log_probs(session: &mut dyn Session) -> Vec<f64> {
    let group = Group { prompt: vec![1, 2], completions: vec![vec![3, 4, 5]] };
    session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).unwrap().values
}

#[test]
fn configurations_that_would_be_computed_wrongly_are_refused() {
    let change = |key: &str, value: Value| {
        let mut config = tiny(ModelType::Llama);
        config[key] = value;
        refused(&random(&config, None))
    };
    says(&change("model_type", json!("lama")), &["model_type", "lama", "nearest: llama"]);
    says(&change("hidden_act", json!("relu6")), &["hidden_act", "relu6", "silu"]);
    says(&change("hidden_size", Value::Null), &["hidden_size", "is missing"]);
    says(&change("hidden_size", json!(-3)), &["hidden_size", "positive whole number", "-3"]);
    says(&change("num_key_value_heads", json!(3)), &["num_key_value_heads", "divide"]);
    says(&change("head_dim", json!(5)), &["head_dim", "even"]);
    says(&change("quantization_config", json!({})), &["quantization_config"]);
    says(&change("partial_rotary_factor", json!(0.5)), &["partial_rotary_factor"]);
    says(&change("rope_parameters", json!({ "rope_type": "mrope" })), &["rope_type", "mrope", "llama3"]);
    says(&change("rope_parameters", json!({ "rope_type": "linear" })), &["factor", "is missing"]);
    let mut gpt2 = tiny(ModelType::Gpt2);
    gpt2["scale_attn_by_inverse_layer_idx"] = json!(true);
    says(&refused(&random(&gpt2, None)), &["scale_attn_by_inverse_layer_idx"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let config = &tiny(ModelType::Llama);
    let adapter = |rank: usize, target: &str| Adapter::New(Lora::new(rank, 8.0, [target]));
    says(&refused(&random(config, Some(adapter(4, "q_prj")))), &["q_prj", "nearest: q_proj", "down_proj"]);
    says(&refused(&random(config, Some(adapter(0, "q_proj")))), &["rank"]);

    let folder = tempfile::tempdir().unwrap();
    let mut session = open(&random(config, Some(adapter(4, "q_proj")))).unwrap();
    session.save(folder.path(), Export::Adapter).unwrap();
    let again = random(config, Some(Adapter::Saved { path: folder.path().to_owned() }));
    assert!(open(&again).is_ok());
    let weights = "adapter_model.safetensors";
    let with = |key: &str, value: Value| {
        let file = folder.path().join("adapter_config.json");
        let mut before = Value::Null;
        edit_json(&file, |config| before = std::mem::replace(&mut config[key], value));
        let message = refused(&again);
        edit_json(&file, |config| config[key] = before);
        message
    };
    says(&with("r", json!(2)), &[weights, "lora_A", "shape [4, 24]", "[2, 24]"]);
    says(&with("target_modules", json!(["v_proj"])), &[weights, "v_proj.lora_A.weight is missing"]);
    says(&with("layers_to_transform", json!([1])), &[weights, "layers.0", "belongs to nothing"]);
    says(&with("layers_to_transform", json!("all")), &["adapter_config.json", "list of numbers", "\"all\""]);
    says(&with("target_modules", json!(null)), &["adapter_config.json", "`target_modules` is missing"]);
    says(&with("target_modules", json!("(")), &["`(` is not a regular expression"]);
    says(&with("use_dora", json!(true)), &[weights, "lora_magnitude_vector is missing"]);

    let error = open(&random(config, None)).unwrap().save(folder.path(), Export::Adapter).unwrap_err();
    says(&error.to_string(), &["no adapter"]);
}

/// A model and an adapter on two of its layers, in folders, and a specification that takes what the adapter has.
fn adapted() -> (TempDir, TempDir, ModelSpec) {
    let (model, mut spec) = saved();
    let folder = tempfile::tempdir().unwrap();
    spec.adapter =
        Some(Adapter::New(Lora::new(4, 8.0, ["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"])));
    let mut session = open(&spec).unwrap();
    let b = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
    session.save(folder.path(), Export::Adapter).unwrap();
    // B is not zero, so that the scale matters.
    let file = folder.path().join("adapter_model.safetensors");
    let range = bytes_in(&file, b);
    let mut bytes = fs::read(&file).unwrap();
    let values = floats((0..range.len() / 4).map(|i| (i as f32).sin()));
    bytes[range].copy_from_slice(&values);
    fs::write(&file, bytes).unwrap();
    spec.adapter = Some(Adapter::Saved { path: folder.path().to_owned() });
    (model, folder, spec)
}

#[test]
fn an_adapter_adapts_the_layers_it_has_weights_for() {
    let (_model, _folder, spec) = adapted();
    let mut session = open(&spec).unwrap();
    assert_eq!(session.info().trainable, 4 * (24 + 24) + 4 * (24 + 20));
    let bare = log_probs(&mut *open(&ModelSpec { adapter: None, ..spec }).unwrap());
    assert_ne!(log_probs(&mut *session), bare);
}

#[test]
fn adapters_of_the_embedding_table_and_the_head_are_by_name_and_for_this_model() {
    let (_model, mut spec) = saved();
    let of = |targets: &[&str]| {
        Lora::new(2, 4.0, Targets::Names(targets.iter().map(|&name| name.into()).collect()))
    };
    let trained = |lora: Lora, spec: &ModelSpec| {
        let spec = ModelSpec { adapter: Some(Adapter::New(lora)), ..spec.clone() };
        open(&spec).map(|session| session.info().trainable)
    };
    let both = 2 * 2 * (37 + 24);
    let ends = trained(of(&["embed_tokens", "lm_head"]), &spec).unwrap();
    assert_eq!(ends, both);
    // "all-linear" is neither of them, and may stand beside them.
    let linear = trained(of(&["all-linear"]), &spec).unwrap();
    assert_eq!(trained(of(&["all-linear", "lm_head", "embed_tokens"]), &spec).unwrap(), linear + both);
    let refused_of = |lora: Lora| trained(lora, &spec).unwrap_err().to_string();
    says(&refused_of(of(&["lm_hed"])), &["`lm_hed` (nearest: lm_head)", "embed_tokens, lm_head"]);
    let dora = Lora { dora: true, ..of(&["q_proj", "lm_head"]) };
    says(&refused_of(dora), &["`dora`", "leave lm_head out of `targets`"]);

    // PEFT adds copies of the model's own matrices.
    let folder = tempfile::tempdir().unwrap();
    spec.adapter = Some(Adapter::New(of(&["all-linear", "lm_head"])));
    open(&spec).unwrap().save(folder.path(), Export::Adapter).unwrap();
    let config = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    assert!(!config.contains("all-linear") && config.contains("lm_head") && config.contains("down_proj"));
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
    let saved_by_peft = goldens.join("adapters/ends");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(saved_by_peft.join(file), folder.path().join(file)).unwrap();
    }
    spec.source = ModelSource::Folder(goldens.join("architectures/llama"));
    spec.adapter = Some(Adapter::Saved { path: folder.path().to_owned() });
    open(&spec).unwrap();
    let file = folder.path().join("adapter_model.safetensors");
    let copy = "base_model.model.lm_head.base_layer.weight";
    let (range, mut bytes) = (bytes_in(&file, copy), fs::read(&file).unwrap());
    bytes[range.start..range.start + 4].copy_from_slice(&floats([7.0]));
    fs::write(&file, bytes).unwrap();
    says(&refused(&spec), &[copy, "is not lm_head.weight of the model"]);
}

#[test]
fn a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank() {
    let (_model, folder, spec) = adapted();
    let before = log_probs(&mut *open(&spec).unwrap());
    edit_json(&folder.path().join("adapter_config.json"), |config| config["use_rslora"] = json!(true));
    let after = log_probs(&mut *open(&spec).unwrap());
    assert_ne!(after, before);
    edit_json(&folder.path().join("adapter_config.json"), |config| {
        config["use_rslora"] = json!(false);
        config["lora_alpha"] = json!(16);
    });
    assert_eq!(log_probs(&mut *open(&spec).unwrap()), after);
}

#[test]
fn settings_of_an_adapter_that_change_its_numbers_are_refused() {
    let (_model, folder, spec) = adapted();
    let file = folder.path().join("adapter_config.json");
    let whole = fs::read_to_string(&file).unwrap();
    for (key, value) in [
        ("bias", json!("lora_only")),
        ("layers_pattern", json!("blocks")),
        ("ensure_weight_tying", json!(true)),
        ("modules_to_save", json!([3])),
        ("rank_pattern", json!({ "q_proj": -8 })),
        ("alpha_pattern", json!([8])),
        ("use_rslora", json!("yes")),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["mlp.weight"])),
        ("layer_replication", json!([[0, 1]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("peft_type", json!("IA3")),
    ] {
        edit_json(&file, |config| config[key] = value.clone());
        says(&refused(&spec), &["adapter_config.json", &format!("`{key}`")]);
        fs::write(&file, &whole).unwrap();
    }
    // What only says how the adapter was made, or how its file is to be read.
    edit_json(&file, |config| {
        config["init_lora_weights"] = json!("gaussian");
        config["layers_to_transform"] = json!([0, 1]);
        config["fan_in_fan_out"] = json!(true);
        config["modules_to_save"] = json!(null);
        config["rank_pattern"] = json!({});
        config["target_modules"] = json!(".*(0.*q_proj|1.*up_proj)");
    });
    assert!(open(&spec).unwrap().info().remarks.is_empty());
    edit_json(&file, |config| {
        config["lora_dropout"] = json!(0.05);
        config["base_model_name_or_path"] = json!("Org/Another");
    });
    let remarks = open(&spec).unwrap().info().remarks.clone();
    assert!(remarks.len() == 1 && remarks[0].contains("made for Org/Another"), "{remarks:?}");
}

#[test]
fn devices_and_types_that_are_not_there_are_refused() {
    let spec = |device: &str, dtype: &str| ModelSpec {
        device: device.into(),
        dtype: dtype.into(),
        ..random(&tiny(ModelType::Llama), None)
    };
    assert!(open(&spec("auto", "f32")).is_ok());
    says(&refused(&spec("cpu", "bf16")), &["bf16", "CPU", "f32"]);
    says(&refused(&spec("cpu", "f8")), &["f8", "f32 or bf16"]);
    says(&refused(&spec("cdua", "f32")), &["cdua", "nearest: cuda"]);
    says(&refused(&spec("cuda:x", "f32")), &["cuda:x", "number"]);
    if cfg!(not(feature = "cuda")) {
        says(&refused(&spec("cuda", "f32")), &["--features cuda"]);
    }
}

#[test]
fn batches_that_the_model_cannot_read_are_refused() {
    let mut session = open(&random(&tiny(ModelType::Llama), None)).unwrap();
    let mut error = |prompt: Vec<u32>, completion: Vec<u32>| {
        let groups = vec![Group { prompt, completions: vec![completion] }];
        session.log_probs(&TokenBatch { groups }, Statistics::default()).unwrap_err().to_string()
    };
    says(&error(vec![], vec![1]), &["group 0", "prompt is empty"]);
    says(&error(vec![37], vec![1]), &["prompt of group 0", "37", "vocabulary of 37"]);
    says(&error(vec![1], vec![40]), &["completion 0 of group 0", "40"]);
    says(&error(vec![1; 100], vec![1; 29]), &["129 tokens", "128"]);

    let sampling = Sampling::greedy(200, &[]);
    says(&session.generate(&[vec![1]], &sampling).unwrap_err().to_string(), &["prompt 0", "200", "128"]);
    let hot = Sampling { max_new_tokens: 1, temperature: -1.0, ..sampling };
    says(&session.generate(&[vec![1]], &hot).unwrap_err().to_string(), &["temperature", "-1"]);
}

#[test]
fn upstream_gradients_that_make_no_sense_are_refused() {
    let mut session = open(&random(&tiny(ModelType::Llama), None)).unwrap();
    let batch = TokenBatch { groups: vec![Group { prompt: vec![1], completions: vec![vec![2, 3]] }] };
    let mut error = |upstream: Vec<f64>| {
        let result = session.backward(&batch, Statistics::default(), &mut |_| Ok(upstream.clone()));
        result.unwrap_err().to_string()
    };
    says(&error(vec![1.0]), &["one number per log-prob (2), got 1"]);
    says(&error(vec![1.0, f64::NAN]), &["token 1 is NaN"]);
}
