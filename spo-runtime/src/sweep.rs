//! Sweeps: many runs of one recipe. Every cell is an ordinary run in its own folder, with its own recipe
//! stored next to it. All cells are checked before the first one starts.

mod cells;
mod launch;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};
use spo_api::{Registry, nearest, read_small};
use spo_data::{Moment, hash};

use crate::error::{BadInput, Unfinished};
use crate::plan::{Checked, Plan, libraries};
use crate::recipe::document::Document;
use crate::recipe::{Recipe, Sweep};
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::{output, ownership, write};
use crate::train::starts::{self, Uses};

use cells::{Cell, Plot};

/// The files that describe a sweep: its cells, and its recipe.
const DEFINITION: &str = "sweep.json";
const RECIPE: &str = "sweep.toml";

/// Runs all cells that are not complete, then shows the results. With `force`, also cells that will need more memory than
/// the machine has.
///
/// # Errors
/// [`BadInput`] before anything starts if a cell cannot be run; another error if a cell failed or a signal
/// arrived.
pub(crate) fn run(
    registry: &mut Registry,
    document: &Document,
    reporter: &Reporter,
    force: bool,
) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let (recipe, sweep, plot, recipes) = prepare(registry, document, force)?;
    libraries::remember(document, &plot.plugins);
    let folder = recipe.run.output.clone().unwrap_or_default();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _lock = output::lock(&folder)?;
    for (cell, recipe) in plot.cells.iter().zip(&recipes) {
        if let Some(difference) = output::other_recipe(&folder.join(&cell.name), recipe)
            && !recipe.run.overwrite
        {
            return Err(BadInput(format!(
                "error: cell `{}`: {} holds another run: {difference}; choose another `run.output`, or set \
                 `run.overwrite = true`",
                cell.name,
                folder.join(&cell.name).display()
            ))
            .into());
        }
    }
    write::write_text(&folder.join(RECIPE), &document.to_toml()?)?;
    // Written second: this file marks the folder as a sweep, which `spo-run resume` continues.
    write::write_json(&folder.join(DEFINITION), &plot)?;
    for (cell, recipe) in plot.cells.iter().zip(&recipes) {
        let text = toml::to_string_pretty(recipe).context("cannot write a cell's recipe as TOML")?;
        write::write_text(&folder.join(format!("{}.toml", cell.name)), &text)?;
    }
    let libraries = &plot.plugins;
    let cells = &plot.cells;
    let job = launch::Job { sweep: &sweep, folder: &folder, cells, recipes: &recipes, libraries, force };
    stop.begin();
    let outcome = launch::launch(&job, &stop, reporter);
    let results = table::Results::read(&folder, &plot);
    let export = results.export();
    write::write_bytes(&folder.join("results.csv"), &export.csv())?;
    write::write_bytes(&folder.join("results.parquet"), &export.parquet())?;
    if let Some(table) = results.table(&sweep) {
        reporter.note(&table);
        reporter.note(&output::closing(&folder));
    }
    outcome.context(Unfinished { folder, resume: Some("runs the cells that are not finished") })
}

/// Checks every cell of a sweep, and lists the cells.
///
/// # Errors
/// [`BadInput`] for the first cell that cannot be run.
pub(crate) fn check(registry: &mut Registry, document: &Document) -> anyhow::Result<Listing> {
    let (_, _, plot, recipes) = prepare(registry, document, false)?;
    let cells = plot.cells.into_iter().zip(recipes);
    let cells = cells.map(|(cell, recipe)| Listed { name: cell.name, shares: recipe.cache.stages }).collect();
    Ok(Listing { baseline: plot.baseline, cells })
}

/// The cells of a sweep.
#[derive(Serialize)]
pub(crate) struct Listing {
    baseline: String,
    cells: Vec<Listed>,
}

/// A cell, and the stages whose results it shares with others.
#[derive(Serialize)]
struct Listed {
    name: String,
    shares: Vec<String>,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cells; the baseline is `{}`", self.cells.len(), self.baseline)?;
        for Listed { name, shares } in &self.cells {
            match shares.as_slice() {
                [] => writeln!(f, "  {name}")?,
                stages => writeln!(f, "  {name} (shares {})", stages.join(", "))?,
            }
        }
        Ok(())
    }
}

