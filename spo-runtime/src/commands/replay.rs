//! `spo-run replay`: recomputes a batch with non-finite numbers, row by row.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use spo_api::{Evaluation, LogProbs, Objective, Registry, Session, Statistics, Vector};
use spo_data::{Dataset, MicroBatch};

use super::options::TrustArguments;
use super::resume;
use crate::error::{BadInput, bad};
use crate::plan::Plan;
use crate::plan::view::View;
use crate::reporter::say;
use crate::store::scores::Scores;
use crate::terminal::fit;
use crate::train::checkpoint::Found;
use crate::train::incident::Incident;
use crate::train::step::loss::{score, weigh};
use crate::train::step::rows::{Assembled, Batch};

#[derive(clap::Args)]
pub(crate) struct ReplayArguments {
    /// The run's folder, or that of one batch in its `nonfinite` folder.
    run: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
}

impl ReplayArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        say(&replay(registry, &self.run, self.trust.trust_plugins)?);
        Ok(())
    }
}

/// Recomputes a batch that a run saved, and reports on every row. `path` is the folder of a batch, or of a
/// run, whose latest saved batch is then used.
///
/// # Errors
/// [`BadInput`] if there is none, or if the run's data or model no longer exist.
fn replay(registry: &mut Registry, path: &Path, trusted: bool) -> anyhow::Result<String> {
    let (run, folder) = find(path)?;
    let incident = Incident::read(&folder)?;
    let document = resume::enter(registry, &run, trusted)?;
    let mut plan = Plan::new(registry, &document)?;
    let found = Found::read(&folder).with_context(|| format!("{} is damaged", folder.display()))?;
    let Some(index) = plan.stages.iter().position(|stage| stage.recipe.name == incident.stage) else {
        return Err(bad(format!("the recipe has no stage `{}` any more", incident.stage)).into());
    };
    if plan.stages[index].train.hash() != incident.data {
        let message = "error: the data of the run have changed since: the batch cannot be put together again";
        return Err(BadInput(message.into()).into());
    }
    found.restore(&mut *plan.session, &plan.stages)?;
    let stage = &mut plan.stages[index];
    if let Some(state) = &found.state.stage {
        state.memory.restore(stage)?;
    }
    stage.objective.begin(incident.step - 1);

    let mut out = format!("step {} of stage `{}`: {}\n", incident.step, incident.stage, incident.error);
    let norm = plan.session.vectors().norm(Vector::PARAMETERS)?;
    let _ = writeln!(out, "norm of the trained parameters: {norm:.4e}");
    let (session, train) = (&mut *plan.session, &stage.train);
    let rows =
        Rows { data: train, rows: &incident.rows, view: stage.view, reference: found.scores.get("train") };
    out += &rows.table(session, &mut *stage.objective)?;
    let several = stage.lower.len() > 1;
    for (i, term) in stage.lower.iter_mut().enumerate() {
        let data = term.data.as_ref().unwrap_or(train);
        let rows = incident.lower_rows.get(i).filter(|rows| !rows.is_empty()).unwrap_or(&incident.rows);
        let title =
            if several { format!("The lower level, term {}", i + 1) } else { "The lower level".to_owned() };
        let _ = writeln!(out, "\n{title}:");
        let rows = Rows { data, rows, view: View::DEMONSTRATIONS, reference: None };
        out += &rows.table(session, &mut *term.objective)?;
    }
    Ok(out)
}

/// The folders of the run and of the batch.
fn find(path: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let none = || bad(format!("{} holds no batch whose numbers were not finite", path.display()));
    let path = path.canonicalize().map_err(|_| none())?;
    if let Some(latest) = Incident::all(&path).pop() {
        return Ok((path, latest));
    }
    match path.parent().and_then(Path::parent) {
        Some(run) if Incident::all(run).contains(&path) => Ok((run.to_owned(), path)),
        _ => Err(none().into()),
    }
}

/// What is computed from a row's log-probs.
struct Computed<'a> {
    loss: f64,
    /// Gradient with respect to the log-probs.
    upstream: &'a [f64],
    /// Norm of the gradient with respect to the parameters.
    norm: f64,
}

