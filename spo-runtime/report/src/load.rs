//! Reads run folders in any state: complete, still being written, or left by a run that was killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spo_api::{read_small, read_whole};

use crate::Error;

/// A run, as far as its folder can be read.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name in the report.
    pub label: String,
    /// The resolved recipe; null if there is none that can be read.
    pub recipe: Value,
    /// Its seed.
    pub seed: Option<u64>,
    /// What it is in the sweep that it belongs to, if any.
    pub cell: Option<Cell>,
    /// `run.json`: versions, data, model, machine; null if it cannot be read.
    pub record: Value,
    /// Its stages, as far as they have begun.
    pub stages: Vec<Stage>,
    /// What is missing or cannot be read, one sentence each.
    pub gaps: Vec<String>,
    /// What the recipe does not ask for, and would be shown here, one sentence each.
    pub hints: Vec<String>,
}

/// A run's place in a sweep.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The name of its arm.
    pub arm: String,
    /// The name of the arm that the others are compared with.
    pub baseline: String,
}

impl Cell {
    /// Whether it belongs to the baseline.
    pub fn is_baseline(&self) -> bool {
        self.arm == self.baseline
    }
}

/// A stage of a run.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its table in the recipe; null if that is not known.
    pub recipe: Value,
    /// Every metric over steps, by name.
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// The held-out rows before the stage.
    pub before: Option<HeldOut>,
    /// The held-out rows after it.
    pub after: Option<HeldOut>,
    /// The texts of the probes.
    pub probes: Option<Probes>,
    /// Log-probs of the probes' answers over steps.
    pub evolution: Vec<Evolution>,
    /// Gradients of some of the probes over steps.
    pub geometry: Vec<Geometry>,
    /// What the guard did.
    pub guard: Vec<Guarded>,
    /// Its times; `None` while it has not ended.
    pub times: Option<Times>,
}

/// The times of a stage, from the run's summary.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Times {
    /// All of it, with evaluations, in seconds.
    pub seconds: f64,
    /// Median time of a step, in seconds.
    pub step_seconds: f64,
    /// Tokens trained on per second of training steps; runs of earlier versions lack it.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
}

/// The held-out rows at one step; the lists have an entry per row.
#[derive(Clone, Debug, Deserialize)]
pub struct HeldOut {
    stage: String,
    /// Steps done.
    pub step: usize,
    /// Hash of the rows.
    pub data: String,
    /// Log-prob of the chosen answer, nats.
    pub chosen: Vec<Option<f64>>,
    /// Log-prob of the rejected answer.
    pub rejected: Vec<Option<f64>>,
    /// Whether the greedy answer equals the chosen one; empty if that was not measured.
    #[serde(default)]
    pub exact_match: Vec<Option<bool>>,
    /// Some greedy answers.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// A prompt and the greedy answer to it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Sample {
    /// Where the row came from.
    pub place: String,
    /// The prompt.
    pub prompt: String,
    /// The chosen answer.
    pub chosen: String,
    /// The greedy answer.
    pub answer: String,
    /// Whether it was cut at a limit and did not end by itself.
    #[serde(default)]
    pub cut: bool,
}

/// The texts of the probes.
#[derive(Clone, Debug, Deserialize)]
pub struct Probes {
    /// Whether they are held-out rows, and not training rows.
    pub held_out: bool,
    /// The probes, in the order of all later lists.
    pub probes: Vec<ProbeText>,
}

/// The text of a probe.
#[derive(Clone, Debug, Deserialize)]
pub struct ProbeText {
    /// Its prompt.
    pub prompt: String,
    /// Its chosen answer.
    pub chosen: String,
}

/// Log-probs of the probes' answers at one step, in nats; the lists have an entry per probe.
#[derive(Clone, Debug, Deserialize)]
pub struct Evolution {
    /// Steps done.
    pub step: usize,
    /// The chosen answers.
    pub chosen: Vec<Option<f64>>,
    /// The end tokens of the chosen answers.
    #[serde(default)]
    pub chosen_end: Vec<Option<f64>>,
    /// The rejected answers.
    pub rejected: Vec<Option<f64>>,
    /// The chosen answers of other prompts.
    pub other: Vec<Option<f64>>,
    /// The chosen answers' tokens in random order.
    pub shuffled: Vec<Option<f64>>,
    /// What the model answered when the stage began.
    pub own: Vec<Option<f64>>,
    /// Mean entropy of the next token along the chosen answers, in nats.
    pub entropy: f64,
    /// Mean negative log-prob of the chosen answers, in nats per token.
    pub lower: f64,
    /// Share of probes whose chosen answer lost probability.
    pub displaced: f64,
}

