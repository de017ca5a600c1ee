//! `cargo xtask table`: held-out figures of one recipe under several seeds, as a Markdown table.
//!
//! The seeds have held-out rows of their own (the tasks are generated from the seed), so intervals over seeds reckon with
//! other rows too.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use spo_report::load;
use spo_report::stats::student;
use spo_report::words;

/// Figures at the end of a stage: title, metric, factor (100 for a share), decimals.
const COLUMNS: [(&str, &str, f64, usize); 11] = [
    ("exact match, %", "eval_exact_match", 100.0, 1),
    ("ROUGE-L, %", "eval_rouge_l", 100.0, 1),
    ("faithful, %", "eval_faithful", 100.0, 1),
    ("log p(chosen)", "eval_sum_logps/chosen", 1.0, 2),
    ("log p(rejected)", "eval_sum_logps/rejected", 1.0, 2),
    ("displaced, %", "eval_displaced", 100.0, 1),
    ("mass on chosen, %", "eval_mass/preferred", 100.0, 1),
    ("mass elsewhere, %", "eval_mass/everything_else", 100.0, 1),
    ("Δ log p(other)", "leak/other", 1.0, 2),
    ("Δ log p(shuffled)", "leak/shuffled", 1.0, 2),
    ("Δ log p(own)", "leak/own", 1.0, 2),
];

/// A stage of a run, with its held-out figures and its leakage.
struct Stage {
    name: String,
    figures: BTreeMap<String, f64>,
}

/// A line for each stage: the mean over the runs, and half of its 95% confidence interval. If `--against STAGE` comes
/// first, the figures are differences to that stage, run by run. There is no interval where all runs agree.
///
/// # Errors
/// When a run has no summary or recipe, differs from the first one in more than the seed, repeats a seed, or lacks the
/// stage of `--against`.
pub fn table(arguments: &[String]) -> Result<String, String> {
    let (against, runs) = match arguments {
        [option, stage, runs @ ..] if option == "--against" => (Some(stage), runs),
        runs => (None, runs),
    };
    let read = runs.iter().map(|run| stages(Path::new(run))).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = read.first() else { return Err("which runs?".into()) };
    repetitions(runs)?;
    let names = |run: &[Stage]| run.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>();
    let base = match against {
        Some(name) => match first.iter().position(|stage| stage.name == *name) {
            Some(base) => Some(base),
            None => return Err(format!("no stage `{name}`, only {}", names(first).join(", "))),
        },
        None => None,
    };
    let mut comparisons = 0;
    let columns: Vec<_> =
        COLUMNS.iter().filter(|c| first.iter().any(|s| s.figures.contains_key(c.1))).collect();
    let titles: Vec<_> = columns.iter().map(|c| c.0).collect();
    let mut out = format!("| stage | {} |\n|---|{}\n", titles.join(" | "), "---:|".repeat(titles.len()));
    for (i, stage) in first.iter().enumerate().filter(|(i, _)| Some(*i) != base) {
        let cells = columns.iter().map(|(_, metric, factor, decimals)| {
            let value = |run: &Vec<Stage>| {
                let of = |stage: usize| run[stage].figures.get(*metric).map(|x| factor * x);
                Some(of(i)? - base.map_or(Some(0.0), of)?)
            };
            let values = read.iter().map(value).collect::<Option<Vec<_>>>();
            comparisons += usize::from(base.is_some() && values.is_some());
            let possible = (*factor == 100.0).then_some((if base.is_some() { -100.0 } else { 0.0 }, 100.0));
            values.map_or("-".into(), |values| cell(&values, possible, *decimals, base.is_some()))
        });
        out += &format!("| {} | {} |\n", stage.name, cells.collect::<Vec<_>>().join(" | "));
    }
    for note in words::few(runs.len()).into_iter().chain(words::corrected(comparisons)) {
        out += &format!("\n{note}\n");
    }
    Ok(out)
}

