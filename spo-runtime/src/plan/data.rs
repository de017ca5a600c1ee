//! The data of a recipe's stages: files and generated tasks, each read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use spo_api::{Column, ConfigError, Layout, Objective, Optimizer, Registry, Schedule};
use spo_data::task::{self, Generated};
use spo_data::{Dataset, Example, Fit, Side, Source, Tokenizer};

use crate::error::BadInput;
use crate::hub;
use crate::plan::held_out::{self, Demonstrations};
use crate::plan::stage::{PlannedStage, PlannedTerm};
use crate::plan::tokens::{Reading, TokenCache};
use crate::plan::view::View;
use crate::plan::{folders, generation};
use crate::recipe::compose::{self, Bilevel};
use crate::recipe::data::{DataSection, Rows, TermData};
use crate::recipe::document::Document;
use crate::recipe::objective::LowerSpec;
use crate::recipe::part::PartSpec;
use crate::recipe::{Recipe, Reference, Stage};

/// The description and rows of every source read, keyed by everything that determines the rows.
pub(super) type Datasets = BTreeMap<String, (String, Arc<Dataset>)>;

/// The parts of a stage.
pub(super) struct Parts {
    pub(super) objective: Box<dyn Objective>,
    bilevel: Bilevel,
    optimizer: Box<dyn Optimizer>,
    schedule: Box<dyn Schedule>,
}

impl Parts {
    pub(super) fn of(registry: &Registry, stage: &Stage) -> Result<Self, ConfigError> {
        let bilevel = compose::bilevel(registry, &stage.bilevel)?;
        let objective = compose::objective(registry, &stage.objective, bilevel.step.regularizer())?;
        let optimizer = stage.optimizer.part.build(registry, Registry::optimizer)?;
        let schedule = stage.optimizer.own.schedule.part.build(registry, Registry::schedule)?;
        Ok(Parts { objective, bilevel, optimizer, schedule })
    }

    /// The names of the columns that its objectives read, at either level.
    pub(super) fn columns(&self) -> impl Iterator<Item = String> {
        let lower = self.bilevel.lower.iter().map(|term| &term.objective);
        let objectives = lower.chain([&self.objective]);
        objectives.flat_map(|objective| objective.requirements().columns).map(|column| column.name)
    }

    /// The columns that are read of the stage's own rows: by its objective, and by terms of the lower level without data
    /// of their own.
    fn own_columns(&self) -> Result<Vec<Column>, ConfigError> {
        let mut needs = self.objective.requirements();
        for term in self.bilevel.lower.iter().filter(|term| term.data.is_none()) {
            let lower = term.objective.requirements();
            if let Some(column) = needs.disagreement(&lower) {
                let message =
                    format!("the two levels take different numbers for rows without the column `{column}`");
                return Err(ConfigError::at("bilevel", message));
            }
            needs = needs.union(lower);
        }
        Ok(needs.columns)
    }
}

/// Reads each data source once.
pub(super) struct Loader<'a> {
    pub(crate) document: &'a Document,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) seed: u64,
    /// Whether any stage trains on pairs.
    pub(crate) pairs: bool,
    /// The columns that any objective of the recipe reads.
    pub(crate) columns: BTreeSet<String>,
    pub(crate) loaded: &'a mut Datasets,
    pub(crate) cache: Option<TokenCache<'a>>,
    /// Where tokens that are not kept in memory go.
    pub(crate) disk: PathBuf,
}

