//! `extends`: a recipe that begins from the keys of another.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use spo_api::nearest;

use super::document::{Document, File, displaced, is_below, join, long_form, text};
use crate::error::BadInput;

impl Document {
    /// The document with everything that it extends.
    pub(super) fn extended(mut self) -> Result<Self, BadInput> {
        let Some(written) = self.value.get("extends").cloned() else { return Ok(self) };
        let Some(base) = written.as_str() else {
            return Err(self.error("extends", format!("must be the path of another recipe, got {written}")));
        };
        let own = PathBuf::from(&self.files[self.files.len() - 1].name);
        let path = own.parent().unwrap_or(Path::new("")).join(base);
        let same = |file: &&File| match (Path::new(&file.name).canonicalize(), path.canonicalize()) {
            (Ok(file), Ok(path)) => file == path,
            _ => false,
        };
        let name = path.display().to_string();
        if self.files.iter().any(|file| same(&file)) {
            let chain: Vec<&str> = self.files.iter().map(|file| &*file.name).chain([&*name]).collect();
            return Err(self.error("extends", format!("the recipes go in a circle: {}", chain.join(" -> "))));
        }
        let text = text(&path).map_err(|problem| {
            let hint = beside(&path).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            self.error("extends", format!("cannot read {name}: {problem}{hint}"))
        })?;
        if let Value::Object(table) = &mut self.value {
            table.shift_remove("extends");
        }
        let base = Document::file(File { name, text }, self.files.clone())?.extended()?;
        Ok(base.with(self))
    }

    /// The document with the keys of one that extends it.
    fn with(mut self, over: Document) -> Self {
        let mut base = std::mem::take(&mut self.value);
        self.merge(&mut base, over.value.clone(), ["", ""], &over);
        self.value = base;
        self
    }

    /// Merges `value`, at the second path in `over`, into `base`, at the first path of the document.
    fn merge(&mut self, base: &mut Value, value: Value, [at, from]: [&str; 2], over: &Document) {
        let key = long_form(at).or(at.ends_with("optimizer").then_some("name"));
        // `objective = "dpo"` is short for `objective = { name = "dpo" }`.
        if let (Value::String(short), Some(key), Value::Object(_)) = (&*base, key, &value) {
            *base = Value::Object(Map::from_iter([(key.to_owned(), Value::String(short.clone()))]));
        }
        match (base, value) {
            (Value::Object(base), Value::Object(value))
                if !key.is_some_and(|key| renamed(base, &value, key)) =>
            {
                for other in value.keys().flat_map(|key| displaced(key)) {
                    base.shift_remove(*other);
                }
                for (key, value) in value {
                    let [at, from] = [at, from].map(|path| join(path, &key));
                    self.merge(base.entry(key).or_insert(Value::Null), value, [&at, &from], over);
                }
            }
            (Value::Array(base), Value::Array(value)) if at == "stage" => {
                for (i, value) in value.into_iter().enumerate() {
                    let same = base.iter().position(|stage| stage["name"] == value["name"]);
                    let j = same.unwrap_or(base.len());
                    if j == base.len() {
                        base.push(Value::Null);
                    }
                    let [at, from] = [format!("stage[{j}]"), format!("stage[{i}]")];
                    self.merge(&mut base[j], value, [&at, &from], over);
                }
            }
            (base, value) => {
                *base = value;
                self.places.retain(|place, _| !is_below(place, at));
                let inner = over.places.iter().filter(|(place, _)| is_below(place, from));
                let inner =
                    inner.map(|(place, written)| (format!("{at}{}", &place[from.len()..]), written.clone()));
                self.places.extend(inner);
            }
        }
        // An error about a table is shown where the table was written last.
        if let Some(place) = over.places.get(from) {
            self.places.insert(at.to_owned(), place.clone());
        }
    }
}

/// Whether a table is for another part: keys of the one before would mean nothing to it.
fn renamed(base: &Map<String, Value>, value: &Map<String, Value>, key: &str) -> bool {
    matches!((base.get(key), value.get(key)), (Some(before), Some(now)) if before != now)
}