/// Resolves and checks every cell.
fn prepare(
    registry: &mut Registry,
    document: &Document,
    force: bool,
) -> anyhow::Result<(Recipe, Sweep, Plot, Vec<Recipe>)> {
    let mut base = document.to_recipe()?;
    let sweep = base.sweep.clone().unwrap_or_default();
    let (name, output) = base.run.resolve(|| document.stem()).map_err(|e| document.locate("", e))?;
    let cells = cells(document, &sweep, base.run.seed)?;
    unclaimed(document, &output, &cells)?;
    let baseline = match &sweep.baseline {
        None => cells[0].arm.clone(),
        Some(arm) if cells.iter().any(|cell| cell.arm == *arm) => arm.clone(),
        Some(arm) => {
            let arms: BTreeSet<&str> = cells.iter().map(|cell| &*cell.arm).collect();
            let hint = nearest(arm, arms.iter().copied())
                .map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            let listed = arms.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!("no arm is called `{arm}`{hint} There are {listed}");
            return Err(document.error("sweep.baseline", message).into());
        }
    };
    // A sweep that goes on in its folder keeps its moment.
    let earlier = || serde_json::from_slice::<Plot>(&read_small(&output.join(DEFINITION)).ok()?).ok()?.moment;
    let moment = base.run.moment.or_else(earlier).unwrap_or_else(Moment::now);
    let mut recipes = Vec::new();
    let mut checked = Checked::new(force);
    for cell in &cells {
        let resolved = document.changed(&changes(cell, &name, &output, moment)).map_err(anyhow::Error::from);
        let recipe = resolved.and_then(|document| Plan::check(registry, &document, &mut checked));
        recipes.push(recipe.map_err(|error| BadInput(format!("error: cell `{}`: {error:#}", cell.name)))?);
    }
    share(&mut recipes, &output);
    let started_in = std::env::current_dir().context("the current folder is gone")?;
    let started_in = started_in.to_string_lossy().into_owned();
    let parts: Vec<_> = recipes.iter().flat_map(Recipe::parts).collect();
    let plugins = registry.libraries_of(&parts);
    Ok((base, sweep, Plot { name, started_in, moment: Some(moment), baseline, plugins, cells }, recipes))
}

/// Checks that a sweep writes over nothing but an earlier sweep.
fn unclaimed(document: &Document, output: &Path, cells: &[Cell]) -> Result<(), BadInput> {
    if ownership::is_record(&output.join(DEFINITION)) {
        return Ok(());
    }
    let of_cells = cells.iter().flat_map(|cell| ["toml", "log"].map(|kind| format!("{}.{kind}", cell.name)));
    let own = [DEFINITION, RECIPE, "results.csv", "results.parquet"].map(str::to_owned);
    // A sweep that died between its first two files has left the first.
    let begun = |path: &Path| {
        path.ends_with(RECIPE) && read_small(path).ok() == document.to_toml().ok().map(String::into_bytes)
    };
    let taken = |path: &PathBuf| path.exists() && !begun(path);
    match own.into_iter().chain(of_cells).map(|name| output.join(name)).find(taken) {
        None => Ok(()),
        Some(path) => {
            let message =
                format!("{} is there already, and no sweep has made it: move it away", path.display());
            Err(document.error("run.output", message))
        }
    }
}

/// The changes to the recipe that define a cell.
fn changes(cell: &Cell, sweep: &str, output: &Path, moment: Moment) -> Vec<(String, Value)> {
    let mut changes = vec![("run.moment".to_owned(), moment.to_string().into())];
    changes.extend(cell.set.clone());
    changes.extend([
        ("run.seed".to_owned(), cell.seed.into()),
        ("run.name".to_owned(), format!("{sweep}/{}", cell.name).into()),
        ("run.output".to_owned(), output.join(&cell.name).display().to_string().into()),
        ("run.resume".to_owned(), "auto".into()),
    ]);
    changes
}