/// Gradients of some probes at one step, and the effect of the next update.
#[derive(Clone, Debug, Deserialize)]
pub struct Geometry {
    /// Steps done.
    pub step: usize,
    /// `<grad s_w, grad s_l>`.
    pub product: Vec<Option<f64>>,
    /// `||grad s_w||`.
    pub norm_chosen: Vec<f64>,
    /// `||grad s_l||`.
    pub norm_rejected: Vec<Option<f64>>,
    /// First-order prediction of the change of s_w, in nats; empty after the last step.
    #[serde(default)]
    pub predicted_chosen: Vec<f64>,
    /// First-order prediction of the change of s_l, in nats.
    #[serde(default)]
    pub predicted_rejected: Vec<Option<f64>>,
    /// The actual change of s_w, in nats.
    #[serde(default)]
    pub actual_chosen: Vec<f64>,
    /// The actual change of s_l, in nats.
    #[serde(default)]
    pub actual_rejected: Vec<Option<f64>>,
}

/// An action of the guard.
#[derive(Clone, Debug, Deserialize)]
pub struct Guarded {
    /// Steps done.
    pub step: usize,
    /// The share of displaced probes that was measured.
    pub displaced: f64,
    /// The largest share that is allowed.
    pub limit: f64,
    /// The factor on the learning rate from there on; 0 if the run was ended.
    pub lr_factor: f64,
}

/// Reads the runs at these paths. A folder that is no run but contains some stands for all of them.
///
/// # Errors
/// [`Error::Input`] when a path is no folder, or contains no run.
pub fn runs(paths: &[PathBuf]) -> Result<Vec<Run>, Error> {
    let mut folders = Vec::new();
    for path in paths {
        if is_run(path) {
            folders.push(path.clone());
            continue;
        }
        let inside = std::fs::read_dir(path).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
        let mut found: Vec<PathBuf> =
            inside.flatten().map(|entry| entry.path()).filter(|p| is_run(p)).collect();
        if found.is_empty() {
            let message = "is not the folder of a run (it has no metrics.jsonl), nor does it hold any";
            return Err(Error::Input(format!("{} {message}", path.display())));
        }
        found.sort();
        folders.extend(found);
    }
    let mut runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect::<Result<_, _>>()?;
    label(&mut runs);
    Ok(runs)
}

/// The resolved recipe of the run in a folder.
///
/// # Errors
/// Says which file cannot be read, and why.
pub fn recipe(folder: &Path) -> Result<Value, String> {
    let path = folder.join("recipe.toml");
    let text = read_small(&path).map_err(|e| e.to_string());
    let text = text.and_then(|text| String::from_utf8(text).map_err(|e| e.to_string()));
    let recipe = text.and_then(|text| toml::from_str::<Value>(&text).map_err(|e| e.message().to_owned()));
    recipe.map_err(|why| format!("{} cannot be read: {why}", path.display()))
}

/// A recipe without the keys that differ between repetitions, or do not affect results.
pub(crate) fn without_identity(recipe: &Value) -> Value {
    let mut recipe = recipe.clone();
    for (table, keys) in [
        ("run", &["seed", "name", "output", "overwrite", "resume"][..]),
        ("", &["checkpoint", "cache", "sweep"]),
    ] {
        let table = if table.is_empty() { Some(&mut recipe) } else { recipe.get_mut(table) };
        if let Some(table) = table.and_then(Value::as_object_mut) {
            keys.iter().for_each(|key| drop(table.remove(*key)));
        }
    }
    recipe
}

/// The first difference between two recipes that is more than a repetition under another seed; `None` if there is none.
pub fn difference(one: &Value, other: &Value) -> Option<String> {
    first_difference(&without_identity(one), &without_identity(other), "")
}