/// Checks that the runs differ by their seed alone: means over different arms would mean nothing.
fn repetitions(runs: &[String]) -> Result<(), String> {
    let recipes = runs.iter().map(|run| load::recipe(Path::new(run))).collect::<Result<Vec<_>, _>>()?;
    let seed = |recipe: &Value| recipe["run"]["seed"].as_u64();
    for (i, recipe) in recipes.iter().enumerate() {
        if let Some(difference) = load::difference(&recipes[0], recipe) {
            return Err(format!(
                "{} and {} are not one recipe with two seeds: {difference}",
                runs[0], runs[i]
            ));
        }
        if let Some(twin) = recipes[..i].iter().position(|other| seed(other) == seed(recipe)) {
            return Err(format!(
                "{} and {} have the same seed, {}",
                runs[twin], runs[i], recipe["run"]["seed"]
            ));
        }
    }
    Ok(())
}

fn stages(run: &Path) -> Result<Vec<Stage>, String> {
    let path = run.join("summary.json");
    let bad = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("{e} (has the run ended?)")))?;
    let summary: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let stages = summary["stages"].as_array().ok_or_else(|| bad("no stages".into()))?;
    let mut leaks = leaks(&run.join("diagnostics.jsonl"))?;
    let stage = |stage: &Value| {
        let name = stage["name"].as_str().unwrap_or_default().to_owned();
        let mut figures: BTreeMap<_, _> = leaks.remove(&name).unwrap_or_default();
        let after = stage["after"].as_object().into_iter().flatten();
        figures.extend(after.filter_map(|(metric, x)| Some((metric.clone(), x.as_f64()?))));
        Stage { name, figures }
    };
    Ok(stages.iter().map(stage).collect())
}

/// The leakage of each stage: the mean change of the log-probs of answers that are not in the data, from its start to
/// its end.
fn leaks(path: &Path) -> Result<BTreeMap<String, BTreeMap<String, f64>>, String> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(BTreeMap::new()) };
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|e| format!("{}: {e}", path.display()))?;
    let mut ends: BTreeMap<&str, (&Value, &Value)> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["kind"] == "evolution") {
        let stage = line["stage"].as_str().unwrap_or_default();
        ends.entry(stage).and_modify(|(_, last)| *last = line).or_insert((line, line));
    }
    let change = |kind: &str, (first, last): &(&Value, &Value)| {
        let of = |line: &Value| line[kind].as_array().cloned().unwrap_or_default();
        let pairs = of(first).into_iter().zip(of(last));
        let changes: Vec<_> = pairs.filter_map(|(a, b)| Some(b.as_f64()? - a.as_f64()?)).collect();
        let mean = changes.iter().sum::<f64>() / changes.len() as f64;
        (!changes.is_empty()).then(|| (format!("leak/{kind}"), mean))
    };
    let of_stage = |ends| ["other", "shuffled", "own"].iter().filter_map(|kind| change(kind, ends)).collect();
    Ok(ends.iter().map(|(stage, ends)| (stage.to_string(), of_stage(ends))).collect())
}

