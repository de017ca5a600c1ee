//! `spo` with a budget, as users meet it: what is kept, what is said, and what is refused. `resume.rs` kills such runs.

use serde_json::Value;
use test_support::Place;

use crate::place;
use crate::recipes::with_model;

const RECIPE: &str = concat!(
    tiny!(96, 64),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 60
batch_size = 16
optimizer = { lr = 1e-2 }

[[stage]]
name = "align"
objective = "dpo"
bilevel = { step = "spo", budget = 0.05, every = 4 }
steps = 40
batch_size = 16
optimizer = { lr = 1e-3 }
"#
);

/// Runs the recipe with these changes; what it printed, and its verdict.
fn verdict(place: &Place, changes: &[&str]) -> (String, Value) {
    let mut arguments = vec!["recipe.toml", "--set", "run.output=out", "--set", "run.overwrite=true"];
    changes.iter().for_each(|change| arguments.extend(["--set", change]));
    let said = place.run(&arguments).success().stdout;
    let summary: Value = serde_json::from_str(&place.read("out/summary.json")).unwrap();
    (said, summary["stages"][1].clone())
}

#[test]
fn one_budget_serves_three_losses_and_two_learning_rates() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    for objective in ["dpo", "simpo", "ipo"] {
        for lr in ["1e-3", "1e-2"] {
            let changes =
                [format!("stage.align.objective={objective}"), format!("stage.align.optimizer.lr={lr}")];
            let (said, stage) = verdict(&place, &changes.each_ref().map(String::as_str));
            let budget = &stage["budget"];
            let what = format!("{objective}, {lr}: {budget}");
            let (rise, error) =
                (budget["rise"].as_f64().unwrap(), budget["standard_error"].as_f64().unwrap());
            assert!(rise <= 0.05 && error > 0.0, "{what}");
            assert_eq!(budget["kept"], true, "{what}");
            assert_eq!(budget["rows"], 32, "{what}");
            assert_eq!(stage["after"]["eval_budget/rise"], rise, "{what}");
            assert!(said.contains("the budget is 0.05 nats per token: kept"), "{said}");
            assert!(said.contains("for it, held-out pair accuracy went from"), "{said}");
            place.run(&["report", "out"]).success();
            let report = place.read("out/report.html");
            assert!(report.contains("of 0.05 nats per token: the budget was kept"), "{report}");
            // The step was told of the held-out rows ten times.
            let lines = place.metrics("out");
            let told = lines.iter().filter(|line| line.get("bilevel/held_out_rise").is_some());
            assert_eq!(told.count(), 10, "{what}");
        }
    }
}

#[test]
fn parameters_that_break_the_budget_go_back() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    let (said, stage) = verdict(&place, &["stage.align.optimizer.lr=0.3"]);
    let budget = &stage["budget"];
    assert!(budget["returns"].as_u64().unwrap() > 0, "{budget}");
    assert_eq!(budget["kept"], true, "{budget}");
    assert!(said.contains("back to step"), "{said}");
    assert!(
        stage["after"]["eval_sft_loss"].as_f64()
            <= stage["before"]["eval_sft_loss"].as_f64().map(|g| g + 0.06)
    );
}

#[test]
fn a_stage_without_alignment_costs_nothing_and_says_so() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    let (_, stage) = verdict(&place, &["stage.align.optimizer.lr=1e-12"]);
    assert!(stage["budget"]["rise"].as_f64().unwrap().abs() < 1e-5, "{stage}");
    assert_eq!(stage["budget"]["kept_at"], 40);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let place = place();
    let task = "task = { name = \"modular-chain\", train = 96, held_out = 64 }";
    assert!(RECIPE.contains(task));
    for (data, more, expected) in [
        (task.replace("64", "6"), "", "there are 3 and 3"),
        (task.to_owned(), "reference = \"model\"", "must be \"start\" with `spo`"),
        (
            task.to_owned(),
            "reference = { moving = { sync_steps = 2, mixup_alpha = 0.5 } }",
            "must be \"start\" with `spo`",
        ),
    ] {
        let recipe = RECIPE.replace(task, &data);
        place.write("bad.toml", format!("{recipe}{more}\n"));
        let refused = place.run(&["check", "bad.toml"]);
        assert_eq!(refused.code, 2, "{}", refused.stdout);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        assert!(refused.stderr.contains("bad.toml:"), "{}", refused.stderr);
    }
    let with_model = with_model();
    let row =
        |i: usize| format!("{{\"prompt\": \"{i}+1=\", \"chosen\": \"{}\", \"rejected\": \"{i}\"}}\n", i + 1);
    let rows: String = (0..30).map(row).collect();
    with_model.write("rows.jsonl", &rows);
    with_model.write(
        "bad.toml",
        "run = { output = \"out\" }\nmodel = { path = \"made/sft\" }\ndata = { train = \"rows.jsonl\", max_length = 32 }\n\
         [[stage]]\nname = \"align\"\nobjective = \"dpo\"\nbilevel = \"spo\"\nsteps = 2\noptimizer = { lr = 1e-4 }\n",
    );
    let refused = with_model.run(&["check", "bad.toml"]);
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("a budget needs held-out demonstrations: add `data.eval`"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("bad.toml:7"), "{}", refused.stderr);
}
