//! `spo-run report` on runs of the real binary, and its page in a real browser.

use test_support::Place;
#[cfg(unix)]
use test_support::skip;

#[cfg(unix)]
use crate::browser;
use crate::place;
use crate::recipes::SFT_THEN_DPO;

/// A folder with a run that has two arms after its SFT stage.
fn place_with_run() -> Place {
    let place = place();
    let arm = r#"
        [[stage]]
        name = "plain"
        from = "sft"
        objective = "dpo"
        steps = 5
        batch_size = 8
        optimizer = { lr = 1e-3 }
        [diagnostics]
        every = 1
        probes = 8
        geometry = 2
    "#;
    place.write("run.toml", format!("{SFT_THEN_DPO}{arm}"));
    place.run(&["run.toml", "--quiet"]).success();
    place
}

#[test]
fn a_report_tells_and_shows_what_a_run_came_to() {
    let place = place_with_run();
    let arguments =
        ["report", "runs/run", "--svg", "svg", "--csv", "csv", "--parquet", "pq", "--tensorboard", "tb"];
    let outcome = place.run(&arguments).success();
    assert!(outcome.stdout.contains("wrote runs/run/report.html"), "{}", outcome.stdout);
    let page = place.read("runs/run/report.html");
    for text in
        ["of 16 held-out pairs", "dpo under penalty", "outside the safe set", "Greedy answers", "plain"]
    {
        assert!(page.contains(text), "{text}");
    }
    for name in [
        "align-trajectories",
        "align-quadrants",
        "align-ledger",
        "align-cosine",
        "align-prediction",
        "align-constraint",
        "align-weight",
        "plain-loss",
        "sft-loss",
        "sft-learning-rate",
        "plain-gradient",
        "arms-pareto",
    ] {
        assert!(place.path(&format!("svg/{name}.svg")).exists(), "{name}");
        assert!(
            page.contains(place.read(&format!("svg/{name}.svg")).split_once("</style>").unwrap().1.trim()),
            "{name}"
        );
    }
    let logged: usize =
        place.metrics("runs/run").iter().map(|line| line.as_object().unwrap().len() - 2).sum();
    assert_eq!(place.read("csv/metrics.csv").lines().count(), 1 + logged);
    assert_eq!(place.read("csv/rows.csv").lines().count(), 1 + 3 * 16);
    for name in ["metrics", "rows", "comparison"] {
        assert!(place.path(&format!("pq/{name}.parquet")).exists());
    }
    for stage in ["sft", "align", "plain"] {
        assert!(place.path(&format!("tb/run/{stage}/events.out.tfevents.0000000000.spo")).exists());
    }
    let first = place.read("runs/run/report.html");
    place.run(&["report", "runs/run"]).success();
    assert_eq!(first, place.read("runs/run/report.html"), "the same run, the same page");
}

#[test]
fn seeds_make_an_interval() {
    let place = place();
    place.write("run.toml", SFT_THEN_DPO);
    for seed in 0..3 {
        let (output, seed) = (format!("run.output=\"sweep/seed-{seed}\""), format!("run.seed={seed}"));
        place.run(&["run.toml", "--quiet", "--set", &output, "--set", &seed]).success();
    }
    let outcome = place.run(&["report", "sweep", "-o", "all.html", "--csv", "csv"]).success();
    assert!(outcome.stdout.contains("note: seed-0: put `[diagnostics]`"), "{}", outcome.stdout);
    let page = place.read("all.html");
    assert!(page.contains("3 seeds") && !page.contains("Incomplete"));
    let comparison = place.read("csv/comparison.csv");
    let line = comparison.lines().find(|line| line.starts_with("align,chosen_change")).unwrap();
    assert!(line.ends_with(",seeds,3"), "{line}");
}

#[test]
fn a_sweep_is_compared_with_the_baseline_of_its_recipe() {
    let place = place();
    let sweep = r#"
        [sweep]
        seeds = [0, 1]
        baseline = "b"
        case = [
            { name = "a", set = { "stage.align.objective" = "ipo" } },
            { name = "b" },
            { name = "c", set = { "stage.align.objective" = "simpo" } },
        ]
    "#;
    place.write("recipe.toml", [SFT_THEN_DPO, sweep].concat());
    let swept = place.run(&["recipe.toml"]).success().stdout;
    assert!(swept.contains("\u{394} against `b`") && swept.contains("Two seeds say little"), "{swept}");
    // Two arms, six figures each.
    assert!(swept.contains("There are 12 comparisons"), "{swept}");
    for (arguments, baseline) in [
        (&["report", "runs/recipe"][..], "b"),
        (&["report", "runs/recipe/a,seed=0", "runs/recipe/b,seed=0"], "b,seed=0"),
        (&["report", "runs/recipe", "--baseline", "c"], "c"),
    ] {
        place.run(arguments).success();
        let page = place.read("report.html");
        assert!(page.contains(&format!("Signed numbers are differences to {baseline},")), "{arguments:?}");
    }
    let without = place.run(&["report", "runs/recipe/a,seed=0", "runs/recipe/c,seed=0"]).success().stdout;
    assert!(
        without.contains("nothing of the sweep's baseline `b` is compared here; differences are to a,seed=0"),
        "{without}"
    );
}

