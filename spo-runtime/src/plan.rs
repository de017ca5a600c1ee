//! From a recipe to everything a run needs, checked before training begins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use spo_api::{
    Backend, Data as DataKind, Layout, Library, ModelInfo, ModelSource, ModelSpec, Objective, Registry,
    Session,
};
use spo_data::task::{self, Generated, Judge};
use spo_data::{Dataset, Fit, Source, Tokenizer};

use crate::cache::Cache;
use crate::compose::{self, Bilevel, LowerData};
use crate::document::Document;
use crate::error::BadInput;
use crate::plugins;
use crate::provenance;
use crate::recipe::{Data, Recipe, Stage};
use crate::reporter::Reporter;
use crate::rows::View;
use crate::stop::Stop;
use crate::tokens::TokenCache;

/// A recipe whose every part has been found, built and checked.
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Name of the run.
    pub name: String,
    /// Where its results go.
    pub output: PathBuf,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// The model.
    pub session: Box<dyn Session>,
    /// The stages, in order.
    pub stages: Vec<PlannedStage>,
    /// Of every file or task that was read: its name, what became of its rows, the hash of its tokens.
    pub data: Vec<(String, Arc<Dataset>)>,
    /// The libraries that parts were loaded from.
    pub libraries: Vec<Library>,
    /// Hashes of the files that the model was opened from.
    pub weights: BTreeMap<String, String>,
}

/// A stage with its parts.
pub struct PlannedStage {
    /// What the recipe says.
    pub recipe: Stage,
    /// The name of the stage it starts from, or `model`.
    pub from: String,
    /// F.
    pub objective: Box<dyn Objective>,
    /// The step, with G.
    pub bilevel: Bilevel,
    /// What the objective sees of the rows.
    pub view: View,
    /// Rows to train on.
    pub train: Arc<Dataset>,
    /// Held-out rows.
    pub eval: Option<Arc<Dataset>>,
    /// Whether held-out prompts are answered and compared.
    pub exact_match: bool,
    /// Who judges its answers beyond that.
    pub judge: Option<Judge>,
    /// The lower level's own demonstrations.
    pub lower_data: Option<Arc<Dataset>>,
    /// Those of its further terms.
    pub tasks: Vec<Arc<Dataset>>,
    /// Optimizer steps.
    pub steps: usize,
}

/// What several plans have in common, so that it is read once.
#[derive(Default)]
pub struct Checked {
    data: Datasets,
    /// What was opened, by its specification.
    models: BTreeMap<String, ModelInfo>,
}

/// Of every source that was read: its name in words and its rows, by what decides on them.
type Datasets = BTreeMap<String, (String, Arc<Dataset>)>;

/// A recipe with its parts, before the model is opened.
struct Draft {
    recipe: Recipe,
    name: String,
    output: PathBuf,
    tokenizer: Tokenizer,
    stages: Vec<PlannedStage>,
    backend: Box<dyn Backend>,
    spec: ModelSpec,
}

impl Plan {
    /// Finds, builds and checks everything a recipe names. The cheapest mistakes are found first; the
    /// model's weights are read last.
    ///
    /// # Errors
    /// [`BadInput`] with the place in the recipe.
    pub fn new(registry: &mut Registry, document: &Document) -> anyhow::Result<Self> {
        Self::from(registry, document, None)
    }

    /// As [`new`](Self::new), with tokenized files from the recipe's cache, or into it. `stop` ends the waiting
    /// for another process that tokenizes the same.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Interrupted`](crate::stop::Interrupted).
    pub fn with_cache(
        registry: &mut Registry,
        document: &Document,
        stop: &Stop,
        reporter: &Reporter,
    ) -> anyhow::Result<Self> {
        Self::from(registry, document, Some((stop, reporter)))
    }