/// If several cells begin with the same stages, these are computed only once: their results are cached, and
/// all cells use the same cache.
fn share(recipes: &mut [Recipe], output: &Path) {
    let beginnings = |recipe: &Recipe| -> Vec<String> {
        let (essence, uses) = (recipe.essence(), Uses::of(recipe));
        let key = |stages: usize| {
            let mut essence = essence.clone();
            essence["stage"].as_array_mut().expect("a list of stages").truncate(stages);
            let kept = starts::wanted(&uses, stages, &recipe.stage[stages - 1].name);
            json!([essence, kept]).to_string()
        };
        (1..=recipe.stage.len()).map(key).collect()
    };
    let keys: Vec<Vec<String>> = recipes.iter().map(beginnings).collect();
    let mut count = BTreeMap::<&str, usize>::new();
    keys.iter().flatten().for_each(|key| *count.entry(key).or_default() += 1);
    for (recipe, keys) in recipes.iter_mut().zip(&keys) {
        if !recipe.cache.enabled {
            continue;
        }
        recipe.cache.folder.get_or_insert_with(|| output.with_file_name(".cache"));
        // With `checkpoint.best`, stages cannot come from the cache, because a cached stage has no best
        // model.
        if recipe.checkpoint.best.is_none() {
            let shared = keys.iter().take_while(|key| count[key.as_str()] > 1).count();
            let named = recipe.cache.stages.len().max(shared);
            recipe.cache.stages = recipe.stage[..named].iter().map(|stage| stage.name.clone()).collect();
        }
    }
}

/// The cells of a sweep, grouped by arm.
fn cells(document: &Document, sweep: &Sweep, seed: u64) -> Result<Vec<Cell>, BadInput> {
    let mut arms: Vec<(String, Map<String, Value>)> = Vec::new();
    if !(sweep.grid.is_empty() && sweep.zip.is_empty()) || sweep.case.is_empty() {
        let sets = combinations(sweep);
        let short = short_names(sweep);
        arms.extend(sets.into_iter().map(|set| (arm_name(&set, &short), set)));
    }
    arms.extend(sweep.case.iter().map(|case| (case.name.clone(), case.set.clone())));
    for (i, (name, _)) in arms.iter().enumerate() {
        if arms[..i].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(document.error("sweep", format!("two arms are called `{name}`")));
        }
    }
    let seeds = if sweep.seeds.is_empty() { vec![seed] } else { sweep.seeds.clone() };
    let cell = |(arm, set): &(String, Map<String, Value>), seed: u64| Cell {
        name: if sweep.seeds.is_empty() { arm.clone() } else { format!("{arm},seed={seed}") },
        arm: arm.clone(),
        seed,
        set: set.clone(),
    };
    Ok(arms.iter().flat_map(|arm| seeds.iter().map(move |seed| cell(arm, *seed))).collect())
}

/// All combinations of the grid's values and the rows of the zipped lists.
fn combinations(sweep: &Sweep) -> Vec<Map<String, Value>> {
    let values = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let mut sets = vec![Map::new()];
    for (path, list) in &sweep.grid {
        let with = |set: &Map<String, Value>, value: Value| {
            let mut set = set.clone();
            set.insert(path.clone(), value);
            set
        };
        sets = sets.iter().flat_map(|set| values(list).into_iter().map(|v| with(set, v))).collect();
    }
    let rows = sweep.zip.values().next().map_or(0, |list| values(list).len());
    if rows == 0 {
        return sets;
    }
    let zipped = |i: usize| sweep.zip.iter().map(move |(path, list)| (path.clone(), values(list)[i].clone()));
    let with_row = |set: &Map<String, Value>, i: usize| set.clone().into_iter().chain(zipped(i)).collect();
    sets.iter().flat_map(|set| (0..rows).map(move |i| with_row(set, i))).collect()
}

