//! What the stages of a recipe learn from: files and generated tasks, each read once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use spo_api::{Layout, Objective};
use spo_data::task::{self, Generated};
use spo_data::{Dataset, Fit, Source, Tokenizer};

use super::PlannedStage;
use crate::compose::{Bilevel, LowerData};
use crate::document::Document;
use crate::error::BadInput;
use crate::recipe::{Data, Recipe};
use crate::rows::View;
use crate::tokens::TokenCache;

/// Of every source that was read: its name in words and its rows, by what decides on them.
pub(super) type Datasets = BTreeMap<String, (String, Arc<Dataset>)>;

/// Reads data, each source once.
pub(super) struct Loader<'a> {
    pub document: &'a Document,
    pub tokenizer: Tokenizer,
    pub seed: u64,
    /// Whether a stage learns from pairs.
    pub pairs: bool,
    pub loaded: &'a mut Datasets,
    pub cache: Option<TokenCache<'a>>,
}

impl Loader<'_> {
    /// A stage with its rows.
    ///
    /// # Errors
    /// [`BadInput`] with the place in the recipe.
    pub fn stage(
        &mut self,
        recipe: &Recipe,
        index: usize,
        objective: Box<dyn Objective>,
        bilevel: Bilevel,
    ) -> anyhow::Result<PlannedStage> {
        let stage = recipe.stage[index].clone();
        let (data, base) = match &stage.data {
            Some(data) => (data, format!("stage[{index}].data")),
            None => (&recipe.data, "data".to_owned()),
        };
        let layout = objective.requirements().data;
        let train = self.load(data, Split::Train, &base, layout)?;
        // Rejected answers are worth a look even where they are not learnt from.
        let with_pairs = layout == Layout::Demonstrations && self.pairs;
        let eval_layout = if with_pairs { Layout::Pairs } else { layout };
        let eval = match data.eval.is_some() || data.task.is_some() {
            true => Some(self.load(data, Split::Eval, &base, eval_layout)?),
            false => None,
        };
        let lower_data = match &bilevel.lower_data {
            Some(own) => Some(self.demonstrations(data, own, index)?),
            // Of unpaired answers, the desirable ones: a batch of its own, for some have none.
            None if layout == Layout::Unpaired && bilevel.lower.is_some() => {
                let examples = train.examples.iter().filter(|e| e.desirable).cloned().collect();
                Some(Arc::new(Dataset {
                    layout: Layout::Demonstrations,
                    examples,
                    report: train.report.clone(),
                }))
            }
            None => None,
        };
        let tasks = bilevel.tasks.iter().map(|(_, own)| self.demonstrations(data, own, index));
        let tasks = tasks.collect::<Result<_, _>>()?;
        if lower_data.as_ref().is_some_and(|data| data.examples.is_empty()) {
            let message = "no row is desirable: the lower level has nothing to learn from";
            return Err(self.document.error(&format!("stage[{index}].bilevel"), message).into());
        }
        if objective.requirements().gaps
            && let Some(row) = train.examples.iter().find(|example| example.gap.is_none())
        {
            let message =
                format!("needs data with `score_chosen` and `score_rejected`, and {} has none", row.place);
            return Err(self.document.error(&format!("stage[{index}].objective"), message).into());
        }
        let mismatched = objective.requirements().mismatched.then_some(stage.batch_size);
        let view = View { layout, mismatched };
        let rows = train.examples.len();
        let steps = match (stage.steps, stage.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => {
                ((epochs.unwrap_or(1.0) * rows as f64) / stage.batch_size as f64).ceil().max(1.0) as usize
            }
        };
        if rows < stage.batch_size {
            let message = format!("is {}, but there are only {rows} rows to train on", stage.batch_size);
            return Err(self.document.error(&format!("stage[{index}].batch_size"), message).into());
        }
        let from = recipe.from(index).to_owned();
        let exact_match = recipe.evaluation.exact_match.unwrap_or(data.task.is_some());
        let task = data.task.as_ref().and_then(|task| task.get("name")?.as_str());
        let judge = task.and_then(task::judge);
        Ok(PlannedStage {
            recipe: stage,
            from,
            objective,
            bilevel,
            view,
            train,
            eval,
            exact_match,
            judge,
            lower_data,
            tasks,
            steps,
        })
    }

    /// What a term of a lower level learns from, fitted to the model like the stage's own rows.
    fn demonstrations(
        &mut self,
        fitted: &Data,
        own: &LowerData,
        index: usize,
    ) -> anyhow::Result<Arc<Dataset>> {
        let at = format!("stage[{index}].bilevel.{}", own.key);
        let task = own.source.get("task").and_then(Value::as_object).cloned();
        let train = task.is_none().then(|| own.source.clone());
        let data = Data { train, eval: None, task, ..fitted.clone() };
        self.load(&data, Split::Train, &at, Layout::Demonstrations)
    }

    fn load(&mut self, data: &Data, split: Split, at: &str, layout: Layout) -> anyhow::Result<Arc<Dataset>> {
        let fit = Fit { max_length: data.max_length, truncation: data.truncation, strict: data.strict };
        let source = match (split, &data.task) {
            (_, Some(task)) => Value::Object(task.clone()),
            (Split::Train, None) => data.train.clone().unwrap_or_default(),
            (Split::Eval, None) => data.eval.clone().unwrap_or_default(),
        };
        let (seed, tokenizer) = (self.seed, self.tokenizer.hash());
        let key = format!("{source} {split:?} {layout:?} {fit:?} {seed} {tokenizer}");
        if let Some((_, known)) = self.loaded.get(&key) {
            return Ok(known.clone());
        }
        let (name, at, dataset) = if data.task.is_some() {
            let generated = generate(self.document, data, &format!("{at}.task"), self.seed)?;
            let (rows, name) = match split {
                Split::Train => (generated.train, "training rows of the task"),
                Split::Eval => (generated.held_out, "held-out rows of the task"),
            };
            let dataset = Dataset::from_rows(rows, layout, &self.tokenizer, &fit);
            (name.to_owned(), format!("{at}.task"), dataset)
        } else {
            let at = match split {
                Split::Train if at.ends_with("data") => format!("{at}.train"),
                Split::Train => at.to_owned(),
                Split::Eval => format!("{at}.eval"),
            };
            let source: Source = match &source {
                Value::String(path) => Source::new(path),
                table => spo_api::parse(table).map_err(|e| self.document.locate(&at, e))?,
            };
            exists(&source.path).map_err(|message| self.document.error(&at, message))?;
            let dataset = match &self.cache {
                Some(cache) => cache.load(&source, layout, &self.tokenizer, &fit)?,
                None => Dataset::load(std::slice::from_ref(&source), layout, &self.tokenizer, &fit),
            };
            let kind = match split {
                Split::Train => "training rows",
                Split::Eval => "held-out rows",
            };
            (format!("{kind}, {}", source.path.display()), at, dataset)
        };
        let dataset = Arc::new(dataset.map_err(|e| self.document.error(&at, e.to_string()))?);
        self.loaded.insert(key, (name, dataset.clone()));
        Ok(dataset)
    }
}

