//! The card of a saved model: a README.md that says what it was made of, with the head that the Hugging Face Hub reads.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use spo_api::{Metrics, read_small};

use crate::hub;
use crate::plan::Plan;
use crate::recipe::{Resume, Stage};
use crate::store::write::write_text;

const FILE: &str = "README.md";

/// By which a card of the program is told from a text of a person.
const MARK: &str = "<!-- Written by spo. Without this line, it is not written over. -->";

/// Writes a card, unless the folder has a README.md that the program has not written. Returns whether it was written.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(folder: &Path, card: &str) -> anyhow::Result<bool> {
    let path = folder.join(FILE);
    if path.symlink_metadata().is_ok() && own(&path).is_none() {
        return Ok(false);
    }
    write_text(&path, card)?;
    Ok(true)
}

/// The text of a card that the program has written.
fn own(path: &Path) -> Option<String> {
    String::from_utf8(read_small(path).ok()?).ok().filter(|text| text.contains(MARK))
}

/// The card of a stage's model, given the record of the run. `figures` are those of the model, each list with a title.
///
/// # Errors
/// If the recipe cannot be written as TOML.
pub(crate) fn of_stage(
    plan: &Plan,
    record: &Value,
    stage: &Stage,
    figures: &[(&str, &Metrics)],
) -> anyhow::Result<String> {
    let model = &plan.recipe.model;
    let (library, what) = match &model.adapter {
        Some(_) => ("peft", "An adapter"),
        None => ("transformers", "A model"),
    };
    let mut tags = vec!["spo".to_owned()];
    tags.extend(model.adapter.as_ref().map(|_| "lora".to_owned()));
    tags.extend(stage.objective.parts().iter().map(|part| part.name.clone()));
    tags.dedup();
    let base = model.path.as_deref();
    let sources = plan.recipe.rows().into_iter().flat_map(|rows| &rows.sources);
    // Where a revision is known, it is that of an id.
    let id = |path: &Path| path.to_string_lossy().split('@').next().unwrap_or_default().to_owned();
    let mut datasets: Vec<String> =
        sources.filter(|source| source.revision.is_some()).map(|source| id(&source.path)).collect();
    datasets.sort();
    datasets.dedup();
    let base_id = base.filter(|_| model.revision.is_some()).map(id);

    let mut text = head(base_id.as_deref(), library, &datasets, &tags);
    let name = &plan.name;
    writeln!(text, "# {name}/{}\n\n{MARK}\n", stage.name)?;
    let spo = env!("CARGO_PKG_VERSION");
    write!(
        text,
        "{what}, trained by stage `{}` of the run `{name}` of spo {spo}.\n\n## Base\n\n",
        stage.name
    )?;
    // Those of a new adapter are not the base's.
    let [all, trained] =
        ["parameters", "trainable"].map(|key| record["model"][key].as_u64().unwrap_or_default());
    let parameters = all.saturating_sub(if model.adapter.is_some() { trained } else { 0 });
    let architecture = record["model"]["architecture"].as_str().unwrap_or_default();
    match (base, &model.revision) {
        (Some(path), Some(commit)) => {
            writeln!(
                text,
                "`{}` of the Hugging Face Hub at `{commit}`: {architecture}, {parameters} parameters.",
                path.display()
            )?;
        }
        (Some(path), None) => {
            writeln!(text, "`{}`: {architecture}, {parameters} parameters.", path.display())?;
        }
        (None, _) => writeln!(text, "Random weights: {architecture}, {parameters} parameters.")?,
    }
    if let Some(path) = model.adapter.as_ref().and_then(|adapter| adapter.path.as_ref()) {
        writeln!(text, "\nIt begins from the adapter `{}`.", path.display())?;
    }
    let hashes = record["model"]["sha256"].as_object();
    for (i, (file, hash)) in hashes.into_iter().flatten().enumerate() {
        let before = if i == 0 { "\n" } else { "" };
        writeln!(text, "{before}- `{file}`: sha256 `{}`", hash.as_str().unwrap_or_default())?;
    }
    text += "\n## Data\n\n| rows of | rows | sha256 of their tokens |\n|---|---:|---|\n";
    for data in record["data"].as_array().into_iter().flatten() {
        let field = |key: &str| cell(data[key].as_str().unwrap_or_default());
        writeln!(text, "| {} | {} | `{}` |", field("source"), data["rows"], field("sha256_of_tokens"))?;
    }
    text += "\n## Figures\n";
    for (title, figures) in figures {
        write!(text, "\n| {title} | |\n|---|---:|\n")?;
        for (name, value) in *figures {
            writeln!(text, "| {} | {} |", cell(name), shown(*value))?;
        }
    }
    let mut recipe = plan.recipe.clone();
    // Where it ran is of no account.
    (recipe.run.output, recipe.run.overwrite, recipe.run.resume) = (None, false, Resume::default());
    write!(text, "\n## Recipe\n\n```toml\n{}```\n", toml::to_string_pretty(&recipe)?)?;
    Ok(text)
}

