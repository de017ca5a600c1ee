//! One self-contained HTML page, without scripts, fonts or requests.

mod facts;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::arms::{Arm, Over};
use crate::figures::{EXACT_MATCH, Figure, PAIR_ACCURACY};
use crate::front::Fronts;
use crate::load::{HeldOut, Run, Stage};
use crate::plots::{self, Plot};
use crate::stats::Estimate;
use crate::svg::{STYLE, Svg, escape};
use crate::words;

const PAGE_STYLE: &str = "\
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:var(--paper);margin:0}\
main{max-width:1120px;margin:0 auto;padding:24px 20px 64px}h1{font-size:24px;margin:0 0 4px}\
h2{font-size:19px;margin:40px 0 8px;padding-top:16px;border-top:1px solid var(--rule)}summary{cursor:pointer;margin-top:40px;border-top:1px solid var(--rule)}summary h2{display:inline-block;border:0;margin:0 0 8px;\
padding-top:12px}h3{font-size:15px;margin:20px 0 6px}\
.sub{color:var(--faint)}p{max-width:80ch}.gaps{background:var(--wash);border-left:3px solid var(--c4);padding:8px 14px;margin:16px 0}\
.gaps p{margin:4px 0}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:20px 24px}\
figure{margin:0}figcaption{color:var(--faint);font-size:13px;max-width:64ch}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px}th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;\
border-bottom:1px solid var(--rule)}th{font-weight:600}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}\
td small{color:var(--faint);display:block}td small.sure{color:var(--ink);font-weight:600}.text{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;\
max-width:44ch}code{font-family:ui-monospace,monospace;font-size:.92em}\
pre{font:12px/1.45 ui-monospace,monospace;overflow-x:auto;background:var(--wash);padding:8px 14px}details.recipe summary{border:0;margin:8px 0}";

/// Up to this many stages are shown unfolded.
const OPEN: usize = 4;

/// The contents of a page.
pub struct Page<'a> {
    runs: &'a [Run],
    arms: &'a [Arm<'a>],
    comparison: Vec<Plot>,
    /// For each stage that is shown: the run's label, the stage, its charts.
    stages: Vec<(&'a str, &'a Stage, Vec<Plot>)>,
}

