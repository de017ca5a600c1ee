//! `spo-run loss`: evaluates an objective on a JSON batch of log-probs, without a model.

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    Column, Columns, Evaluation, Layout, Metrics, Part, PreferenceBatch, Ragged, Registry, Requirements,
    Side, nearest, read_within,
};

use super::inline;
use crate::error::bad;
use crate::reporter::say;

/// The longest input, in MiB.
const LONGEST: u64 = 256;

/// Per-token log-probs, in nats: one list per answer.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    policy_chosen: Vec<Vec<f64>>,
    #[serde(default)]
    policy_rejected: Vec<Vec<f64>>,
    reference_chosen: Option<Vec<Vec<f64>>>,
    reference_rejected: Option<Vec<Vec<f64>>>,
    /// `log sum_v p(v)^2` at each position.
    collision_chosen: Option<Vec<Vec<f64>>>,
    collision_rejected: Option<Vec<Vec<f64>>>,
    /// Each row's prompt with another row's answer; unpaired data only.
    policy_mismatched: Option<Vec<Vec<f64>>>,
    reference_mismatched: Option<Vec<Vec<f64>>>,
    /// Score of the chosen answer minus score of the rejected one, per pair.
    gaps: Option<Vec<f64>>,
    /// The columns that the objective reads, by their names: a number for each row, as the losses are ordered.
    #[serde(default)]
    columns: BTreeMap<String, Vec<f64>>,
    /// The rows are not pairs: `policy_chosen` holds desirable answers, `policy_rejected` undesirable ones.
    #[serde(default)]
    unpaired: bool,
}

impl Input {
    /// The numbers of the columns that are needed, one after the other.
    fn columns(&self, needs: &Requirements, rows: usize) -> Result<(Vec<String>, Vec<f64>), String> {
        let names: Vec<String> = needs.columns.iter().map(|column| column.name.clone()).collect();
        if let Some(other) = self.columns.keys().find(|name| !names.contains(name)) {
            let near = nearest(other, names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            return Err(format!("standard input: columns: the objective reads no column `{other}`{hint}"));
        }
        let mut numbers = Vec::new();
        for Column { name, default, .. } in &needs.columns {
            match (self.columns.get(name), default) {
                (Some(given), _) if given.len() == rows => numbers.extend(given),
                (Some(given), _) => {
                    let count = given.len();
                    return Err(format!("standard input: columns.{name}: {count} numbers for {rows} rows"));
                }
                (None, Some(default)) => numbers.extend(std::iter::repeat_n(*default, rows)),
                (None, None) => {
                    return Err(format!("standard input: missing `columns.{name}`: the objective needs it"));
                }
            }
        }
        Ok((names, numbers))
    }
}

/// The printed result.
#[derive(Serialize)]
struct Output {
    loss: f64,
    losses: Vec<f64>,
    grad_chosen: Vec<Vec<f64>>,
    grad_rejected: Vec<Vec<f64>>,
    rewards_chosen: Vec<f64>,
    rewards_rejected: Vec<f64>,
    metrics: Metrics,
}

/// Flat values with offsets.
struct Flat {
    values: Vec<f64>,
    offsets: Vec<usize>,
}

impl Flat {
    fn new(rows: &[Vec<f64>]) -> Self {
        let mut offsets = vec![0];
        offsets.extend(rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        }));
        Flat { values: rows.concat(), offsets }
    }

    fn ragged(&self) -> spo_api::Result<Ragged<'_>> {
        Ragged::new(&self.values, &self.offsets)
    }

    fn split(&self, values: &[f64]) -> Vec<Vec<f64>> {
        self.offsets.windows(2).map(|w| values[w[0]..w[1]].to_vec()).collect()
    }
}

impl Part for Input {}

#[derive(clap::Args)]
pub(crate) struct LossArguments {
    /// The objective: a name, or inline TOML: '{ name = "dpo", beta = 0.1 }'.
    #[arg(long)]
    objective: String,
}

impl LossArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        say(&evaluate(registry, &self.objective, &mut std::io::stdin().lock())?);
        Ok(())
    }
}

/// Reads a batch from `input` and evaluates `objective` (a name, or inline TOML) on it. Returns JSON.
///
/// # Errors
/// [`BadInput`](crate::error::BadInput) if the objective or the batch cannot be used.
fn evaluate(registry: &mut Registry, objective: &str, input: &mut dyn Read) -> anyhow::Result<String> {
    let mut objective = inline::objective(registry, objective)?;
    let text = read_within(input, LONGEST).context("cannot read standard input")?;
    let text = text.ok_or_else(|| bad(format!("standard input is longer than {LONGEST} MiB")))?;
    let text = String::from_utf8(text)
        .map_err(|_| io::Error::other("stream did not contain valid UTF-8"))
        .context("cannot read standard input")?;
    let input: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| bad(format!("standard input: {e}")))?;
    let input: Input = spo_api::parse(&input).map_err(|e| {
        let hint = e.suggestion.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        bad(format!("standard input: {e}{hint}"))
    })?;

    let flat = |rows: &Option<Vec<Vec<f64>>>| rows.as_deref().map(Flat::new);
    let (chosen, rejected) = (Flat::new(&input.policy_chosen), Flat::new(&input.policy_rejected));
    let references = [flat(&input.reference_chosen), flat(&input.reference_rejected)];
    let collisions = [flat(&input.collision_chosen), flat(&input.collision_rejected)];
    let wrong = |e: spo_api::Error| bad(format!("standard input: {e}"));
    fn side<'f>(
        policy: &'f Flat,
        reference: &'f Option<Flat>,
        collision: &'f Option<Flat>,
    ) -> spo_api::Result<Side<'f>> {
        let optional = |flat: &'f Option<Flat>| flat.as_ref().map(Flat::ragged).transpose();
        Ok(Side {
            policy: policy.ragged()?,
            reference: optional(reference)?,
            collision: optional(collision)?,
        })
    }
    let layout = match (input.unpaired, input.policy_rejected.is_empty()) {
        (true, _) => Layout::Unpaired,
        (false, true) => Layout::Demonstrations,
        (false, false) => Layout::Pairs,
    };
    let chosen_side = side(&chosen, &references[0], &collisions[0]).map_err(wrong)?;
    let rejected_side = side(&rejected, &references[1], &collisions[1]).map_err(wrong)?;
    let mut batch = PreferenceBatch::new(layout, chosen_side, rejected_side).map_err(wrong)?;
    let mismatched = [flat(&input.policy_mismatched), flat(&input.reference_mismatched)];
    if let Some(policy) = &mismatched[0] {
        batch.mismatched = Some(side(policy, &mismatched[1], &None).map_err(wrong)?);
    }
    batch.gaps = input.gaps.as_deref();
    let (names, numbers) = input.columns(&objective.requirements(), batch.rows()).map_err(bad)?;
    batch.columns = Columns::new(&names, &numbers).map_err(wrong)?;
    let mut evaluation = Evaluation::default();
    evaluation.compute(&mut *objective, &batch).map_err(wrong)?;
    let answer = Output {
        loss: evaluation.loss(&batch),
        grad_chosen: chosen.split(&evaluation.grad_chosen),
        grad_rejected: rejected.split(&evaluation.grad_rejected),
        losses: evaluation.losses,
        rewards_chosen: evaluation.rewards.chosen,
        rewards_rejected: evaluation.rewards.rejected,
        metrics: evaluation.metrics,
    };
    Ok(serde_json::to_string(&answer)?)
}