    fn from(
        registry: &mut Registry,
        document: &Document,
        caching: Option<(&Stop, &Reporter)>,
    ) -> anyhow::Result<Self> {
        let mut loaded = Datasets::new();
        let draft = Draft::new(registry, document, &mut loaded, caching)?;
        let session = draft.open(document)?;
        draft.check_fit(document, &session.info())?;
        let weights = provenance::weights(&draft.spec)?;
        let Draft { recipe, name, output, tokenizer, stages, .. } = draft;
        let data = loaded.into_values().collect();
        let libraries = registry.libraries().to_vec();
        Ok(Plan { recipe, name, output, tokenizer, session, stages, data, libraries, weights })
    }

    /// Checks a recipe as [`new`](Self::new) does, and keeps nothing but the resolved recipe. What was
    /// `checked` before is not read again.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn check(
        registry: &mut Registry,
        document: &Document,
        checked: &mut Checked,
    ) -> anyhow::Result<Recipe> {
        let draft = Draft::new(registry, document, &mut checked.data, None)?;
        let key = format!("{:?} {:?}", draft.recipe.backend, draft.spec);
        let info = match checked.models.get(&key) {
            Some(info) => info.clone(),
            None => checked.models.entry(key).or_insert(draft.open(document)?.info()).clone(),
        };
        draft.check_fit(document, &info)?;
        Ok(draft.recipe)
    }

    /// What a person should know before training, a line each.
    pub fn description(&self) -> Vec<String> {
        let info = self.session.info();
        let mut lines = vec![format!(
            "{}: {} with {} parameters, {} of them trained, in {} on {}",
            self.name, info.architecture, info.parameters, info.trainable, info.dtype, info.device
        )];
        lines.extend(
            self.libraries.iter().map(|l| format!("plugin {} {}: {}", l.name, l.version, l.path.display())),
        );
        for (name, data) in &self.data {
            let line = format!("{name}: {}", data.report);
            // The same rows may have been read both as pairs and as demonstrations.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// What is written beside a run so that it can be repeated.
    pub fn record(&self) -> Value {
        let info = self.session.info();
        let data: Vec<Value> = self
            .data
            .iter()
            .map(|(name, data)| {
                json!({ "source": name, "rows": data.examples.len(), "sha256_of_tokens": data.hash() })
            })
            .collect();
        json!({
            "name": self.name,
            "spo": env!("CARGO_PKG_VERSION"),
            "seed": self.recipe.run.seed,
            "tokenizer_sha256": self.tokenizer.hash(),
            "model": {
                "architecture": info.architecture,
                "parameters": info.parameters,
                "trainable": info.trainable,
                "dtype": info.dtype,
                "sha256": self.weights,
            },
            "device": info.device,
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
            "data": data,
            "plugins": self.libraries,
            "started_in": std::env::current_dir().unwrap_or_default(),
        })
    }
}

impl Draft {
    fn new(
        registry: &mut Registry,
        document: &Document,
        loaded: &mut Datasets,
        caching: Option<(&Stop, &Reporter)>,
    ) -> anyhow::Result<Self> {
        plugins::load_for(registry, document)?;
        let mut recipe: Recipe = document.to_recipe()?;
        let name = recipe.run.name.get_or_insert_with(|| document.stem()).clone();
        let output = recipe.run.output.get_or_insert_with(|| PathBuf::from("runs").join(&name)).clone();

        let mut parts = Vec::new();
        for (i, stage) in recipe.stage.iter().enumerate() {
            let at = |key: &str| format!("stage[{i}].{key}");
            let objective = compose::objective(registry, &stage.objective)
                .map_err(|e| document.locate(&at("objective"), e))?;
            let bilevel =
                compose::bilevel(registry, &stage.bilevel).map_err(|e| document.locate(&at("bilevel"), e))?;
            parts.push((objective, bilevel));
        }
        let backend = registry
            .backend(&recipe.backend.name, &Value::Object(recipe.backend.options.clone()))
            .map_err(|e| {
                let base = if e.key.is_some() { "backend.options" } else { "backend.name" };
                document.locate(base, e)
            })?;

        let pairs = parts.iter().any(|(o, _)| o.requirements().data == DataKind::Pairs);
        let tokenizer = tokenizer(document, &recipe)?;
        let cache = caching.map(|(stop, reporter)| TokenCache {
            cache: Cache::new(&recipe.cache, &output),
            stop,
            reporter,
        });
        let mut loader = Loader { document, tokenizer, seed: recipe.run.seed, pairs, loaded, cache };
        let mut stages = Vec::new();
        for (i, (objective, bilevel)) in parts.into_iter().enumerate() {
            stages.push(loader.stage(&recipe, i, objective, bilevel)?);
        }
        let tokenizer = loader.tokenizer;
        let spec = model_spec(&recipe, &tokenizer);
        Ok(Draft { recipe, name, output, tokenizer, stages, backend, spec })
    }

    fn open(&self, document: &Document) -> anyhow::Result<Box<dyn Session>> {
        self.backend.open(&self.spec).map_err(|e| match e {
            // The place in the recipe says more than the error alone.
            spo_api::Error::Engine(message) => anyhow::Error::new(document.error("backend", message)),
            spo_api::Error::Model(message) => anyhow::Error::new(document.error("model", message)),
            error @ spo_api::Error::Io { .. } => document.error("model", error.to_string()).into(),
            other => other.into(),
        })
    }

    /// Tokenizer, rows and model must fit each other.
    fn check_fit(&self, document: &Document, info: &ModelInfo) -> Result<(), BadInput> {
        let ModelInfo { vocabulary, context, .. } = *info;
        self.tokenizer.check_vocabulary(vocabulary).map_err(|e| document.error("model", e.to_string()))?;
        for (i, stage) in self.recipe.stage.iter().enumerate() {
            let (data, key) = match &stage.data {
                Some(data) => (data, format!("stage[{i}].data.max_length")),
                None => (&self.recipe.data, "data.max_length".to_owned()),
            };
            let longest = self.stages[i].train.examples.iter().flat_map(|e| &e.groups);
            let longest =
                longest.map(|g| g.prompt.len() + g.completions.iter().map(Vec::len).max().unwrap_or(0)).max();
            if longest.is_some_and(|l| l > context) {
                let message = format!(
                    "is {}, and the longest row has {} tokens, but the model was made for {context}",
                    data.max_length,
                    longest.unwrap_or_default()
                );
                return Err(document.error(&key, message));
            }
        }
        Ok(())
    }
}

/// Reads data, each source once.
struct Loader<'a> {
    document: &'a Document,
    tokenizer: Tokenizer,
    seed: u64,
    /// Whether a stage learns from pairs.
    pairs: bool,
    loaded: &'a mut Datasets,
    cache: Option<TokenCache<'a>>,
}