/// TRL counts a tie as wrong, and before the first step policy and reference are the same: every pair is tied.
#[test]
fn reward_accuracy_keeps_trl_s_meaning_in_files_and_misleads_nobody() {
    let place = place();
    place.write("run.toml", SFT_THEN_DPO);
    let said = place.run(&["run.toml"]).success().stdout;
    assert!(said.contains("align 1/5") && said.contains("acc 0.5000"), "{said}");
    let metrics = place.metrics("runs/run");
    let align =
        |step: u64| metrics.iter().find(|line| line["stage"] == "align" && line["step"] == step).unwrap();
    assert_eq!(
        (&align(0)["eval_rewards/accuracies"], &align(0)["eval_rewards/ties"]),
        (&0.0.into(), &1.0.into())
    );
    assert_eq!((&align(1)["rewards/accuracies"], &align(1)["rewards/ties"]), (&0.0.into(), &1.0.into()));
    assert!(align(5).get("rewards/ties").is_none(), "{}", align(5));
    let record: serde_json::Value = serde_json::from_str(&place.read("runs/run/run.json")).unwrap();
    assert!(record["threads"].as_u64().unwrap() > 0 && record["system"].is_string(), "{record}");
    place.run(&["report", "runs/run"]).success();
    let page = place.read("runs/run/report.html");
    for text in [
        "tokens/s",
        "All settings of run",
        "Learning rate",
        "Norm of the gradient",
        "learning rate 1e-3 (constant)",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn what_cannot_be_reported_on_is_refused() {
    let place = place();
    place.write("empty/notes.txt", "");
    place.write("run/metrics.jsonl", "");
    place.write("run/recipe.toml", "[[stage]]\nname = \"a\"\n");
    let cases: [(&str, &[&str]); 4] = [
        ("not_a_run", &["report", "empty"]),
        ("nowhere", &["report", "runs/nothing"]),
        ("unknown_stage", &["report", "run", "--stage", "algin"]),
        ("unknown_baseline", &["report", "run", "--baseline", "dpo"]),
    ];
    for (name, arguments) in cases {
        let outcome = place.run(arguments);
        assert_eq!(outcome.code, 2, "{name}");
        insta::assert_snapshot!(format!("report_{name}"), outcome.stderr);
    }
}

#[cfg(unix)]
#[test]
fn a_browser_shows_the_page_without_a_request_or_a_complaint() {
    let Some(program) = browser::find() else {
        return skip("no browser is installed, and SPO_BROWSER names none");
    };
    let place = place_with_run();
    place.run(&["report", "runs/run"]).success();
    let page = place.path("runs/run/report.html");
    // The background colour, the number of charts that are visible, and the labels that exceed their chart.
    let expression = "(() => {
        const charts = [...document.querySelectorAll('svg.chart')];
        const out = charts.flatMap(c => { const b = c.getBoundingClientRect();
            return [...c.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
                return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1; })
                .map(t => t.textContent); });
        return { paper: getComputedStyle(document.body).backgroundColor,
                 charts: charts.filter(c => c.getBoundingClientRect().height > 100).length, out };
    })()";
    for (dark, paper) in [(false, "rgb(255, 255, 255)"), (true, "rgb(20, 23, 27)")] {
        let folder = place.path(if dark { "dark" } else { "light" });
        std::fs::create_dir(&folder).expect("a folder");
        let visit = browser::visit(&program, &folder, &page, dark, expression);
        assert_eq!(visit.complaints, Vec::<serde_json::Value>::new());
        let elsewhere: Vec<_> =
            visit.requests.iter().filter(|r| !r.starts_with("file:") && !r.starts_with("data:")).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
        assert_eq!(visit.value["paper"], paper);
        assert!(visit.value["charts"].as_u64().unwrap() >= 20, "{}", visit.value);
        assert_eq!(visit.value["out"], serde_json::json!([]), "texts stick out");
    }
}