impl Loader<'_> {
    /// Loads a stage's rows and assembles the stage.
    ///
    /// # Errors
    /// [`BadInput`] with the location in the recipe.
    pub(crate) fn stage(
        &mut self,
        recipe: &Recipe,
        index: usize,
        parts: Parts,
    ) -> anyhow::Result<PlannedStage> {
        let columns = parts.own_columns().map_err(|e| self.document.locate(&format!("stage[{index}]"), e))?;
        let Parts { objective, bilevel, optimizer, schedule } = parts;
        let stage = recipe.stage[index].clone();
        let data = stage.data.as_ref().unwrap_or(&recipe.data);
        let layout = objective.requirements().data;
        let train = self.rows(data, Want { part: Part::Train, layout, columns: &columns })?;
        // Rejected answers are worth evaluating even if the stage does not train on them.
        let with_pairs = layout == Layout::Demonstrations && self.pairs;
        let eval_layout = if with_pairs { Layout::Pairs } else { layout };
        let eval = match data.eval.is_some() || data.task.is_some() || data.split.is_some() {
            true => Some(self.rows(data, Want { part: Part::Eval, layout: eval_layout, columns: &columns })?),
            false => None,
        };
        if stage.early_stopping.is_some() && eval.is_none() {
            let message = "needs held-out rows: add `data.eval`";
            return Err(self.document.error(&format!("stage[{index}].early_stopping"), message).into());
        }
        let budget = bilevel.step.budget();
        if budget.is_some() && stage.reference != Reference::Start {
            let message = format!(
                "must be \"start\" with `{}`: its budget is the rise of the lower level since the stage began",
                stage.bilevel.part.name
            );
            return Err(self.document.error(&format!("stage[{index}].reference"), message).into());
        }
        let mut lower = Vec::new();
        for term in bilevel.lower {
            let mut data = match &term.data {
                Some(own) => {
                    let columns = term.objective.requirements().columns;
                    Some(self.demonstrations(data, own, &columns)?)
                }
                // The demonstrations are the desirable answers. They need their own batch, because a batch of
                // unpaired rows may contain none.
                None if layout == Layout::Unpaired => Some(self.desirable(&train, index)?),
                None => None,
            };
            let held_out = match (&budget, &mut data) {
                (None, _) => None,
                // A term's own data are not in the stage's held-out rows.
                (Some(budget), Some(own)) if term.data.is_some() => {
                    let (train, held_out) = held_out::hold_out(own, budget, self.seed);
                    *own = train.into();
                    Some(Demonstrations::new(&held_out, budget, self.seed))
                }
                (Some(budget), _) => Some(match &eval {
                    Some(rows) => Demonstrations::new(&desirable(rows), budget, self.seed),
                    None => Err("a budget needs held-out demonstrations: add `data.eval`".to_owned()),
                }),
            };
            let place = format!("stage[{index}].bilevel");
            let held_out = held_out.transpose().map_err(|message| self.document.error(&place, message))?;
            lower.push(PlannedTerm { objective: term.objective, data, held_out });
        }
        if objective.requirements().gaps
            && let Some(row) = train.examples.iter().find(|example| example.gap.is_none())
        {
            let message =
                format!("needs data with `score_chosen` and `score_rejected`, and {} has none", row.place);
            return Err(self.document.error(&format!("stage[{index}].objective"), message).into());
        }
        let rows = [&train].into_iter().chain(&eval);
        if let Some(message) = rows.into_iter().find_map(|rows| coupled_and_weighted(&*objective, rows)) {
            return Err(self.document.error(&format!("stage[{index}].objective"), message).into());
        }
        if recipe.diagnostics.is_some()
            && let Some(row) = train.examples.iter().find(|example| !example.scored.is_empty())
        {
            let message = format!(
                "looks at one answer of a row, and of {} several turns are learned: leave `train_on` at \"last\"",
                row.place
            );
            return Err(self.document.error("diagnostics", message).into());
        }
        let mismatched = objective.requirements().mismatched.then_some(stage.batch_size);
        let view = View { layout, mismatched };
        let rows = train.examples.len();
        if rows < stage.batch_size {
            let message = format!("is {}, but there are only {rows} rows to train on", stage.batch_size);
            return Err(self.document.error(&format!("stage[{index}].batch_size"), message).into());
        }
        let least = objective.requirements().least_rows;
        let held_out = eval.as_ref().map(|data| data.examples.len());
        if let Err(error) = enough_rows(&stage, rows, held_out, least) {
            return Err(self.document.locate(&format!("stage[{index}]"), error).into());
        }
        let steps = match (stage.steps, stage.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => {
                let in_pass = rows.div_ceil(stage.batch_size) as f64;
                (epochs.unwrap_or(1.0) * in_pass).ceil().max(1.0) as usize
            }
        };
        let from = recipe.from(index).to_owned();
        let exact_match = recipe.evaluation.exact_match.unwrap_or(data.task.is_some());
        let judge = data.task.as_ref().and_then(|task| task::judge(&task.part.name));
        Ok(PlannedStage {
            recipe: stage,
            from,
            objective,
            step: bilevel.step,
            view,
            train,
            eval,
            exact_match,
            judge,
            lower,
            optimizer,
            schedule,
            steps,
        })
    }

    /// The desirable answers of a stage's unpaired rows.
    fn desirable(&self, train: &Dataset, index: usize) -> anyhow::Result<Arc<Dataset>> {
        let desirable = desirable(train);
        if desirable.examples.is_empty() {
            let message = "no row is desirable: the lower level has nothing to learn from";
            return Err(self.document.error(&format!("stage[{index}].bilevel"), message).into());
        }
        Ok(Arc::new(desirable))
    }

    /// The demonstrations of a lower-level term, truncated in the same way as the stage's own rows.
    fn demonstrations(
        &mut self,
        stage: &DataSection,
        own: &TermData,
        columns: &[Column],
    ) -> anyhow::Result<Arc<Dataset>> {
        let from = match own {
            TermData::Task(data) => Origin::Task(&data.task.part),
            TermData::Rows(rows) => Origin::File(rows),
        };
        // Held in memory, whatever becomes of the stage's own: a term may hold out some of them.
        let how = DataSection { stream: false, ..stage.clone() };
        self.load(&from, &how, Want { part: Part::Train, layout: Layout::Demonstrations, columns })
    }

    /// Rows of a stage's own data.
    fn rows(&mut self, data: &DataSection, want: Want<'_>) -> anyhow::Result<Arc<Dataset>> {
        let file = match want.part {
            Part::Train => &data.train,
            Part::Eval if data.split.is_some() => &data.train,
            Part::Eval => &data.eval,
        };
        let from = match (&data.task, file) {
            (Some(task), _) => Origin::Task(&task.part),
            (None, Some(rows)) => Origin::File(rows),
            (None, None) => unreachable!("a recipe without data is refused when it is read"),
        };
        self.load(&from, data, want)
    }

    /// Rows of a file or a task, truncated according to `how`. Each source is read once.
    fn load(
        &mut self,
        from: &Origin<'_>,
        how: &DataSection,
        Want { part, layout, columns }: Want<'_>,
    ) -> anyhow::Result<Arc<Dataset>> {
        let fit = Fit {
            max_length: how.max_length,
            truncation: how.truncation,
            special_tokens: how.special_tokens,
            train_on: how.train_on,
            side: how.split.map(|split| match part {
                Part::Train => Side::Train(split),
                Part::Eval => Side::Eval(split),
            }),
            deduplicate: how.deduplicate,
            strict: how.strict,
            columns: columns.to_vec(),
        };
        let (seed, tokenizer, moment) = (self.seed, self.tokenizer.hash(), self.tokenizer.moment());
        let key = format!(
            "{} {} {part:?} {layout:?} {fit:?} {seed} {tokenizer} {moment:?}",
            from.identity(),
            how.stream
        );
        if let Some((_, known)) = self.loaded.get(&key) {
            return Ok(known.clone());
        }
        let (name, at, dataset) = match from {
            Origin::Task(task) => {
                let generated = generate(self.document, task, self.seed)?;
                let (rows, name) = match part {
                    Part::Train => (generated.train, "training rows of the task"),
                    Part::Eval => (generated.held_out, "held-out rows of the task"),
                };
                let dataset = Dataset::from_rows(rows, layout, &self.tokenizer, &fit);
                (name.to_owned(), &task.place, dataset)
            }
            Origin::File(Rows { sources, place }) => {
                let is_here = |name: &&String| columns.iter().any(|column| column.name == **name);
                let elsewhere: BTreeSet<_> = self.columns.iter().filter(|name| !is_here(name)).collect();
                let mut sources = sources.clone();
                for source in &mut sources {
                    source.columns.leave_out(&elsewhere);
                    let files = source.files().map_err(|e| self.document.error(place, e.to_string()))?;
                    let missing = files.iter().try_for_each(|file| folders::exists(file));
                    missing.map_err(|message| self.document.error(place, message))?;
                }
                // Only rows to train on are read batch by batch, at any place and again and again.
                let disk = (how.stream && matches!(part, Part::Train)).then_some(&*self.disk);
                let (tokenizer, fit) = (&self.tokenizer, &fit);
                let reading = Reading { sources: &sources, layout, tokenizer, fit, disk };
                let dataset = match &self.cache {
                    Some(cache) => cache.load(&reading)?,
                    None => reading.dataset(),
                };
                let paths: Vec<_> = sources.iter().map(Source::name).collect();
                let kind = match part {
                    Part::Train => "training rows",
                    Part::Eval => "held-out rows",
                };
                (format!("{kind}, {}", paths.join(", ")), place, dataset)
            }
        };
        let dataset = Arc::new(dataset.map_err(|e| match e.failed {
            true => anyhow::Error::new(e),
            false => self.document.error(at, e.to_string()).into(),
        })?);
        self.loaded.insert(key, (name, dataset.clone()));
        Ok(dataset)
    }
}