impl<'a> Page<'a> {
    /// Draws all charts. For a single run every stage is shown, for several runs only the compared stages.
    pub fn new(runs: &'a [Run], arms: &'a [Arm<'a>], fronts: Option<&Fronts<'_>>) -> Self {
        let compared =
            |stage: &Stage| arms.iter().flat_map(|arm| &arm.members).any(|(_, s)| std::ptr::eq(*s, stage));
        let all = runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)));
        let shown = all.filter(|(_, stage)| runs.len() == 1 || compared(stage));
        let stages = shown.map(|(run, stage)| {
            let mut plots = plots::of_stage(stage);
            if runs.len() > 1 {
                plots
                    .iter_mut()
                    .for_each(|plot| plot.name = format!("{}-{}", run.label.replace('/', "-"), plot.name));
            }
            (run.label.as_str(), stage, plots)
        });
        let stages = stages.collect();
        let accuracy = if arms.iter().any(|arm| arm.estimate(&EXACT_MATCH).is_some()) {
            EXACT_MATCH
        } else {
            PAIR_ACCURACY
        };
        let mut comparison = if arms.len() > 1 { plots::of_arms(arms, &accuracy) } else { Vec::new() };
        comparison.extend(fronts.into_iter().flat_map(Fronts::plots));
        Page { runs, arms, comparison, stages }
    }

    /// All charts, by name.
    pub fn pictures(&self) -> Vec<(&str, &Svg)> {
        let all = self.comparison.iter().chain(self.stages.iter().flat_map(|(_, _, plots)| plots));
        all.map(|plot| (plot.name.as_str(), &plot.svg)).collect()
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        let names: Vec<&str> = self.runs.iter().map(|run| run.label.as_str()).collect();
        let title = escape(&match names.len() {
            0..=4 => names.join(", "),
            n => format!("{} and {} other runs", names[0], n - 1),
        });
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
             <meta name=\"color-scheme\" content=\"light dark\"/>\
             <link rel=\"icon\" href=\"data:,\"/><title>{title}</title>\
             <style>{STYLE}{PAGE_STYLE}</style></head><body><main>\n<h1>{title}</h1>"
        );
        let _ = writeln!(out, "<p class=\"sub\">{}</p>", escape(&self.subtitle()));
        self.gaps(&mut out);
        let _ = writeln!(out, "<h2>In words</h2>");
        for arm in self.arms {
            let _ = writeln!(out, "<p>{}</p>", emphasized(&arm.label, &words::of_arm(arm)));
        }
        if let Some((baseline, others)) = self.arms.split_first() {
            for arm in others {
                let text = words::against(arm, baseline).unwrap_or_default();
                let _ = writeln!(out, "<p>{}</p>", emphasized(&arm.label, &text));
            }
        }
        if self.arms.iter().any(|arm| !words::figures(std::slice::from_ref(arm)).is_empty()) {
            let title = if self.arms.len() > 1 { "Compared" } else { "In numbers" };
            let _ = writeln!(out, "<h2>{title}</h2>");
            self.table(&mut out);
            pictures(&mut out, &self.comparison);
        }
        let _ = writeln!(out, "<h2>{}</h2>", if self.runs.len() == 1 { "The run" } else { "The runs" });
        facts::runs(&mut out, self.runs);
        facts::recipes(&mut out, self.runs, self.arms);
        for (run, stage, plots) in &self.stages {
            let name =
                if self.runs.len() == 1 { stage.name.clone() } else { format!("{run} / {}", stage.name) };
            // With many stages, the reader unfolds those of interest.
            let open = if self.stages.len() <= OPEN { " open=\"open\"" } else { "" };
            let _ = writeln!(
                out,
                "<details{open}><summary><h2>{}</h2></summary><p class=\"sub\">{}</p>",
                escape(&name),
                escape(&facts::about(stage))
            );
            pictures(&mut out, plots);
            samples(&mut out, stage);
            let _ = writeln!(out, "</details>");
        }
        let _ = writeln!(
            out,
            "<p class=\"sub\">Definitions of all figures: docs/diagnostics.md. s_w and s_l are the log-probs of the preferred and the \
             dispreferred answer, summed over tokens, in nats; changes are since the stage began.</p></main></body></html>"
        );
        out
    }

    fn subtitle(&self) -> String {
        let stages = self.runs.iter().map(|run| run.stages.len()).sum::<usize>();
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        format!(
            "{}, {}, {} compared",
            plural(self.runs.len(), "run"),
            plural(stages, "stage"),
            self.arms.len()
        )
    }

    fn gaps(&self, out: &mut String) {
        let gaps: Vec<String> = self
            .runs
            .iter()
            .flat_map(|run| run.gaps.iter().map(move |gap| format!("{}: {gap}.", run.label)))
            .collect();
        if !gaps.is_empty() {
            let _ = writeln!(out, "<div class=\"gaps\" role=\"note\"><strong>Incomplete</strong>");
            for gap in gaps {
                let _ = writeln!(out, "<p>{}</p>", escape(&gap));
            }
            let _ = writeln!(out, "</div>");
        }
        let hints: BTreeSet<&str> = self.runs.iter().flat_map(|run| &run.hints).map(String::as_str).collect();
        for hint in hints {
            let _ = writeln!(out, "<p class=\"sub\">To see more: {}.</p>", escape(hint));
        }
    }

    /// A table of arms and figures, with differences to the first arm.
    fn table(&self, out: &mut String) {
        let figures = words::figures(self.arms);
        let _ = write!(out, "<div class=\"wide\"><table><thead><tr><th>arm</th>");
        for figure in &figures {
            let unit = if figure.share { "" } else { ", nats" };
            let _ = write!(out, "<th>{}{unit}</th>", escape(figure.title));
        }
        let _ = write!(out, "</tr></thead><tbody>");
        let mut comparisons = 0;
        for (i, arm) in self.arms.iter().enumerate() {
            let _ = write!(
                out,
                "<tr><td>{}<small>{}</small></td>",
                escape(&arm.label),
                escape(&arm.first().method())
            );
            for figure in &figures {
                let own = arm.estimate(figure).map_or("-".to_owned(), |e| estimate(figure, &e));
                let before =
                    arm.members.iter().filter_map(|(_, stage)| figure.before(stage)).collect::<Vec<_>>();
                let before = match before.is_empty() {
                    true => String::new(),
                    false => format!("<small>{} before</small>", words::share(crate::stats::mean(&before))),
                };
                let difference = self.arms.first().filter(|_| i > 0).and_then(|b| arm.difference(b, figure));
                comparisons += usize::from(difference.is_some());
                let difference = difference.map_or(String::new(), |d| change(figure, &d));
                let _ = write!(out, "<td class=\"n\">{own}{before}{difference}</td>");
            }
            let _ = write!(out, "</tr>");
        }
        let _ = writeln!(out, "</tbody></table></div>");
        let over_rows = self.arms.iter().any(|arm| arm.over() == Over::Rows);
        let over_seeds = self.arms.iter().any(|arm| arm.over() == Over::Seeds);
        let mut note = String::new();
        if let Some(first) = self.arms.first().filter(|_| self.arms.len() > 1) {
            let _ = write!(
                note,
                "Brackets are 95% intervals. Signed numbers are differences to {}, in points or nats; bold if chance \
                 alone would hardly make them. ",
                first.label
            );
        }
        if over_rows {
            note += "Intervals over held-out rows (Wilson\u{2019}s for shares, else bootstrap; differences paired row by row) tell how far the rows at hand speak for \
                     others like them, not what another seed would give. ";
        }
        if over_seeds {
            note += "Intervals over seeds are Student\u{2019}s, differences paired by seed; where all seeds have the same held-out rows, \
                     other rows are reckoned with too. ";
        }
        note += &words::cautions(self.arms, comparisons).join(" ");
        let _ = writeln!(out, "<p class=\"sub\">{}</p>", escape(&note));
    }
}

