//! `cargo xtask table RUN...`: the held-out figures of equal recipes under several seeds, as a Markdown table.

use std::path::Path;

use serde_json::Value;
use spo_report::stats::student;

/// Figures at the end of a stage: title, metric, factor, decimals.
const COLUMNS: [(&str, &str, f64, usize); 8] = [
    ("exact match, %", "eval_exact_match", 100.0, 1),
    ("ROUGE-L, %", "eval_rouge_l", 100.0, 1),
    ("faithful, %", "eval_faithful", 100.0, 1),
    ("log p(preferred)", "eval_logps/chosen", 1.0, 2),
    ("log p(dispreferred)", "eval_logps/rejected", 1.0, 2),
    ("displaced, %", "eval_displaced", 100.0, 1),
    ("mass on preferred, %", "eval_mass/preferred", 100.0, 1),
    ("mass elsewhere, %", "eval_mass/everything_else", 100.0, 1),
];

/// A line for each stage: mean over the runs, and half the width of its 95% confidence interval.
///
/// # Errors
/// When a run has no summary, or its stages are not those of the first.
pub fn table(runs: &[String]) -> Result<String, String> {
    let summaries = runs.iter().map(|run| summary(Path::new(run))).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = summaries.first() else { return Err("which runs?".into()) };
    let names = |summary: &[Value]| summary.iter().map(|s| s["name"].clone()).collect::<Vec<_>>();
    if let Some(i) = summaries.iter().position(|summary| names(summary) != names(first)) {
        return Err(format!("{} has other stages than {}", runs[i], runs[0]));
    }
    let columns: Vec<_> =
        COLUMNS.iter().filter(|c| first.iter().any(|s| s["after"].get(c.1).is_some())).collect();
    let titles: Vec<_> = columns.iter().map(|c| c.0).collect();
    let mut out = format!("| stage | {} |\n|---|{}\n", titles.join(" | "), "---:|".repeat(titles.len()));
    for (i, stage) in first.iter().enumerate() {
        let cells = columns.iter().map(|(_, metric, factor, decimals)| {
            let values = summaries.iter().map(|s| s[i]["after"][*metric].as_f64().map(|x| factor * x));
            values.collect::<Option<Vec<_>>>().map_or("-".into(), |values| cell(&values, *decimals))
        });
        let name = stage["name"].as_str().unwrap_or_default();
        out += &format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(out)
}

fn summary(run: &Path) -> Result<Vec<Value>, String> {
    let path = run.join("summary.json");
    let bad = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("{e} (has the run ended?)")))?;
    let summary: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    summary["stages"].as_array().cloned().ok_or_else(|| bad("no stages".into()))
}

fn cell(values: &[f64], decimals: usize) -> String {
    let estimate = student(values);
    let half = estimate
        .interval
        .map_or(String::new(), |(low, high)| format!(" ± {:.decimals$}", (high - low) / 2.0));
    format!("{:.decimals$}{half}", estimate.mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_student_s() {
        assert_eq!(cell(&[2.0], 1), "2.0");
        // Two values: 12.706 times half their distance.
        assert_eq!(cell(&[1.0, 3.0], 3), "2.000 ± 12.706");
        assert_eq!(cell(&[4.0; 5], 2), "4.00 ± 0.00");
    }

    #[test]
    fn runs_without_an_end_are_named() {
        assert!(table(&["nowhere".into()]).unwrap_err().contains("nowhere"));
        assert!(table(&[]).is_err());
    }
}