/// The rows whose first answer is a demonstration.
fn desirable(rows: &Dataset) -> Dataset {
    let examples = rows.examples.iter().filter(|e| e.desirable).cloned().collect();
    let columns = rows.columns.clone();
    Dataset { layout: Layout::Demonstrations, columns, examples, report: rows.report.clone() }
}

/// Tells of a row whose loss counts more or less than once, under an objective that has no loss of a row.
pub(crate) fn coupled_and_weighted(objective: &dyn Objective, rows: &Dataset) -> Option<String> {
    let weighted = |row: &&Example| objective.requirements().whole_batch && row.weight != 1.0;
    rows.examples.iter().find(weighted).map(|row| {
        format!(
            "compares the rows of a batch with each other, so its loss has no part of one row that the `weight` of {} \
             could multiply: remove the column, or take another objective",
            row.place
        )
    })
}

/// Checks that no batch has fewer rows than an objective needs to compare them with each other.
fn enough_rows(stage: &Stage, rows: usize, held_out: Option<usize>, least: usize) -> Result<(), ConfigError> {
    let objective = stage.objective.parts().iter().map(|part| &*part.name).collect::<Vec<_>>().join(" + ");
    let why =
        format!("`{objective}` compares the rows of a batch with each other, and needs at least {least}");
    let batch_size = stage.batch_size;
    if batch_size < least {
        return Err(ConfigError::at("batch_size", format!("is {batch_size}: {why}")));
    }
    let last = rows % batch_size;
    if stage.steps.is_none() && (1..least).contains(&last) {
        let fits = |size: &usize| *size >= least && (rows.is_multiple_of(*size) || rows % size >= least);
        let near = (1..batch_size).flat_map(|d| [batch_size + d, batch_size - d]).find(fits);
        let how = near.map_or(String::new(), |size| format!(", for example {size}"));
        let message = format!(
            "is {batch_size}, which leaves {last} of {rows} rows for the last batch of a pass: {why}. Choose another \
             size{how}, or give `steps` instead of `epochs`"
        );
        return Err(ConfigError::at("batch_size", message));
    }
    match held_out {
        Some(held_out) if held_out < least => {
            Err(ConfigError::at("objective", format!("there are {held_out} held-out rows: {why}")))
        }
        _ => Ok(()),
    }
}

