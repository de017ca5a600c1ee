//! A TOML file with overrides, as a JSON value that remembers where each key was written.
//!
//! Parts of a recipe are checked by types that only the registry knows, so the file is not deserialised in
//! one go. Instead, every error names a path (`stage[1].objective.beta`), and this module converts the path
//! to a file, a line and a column.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use anyhow::Context;
use serde_json::{Map, Value};
use spo_api::{ConfigError, ConfigErrorKind, nearest, read_within};
use toml::de::{DeTable, DeValue};

use crate::error::BadInput;
use crate::recipe::{Recipe, elsewhere};

/// The longest recipe, in MiB.
const LONGEST: u64 = 8;

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the file with this index: the spans of its key and of its value.
    File { file: usize, key: Range<usize>, value: Range<usize> },
    /// In the override with this index.
    Override(usize),
}

/// Where the value at every path was written.
pub(super) type Places = BTreeMap<String, Place>;

/// A change to the file's contents.
#[derive(Clone, Debug)]
struct Override {
    /// Where the change was requested.
    origin: &'static str,
    /// `path=value`.
    text: String,
}

/// A file as it was read.
#[derive(Clone)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) text: String,
}

/// A parsed file with its overrides applied.
#[derive(Clone)]
pub(crate) struct Document {
    /// The file, and those it extends.
    pub(super) files: Vec<File>,
    overrides: Vec<Override>,
    pub(super) value: Value,
    pub(super) places: Places,
}

impl Document {
    /// Reads a TOML file and what it extends, and applies `path=value` overrides in order.
    pub(crate) fn read(path: &Path, overrides: &[String]) -> Result<Self, BadInput> {
        let name = path.display().to_string();
        let text =
            text(path).map_err(|problem| BadInput(format!("error: cannot read recipe {name}: {problem}")))?;
        Self::parse(&name, text, overrides)
    }

    /// Like [`read`](Self::read), but from text.
    pub(crate) fn parse(name: &str, text: String, overrides: &[String]) -> Result<Self, BadInput> {
        let mut document = Self::file(File { name: name.to_owned(), text }, Vec::new())?.extended()?;
        for text in overrides {
            document.apply(Override { origin: "--set", text: text.clone() })?;
        }
        Ok(document)
    }

    /// One file, which the `earlier` ones extend.
    pub(super) fn file(file: File, earlier: Vec<File>) -> Result<Self, BadInput> {
        let text = file.text.clone();
        let mut document = Document {
            files: [earlier, vec![file]].concat(),
            overrides: Vec::new(),
            value: Value::Null,
            places: Places::new(),
        };
        let table = DeTable::parse(&text).map_err(|e| {
            document.render(e.message(), document.text_snippet(document.files.len() - 1, e.span(), ""))
        })?;
        document.value = document.convert(&DeValue::Table(table.into_inner()), "")?;
        Ok(document)
    }

    /// The document of a sweep's cell: without the `sweep` section, and with these values changed.
    pub(crate) fn changed(&self, changes: &[(String, Value)]) -> Result<Self, BadInput> {
        let mut document = self.clone();
        if let Value::Object(table) = &mut document.value {
            table.shift_remove("sweep");
        }
        for (path, value) in changes {
            let value = toml::Value::try_from(value).map_err(|e| self.error("sweep", e.to_string()))?;
            document.apply(Override { origin: "[sweep]", text: format!("{path}={value}") })?;
        }
        Ok(document)
    }

    /// The document as TOML, with overrides applied.
    pub(crate) fn to_toml(&self) -> anyhow::Result<String> {
        toml::to_string_pretty(&self.value).context("cannot write the recipe as TOML")
    }

    /// The document as another type.
    pub(crate) fn read_as<P: spo_api::Part>(&self) -> Result<P, BadInput> {
        spo_api::parse(&self.value).map_err(|e| self.locate("", e))
    }

