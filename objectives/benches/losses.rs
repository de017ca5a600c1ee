//! Evaluation of 1,024 pairs of 512-token answers: time of each objective, and of reading the arrays.
//!
//! `cargo bench -p spo-objectives --bench losses`; with `-- --test` every objective runs once.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use spo_api::{
    Columns, Evaluation, EvaluationMut, Layout, Objective, PreferenceBatch, Ragged, Registry, Requirements,
    Result, Side,
};
use spo_objectives as _;

/// Leaves the zeros it is given.
struct Nothing;

impl Objective for Nothing {
    fn requirements(&self) -> Requirements {
        Requirements::default()
    }

    fn evaluate(&mut self, _: &PreferenceBatch<'_>, _: &mut EvaluationMut<'_>) -> Result<()> {
        Ok(())
    }
}

const ROWS: usize = 1024;
const TOKENS: usize = 512;

fn losses(c: &mut Criterion) {
    // Different figures on each side, at no cost worth a generator.
    let column = |phase: f64| (0..ROWS * TOKENS).map(|i| -1.0 - (i as f64 + phase).sin()).collect::<Vec<_>>();
    let [w, l, rw, rl] = [0.0, 0.25, 0.5, 0.75].map(column);
    let offsets: Vec<_> = (0..=ROWS).map(|i| i * TOKENS).collect();
    let gaps = vec![1.0; ROWS];
    let names = ["margin".to_owned()];
    let ragged = |values| Ragged::new(values, &offsets).unwrap();
    let side = |policy, reference| {
        let reference = ragged(reference);
        Side { policy: ragged(policy), reference: Some(reference), collision: Some(reference) }
    };
    let none = Side { reference: Some(Ragged::empty()), ..Side::policy_only(Ragged::empty()) };
    let batch = |layout| {
        let rejected = if layout == Layout::Demonstrations { none } else { side(&l, &rl) };
        let batch = PreferenceBatch::new(layout, side(&w, &rw), rejected).unwrap();
        let columns = Columns::new(&names, &gaps).unwrap();
        PreferenceBatch { mismatched: Some(side(&w, &rw)), gaps: Some(&gaps), columns, ..batch }
    };

    let mut group = c.benchmark_group("losses");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("(read four arrays, write two)", |b| {
        let mut out = Evaluation::default();
        let batch = batch(Layout::Pairs);
        b.iter(|| {
            let total: f64 = [&w, &l, &rw, &rl]
                .map(|values| (0..ROWS).map(|i| ragged(values).sum(i)).sum::<f64>())
                .iter()
                .sum();
            out.compute(&mut Nothing, &batch).unwrap();
            black_box((total, &mut out));
        });
    });
    let registry = Registry::linked().unwrap();
    for entry in registry.iter().filter(|e| e.build.kind() == "objective") {
        let mut objective = registry.objective(entry.name, &json!({})).unwrap();
        let batch = batch(objective.requirements().data);
        let mut out = Evaluation::default();
        group.bench_function(entry.name, |b| {
            b.iter(|| {
                out.compute(&mut *objective, &batch).unwrap();
                black_box(&mut out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, losses);
criterion_main!(benches);