fn first_difference(one: &Value, other: &Value, path: &str) -> Option<String> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            keys.into_iter().find_map(|key| first_difference(&one[key], &other[key], &inner(key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut both = a.iter().zip(b).enumerate();
            both.find_map(|(i, (a, b))| first_difference(a, b, &format!("{path}[{i}]")))
        }
        _ => (one != other).then(|| {
            let shown =
                |value: &Value| if value.is_null() { "missing".to_owned() } else { value.to_string() };
            format!("`{path}` is {} in one and {} in the other", shown(one), shown(other))
        }),
    }
}

/// The longest log that is read, in MiB.
const LONGEST: u64 = 4096;

/// A file of JSON; `None` if it cannot be read.
fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&read_small(path).ok()?).ok()
}

fn is_run(folder: &Path) -> bool {
    folder.join("metrics.jsonl").is_file()
}

/// Names runs by their folders, or by the whole path where folder names are not unique.
fn label(runs: &mut [Run]) {
    let name =
        |run: &Run| run.folder.canonicalize().ok()?.file_name().map(|n| n.to_string_lossy().into_owned());
    let names: Vec<Option<String>> = runs.iter().map(name).collect();
    for (run, name) in runs.iter_mut().zip(&names) {
        let unique = names.iter().filter(|other| *other == name).count() == 1;
        let path = run.folder.display().to_string();
        run.label = name.clone().filter(|_| unique).unwrap_or(path);
    }
}

impl Run {
    fn read(folder: &Path) -> Result<Self, Error> {
        let mut run = Run { folder: folder.to_owned(), ..Run::default() };
        run.recipe = recipe(folder).unwrap_or_else(|why| {
            run.gaps.push(format!("its recipe.toml cannot be read: seeds cannot be told from arms ({why})"));
            Value::Null
        });
        run.cell = run.cell();
        run.record = json(&folder.join("run.json")).unwrap_or_default();
        run.seed = run.recipe["run"]["seed"].as_u64();
        for line in run.lines::<Value>("metrics.jsonl")?.unwrap_or_default() {
            let (Some(stage), Some(step)) = (line["stage"].as_str(), line["step"].as_f64()) else { continue };
            let stage = run.stage(stage);
            for (name, value) in line.as_object().into_iter().flatten() {
                if let Some(value) = value.as_f64().filter(|_| name != "step") {
                    stage.curves.entry(name.clone()).or_default().push((step, value));
                }
            }
        }
        match run.lines::<HeldOut>("held_out.jsonl")? {
            Some(lines) => lines.into_iter().for_each(|line| {
                let stage = run.stage(&line.stage.clone());
                match line.step {
                    0 => stage.before = Some(line),
                    _ => stage.after = Some(line),
                }
            }),
            None => run.gaps.push("it has no held_out.jsonl: nothing can be said row by row".into()),
        }
        match run.lines::<Value>("diagnostics.jsonl")? {
            Some(lines) => lines.into_iter().for_each(|line| run.diagnostic(line)),
            None if run.recipe["diagnostics"].is_null() => {
                run.hints.push("put `[diagnostics]` into the recipe to see where probability goes".into());
            }
            None => run.gaps.push("it has no diagnostics.jsonl, which its recipe asks for".into()),
        }
        let summary = folder.join("summary.json");
        if !summary.is_file() {
            run.gaps.push(format!("it has not come to its end: {}", run.progress()));
        }
        for stage in json(&summary).unwrap_or_default()["stages"].as_array().into_iter().flatten() {
            let times = Times::deserialize(stage).ok();
            if let Some(name) = stage["name"].as_str() {
                run.stage(name).times = times;
            }
        }
        Ok(run)
    }

    /// Its place in the sweep whose folder it is in.
    fn cell(&mut self) -> Option<Cell> {
        let folder = self.folder.canonicalize().ok()?;
        let (name, file) = (folder.file_name()?.to_str()?, folder.parent()?.join("sweep.json"));
        if !file.is_file() {
            return None;
        }
        let sweep = json(&file);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let cell = sweep.as_ref().and_then(|sweep| {
            let cell = sweep["cells"].as_array()?.iter().find(|cell| cell["name"] == name)?;
            Some(Cell { arm: text(&cell["arm"])?, baseline: text(&sweep["baseline"])? })
        });
        if sweep.is_none() {
            self.gaps.push("the sweep.json beside it cannot be read: its baseline is not known".into());
        }
        cell
    }