/// A short name for each path: its last segments, as few as needed to be unique.
fn short_names(sweep: &Sweep) -> BTreeMap<String, String> {
    let paths: Vec<&String> = sweep.grid.keys().chain(sweep.zip.keys()).collect();
    let last = |path: &str, n: usize| {
        let segments: Vec<&str> = path.split('.').collect();
        segments[segments.len().saturating_sub(n)..].join(".")
    };
    let short = |path: &str| {
        let unique = |n: &usize| paths.iter().filter(|other| last(other, *n) == last(path, *n)).count() == 1;
        last(path, (1..8).find(unique).unwrap_or(8))
    };
    paths.iter().map(|path| ((*path).clone(), short(path))).collect()
}

/// The name of an arm, usable as a folder name: `objective=dpo,step=penalty-lambda=2`.
fn arm_name(set: &Map<String, Value>, short: &BTreeMap<String, String>) -> String {
    let parts: Vec<String> = set.iter().map(|(path, v)| format!("{}={}", short[path], in_words(v))).collect();
    let name: String = parts.join(",");
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.=,+".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    match name.len() {
        0 => "base".into(),
        // File systems limit names to 255 bytes.
        161.. => format!("{}-{}", &name[..150], &hash::of_bytes(parts.join(","))[..8]),
        _ => name,
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join("+"),
        Value::Object(table) => {
            let named = ["name", "step", "path"].iter().find_map(|key| table.get_key_value(*key));
            let own = named.map(|(_, value)| in_words(value));
            let others = table.iter().filter(|(key, _)| named.is_none_or(|(name, _)| name != *key));
            own.into_iter()
                .chain(others.map(|(k, v)| format!("{k}={}", in_words(v))))
                .collect::<Vec<_>>()
                .join("-")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sweep: &str) -> Result<Vec<String>, BadInput> {
        let text = format!("[sweep]\n{sweep}");
        let document = Document::parse("recipe.toml", text, &[]).unwrap();
        let sweep: Sweep = serde_json::from_value(document.get("sweep").unwrap().clone()).unwrap();
        Ok(cells(&document, &sweep, 7)?.into_iter().map(|cell| cell.name).collect())
    }

    #[test]
    fn cells_are_the_grid_times_the_zip_and_the_cases_times_the_seeds() {
        let sweep = r#"
            seeds = [0, 1]
            [sweep.grid]
            "stage.align.objective" = ["dpo", { name = "ipo", beta = 0.5 }]
            [sweep.zip]
            "stage.align.optimizer.lr" = [1e-4, 2e-4]
            "stage.align.batch_size" = [4, 8]
            [[sweep.case]]
            name = "plain"
        "#;
        let names = names(sweep).unwrap();
        assert_eq!(names.len(), 2 * (2 * 2 + 1));
        assert_eq!(
            names[..3],
            [
                "objective=dpo,batch_size=4,lr=0.0001,seed=0",
                "objective=dpo,batch_size=4,lr=0.0001,seed=1",
                "objective=dpo,batch_size=8,lr=0.0002,seed=0"
            ]
        );
        assert_eq!(names[7], "objective=ipo-beta=0.5,batch_size=8,lr=0.0002,seed=1");
        assert_eq!(names[9], "plain,seed=1");
    }

    #[test]
    fn names_tell_arms_apart_and_fit_a_file_system() {
        let two = names("grid = { \"stage.a.optimizer.lr\" = [1], \"stage.b.optimizer.lr\" = [2] }").unwrap();
        assert_eq!(two, ["a.optimizer.lr=1,b.optimizer.lr=2"]);
        assert_eq!(names("seeds = [3]").unwrap(), ["base,seed=3"]);
        assert_eq!(names("case = [{ name = \"a\" }, { name = \"b\" }]").unwrap(), ["a", "b"]);
        let long =
            names(&format!("grid = {{ \"data.train\" = [\"{}\", \"/a b\"] }}", "x/".repeat(200))).unwrap();
        assert!(long[0].len() < 200 && long[1] == "train=-a-b", "{long:?}");
        let twice = names("grid = { \"run.seed\" = [1, 1] }").err().unwrap();
        assert!(twice.0.contains("two arms are called `seed=1`"), "{twice}");
    }
}