/// The origin of rows: a file or a generated task.
enum Origin<'a> {
    File(&'a Rows),
    Task(&'a PartSpec),
}

impl Origin<'_> {
    /// Identifies everything that determines the rows.
    fn identity(&self) -> String {
        match self {
            Origin::File(rows) => format!("{:?}", rows.sources),
            Origin::Task(task) => format!("{} {}", task.name, Value::Object(task.config.clone())),
        }
    }
}

/// What rows are loaded for.
#[derive(Clone, Copy)]
struct Want<'a> {
    part: Part,
    layout: Layout,
    /// The columns that objectives read.
    columns: &'a [Column],
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Train,
    Eval,
}

/// Generates the rows of a task.
fn generate(document: &Document, task: &PartSpec, seed: u64) -> Result<Generated, BadInput> {
    task::generate(&task.name, &Value::Object(task.config.clone()), seed)
        .map_err(|error| document.locate("", task.located(error)))
}

/// All generated tasks in a recipe.
fn tasks(recipe: &Recipe) -> Vec<&PartSpec> {
    let mut all: Vec<&PartSpec> = recipe.data.task.iter().map(|task| &task.part).collect();
    for stage in &recipe.stage {
        let own = stage.data.iter().filter_map(|data| data.task.as_ref());
        all.extend(own.map(|task| &task.part));
        let levels = &stage.bilevel.own;
        let terms = match &levels.lower {
            Some(LowerSpec::Sum(terms)) => terms.as_slice(),
            _ => &[],
        };
        let data = terms.iter().filter_map(|term| term.own.data.as_ref()).chain(&levels.lower_data);
        all.extend(data.filter_map(|data| match data {
            TermData::Task(data) => Some(&data.task.part),
            TermData::Rows(_) => None,
        }));
    }
    all
}

/// The tokenizer: the one the recipe names, else the model's own, else the characters of the generated tasks.
pub(super) fn tokenizer(document: &Document, recipe: &Recipe) -> Result<Tokenizer, BadInput> {
    let model = recipe.model.folder();
    let (folder, at) = match (&recipe.model.tokenizer, &model) {
        (Some(folder), _) => (&hub::folder(folder, None), "model.tokenizer"),
        (None, Some(folder)) => (folder, "model.path"),
        (None, None) => {
            let mut alphabet = String::new();
            for task in tasks(recipe) {
                alphabet += &generate(document, task, recipe.run.seed)?.alphabet;
            }
            if alphabet.is_empty() {
                let message = "a model with random weights that learns from files needs `model.tokenizer`";
                return Err(document.error("model", message));
            }
            return Ok(Tokenizer::characters(&alphabet));
        }
    };
    folders::tokenizer(folder).map_err(|message| document.error(at, message))?;
    let mut tokenizer = Tokenizer::open(folder).map_err(|e| document.error(at, e.to_string()))?;
    if let Some(model) = &model {
        let stop = generation::stop_tokens(model).map_err(|e| document.error("model.path", e))?;
        tokenizer.stop_at(&stop);
    }
    Ok(tokenizer)
}