/// A cell with a figure and, below it, its interval.
fn estimate(figure: &Figure, estimate: &Estimate) -> String {
    let write = |x: f64| escape(&words::value(figure, x));
    let interval =
        estimate.interval.map(|(low, high)| format!("<small>[{}, {}]</small>", write(low), write(high)));
    write(estimate.mean) + &interval.unwrap_or_default()
}

/// A difference, as part of a cell.
fn change(figure: &Figure, difference: &Estimate) -> String {
    let write = |x: f64| words::difference(figure, x);
    let interval = difference.interval.map(|(low, high)| format!(" [{}, {}]", write(low), write(high)));
    let class = if difference.may_be_chance() { "" } else { " class=\"sure\"" };
    format!("<small{class}>{}{}</small>", write(difference.mean), interval.unwrap_or_default())
}

/// A text, with the name at its beginning in bold.
fn emphasized(name: &str, text: &str) -> String {
    match text.strip_prefix(name) {
        Some(rest) => format!("<strong>{}</strong>{}", escape(name), escape(rest)),
        None => escape(text),
    }
}

fn pictures(out: &mut String, plots: &[Plot]) {
    if plots.is_empty() {
        return;
    }
    let _ = write!(out, "<div class=\"plots\">");
    for plot in plots {
        let _ = writeln!(
            out,
            "<figure>{}<figcaption>{}</figcaption></figure>",
            plot.svg.inline(),
            escape(plot.caption)
        );
    }
    let _ = writeln!(out, "</div>");
}

/// Greedy answers before and after the stage, side by side.
fn samples(out: &mut String, stage: &Stage) {
    let given = |end: &Option<HeldOut>| end.as_ref().map_or(Vec::new(), |held_out| held_out.samples.clone());
    let (before, after) = (given(&stage.before), given(&stage.after));
    let rows = if after.is_empty() { &before } else { &after };
    if rows.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<h3>Greedy answers</h3><div class=\"wide\"><table><thead><tr><th>prompt</th><th>preferred</th><th>before</th><th>after</th></tr>\
         </thead><tbody>"
    );
    for row in rows {
        let answer = |end: &[crate::load::Sample]| match end.iter().find(|s| s.place == row.place) {
            Some(sample) => {
                let mark = match sample.cut {
                    true => " \u{2026} (cut)",
                    false if sample.answer == row.chosen => " \u{2713}",
                    false => "",
                };
                format!("{}{mark}", escape(&sample.answer))
            }
            None => "-".into(),
        };
        let _ = write!(
            out,
            "<tr><td class=\"text\">{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td></tr>",
            escape(&row.prompt),
            escape(&row.chosen),
            answer(&before),
            answer(&after)
        );
    }
    let _ = writeln!(out, "</tbody></table></div>");
}
