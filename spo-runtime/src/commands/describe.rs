//! `spo-run describe`: the full description of a part, taken from the registry.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use spo_api::{
    Build, Columns, Constructor, Entry, Evaluation, Layout, Objective, PreferenceBatch, Ragged, Registry,
    Side, nearest,
};

use crate::error::{BadInput, bad};
use crate::plan::libraries;
use crate::reporter::say;
use crate::terminal::fit;

/// The notation of the objectives' formulas.
const NOTATION: &str = "\
s_w, s_l: log-probs of the preferred and the dispreferred answer under the policy, summed over tokens, in nats;
r_w, r_l: the same under the reference; m = (s_w - r_w) - (s_l - r_l); |y|: tokens, the end token included.";

/// What a part with default settings needs of the run; empty if it has required keys.
pub(super) fn needs(entry: &Entry) -> String {
    let empty = Value::Object(serde_json::Map::new());
    match entry.build {
        Build::Objective(build) => build(&empty).map(|o| {
            let r = o.requirements();
            let data = match r.data {
                Layout::Pairs => "pairs",
                Layout::Unpaired => "unpaired",
                Layout::Demonstrations => "demonstrations",
            };
            let more = [
                (r.reference, "reference"),
                (r.collision, "collision"),
                (r.mismatched, "mismatched answers"),
                (r.gaps, "score gaps"),
                (r.whole_batch, "whole batch"),
            ];
            let columns = r.columns.iter().map(|column| match column.default {
                None => format!("column `{}`", column.name),
                Some(default) => format!("column `{}` (or {default})", column.name),
            });
            std::iter::once(data)
                .chain(more.iter().filter(|m| m.0).map(|m| m.1))
                .map(str::to_owned)
                .chain(columns)
                .collect::<Vec<_>>()
                .join(", ")
        }),
        Build::Step(build) => build(&empty).map(|s| {
            let p = s.passes();
            format!("{} forward, {} backward", p.forward, p.backward)
        }),
        Build::Optimizer(_) | Build::Schedule(_) | Build::Backend(_) => Ok(String::new()),
    }
    .unwrap_or_default()
}

#[derive(clap::Args)]
pub(crate) struct DescribeArguments {
    /// Its name.
    name: String,
}

impl DescribeArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        if describe(registry, &self.name).is_err() {
            libraries::load_all(registry)?;
        }
        say(&describe(registry, &self.name)?);
        Ok(())
    }
}

/// Describes all parts of this name: documentation, source and keys.
fn describe(registry: &Registry, name: &str) -> Result<String, BadInput> {
    let named = registry.iter().filter(|e| e.name == name || e.aliases.contains(&name));
    let texts: Vec<String> = named.map(describe_entry).collect();
    if texts.is_empty() {
        let names = registry.iter().flat_map(|e| e.names());
        let hint = nearest(name, names).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        return Err(bad(format!("nothing is called `{name}`{hint} `spo-run list` shows what there is")));
    }
    Ok(texts.join("\n"))
}

