//! From a recipe to everything a run needs, checked before training begins.

mod data;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use spo_api::{Backend, Layout, Library, ModelInfo, ModelSource, ModelSpec, Objective, Registry, Session};
use spo_data::task::Judge;
use spo_data::{Dataset, Tokenizer};

use crate::cache::Cache;
use crate::compose::{self, Bilevel};
use crate::document::Document;
use crate::error::BadInput;
use crate::plugins;
use crate::provenance;
use crate::recipe::{Recipe, Stage};
use crate::reporter::Reporter;
use crate::rows::View;
use crate::stop::Stop;
use crate::tokens::TokenCache;

use data::{Datasets, Loader, tokenizer};

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

        let pairs = parts.iter().any(|(o, _)| o.requirements().data == Layout::Pairs);
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
            if self.stages[i].bilevel.step.needs().hessian && !info.hessian_vectors {
                return Err(self.no_hessian(document, i));
            }
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

    /// A stage's step asks for what the backend has not.
    fn no_hessian(&self, document: &Document, stage: usize) -> BadInput {
        let bilevel = format!("stage[{stage}].bilevel");
        let (key, choice) = match self.recipe.stage[stage].bilevel.get("hessian") {
            Some(_) => (format!("{bilevel}.hessian"), "take `hessian = \"differences\"`"),
            None => (bilevel, "take another step"),
        };
        let (step, backend) = (&self.stages[stage].bilevel.name, &self.recipe.backend.name);
        let message = format!(
            "`{step}` asks for exact Hessian-vector products, which the {backend} backend does not have: {choice}, or a \
             backend that has them (tch, tabular)"
        );
        document.error(&key, message)
    }
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