    /// The document as a recipe.
    pub(crate) fn to_recipe(&self) -> Result<Recipe, BadInput> {
        // This is the most common TOML mistake, and serde's message would be about maps and sequences.
        if self.value["stage"].is_object() {
            return Err(self.error("stage", "a run is a list of stages: write [[stage]]"));
        }
        let mut recipe: Recipe = self.read_as()?;
        recipe.place_parts();
        Ok(recipe)
    }

    /// The file's name without folder and extension.
    pub(crate) fn stem(&self) -> String {
        Path::new(&self.files[0].name).file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned())
    }

    /// The value of a top-level key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key)
    }

    /// An error about the value at `path`, or at the nearest enclosing path that was written.
    pub(crate) fn error(&self, path: &str, message: impl AsRef<str>) -> BadInput {
        self.at(path, message.as_ref(), "", false)
    }

    /// Locates an error about a key inside the table at `base`.
    pub(crate) fn locate(&self, base: &str, error: ConfigError) -> BadInput {
        let path = match &error.key {
            Some(key) if base.is_empty() || key.starts_with('[') => format!("{base}{key}"),
            Some(key) => format!("{base}.{key}"),
            None => base.to_owned(),
        };
        let about_key = error.kind == ConfigErrorKind::UnknownKey;
        let key = path.rsplit('.').next().filter(|_| about_key);
        let (message, label) = match key.and_then(elsewhere::here) {
            Some(hint) => (format!("{}; {hint}", error.message), String::new()),
            None => {
                let label = error.suggestion.map(|s| format!("did you mean `{s}`?"));
                (error.message, label.unwrap_or_default())
            }
        };
        self.at(&path, &message, &label, about_key)
    }

    fn at(&self, path: &str, message: &str, label: &str, about_key: bool) -> BadInput {
        let mut known = path;
        let place = loop {
            if let Some(place) = self.places.get(known) {
                break Some(place);
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => break None,
            }
        };
        let title = if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") };
        let snippet = match place {
            Some(Place::File { file, key, .. }) if about_key => {
                self.text_snippet(*file, Some(key.clone()), label)
            }
            Some(Place::File { file, value, .. }) => self.text_snippet(*file, Some(value.clone()), label),
            Some(Place::Override(index)) => {
                let Override { origin, text } = &self.overrides[*index];
                let start = if about_key { 0 } else { text.find('=').map_or(0, |i| i + 1) };
                snippet(text, origin, start..text.len(), label)
            }
            None => self.text_snippet(0, None, label),
        };
        self.render(&title, snippet)
    }

    fn text_snippet<'a>(
        &'a self,
        file: usize,
        span: Option<Range<usize>>,
        label: &'a str,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let File { name, text } = &self.files[file];
        let whole = 0..text.find('\n').unwrap_or(text.len());
        let span = span.unwrap_or(whole);
        // For a table that spans several lines, only the first line is shown.
        let line_end = text[span.start..].find('\n').map_or(text.len(), |i| span.start + i);
        snippet(text, name, span.start..span.end.min(line_end), label)
    }

    fn render(&self, title: &str, snippet: Snippet<'_, annotate_snippets::Annotation<'_>>) -> BadInput {
        BadInput(Renderer::plain().render(&[Level::ERROR.primary_title(title).element(snippet)]))
    }

    fn convert(&mut self, value: &DeValue<'_>, path: &str) -> Result<Value, BadInput> {
        let number = |text: String| text.replace('_', "");
        let file = self.files.len() - 1;
        Ok(match value {
            DeValue::String(s) => Value::String(s.to_string()),
            DeValue::Boolean(b) => Value::Bool(*b),
            DeValue::Integer(i) => match i64::from_str_radix(&number(i.as_str().to_owned()), i.radix()) {
                Ok(i) => Value::from(i),
                Err(_) => {
                    return Err(self.error(path, format!("{} does not fit a 64-bit integer", i.as_str())));
                }
            },
            DeValue::Float(f) => {
                let x: f64 = number(f.as_str().to_owned()).parse().unwrap_or(f64::NAN);
                match serde_json::Number::from_f64(x) {
                    Some(n) => Value::Number(n),
                    None => {
                        return Err(self.error(path, format!("must be a finite number, got {}", f.as_str())));
                    }
                }
            }
            DeValue::Datetime(d) => {
                return Err(self.error(path, format!("a date must be in quotes: \"{d}\"")));
            }
            DeValue::Array(array) => {
                let mut items = Vec::with_capacity(array.len());
                for (i, item) in array.iter().enumerate() {
                    let inner = format!("{path}[{i}]");
                    let place = Place::File { file, key: item.span(), value: item.span() };
                    self.places.insert(inner.clone(), place);
                    items.push(self.convert(item.get_ref(), &inner)?);
                }
                Value::Array(items)
            }
            DeValue::Table(table) => {
                let mut map = Map::new();
                for (key, item) in table {
                    let inner = join(path, key.get_ref());
                    let place = Place::File { file, key: key.span(), value: item.span() };
                    self.places.insert(inner.clone(), place);
                    map.insert(key.get_ref().to_string(), self.convert(item.get_ref(), &inner)?);
                }
                Value::Object(map)
            }
        })
    }

    /// Applies an override such as `stage.align.objective.beta=0.2`. List elements are addressed by index or
    /// by `name`.
    fn apply(&mut self, change: Override) -> Result<(), BadInput> {
        let index = self.overrides.len();
        self.overrides.push(change.clone());
        let Override { origin, text } = change;
        let fail = |message: String, span: Range<usize>, label: &str| {
            let report = Level::ERROR.primary_title(&message).element(snippet(&text, origin, span, label));
            BadInput(Renderer::plain().render(&[report]))
        };
        let Some((path, raw)) = text.split_once('=') else {
            return Err(fail("expected path=value".into(), 0..text.len(), ""));
        };
        let (path, raw) = (path.trim(), raw.trim());
        if path.split('.').any(str::is_empty) {
            return Err(fail("expected path=value".into(), 0..text.len(), ""));
        }
        // A bare word is a string: --set stage.align.objective=ipo.
        let source = format!("v = {raw}");
        let parsed = match DeTable::parse(&source) {
            Ok(table) if table.get_ref().len() == 1 => {
                table.into_inner().into_iter().map(|(_, v)| v).next().map(toml::Spanned::into_inner)
            }
            _ if raw.chars().all(|c| c.is_alphanumeric() || "-_./".contains(c)) && !raw.is_empty() => {
                Some(DeValue::String(raw.into()))
            }
            _ => None,
        };
        let Some(parsed) = parsed else {
            return Err(fail(format!("`{raw}` is not a TOML value"), text.len() - raw.len()..text.len(), ""));
        };

        let segments: Vec<&str> = path.split('.').collect();
        let mut resolved = String::new();
        let mut node = &mut self.value;
        for segment in &segments {
            let start = segment.as_ptr() as usize - text.as_ptr() as usize;
            let here = start..start + segment.len();
            if let Value::Array(items) = node {
                let names: Vec<String> =
                    items.iter().map(|i| i["name"].as_str().unwrap_or_default().to_owned()).collect();
                let at = segment.parse().ok().filter(|i| *i < items.len());
                let Some(i) = at.or_else(|| names.iter().position(|n| n == segment)) else {
                    let label = nearest(segment, names.iter().map(String::as_str))
                        .map(|n| format!("did you mean `{n}`?"))
                        .unwrap_or_default();
                    let message = format!("{resolved} has no element `{segment}`, only {}", names.join(", "));
                    return Err(fail(message, here, &label));
                };
                resolved = format!("{resolved}[{i}]");
                node = &mut items[i];
                continue;
            }
            // `objective = "dpo"` is short for `objective = { name = "dpo" }`.
            if let (Value::String(short), Some(key)) = (&*node, long_form(&resolved)) {
                *node = Value::Object(Map::from_iter([(key.to_owned(), Value::String(short.clone()))]));
            }
            let Value::Object(map) = node else {
                return Err(fail(format!("{resolved} is not a table"), here, ""));
            };
            let key = join(&resolved, segment);
            for other in displaced(segment) {
                let there = join(&resolved, other);
                let earlier = self.places.iter().find_map(|(place, at)| match at {
                    Place::Override(earlier)
                        if *place == there || is_below(place, &there) || is_below(&there, place) =>
                    {
                        Some(&self.overrides[*earlier]).filter(|earlier| earlier.origin == origin)
                    }
                    _ => None,
                });
                if let (Some(earlier), true) = (earlier, map.contains_key(*other)) {
                    let message = format!(
                        "{key}: it excludes `{there}`, which is set too, by `{}`: leave one of them out",
                        earlier.text
                    );
                    return Err(fail(message, here, ""));
                }
                map.shift_remove(*other);
            }
            resolved = key;
            node = map.entry(segment.to_string()).or_insert_with(|| Value::Object(Map::new()));
        }
        self.places.retain(|place, _| !is_below(place, &resolved));
        self.places.insert(resolved.clone(), Place::Override(index));
        let mut scratch = Document {
            files: vec![File { name: origin.into(), text: text.clone() }],
            overrides: Vec::new(),
            value: Value::Null,
            places: Places::from([(
                resolved.clone(),
                Place::File { file: 0, key: 0..path.len(), value: text.len() - raw.len()..text.len() },
            )]),
        };
        *node = scratch.convert(&parsed, &resolved)?;
        Ok(())
    }
}