/// A mean with half of its interval, which is cut to the possible values.
fn cell(values: &[f64], possible: Option<(f64, f64)>, decimals: usize, signed: bool) -> String {
    let estimate = student(values);
    let estimate = possible.map_or(estimate, |(least, greatest)| estimate.within(least, greatest));
    let half = estimate.half_width().map_or(String::new(), |half| format!(" ± {half:.decimals$}"));
    match signed {
        true => format!("{:+.decimals$}{half}", estimate.mean),
        false => format!("{:.decimals$}{half}", estimate.mean),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    /// Two runs of two stages. `align` gains 1 and 3 points on `sft`, and its leakage is 1 nat.
    fn runs(name: &str) -> Vec<String> {
        let root: PathBuf = std::env::temp_dir().join(format!("spo-table-{}-{name}", std::process::id()));
        let run = |i: usize, gain: f64| {
            let folder = root.join(i.to_string());
            fs::create_dir_all(&folder).unwrap();
            let stage = |name: &str, x: f64| json!({"name": name, "after": {"eval_exact_match": x}});
            let summary = json!({"stages": [stage("sft", 0.5), stage("align", 0.5 + gain)]});
            fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
            let recipe = format!(
                "[run]\nseed = {i}\noutput = \"{name}/{i}\"\n[[stage]]\nname = \"align\"\nsteps = 4\n"
            );
            fs::write(folder.join("recipe.toml"), recipe).unwrap();
            let seen = |other: [Value; 2]| json!({"kind": "evolution", "stage": "align", "other": other});
            let lines = [seen([json!(-4.0), Value::Null]), seen([json!(-3.0), Value::Null])];
            fs::write(folder.join("diagnostics.jsonl"), lines.map(|l| l.to_string()).join("\n")).unwrap();
            folder.display().to_string()
        };
        vec![run(1, 0.01), run(2, 0.03)]
    }

    #[test]
    fn figures_are_means_with_student_s_intervals() {
        // For two values, half of the interval is 12.706 times half their distance.
        let lines = [
            "| stage | exact match, % | Δ log p(other) |",
            "|---|---:|---:|",
            "| sft | 50.0 | - |",
            "| align | 52.0 ± 12.7 | 1.00 |",
            "",
            "Two seeds say little about another one: run at least three.\n",
        ];
        assert_eq!(table(&runs("means")).unwrap(), lines.join("\n"));
        assert_eq!(cell(&[2.0], None, 1, false), "2.0");
        // Student's t alone would say ± 238.2.
        assert_eq!(cell(&[0.0, 37.5], Some((0.0, 100.0)), 1, false), "18.8 ± 81.2");
        assert_eq!(cell(&[0.0, -37.5], Some((-100.0, 100.0)), 1, true), "-18.8 ± 118.8");
    }

    #[test]
    fn different_arms_are_not_taken_for_seeds() {
        let runs = runs("arms");
        let recipe = PathBuf::from(&runs[1]).join("recipe.toml");
        let text = fs::read_to_string(&recipe).unwrap();
        for (change, expected) in [
            (("steps = 4", "steps = 5"), "`stage[0].steps` is 4 in one and 5 in the other"),
            (
                ("steps = 4", "steps = 4\nobjective = \"ipo\""),
                "`stage[0].objective` is missing in one and \"ipo\" in the other",
            ),
            (("seed = 2", "seed = 1"), "have the same seed, 1"),
        ] {
            fs::write(&recipe, text.replace(change.0, change.1)).unwrap();
            let refused = table(&runs).unwrap_err();
            assert!(refused.contains(expected) && refused.contains(&runs[1]), "{refused}");
        }
        // What a run is called, where it goes and what it keeps is not part of what is compared.
        fs::write(&recipe, format!("{text}[checkpoint]\nevery = 3\n")).unwrap();
        table(&runs).unwrap();
        fs::remove_file(&recipe).unwrap();
        assert!(table(&runs).unwrap_err().contains("recipe.toml"));
    }

    #[test]
    fn differences_are_paired_run_by_run() {
        let against = |stage: &str| [vec!["--against".into(), stage.into()], runs("paired")].concat();
        let table_against = table(&against("sft")).unwrap();
        assert!(table_against.contains("| align | +2.0 ± 12.7 | - |\n"), "{table_against}");
        assert!(!table_against.contains("| sft |"));
        assert_eq!(table(&against("dpo")).unwrap_err(), "no stage `dpo`, only sft, align");
    }

    #[test]
    fn runs_without_an_end_are_named() {
        assert!(table(&["nowhere".into()]).unwrap_err().contains("nowhere"));
        assert!(table(&[]).is_err());
    }
}