/// Which rows of a source.
#[derive(Clone, Copy, Debug)]
enum Split {
    Train,
    Eval,
}

/// Makes the rows of a task.
fn generate(document: &Document, data: &Data, at: &str, seed: u64) -> Result<Generated, BadInput> {
    let mut options = data.task.clone().unwrap_or_default();
    let name = options.shift_remove("name").and_then(|n| n.as_str().map(str::to_owned));
    let name =
        name.ok_or_else(|| document.error(at, format!("needs a `name`: {}", task::NAMES.join(", "))))?;
    task::generate(&name, &Value::Object(options), seed).map_err(|e| {
        let at = if e.key.is_none() { format!("{at}.name") } else { at.to_owned() };
        document.locate(&at, e)
    })
}

/// All data that a recipe speaks of, with the place in the recipe. Those of lower levels are not checked yet.
fn datasets(recipe: &Recipe) -> Vec<(String, Data)> {
    let mut all = vec![("data".to_owned(), recipe.data.clone())];
    for (i, stage) in recipe.stage.iter().enumerate() {
        all.extend(stage.data.clone().map(|data| (format!("stage[{i}].data"), data)));
        let lower = &stage.bilevel["lower"];
        let terms = lower.as_array().into_iter().flatten().enumerate();
        let terms = terms.map(|(j, term)| (format!("lower[{j}].data"), &term["data"]));
        for (at, own) in terms.chain([("lower_data".to_owned(), &stage.bilevel["lower_data"])]) {
            let task = own["task"].as_object().cloned();
            let data = Data { train: None, eval: None, task, ..recipe.data.clone() };
            all.push((format!("stage[{i}].bilevel.{at}"), data));
        }
    }
    all
}

/// The tokenizer: the one that is named, the model's own, or the characters of the generated tasks.
pub(super) fn tokenizer(document: &Document, recipe: &Recipe) -> Result<Tokenizer, BadInput> {
    let (folder, at) = match (&recipe.model.tokenizer, &recipe.model.path) {
        (Some(folder), _) => (folder, "model.tokenizer"),
        (None, Some(folder)) => (folder, "model.path"),
        (None, None) => {
            let mut alphabet = String::new();
            for (at, data) in datasets(recipe) {
                if data.task.is_some() {
                    alphabet += &generate(document, &data, &format!("{at}.task"), recipe.run.seed)?.alphabet;
                }
            }
            if alphabet.is_empty() {
                let message = "a model with random weights that learns from files needs `model.tokenizer`";
                return Err(document.error("model", message));
            }
            return Ok(Tokenizer::characters(&alphabet));
        }
    };
    exists(folder).map_err(|message| document.error(at, message))?;
    Tokenizer::open(folder).map_err(|e| document.error(at, e.to_string()))
}

/// Says of a path that leads nowhere which neighbour may have been meant.
fn exists(path: &Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let neighbours = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> =
        neighbours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let hint = spo_api::nearest(&name, names.iter().map(String::as_str));
    let hint = hint.map_or(String::new(), |n| format!("; did you mean {}?", folder.join(n).display()));
    Err(format!("there is no {}{hint}", path.display()))
}