impl Loader<'_> {
    fn stage(
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
        let layout = layout(objective.requirements().data);
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

fn layout(data: DataKind) -> Layout {
    match data {
        DataKind::Pairs => Layout::Pairs,
        DataKind::Unpaired => Layout::Unpaired,
        DataKind::Demonstrations => Layout::Demonstrations,
    }
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
fn tokenizer(document: &Document, recipe: &Recipe) -> Result<Tokenizer, BadInput> {
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

/// What the backend is to open.
pub(crate) fn model_spec(recipe: &Recipe, tokenizer: &Tokenizer) -> ModelSpec {
    let source = match (&recipe.model.path, &recipe.model.config) {
        (Some(folder), _) => ModelSource::Folder(folder.clone()),
        (None, config) => {
            let mut config = config.clone().unwrap_or_default();
            config.entry("vocab_size").or_insert_with(|| tokenizer.vocabulary().into());
            if let Some((_, eos)) = tokenizer.eos() {
                config.entry("eos_token_id").or_insert_with(|| eos.into());
            }
            ModelSource::Random(Value::Object(config))
        }
    };
    let adapter = recipe.model.adapter.as_ref().map(|a| spo_api::Adapter {
        rank: a.rank,
        alpha: a.alpha,
        targets: a.targets.clone(),
        path: a.path.clone(),
    });
    let backend = &recipe.backend;
    ModelSpec {
        source,
        adapter,
        seed: recipe.run.seed,
        device: backend.device.clone(),
        dtype: backend.dtype.clone(),
    }
}