/// The recipe beside a missing one whose name is nearest.
fn beside(missing: &Path) -> Option<String> {
    let folder = missing.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let recipes: Vec<String> = files.filter(|name| name.ends_with(".toml")).collect();
    nearest(missing.file_name()?.to_str()?, recipes.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BASE: &str = r#"
[model]
config = { hidden_size = 8, layers = 1 }

[data]
train = ["a.jsonl", "b.jsonl"]
split = { eval = 0.1 }

[[stage]]
name = "sft"
objective = "sft"
optimizer = { lr = 1e-4, weight_decay = 0.1 }

[[stage]]
name = "align"
objective = "dpo"
bilevel = { step = "penalty", lambda = 2.0 }
epochs = 2
optimizer = { name = "adamw", lr = 1e-5, weight_decay = 0.1 }
"#;

    /// A folder with recipes.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    /// The recipe `own.toml` beside `base.toml`, or its error with names that are the same everywhere.
    fn own(text: &str, more: &[(&str, &str)]) -> Result<Document, String> {
        let files = [&[("base.toml", BASE), ("own.toml", text)], more].concat();
        let folder = folder(&files);
        let document =
            Document::read(&folder.path().join("own.toml"), &["stage.align.batch_size=3".to_owned()]);
        let checked = document.and_then(|document| document.to_recipe().map(|_| document));
        checked.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn tables_merge_stages_by_name_and_everything_else_is_replaced() {
        let text = r#"
extends = "base.toml"
model.path = "m"
data = { train = ["c.jsonl"], eval = "e.jsonl" }

[[stage]]
name = "align"
objective = { beta = 0.2 }
bilevel = { step = "single" }
steps = 5
optimizer = { lr = 2e-5 }

[[stage]]
name = "more"
objective = "ipo"
optimizer = { name = "sgd", lr = 0.1 }
"#;
        assert_eq!(
            own(text, &[]).unwrap().value,
            json!({
                "model": { "path": "m" },
                "data": { "train": ["c.jsonl"], "eval": "e.jsonl" },
                "stage": [
                    { "name": "sft", "objective": "sft", "optimizer": { "lr": 1e-4, "weight_decay": 0.1 } },
                    {
                        "name": "align",
                        "objective": { "name": "dpo", "beta": 0.2 },
                        "bilevel": { "step": "single" },
                        "steps": 5,
                        "optimizer": { "name": "adamw", "lr": 2e-5, "weight_decay": 0.1 },
                        "batch_size": 3,
                    },
                    { "name": "more", "objective": "ipo", "optimizer": { "name": "sgd", "lr": 0.1 } },
                ],
            })
        );
    }

    #[test]
    fn chains_are_relative_to_the_file_that_has_them() {
        let middle = "extends = \"../base.toml\"\nrun.seed = 3\nrun.name = \"middle\"";
        let own =
            own("extends = \"sub/middle.toml\"\nrun.name = \"own\"", &[("sub/middle.toml", middle)]).unwrap();
        assert_eq!(own.value["run"], json!({ "seed": 3, "name": "own" }));
        assert_eq!(own.value["stage"].as_array().unwrap().len(), 2);
        assert_eq!(own.stem(), "own");
    }

    #[test]
    fn errors_point_at_the_file_that_has_the_key() {
        let stage = |keys: &str| format!("extends = \"base.toml\"\n[[stage]]\nname = \"align\"\n{keys}");
        for (name, text) in [
            ("in_the_extending_recipe", &*stage("bach_size = 2")),
            ("of_a_table_begun_anew", &stage("optimizer = { name = \"sgd\", momentum = 0.9 }")),
            ("of_a_stage_that_is_new", "extends = \"base.toml\"\n[[stage]]\nname = \"algn\"\nsteps = 3\n"),
            ("in_the_base", "extends = \"broken.toml\""),
            ("in_the_base_text", "extends = \"text.toml\""),
            ("circle", "extends = \"circle.toml\""),
            ("missing", "extends = \"bse.toml\""),
            ("not_a_path", "extends = [\"base.toml\"]"),
        ] {
            let broken = BASE.replace("epochs = 2", "epohcs = 2");
            let more = [
                ("broken.toml", &*broken),
                ("text.toml", "[run\n"),
                ("circle.toml", "run.seed = 1\nextends = \"./own.toml\""),
            ];
            insta::assert_snapshot!(name, own(text, &more).err().unwrap());
        }
        let folder = folder(&[("base.toml", BASE)]);
        let set = ["extends=other.toml".to_owned()];
        let error = Document::read(&folder.path().join("base.toml"), &set).unwrap().to_recipe().unwrap_err();
        insta::assert_snapshot!("set", error);
    }
}
