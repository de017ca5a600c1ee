//! The fused engine against transformers, torch and PEFT, on a tiny model of every architecture.

use std::path::Path;

use spo_backend_candle::{Candle, FusedEngine};
use spo_transformer::ModelType;

test_support::compare_with_transformers!(Candle::default(), FusedEngine::default);
test_support::compare_with_peft!(Candle::default(), FusedEngine::default);

#[test]
fn the_documentation_lists_the_supported_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("|---|").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with("| `"));
    let mut listed: Vec<&str> = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    let mut supported = ModelType::ALL.map(ModelType::name);
    listed.sort_unstable();
    supported.sort_unstable();
    assert_eq!(listed, supported);
}