/// Rows of one level's batch.
struct Rows<'a> {
    data: &'a Dataset,
    rows: &'a [usize],
    view: View,
    reference: Option<&'a Scores>,
}

impl Rows<'_> {
    /// A table with the model's and the objective's numbers for each row.
    fn table(&self, session: &mut dyn Session, objective: &mut dyn Objective) -> anyhow::Result<String> {
        let batch = Batch::new(self.data, self.rows, self.view, Some(MicroBatch::Rows(1)))?;
        let collision = objective.requirements().collision;
        let scored = score(session, &batch.passes, Statistics { collision, ..Statistics::default() })?;
        let mut scores = Scores::empty(self.data);
        batch.store(&scored, &mut scores);
        let assembled = Assembled::new(&batch, batch.passes.iter().zip(&scored), self.reference, self.data);
        let seen = assembled.batch()?;
        let mut evaluation = Evaluation::default();
        let evaluated = evaluation.compute(objective, &seen);
        if evaluated.is_ok() {
            weigh(&mut evaluation, &seen, &assembled, self.data);
        }
        let mut losses = vec![f64::NAN; self.data.examples.len()];
        for (i, loss) in evaluation.losses.iter().enumerate() {
            losses[assembled.row_of_loss(i)] = *loss;
        }
        let upstream =
            assembled.upstream(
                |chosen, i| {
                    if chosen { evaluation.grad_chosen[i] } else { evaluation.grad_rejected[i] }
                },
            );

        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        fit(&mut table);
        let header = [
            "row",
            "log p(chosen)",
            "log p(rejected)",
            "reference: chosen",
            "rejected",
            "loss",
            "|gradient|",
            "not finite",
        ];
        table.set_header(header);
        let mut rest = upstream.as_slice();
        for ((part, scored), &row) in batch.passes.iter().zip(&scored).zip(self.rows) {
            let (mine, others) = rest.split_at(scored.values.len());
            rest = others;
            session.vectors().zero(Vector::GRADIENT)?;
            let norm = session
                .backward(&part.tokens, Statistics::default(), &mut |_: &LogProbs| Ok(mine.to_vec()))
                .and_then(|_| session.vectors().norm(Vector::GRADIENT))
                .unwrap_or(f64::NAN);
            let sum = |tokens: &[f64]| match tokens {
                [] => "-".to_owned(),
                tokens => format!("{:.4}", tokens.iter().sum::<f64>()),
            };
            let [chosen, rejected] = scores.answers(row).map(|(_, tokens)| sum(tokens));
            let reference = self.reference.map(|scores| scores.answers(row).map(|(_, tokens)| sum(tokens)));
            let [reference_chosen, reference_rejected] = reference.unwrap_or(["-".into(), "-".into()]);
            table.add_row([
                self.data.examples[row].place.to_string(),
                chosen,
                rejected,
                reference_chosen,
                reference_rejected,
                format!("{:.4}", losses[row]),
                format!("{norm:.4e}"),
                self.culprit(&scores, row, &Computed { loss: losses[row], upstream: mine, norm }),
            ]);
        }
        session.vectors().zero(Vector::GRADIENT)?;
        for column in table.column_iter_mut().skip(1).take(6) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let complaint = evaluated.err().map_or(String::new(), |e| format!("the objective says: {e}\n"));
        Ok(format!("{table}\n{complaint}"))
    }

    /// Names the first non-finite number, in order of computation; empty if all are finite.
    fn culprit(&self, scores: &Scores, row: usize, computed: &Computed<'_>) -> String {
        for (of, scores) in [("", Some(scores)), ("the reference's ", self.reference)] {
            for (name, tokens) in scores.map(|scores| scores.answers(row)).into_iter().flatten() {
                if let Some(i) = tokens.iter().position(|x| !x.is_finite()) {
                    return format!("{of}log-prob of token {i} of the {name} answer");
                }
            }
        }
        let upstream = computed.upstream.iter().all(|g| g.is_finite());
        match (computed.loss.is_finite(), upstream, computed.norm.is_finite()) {
            (false, ..) => "the loss".into(),
            (_, false, _) => "the gradient with respect to the log-probs".into(),
            (_, _, false) => "the gradient with respect to the parameters".into(),
            _ => String::new(),
        }
    }
}
