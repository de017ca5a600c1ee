//! What it costs that an objective is loaded instead of linked: the same evaluation directly, and through the
//! border that a plugin is called across.
//!
//! `cargo bench -p spo-objectives --bench border`; with `-- --test` everything runs once.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use spo_api::{Evaluation, Layout, Objective, PreferenceBatch, Ragged, Registry, Side, abi};
use spo_objectives as _;

const TOKENS: usize = 256;

fn border(c: &mut Criterion) {
    let registry = Registry::linked().unwrap();
    let entry = registry.get("objective", "dpo").unwrap();
    for pairs in [1, 64] {
        let offsets: Vec<_> = (0..=pairs).map(|i| i * TOKENS).collect();
        let values: Vec<f64> = (0..pairs * TOKENS).map(|i| -0.1 - (i % 17) as f64 / 10.0).collect();
        let ragged = Ragged::new(&values, &offsets).unwrap();
        let side = Side { reference: Some(ragged), ..Side::policy_only(ragged) };
        let batch = PreferenceBatch::new(Layout::Pairs, side, side).unwrap();
        let mut group = c.benchmark_group(format!("dpo on {pairs} pairs of {TOKENS}-token answers"));
        for (name, entry) in [("linked", entry), ("loaded", abi::through(entry))] {
            let mut objective = entry.make::<dyn Objective>(&json!({})).unwrap();
            let mut out = Evaluation::default();
            group.bench_function(name, |b| {
                b.iter(|| {
                    out.compute(&mut *objective, &batch).unwrap();
                    black_box(&mut out);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, border);
criterion_main!(benches);
