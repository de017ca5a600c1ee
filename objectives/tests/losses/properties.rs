//! Invariances, for any batch.

use proptest::prelude::*;
use spo_api::{Evaluation, Layout, PreferenceBatch, Totals};

use crate::batches::{Batch, Rows, evaluate};
use crate::specimens::{Specimen, all, batch};

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + a.abs()))
}

fn figures(out: &Evaluation) -> [&Vec<f64>; 3] {
    [&out.losses, &out.grad_chosen, &out.grad_rejected]
}

fn paired() -> impl Iterator<Item = Specimen> {
    all().into_iter().filter(|s| s.build().requirements().data == Layout::Pairs)
}

/// Any batch of pairs.
fn pairs() -> impl Strategy<Value = Batch> {
    (1usize..6, any::<u64>()).prop_map(|(rows, seed)| batch(Layout::Pairs, rows, seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_pairs_is_of_no_account(batch in pairs(), rotation in 0usize..6) {
        let rows = batch.chosen.policy.view().rows();
        let order: Vec<_> = (0..rows).map(|i| (i + rotation) % rows).collect();
        for specimen in paired() {
            let straight = batch.evaluate(&mut *specimen.build()).unwrap();
            let turned = batch.pairs(&order).evaluate(&mut *specimen.build()).unwrap();
            let like = |values: &[f64], rows: &Rows| {
                Rows { values: values.to_vec(), offsets: rows.offsets.clone() }.select(&order).values
            };
            let losses: Vec<_> = order.iter().map(|&i| straight.losses[i]).collect();
            prop_assert!(close(&losses, &turned.losses), "{specimen}");
            prop_assert!(close(&like(&straight.grad_chosen, &batch.chosen.policy), &turned.grad_chosen), "{specimen}");
            prop_assert!(close(&like(&straight.grad_rejected, &batch.rejected.policy), &turned.grad_rejected), "{specimen}");
        }
    }

    #[test]
    fn the_parts_of_a_batch_add_up_to_the_whole(batch in pairs(), cut in 1usize..5) {
        let rows = batch.chosen.policy.view().rows();
        let whole = Totals { rows, chosen_tokens: batch.chosen.policy.values.len() };
        let cut = cut.min(rows);
        let indices: Vec<_> = (0..rows).collect();
        let parts = [&indices[..cut], &indices[cut..]];
        for specimen in all() {
            let needs = specimen.build().requirements();
            if needs.data == Layout::Unpaired || needs.whole_batch {
                continue;
            }
            let together = batch.evaluate(&mut *specimen.build()).unwrap();
            let mut loss = 0.0;
            let (mut chosen, mut rejected) = (vec![], vec![]);
            for part in parts.into_iter().filter(|p| !p.is_empty()) {
                let part = batch.pairs(part);
                let view = PreferenceBatch { whole, ..part.view() };
                let out = evaluate(&mut *specimen.build(), &view).unwrap();
                loss += out.loss(&view);
                chosen.extend(out.grad_chosen);
                rejected.extend(out.grad_rejected);
            }
            prop_assert!(close(&[together.loss(&batch.view())], &[loss]), "{specimen}");
            prop_assert!(close(&together.grad_chosen, &chosen), "{specimen}");
            prop_assert!(close(&together.grad_rejected, &rejected), "{specimen}");
        }
    }

    #[test]
    fn unpaired_answers_have_no_order_and_add_up(rows in 2usize..6, seed in any::<u64>(), cut in 1usize..5) {
        let batch = batch(Layout::Unpaired, rows, seed);
        let all_rows: Vec<_> = (0..rows).collect();
        let turned: Vec<_> = (0..rows).map(|i| (i + cut) % rows).collect();
        for specimen in all().into_iter().filter(|s| s.build().requirements().data == Layout::Unpaired) {
            let straight = batch.evaluate(&mut *specimen.build()).unwrap();
            let other = batch.answers(&turned, &all_rows).evaluate(&mut *specimen.build()).unwrap();
            let losses: Vec<_> = turned.iter().chain(&all_rows).enumerate()
                .map(|(at, &i)| straight.losses[if at < rows { i } else { rows + i }]).collect();
            prop_assert!(close(&losses, &other.losses), "{specimen}");
            prop_assert!(close(&straight.grad_rejected, &other.grad_rejected), "{specimen}");
            if specimen.build().requirements().whole_batch {
                continue;
            }
            let cut = cut.min(rows);
            let mut loss = 0.0;
            for (chosen, rejected) in [(&all_rows[..cut], &all_rows[cut..]), (&all_rows[cut..], &all_rows[..cut])] {
                let part = batch.answers(chosen, rejected);
                let view = PreferenceBatch { whole: batch.view().whole, ..part.view() };
                loss += evaluate(&mut *specimen.build(), &view).unwrap().loss(&view);
            }
            prop_assert!(close(&[straight.loss(&batch.view())], &[loss]), "{specimen}");
        }
    }

    #[test]
    fn losses_on_log_ratios_do_not_see_a_shift_of_policy_and_reference(batch in pairs(), shift in -5.0..5.0) {
        // RPO has a likelihood of the policy's own, the reward of alpha-DPO is one; WPO weighs by the policy's own confidence.
        let on_ratios = |s: &Specimen| {
            let needs = s.build().requirements();
            needs.reference && !needs.collision && !["alpha-dpo", "rpo"].contains(&s.name)
        };
        let mut shifted = batch.clone();
        for answers in [&mut shifted.chosen, &mut shifted.rejected] {
            for rows in [&mut answers.policy, &mut answers.reference] {
                // A first token is within the length that both answers of a pair have.
                for &start in &rows.offsets[..rows.offsets.len() - 1] {
                    rows.values[start] += shift;
                }
            }
        }
        for specimen in paired().filter(on_ratios) {
            let (one, other) = (batch.evaluate(&mut *specimen.build()).unwrap(), shifted.evaluate(&mut *specimen.build()).unwrap());
            for (a, b) in figures(&one).into_iter().zip(figures(&other)) {
                prop_assert!(close(a, b), "{specimen}");
            }
        }
    }

    #[test]
    fn beta_is_a_unit_of_log_probs(batch in pairs(), k in 0.1..10.0f64) {
        // What counts is beta times nats: nats k times as large under a beta k times as small.
        let mut stretched = batch.clone();
        for answers in [&mut stretched.chosen, &mut stretched.rejected] {
            for rows in [&mut answers.policy, &mut answers.reference] {
                rows.values.iter_mut().for_each(|s| *s *= k);
            }
        }
        for name in [
            "aot", "aot_unpaired", "apo_down", "apo_zero", "bco_pair", "discopop", "dpo", "dpo-shift", "dpop", "exo_pair",
            "finite-target", "hinge", "nca_pair", "robust", "sigmoid_norm", "simpo",
        ] {
            let losses = |batch: &Batch, beta: f64| {
                let specimen = Specimen { name, config: serde_json::json!({"beta": beta}) };
                batch.evaluate(&mut *specimen.build()).unwrap().losses
            };
            prop_assert!(close(&losses(&batch, 0.1), &losses(&stretched, 0.1 / k)), "{name}");
        }
    }

    #[test]
    fn what_raises_the_chosen_answer_or_lowers_the_rejected_never_costs(rows in 1usize..6, seed in any::<u64>()) {
        for name in [
            "absolute-gain", "alphapo", "apo_zero", "apo_zero_unpaired", "bco", "bco_pair", "bdpo", "cpo", "dpo",
            "dpop", "hinge", "kto", "odpo", "orpo", "r-dpo", "rpo", "sft", "sigmoid_norm", "simpo", "tpo",
        ] {
            let specimen = Specimen { name, config: serde_json::json!({}) };
            let batch = batch(specimen.build().requirements().data, rows, seed);
            let out = batch.evaluate(&mut *specimen.build()).unwrap();
            prop_assert!(out.grad_chosen.iter().all(|g| *g <= 0.0), "{name}");
            prop_assert!(out.grad_rejected.iter().all(|g| *g >= 0.0), "{name}");
        }
    }
}

#[test]
fn losses_that_couple_rows_refuse_a_part_of_a_batch() {
    for specimen in all() {
        let needs = specimen.build().requirements();
        if !needs.whole_batch {
            continue;
        }
        let batch = batch(needs.data, 3, 0);
        let view = batch.view();
        let part = PreferenceBatch { whole: Totals { rows: 100, ..view.whole }, ..view };
        let error = evaluate(&mut *specimen.build(), &part).unwrap_err();
        assert!(error.to_string().contains("whole batch of 100"), "{specimen}: {error}");
    }
}

#[test]
fn a_batch_that_lacks_what_is_needed_is_refused() {
    for specimen in all() {
        let needs = specimen.build().requirements();
        let batch = batch(needs.data, 3, 0);
        let view = batch.view();
        let without = |strip: fn(&mut PreferenceBatch<'_>)| {
            let mut view = view;
            strip(&mut view);
            evaluate(&mut *specimen.build(), &view)
        };
        for (needed, result) in [
            (needs.reference, without(|b| (b.chosen.reference, b.rejected.reference) = (None, None))),
            (needs.collision, without(|b| (b.chosen.collision, b.rejected.collision) = (None, None))),
            (needs.mismatched, without(|b| b.mismatched = None)),
            (needs.gaps, without(|b| b.gaps = None)),
            (needs.data == Layout::Pairs, without(|b| b.layout = Layout::Unpaired)),
        ] {
            assert_eq!(result.is_err(), needed, "{specimen}: {result:?}");
        }
    }
}
