//! What a run was: its model, machine, settings and speed.

use std::fmt::Write;

use serde_json::Value;

use crate::arms::Arm;
use crate::load::{Run, Stage};
use crate::svg::escape;

/// A table of runs: seed, model, and the machine. An entry that a run did not record is `-`.
pub(super) fn runs(out: &mut String, runs: &[Run]) {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |run: &Run| {
        let (record, model) = (&run.record, &run.record["model"]);
        let model = match model["architecture"].as_str() {
            Some(architecture) => {
                let (all, trained) = (text(&model["parameters"]), text(&model["trainable"]));
                format!("{architecture}, {all} parameters, {trained} trained, {}", text(&model["dtype"]))
            }
            None => "-".to_owned(),
        };
        let seconds: Option<f64> = run.stages.iter().map(|stage| Some(stage.times?.seconds)).sum();
        let took = seconds.filter(|_| !run.stages.is_empty()).map_or("-".to_owned(), |s| format!("{s:.0} s"));
        let [device, cpu, system, spo] = ["device", "cpu", "system", "spo"].map(|key| text(&record[key]));
        let seed = run.seed.map_or("-".to_owned(), |seed| seed.to_string());
        let threads = text(&record["threads"]);
        [run.label.clone(), seed, model, device, cpu, threads, system, spo, took]
    };
    let titles = ["run", "seed", "model", "device", "CPU", "threads", "system", "spo", "stages took"];
    let cells = |tag: &str, cells: &[String]| {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
    };
    let _ = write!(
        out,
        "<div class=\"wide\"><table><thead><tr>{}</tr></thead><tbody>",
        cells("th", &titles.map(str::to_owned))
    );
    for run in runs {
        let _ = write!(out, "<tr>{}</tr>", cells("td", &row(run)));
    }
    let _ = writeln!(out, "</tbody></table></div>");
}

/// The whole recipe of every arm, folded: that of its first run. The runs of an arm differ by their seed. Without arms,
/// the recipe of every run.
pub(super) fn recipes(out: &mut String, runs: &[Run], arms: &[Arm<'_>]) {
    let has = |run: &Run, arm: &Arm<'_>| run.stages.iter().any(|stage| std::ptr::eq(stage, arm.first()));
    let shown = runs.iter().filter(|run| arms.is_empty() || arms.iter().any(|arm| has(run, arm)));
    for run in shown {
        let Ok(text) = toml::to_string_pretty(&run.recipe) else { continue };
        let _ = writeln!(
            out,
            "<details class=\"recipe\"><summary>All settings of {}</summary><pre>{}</pre></details>",
            escape(&run.label),
            escape(&text)
        );
    }
}

/// A line about a stage: method, steps, the settings that matter most, and its speed.
pub(super) fn about(stage: &Stage) -> String {
    let mut text = format!("{}, {} steps", stage.method(), stage.steps_done());
    let (recipe, optimizer) = (&stage.recipe, &stage.recipe["optimizer"]);
    if let Some(from) = recipe["from"].as_str() {
        text += &format!(", from {from}");
    }
    if let Some(rows) = recipe["batch_size"].as_u64() {
        text += &format!("; batches of {rows}");
    }
    if let (Some(name), Some(lr)) = (optimizer["name"].as_str(), optimizer["lr"].as_f64()) {
        text += &format!("; {name}, learning rate {lr:e}");
        let schedule = &optimizer["schedule"];
        if let Some(schedule) = schedule.as_str().or(schedule["name"].as_str()) {
            text += &format!(" ({schedule})");
        }
    }
    if let Some(times) = stage.times {
        let speed = times.tokens_per_second.map_or(String::new(), |speed| format!("{speed:.0} tokens/s, "));
        text +=
            &format!("; {speed}{:.3} s per step (median), {:.0} s in all", times.step_seconds, times.seconds);
    }
    if let Some(probes) = &stage.probes {
        let what = if probes.held_out { "held-out rows" } else { "training rows" };
        text += &format!("; {} probes among {what}", probes.probes.len());
    }
    text
}