    /// How far it has come.
    fn progress(&self) -> String {
        let Some(stage) = self.stages.last() else { return "no step was logged yet".into() };
        let done = stage.steps_done();
        match stage.recipe["steps"].as_u64() {
            Some(planned) => format!("stage `{}` is at step {done} of {planned}", stage.name),
            None => format!("stage `{}` is at step {done}", stage.name),
        }
    }

    /// The stage of this name; it is added if there is none yet.
    fn stage(&mut self, name: &str) -> &mut Stage {
        let at = self.stages.iter().position(|stage| stage.name == name).unwrap_or_else(|| {
            let of_recipe = self.recipe["stage"].as_array().into_iter().flatten();
            let recipe =
                of_recipe.into_iter().find(|stage| stage["name"] == name).cloned().unwrap_or_default();
            self.stages.push(Stage { name: name.to_owned(), recipe, ..Stage::default() });
            self.stages.len() - 1
        });
        &mut self.stages[at]
    }

    /// Adds a line of the diagnostics to its stage.
    fn diagnostic(&mut self, line: Value) {
        let (kind, stage) =
            (line["kind"].as_str().unwrap_or_default(), line["stage"].as_str().unwrap_or_default());
        let (kind, stage) = (kind.to_owned(), self.stage(stage));
        let filed = match kind.as_str() {
            "probes" => serde_json::from_value(line).map(|line| stage.probes = Some(line)),
            "evolution" => serde_json::from_value(line).map(|line| stage.evolution.push(line)),
            "geometry" => serde_json::from_value(line).map(|line| stage.geometry.push(line)),
            "guard" => serde_json::from_value(line).map(|line| stage.guard.push(line)),
            _ => Ok(()),
        };
        if let Err(e) = filed {
            self.gaps.push(format!("a `{kind}` line of its diagnostics.jsonl is passed over: {e}"));
        }
    }

    /// The lines of a file; `None` if there is no such file. Lines that cannot be read are skipped and noted as gaps.
    fn lines<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<Vec<T>>, Error> {
        let path = self.folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes =
            read_whole(&path, LONGEST).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(line) => lines.push(line),
                Err(_) if !text.ends_with('\n') && i + 1 == text.lines().count() => {
                    self.gaps.push(format!("the last line of its {name} is cut off and passed over"));
                }
                Err(e) => self.gaps.push(format!("line {} of its {name} is passed over: {e}", i + 1)),
            }
        }
        Ok(Some(lines))
    }
}

impl Evolution {
    /// The answers that are followed, by name: the pair first.
    pub fn answers(&self) -> [(&'static str, &[Option<f64>]); 5] {
        [
            ("chosen", &self.chosen),
            ("rejected", &self.rejected),
            ("other", &self.other),
            ("shuffled", &self.shuffled),
            ("own", &self.own),
        ]
    }
}

impl Stage {
    /// Steps that were logged.
    pub fn steps_done(&self) -> usize {
        let of_training = self.curves.iter().filter(|(name, _)| !name.starts_with("eval_"));
        of_training.filter_map(|(_, curve)| curve.last()).map(|point| point.0 as usize).max().unwrap_or(0)
    }

    /// Whether it learns preferences: whether its training metrics mention rejected answers.
    pub fn prefers(&self) -> bool {
        self.curves.contains_key("logps/rejected") || self.curves.contains_key("rewards/margins")
    }

    /// Its objective and bilevel step, in a few words.
    pub fn method(&self) -> String {
        let name = |value: &Value, key: &str| match value {
            Value::String(name) => name.clone(),
            other => other[key].as_str().unwrap_or("?").to_owned(),
        };
        let objective = match &self.recipe["objective"] {
            Value::Array(parts) => {
                parts.iter().map(|part| name(part, "name")).collect::<Vec<_>>().join(" + ")
            }
            one => name(one, "name"),
        };
        match name(&self.recipe["bilevel"], "step").as_str() {
            "single" | "?" => objective,
            step => format!("{objective} under {step}"),
        }
    }
}
