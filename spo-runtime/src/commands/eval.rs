//! `spo-run eval`: measures a saved model on rows of data, with the code that evaluates while training.

mod answers;
mod outcome;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use spo_api::{Layout, LogProbs, Objective, Registry, Session, Statistics};
use spo_data::{Dataset, Fit, Form, MicroBatch, Question, Side, Source, Split, Tokenizer, TrainOn};
use spo_report::stats;

use super::inline;
use super::saved_model::SavedModel;
use crate::error::{BadInput, bad};
use crate::plan::data::coupled_and_weighted;
use crate::plan::fit;
use crate::plan::view::View;
use crate::reporter::{Progress, say};
use crate::store::scores::Scores;
use crate::store::write::write_text;
use crate::train::evaluate::choices::{Asked, Chosen, choose};
use crate::train::evaluate::figures::{Figure, figures, rows};
use crate::train::evaluate::{HeldOutRows, measured, statistics};
use crate::train::step::loss::score;
use crate::train::step::rows::Batch;

use answers::AnswerArguments;
use outcome::{Outcome, answered, chosen};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  spo-run eval runs/mine/dpo held-out.jsonl --reference models/base --rows rows.jsonl
  spo-run eval models/base '{ path = \"arc.jsonl\", columns = { answer = \"answerKey\" } }'
  spo-run eval runs/mine/dpo math.jsonl --extract '#### (-?[0-9.,]+)' --max-new-tokens 300")]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    model: SavedModel,
    /// The rows: a file, a folder or a pattern; or, as in a recipe, inline TOML with a path, columns, a filter, ... They
    /// are pairs, demonstrations or unpaired answers, or questions with the columns `choices` and `answer`.
    data: String,
    /// The reference model of the objective.
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// A model to compare every token's log-prob with: how far this one has moved from it.
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    /// The objective whose loss and rewards to measure: a name, or inline TOML such as '{ name = "dpo", beta = 0.1 }'.
    /// `dpo` with a reference, otherwise `sft`, unless given.
    #[arg(long)]
    objective: Option<String>,
    #[command(flatten)]
    answers: AnswerArguments,
    /// Ask questions with choices through the chat template, each as a user's message.
    #[arg(long)]
    chat: bool,
    /// Longest prompt with answer, in tokens; the end of longer answers is cut. The model's context unless given.
    #[arg(long)]
    max_length: Option<usize>,
    /// What is scored of conversations, as `data.train_on` of a recipe.
    #[arg(long, value_name = "TURNS", default_value = "last", value_parser = train_on())]
    train_on: TrainOn,
    /// Measure the rows alone that a recipe with `data.split = { eval = SHARE }` holds out of these.
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// Rows scored at a time. Changes memory and speed, not the figures.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Write what was found of every row, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl EvalArguments {
    /// Measures the model and prints a table, or JSON.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        if self.batch_size == 0 {
            return Err(bad("--batch-size must be at least 1").into());
        }
        let sources = inline::rows("DATA", &self.data)?;
        let form = Form::of(&sources).map_err(bad)?;
        self.check(form)?;
        self.check_rows(&sources)?;
        let outcome = match form {
            Form::Choices => self.choices(registry, &sources)?,
            Form::Answers(layout) => self.pairs(registry, &sources, layout)?,
        };
        if let Some(file) = &self.rows {
            write_text(file, &outcome.lines())?;
        }
        say(&if self.json { outcome.json().to_string() } else { outcome.table() });
        Ok(())
    }

    /// Refuses options without effect on rows of this form.
    fn check(&self, form: Form) -> Result<(), BadInput> {
        let is_choice = form == Form::Choices;
        if let Some(share) = self.held_out.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return Err(bad(format!("--held-out is {share}: expected a share above 0, at most 1")));
        }
        let options = [
            ("--reference", self.reference.is_some(), !is_choice),
            ("--against", self.against.is_some(), !is_choice),
            ("--objective", self.objective.is_some(), !is_choice),
            ("--max-length", self.max_length.is_some(), !is_choice),
            ("--exact-match", self.answers.exact_match, !is_choice),
            ("--extract", self.answers.extract.is_some(), !is_choice),
            ("--rouge", self.answers.rouge, !is_choice),
            ("--train-on", self.train_on != TrainOn::Last, !is_choice),
            ("--held-out", self.held_out.is_some(), !is_choice),
            ("--chat", self.chat, is_choice),
        ];
        match options.iter().find(|(_, given, has_effect)| *given && !has_effect) {
            Some((option, ..)) if is_choice => {
                Err(bad(format!("{option} has no effect: the rows are questions with `choices`")))
            }
            Some((option, ..)) => Err(bad(format!("{option} has no effect: the rows have no `choices`"))),
            None => self.answers.check(),
        }
    }

    /// Refuses a file of rows that could not be written, or would replace the data, before the work is done.
    fn check_rows(&self, sources: &[Source]) -> Result<(), BadInput> {
        let Some(file) = &self.rows else { return Ok(()) };
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || file.is_dir() {
            return Err(bad(format!(
                "--rows: {} cannot be written: give a file in a folder that exists",
                file.display()
            )));
        }
        let same = |data: &PathBuf| {
            data.canonicalize().is_ok_and(|data| file.canonicalize().is_ok_and(|file| file == data))
        };
        let read = sources.iter().filter_map(|source| source.files().ok()).flatten().any(|data| same(&data));
        if read { Err(bad(format!("--rows: {} is the data", file.display()))) } else { Ok(()) }
    }

    fn choices(&self, registry: &mut Registry, sources: &[Source]) -> anyhow::Result<Outcome> {
        let mut questions = Question::read(sources).map_err(bad)?;
        let (tokenizer, mut session) = self.model.open(registry)?;
        if self.chat {
            questions.iter_mut().for_each(|question| question.prompt = question.prompt.clone().asked());
        }
        let asked = questions.iter().map(|question| Asked::new(question, &tokenizer));
        let asked = asked.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let info = session.info();
        for (question, asked) in questions.iter().zip(&asked) {
            let longest = asked.group.completions.iter().map(Vec::len).max().unwrap_or(0);
            let length = asked.group.prompt.len() + longest;
            if length > info.context {
                let place = &question.prompt.place;
                return Err(bad(format!("{place} has {length} tokens, and {}", fit::limit(&info))).into());
            }
        }
        let mut progress = Progress::new("scoring questions", asked.len());
        let found = choose(&mut *session, &asked, self.batch_size, &mut |done| progress.at(done))?;
        drop(progress);
        let share = |name: &str, choice: fn(&Chosen) -> usize| {
            let right: Vec<f64> =
                found.iter().map(|of| f64::from(u8::from(choice(of) == of.right))).collect();
            Figure { name: name.to_owned(), estimate: stats::wilson(&right) }
        };
        let figures = vec![share("acc", |of| of.choice), share("acc_norm", |of| of.choice_per_character)];
        let rows = questions.iter().zip(&found).map(|(question, found)| chosen(question, found)).collect();
        Ok(Outcome {
            model: self.model.model.clone(),
            data: self.data.clone(),
            notes: Vec::new(),
            figures,
            rows,
        })
    }

    fn pairs(&self, registry: &mut Registry, sources: &[Source], found: Layout) -> anyhow::Result<Outcome> {
        let mut objective = self.objective(registry, found)?;
        let needs = objective.requirements();
        let layout = match (needs.data, found) {
            (Layout::Demonstrations, Layout::Pairs) => Layout::Pairs,
            (layout, _) => layout,
        };
        let (tokenizer, mut session) = self.model.open(registry)?;
        let info = session.info();
        let max_length = self.max_length.unwrap_or(info.context);
        if max_length > info.context {
            return Err(bad(format!("--max-length is {max_length}, and {}", fit::limit(&info))).into());
        }
        let side = self.held_out.map(|eval| Side::Eval(Split { eval }));
        let columns = needs.columns.clone();
        let how = Fit { max_length, columns, side, train_on: self.train_on, ..Fit::default() };
        let data = Arc::new(Dataset::load(sources, layout, &tokenizer, &how).map_err(bad)?);
        let enough = data.examples.len() >= needs.least_rows;
        let scored = !needs.gaps || data.examples.iter().all(|example| example.gap.is_some());
        if !enough || !scored {
            let problem = match enough {
                false => format!("compares rows, and needs at least {} of them", needs.least_rows),
                true => "needs rows with `score_chosen` and `score_rejected`".to_owned(),
            };
            return Err(bad(format!("the objective {problem}")).into());
        }
        if let Some(problem) = coupled_and_weighted(&*objective, &data) {
            return Err(bad(format!("the objective {problem}")).into());
        }
        let view = View { layout, mismatched: needs.mismatched.then_some(self.batch_size) };
        let batch = Batch::whole(&data, view, MicroBatch::Rows(self.batch_size))?;
        let mut other = |path: &Option<PathBuf>| match path {
            Some(path) => self.scores_of(registry, path, &tokenizer, (&data, &batch)).map(Some),
            None => Ok(None),
        };
        let reference = other(&self.reference)?;
        let against = match self.against == self.reference {
            true => reference.clone(),
            false => other(&self.against)?,
        };
        let held = HeldOutRows { data: data.clone(), batch, reference };
        let scored = score_all(&mut *session, &held.batch, statistics(&*objective), "scoring rows")?;
        let measured = measured(&mut *objective, &held, scored, against.as_ref())?;
        let rows = rows(&measured, against.as_ref());
        let answers = self.answers.answer(&mut *session, &data, &tokenizer)?;
        let mut figures = figures(&rows, &measured.metrics);
        figures.extend(self.answers.figures(&answers));
        let lines = data.examples.iter().zip(&rows).enumerate();
        // Answers are in the order of the rows.
        let answer = |row: usize| answers.binary_search_by_key(&row, |of| of.row).ok().map(|i| &answers[i]);
        let lines = lines.map(|(i, (example, row))| answered(example, row, answer(i)));
        let notes = vec![data.report.to_string()];
        let rows = lines.collect();
        Ok(Outcome { model: self.model.model.clone(), data: self.data.clone(), notes, figures, rows })
    }

    fn objective(&self, registry: &mut Registry, found: Layout) -> Result<Box<dyn Objective>, BadInput> {
        let default = match (found, self.reference.is_some()) {
            _ if self.objective.is_some() => "",
            (Layout::Pairs, true) => "dpo",
            (Layout::Unpaired, _) => {
                return Err(bad(
                    "unpaired answers are measured under an objective for them: --objective kto",
                ));
            }
            (_, true) => {
                return Err(bad("--reference has no effect without an --objective that has rewards"));
            }
            (_, false) => "sft",
        };
        let name = self.objective.as_deref().unwrap_or(default);
        let objective = inline::objective(registry, name)?;
        match (objective.requirements().reference, self.reference.is_some()) {
            (true, false) => Err(bad(format!("--objective {name} needs a --reference"))),
            (false, true) => Err(bad(format!("--reference has no effect: {name} has none"))),
            _ => Ok(objective),
        }
    }

    /// The log-probs of the rows under another model, whose tokens must be the same.
    fn scores_of(
        &self,
        registry: &mut Registry,
        path: &Path,
        tokenizer: &Tokenizer,
        (data, batch): (&Dataset, &Batch),
    ) -> anyhow::Result<Scores> {
        let (own, mut session) = self.model.other(path).open(registry)?;
        let mut ids: Vec<u32> = data
            .examples
            .iter()
            .flat_map(|example| example.in_memory())
            .flat_map(|group| group.prompt.iter().chain(group.completions.iter().flatten()).copied())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        if let Some(id) = ids.into_iter().find(|id| own.decode(&[*id]).ok() != tokenizer.decode(&[*id]).ok())
        {
            return Err(bad(format!(
                "{} has another tokenizer than {}: token {id} is not the same",
                path.display(),
                self.model.model.display()
            ))
            .into());
        }
        scores(&mut *session, data, batch)
    }
}

fn train_on() -> impl TypedValueParser<Value = TrainOn> {
    PossibleValuesParser::new(["last", "all-assistant"])
        .map(|turns| if turns == "last" { TrainOn::Last } else { TrainOn::AllAssistant })
}

/// The log-probs of all rows under another model.
fn scores(session: &mut dyn Session, data: &Dataset, batch: &Batch) -> anyhow::Result<Scores> {
    let mut scores = Scores::empty(data);
    let scored = score_all(session, batch, Statistics::default(), "scoring rows with the other model")?;
    batch.store(&scored, &mut scores);
    Ok(scores)
}

/// What a model says of all rows, with its progress.
fn score_all(
    session: &mut dyn Session,
    batch: &Batch,
    statistics: Statistics,
    what: &str,
) -> anyhow::Result<Vec<LogProbs>> {
    let mut progress = Progress::new(what, batch.passes.iter().map(|pass| pass.rows.len()).sum());
    let (mut scored, mut done) = (Vec::with_capacity(batch.passes.len()), 0);
    for pass in &batch.passes {
        scored.extend(score(session, std::slice::from_ref(pass), statistics)?);
        done += pass.rows.len();
        progress.at(done);
    }
    Ok(scored)
}
