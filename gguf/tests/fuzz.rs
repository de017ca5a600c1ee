//! Mutated files: each is read or refused, soon and in bounded memory. `SPO_FUZZ_SECONDS` says how long to try.

use spo_gguf::{BlockType, Entry, Gguf, List, Value, write};
use test_support::fuzz::fuzz;

#[test]
fn gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let texts = ["a", "bc", ""].map(str::to_owned).to_vec();
    let metadata = [
        ("general.architecture".to_owned(), Value::from("llama")),
        ("general.alignment".to_owned(), Value::Integer(32)),
        ("number".to_owned(), Value::Number(1e-5)),
        ("tokens".to_owned(), Value::List(List::Texts(texts))),
        ("scores".to_owned(), Value::List(List::Numbers(vec![0.5; 9]))),
        ("flags".to_owned(), Value::List(List::Flags(vec![true, false]))),
    ];
    let kinds = [BlockType::F32, BlockType::F16, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4K];
    let entry = |kind: &BlockType| Entry { name: kind.name().into(), shape: vec![1, 256], kind: *kind };
    let tensors: Vec<Entry> = kinds.iter().map(entry).collect();
    write(&path, &metadata, &tensors, |_| Ok(vec![0.25; 256])).unwrap();
    let whole = std::fs::read(&path).unwrap();
    fuzz("gguf", &[whole], &["general.alignment", "GGUF", "split.count"], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let Ok(gguf) = Gguf::open(&path) else { return };
        for tensor in gguf.tensors().values() {
            assert_eq!(gguf.values(tensor).unwrap().len(), tensor.elements());
        }
        for key in ["number", "tokens", "scores", "general.architecture"] {
            // An error is as good as a value.
            let _ = (gguf.number(key), gguf.texts(key), gguf.numbers(key), gguf.text(key), gguf.flag(key));
        }
    });
}