/// The text of a recipe's file.
pub(super) fn text(path: &Path) -> Result<String, String> {
    // Not every file ends: a recipe may come from a pipe or a device.
    let bytes = std::fs::File::open(path).and_then(|file| read_within(file, LONGEST));
    let bytes =
        bytes.map_err(|e| e.to_string())?.ok_or_else(|| format!("it is longer than {LONGEST} MiB"))?;
    String::from_utf8(bytes)
        .map_err(|e| format!("it is not UTF-8 text (byte {})", e.utf8_error().valid_up_to()))
}

/// Keys that exclude this one: when it is changed, they no longer hold.
pub(super) fn displaced(key: &str) -> &'static [&'static str] {
    match key {
        "steps" => &["epochs"],
        "epochs" => &["steps"],
        "path" => &["config"],
        "config" => &["path"],
        "train" => &["task"],
        "task" => &["train", "eval", "split"],
        "eval" => &["split"],
        "split" => &["eval"],
        _ => &[],
    }
}

/// Whether a path leads into the value at another one.
pub(super) fn is_below(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The key for which a bare string at this path is an abbreviation.
pub(super) fn long_form(path: &str) -> Option<&'static str> {
    match path.rsplit('.').next()? {
        "objective" | "lower" | "schedule" | "task" | "backend" => Some("name"),
        "bilevel" => Some("step"),
        "train" | "eval" | "lower_data" => Some("path"),
        _ => None,
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn snippet<'a>(
    text: &'a str,
    name: &'a str,
    span: Range<usize>,
    label: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let annotation = AnnotationKind::Primary.span(span);
    let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
    Snippet::source(text).path(name).annotation(annotation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"
[model]
path = "models/tiny"

[data]
train = "train.jsonl"

[[stage]]
name = "sft"
objective = "sft"
optimizer = { lr = 1e-4 }

[[stage]]
name = "align"
objective = "dpo"
optimizer = { lr = 1e-5, warmup = 0.1 }
"#;

    fn with(overrides: &[&str]) -> Result<Document, BadInput> {
        let overrides: Vec<String> = overrides.iter().map(std::string::ToString::to_string).collect();
        Document::parse("recipe.toml", RECIPE.into(), &overrides)
    }

    #[test]
    fn overrides_reach_stages_by_name_and_by_index() {
        let document = with(&[
            "stage.align.objective.beta=0.2",
            "stage.0.optimizer.lr=1e-3",
            "stage.0.optimizer.schedule=polynomial",
            "stage.0.optimizer.schedule.power=2",
            "run.seed = 7",
            "stage.align.from=model",
            "stage.align.steps=4",
            "stage.align.steps=5",
        ])
        .unwrap();
        let recipe: Recipe = document.to_recipe().unwrap();
        let objective = serde_json::to_value(&recipe.stage[1].objective).unwrap();
        assert_eq!(objective, serde_json::json!({"name": "dpo", "beta": 0.2}));
        assert_eq!(recipe.stage[0].optimizer.own.lr, 1e-3);
        let schedule = serde_json::to_value(&recipe.stage[0].optimizer.own.schedule).unwrap();
        assert_eq!(schedule, serde_json::json!({"name": "polynomial", "power": 2}));
        assert_eq!(recipe.run.seed, 7);
        assert_eq!((recipe.stage[1].steps, recipe.stage[1].epochs), (Some(5), None), "the later one holds");
        assert_eq!(recipe.stage[1].from.as_deref(), Some("model"));
    }

    #[test]
    fn overrides_that_exclude_each_other_are_refused_and_both_are_named() {
        for pair in [
            ["data.split={ eval = 0.1 }", "data.eval=held-out.jsonl"],
            ["data.eval=held-out.jsonl", "data.split.eval=0.1"],
            ["data={ train = \"rows.jsonl\", split = { eval = 0.1 } }", "data.eval=held-out.jsonl"],
            ["stage.align.epochs=3", "stage.align.steps=5"],
        ] {
            let error = with(&pair).err().unwrap_or_else(|| panic!("{pair:?}")).to_string();
            assert!(pair.iter().all(|text| error.contains(text)), "{error}");
            assert!(error.contains("leave one of them out"), "{error}");
        }
    }

    #[test]
    fn a_backend_may_be_its_name_alone() {
        let named = |recipe: &str, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(std::string::ToString::to_string).collect();
            let document = Document::parse("recipe.toml", recipe.into(), &overrides).unwrap();
            document.to_recipe().unwrap().backend
        };
        let short = format!("backend = \"tch\"\n{RECIPE}");
        let long = format!("{RECIPE}\n[backend]\nname = \"tch\"\ndtype = \"bf16\"");
        for (recipe, overrides, dtype) in [
            (short.as_str(), &[][..], "f32"),
            (&short, &["backend.dtype=bf16"], "bf16"),
            (RECIPE, &["backend=tch"], "f32"),
            (RECIPE, &["backend=\"tch\"", "backend.dtype=bf16"], "bf16"),
            (&long, &[], "bf16"),
            (&long, &["backend=tch"], "f32"),
        ] {
            let backend = named(recipe, overrides);
            assert_eq!((backend.name.as_str(), backend.dtype.as_str()), ("tch", dtype), "{overrides:?}");
        }
        assert_eq!(named(RECIPE, &[]).name, "candle");
    }

    #[test]
    fn errors_point_at_the_file_or_at_the_override() {
        let misspelt = RECIPE.replace("name = \"align\"", "name = \"align\"\nbatchsize = 4");
        let error = Document::parse("recipe.toml", misspelt, &[]).unwrap().to_recipe().unwrap_err();
        insta::assert_snapshot!("misspelt_key", error);
        insta::assert_snapshot!("misspelt_stage", with(&["stage.algn.objective=ipo"]).err().unwrap());
        insta::assert_snapshot!(
            "override_out_of_range",
            with(&["stage.align.optimizer.lr=-1"]).unwrap().to_recipe().unwrap_err()
        );
        insta::assert_snapshot!("override_not_finite", with(&["run.seed=nan"]).err().unwrap());
        insta::assert_snapshot!(
            "not_toml",
            Document::parse("recipe.toml", "[run\n".into(), &[]).err().unwrap()
        );
    }
}