/// The card of a model that is written anew from `model`, perhaps with an adapter merged. If one of them has a card of the
/// program, it is told on.
pub(crate) fn of_export(model: &Path, adapter: Option<&Path>) -> String {
    let from = adapter.unwrap_or(model);
    let told = own(&hub::folder(from, None).join(FILE));
    let (old_head, body) = told.as_deref().map_or(("", ""), parts);
    let base = hub::model_id(model).map(|(repo, _)| repo.id().to_owned());
    let mut text = match old_head {
        "" => head(base.as_deref(), "transformers", &[], &["spo".to_owned()]),
        old => format!("---\n{}---\n\n", old.replace("library_name: peft\n", "library_name: transformers\n")),
    };
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let merged = adapter.map(|adapter| format!(", with the adapter `{}` merged", adapter.display()));
    let (merged, spo) = (merged.unwrap_or_default(), env!("CARGO_PKG_VERSION"));
    text += &format!("# {name}\n\n{MARK}\n\nExported by spo {spo} from `{}`{merged}.\n", model.display());
    if !body.is_empty() {
        text += &format!("\n## As it was trained\n\n{body}");
    }
    text
}

/// The head of a card without its lines, and what follows its title and mark, with titles one level down.
fn parts(card: &str) -> (&str, &str) {
    let head = card.strip_prefix("---\n").and_then(|rest| rest.split_once("---\n"));
    let body = card.split_once(MARK).map_or("", |(_, body)| body.trim_start());
    (head.map_or("", |(head, _)| head), body)
}

/// The YAML that the hub reads. Strings of JSON are strings of YAML.
fn head(base: Option<&str>, library: &str, datasets: &[String], tags: &[String]) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let list = |key: &str, items: &[String]| match items {
        [] => String::new(),
        items => {
            let items: Vec<String> = items.iter().map(|item| format!("- {}\n", quoted(item))).collect();
            format!("{key}:\n{}", items.concat())
        }
    };
    let base = base.map(|id| format!("base_model: {}\n", quoted(id))).unwrap_or_default();
    let (datasets, tags) = (list("datasets", datasets), list("tags", tags));
    format!("---\n{base}library_name: {library}\npipeline_tag: text-generation\n{datasets}{tags}---\n\n")
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Five significant digits.
fn shown(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    match magnitude {
        _ if !value.is_finite() => value.to_string(),
        -5.0..16.0 => format!("{value:.*}", (4.0 - magnitude).max(0.0) as usize),
        _ => format!("{value:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_five_digits() {
        let found = [0.0, 1.0, -0.123_456_7, 123_456.7, 1e-7, f64::NAN].map(shown);
        assert_eq!(found, ["0.0000", "1.0000", "-0.12346", "123457", "1.0000e-7", "NaN"]);
    }

    #[test]
    fn a_readme_of_a_person_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let card = of_export(Path::new("model"), None);
        assert!(write(folder.path(), &card).unwrap() && write(folder.path(), &card).unwrap());
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).unwrap(), card);
        std::fs::write(folder.path().join(FILE), "my own").unwrap();
        assert!(!write(folder.path(), &card).unwrap());
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).unwrap(), "my own");
    }
}