fn describe_entry(entry: &Entry) -> String {
    let schema = (entry.schema)();
    let schema = schema.as_value();
    let mut out =
        format!("{} ({}, from {})\n{}\n", entry.name, entry.build.kind(), entry.origin, entry.summary);
    if !entry.aliases.is_empty() {
        let _ = writeln!(out, "also called: {}", entry.aliases.join(", "));
    }
    let _ = writeln!(out, "source: {}", entry.source);
    if !needs(entry).is_empty() {
        let _ = writeln!(out, "needs: {}", needs(entry));
    }
    if let Some(text) = schema["description"].as_str() {
        let _ = writeln!(out, "\n{text}");
    }
    if matches!(entry.build, Build::Objective(_)) {
        let _ = writeln!(out, "\n{NOTATION}");
    }
    if let Build::Objective(build) = entry.build
        && let Some(example) = worked_pair(build)
    {
        let _ = writeln!(out, "\n{example}");
    }
    let Some(properties) = schema["properties"].as_object().filter(|p| !p.is_empty()) else {
        return out + "\nIt has no keys.\n";
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    fit(&mut table);
    table.set_header(["key", "type", "default", "meaning"]);
    let required = |key: &str| schema["required"].as_array().is_some_and(|r| r.iter().any(|v| v == key));
    for (key, property) in properties {
        let default = match property.get("default") {
            Some(value) => value.to_string(),
            None if required(key) => "required".into(),
            None => "none".into(),
        };
        let text = property["description"].as_str().unwrap_or_default().replace('\n', " ");
        table.add_row([key.clone(), type_of(property, schema), default, text]);
    }
    let _ = writeln!(out, "\n{table}");
    out
}

/// The loss of one example pair under the objective's defaults; `None` if it has required keys or does not
/// take pairs.
fn worked_pair(build: Constructor<dyn Objective>) -> Option<String> {
    let mut objective = build(&Value::Object(serde_json::Map::new())).ok()?;
    let (chosen, rejected) = ([-1.0, -2.0, -0.5], [-1.5, -2.5]);
    let (reference_chosen, reference_rejected) = ([-1.0, -1.5, -0.5], [-1.0, -2.0]);
    fn side<'a>(policy: &'a [f64], reference: &'a [f64], offsets: &'a [usize]) -> spo_api::Result<Side<'a>> {
        // If the objective needs the statistic, use that of a uniform choice between two tokens.
        let collision = &[-std::f64::consts::LN_2; 3][..policy.len()];
        Ok(Side {
            policy: Ragged::new(policy, offsets)?,
            reference: Some(Ragged::new(reference, offsets)?),
            collision: Some(Ragged::new(collision, offsets)?),
        })
    }
    let chosen_side = side(&chosen, &reference_chosen, &[0, 3]).ok()?;
    let rejected_side = side(&rejected, &reference_rejected, &[0, 2]).ok()?;
    let mut batch = PreferenceBatch::new(Layout::Pairs, chosen_side, rejected_side).ok()?;
    batch.gaps = Some(&[1.0]);
    let names: Vec<_> = objective.requirements().columns.into_iter().map(|column| column.name).collect();
    let ones = vec![1.0; names.len()];
    batch.columns = Columns::new(&names, &ones).ok()?;
    let mut evaluation = Evaluation::default();
    evaluation.compute(&mut *objective, &batch).ok()?;
    let mut given = if objective.requirements().gaps { ", score gap 1" } else { "" }.to_owned();
    given.extend(names.iter().map(|name| format!(", `{name}` 1")));
    let mut text = format!(
        "A pair, with the defaults: policy {chosen:?} and {rejected:?}, reference {reference_chosen:?} and \
         {reference_rejected:?}{given}\nloss {:.6}, gradient {:.6} and {:.6} (first tokens)",
        evaluation.losses[0], evaluation.grad_chosen[0], evaluation.grad_rejected[0]
    );
    let rewards = &evaluation.rewards;
    if let (Some(chosen), Some(rejected)) = (rewards.chosen.first(), rewards.rejected.first()) {
        let _ = write!(text, ", rewards {chosen:.6} and {rejected:.6}");
    }
    Some(text)
}

/// A property's type and range as text.
fn type_of(property: &Value, root: &Value) -> String {
    if let Some(name) = property["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        return type_of(&root["$defs"][name], root);
    }
    for choices in ["anyOf", "oneOf"] {
        if let Some(variants) = property[choices].as_array() {
            let mut words: Vec<String> =
                variants.iter().map(|v| type_of(v, root)).filter(|w| w != "null").collect();
            words.dedup();
            return words.join(" | ");
        }
    }
    if let Some(name) = property.get("const") {
        return name.to_string();
    }
    if let Some(names) = property["enum"].as_array() {
        return names.iter().filter(|n| !n.is_null()).map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    let name = match &property["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).filter(|n| *n != "null").collect::<Vec<_>>().join(" | ")
        }
        _ => "any".into(),
    };
    let bounds = [("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"), ("maximum", "<=")];
    bounds
        .iter()
        .filter_map(|(key, sign)| property.get(*key).map(|b| format!(" {sign} {b}")))
        .fold(name, |a, b| a + &b)
}
