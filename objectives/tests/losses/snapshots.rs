//! Loss, gradient and metrics of every objective on five scenarios, as tables for a person to review.

use std::fmt::Write;

use spo_api::Layout;

use crate::batches::{Answers, Batch, Rows, registry};
use crate::specimens::all;

/// Name, then the tokens' log-probs: policy and reference of the chosen, then of the rejected answer.
const SCENARIOS: [(&str, [&[f64]; 4]); 5] = [
    ("at the reference", [&[-0.5, -1.0], &[-0.5, -1.0], &[-2.0, -0.5, -1.0], &[-2.0, -0.5, -1.0]]),
    ("both as they should", [&[-0.25, -0.5], &[-0.5, -1.0], &[-3.0, -1.5, -2.0], &[-2.0, -0.5, -1.0]]),
    ("chosen displaced", [&[-1.5, -2.0], &[-0.5, -1.0], &[-7.0, -5.5, -4.0], &[-2.0, -0.5, -1.0]]),
    ("wrong by 50 nats", [&[-15.0, -15.0, -1.0], &[-3.0, -2.0, -1.0], &[-0.5], &[-25.5]]),
    (
        "one token against six",
        [&[-0.125], &[-0.5], &[-1.0, -1.0, -1.0, -1.0, -1.0, -1.0], &[-1.0, -0.5, -1.5, -1.0, -1.0, -1.0]],
    ),
];

fn scenarios(layout: Layout) -> Batch {
    let rows = |column: usize| Rows::new(&SCENARIOS.map(|(_, columns)| columns[column].to_vec()));
    let answers = |policy: usize| {
        let policy_rows = rows(policy);
        // A model that is a little less sure of the answer than of its own choice.
        let collision = policy_rows.values.iter().map(|s| s / 2.0 - 0.125).collect();
        let collision = Some(Rows { values: collision, offsets: policy_rows.offsets.clone() });
        Answers { policy: policy_rows, reference: rows(policy + 1), collision }
    };
    let (chosen, rejected) = (answers(0), answers(2));
    let (rejected, mismatched) = match layout {
        Layout::Pairs => (rejected, None),
        Layout::Demonstrations => (rejected.select(&[]), None),
        Layout::Unpaired => {
            let policy = Rows::new(&vec![vec![-2.0, -1.5]; 10]);
            let reference = Rows::new(&vec![vec![-2.5, -1.75]; 10]);
            (rejected, Some(Answers { policy, reference, collision: None }))
        }
    };
    let gaps = if layout == Layout::Pairs { vec![0.0, 0.5, 1.0, 2.0, 8.0] } else { vec![] };
    Batch { layout, chosen, rejected, mismatched, margins: gaps.clone(), gaps }
}

/// Nine significant digits, whatever the magnitude.
fn digits(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        m if (1e-4..1e6).contains(&m) => {
            let decimals = (8 - m.log10().floor() as i32).max(0) as usize;
            let fixed = format!("{x:.decimals$}");
            if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.').into() } else { fixed }
        }
        _ => format!("{x:.8e}"),
    }
}

#[test]
fn figures() {
    let mut tables = std::collections::BTreeMap::<&str, String>::new();
    for specimen in all() {
        let mut objective = specimen.build();
        let data = objective.requirements().data;
        let batch = scenarios(data);
        let out = batch.evaluate(&mut *objective).unwrap();
        let table = tables.entry(specimen.name).or_default();
        writeln!(table, "{specimen}").unwrap();
        let columns = [
            "loss",
            "d chosen[0]",
            "d chosen[-1]",
            "d rejected[0]",
            "d rejected[-1]",
            "reward w",
            "reward l",
        ];
        write!(table, "{:22}", "").unwrap();
        for column in columns {
            write!(table, " {column:>15}").unwrap();
        }
        writeln!(table).unwrap();
        for (i, (name, _)) in SCENARIOS.iter().enumerate() {
            // An unpaired batch has the chosen answers' losses first; their sum stands for the pair.
            let loss = out.losses.iter().skip(i).step_by(SCENARIOS.len()).sum::<f64>();
            let ends = |gradient: &[f64], rows: &Rows| match gradient {
                [] => [None; 2],
                g => [Some(g[rows.offsets[i]]), Some(g[rows.offsets[i + 1] - 1])],
            };
            let [c0, c1] = ends(&out.grad_chosen, &batch.chosen.policy);
            let [r0, r1] = ends(&out.grad_rejected, &batch.rejected.policy);
            let rewards = [out.rewards.chosen.get(i), out.rewards.rejected.get(i)].map(|r| r.copied());
            write!(table, "{name:22}").unwrap();
            for figure in [Some(loss), c0, c1, r0, r1, rewards[0], rewards[1]] {
                write!(table, " {:>15}", figure.map_or("-".into(), digits)).unwrap();
            }
            writeln!(table).unwrap();
        }
        for (metric, value) in &out.metrics {
            writeln!(table, "{metric} = {}", digits(*value)).unwrap();
        }
        writeln!(table).unwrap();
    }
    for (name, table) in tables {
        insta::assert_snapshot!(name, table.trim_end());
    }
}

#[test]
fn registered_objectives() {
    let mut list = String::new();
    for entry in registry().iter().filter(|e| e.build.kind() == "objective") {
        writeln!(list, "{:18} {:12} {}", entry.name, entry.aliases.join(" "), entry.summary).unwrap();
    }
    insta::assert_snapshot!(list);
}
