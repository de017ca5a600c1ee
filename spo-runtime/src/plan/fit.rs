//! Checks that everything a run will give to the model fits into it: before training, because a row that is too
//! long would stop the run when its batch comes.

use spo_api::{Group, ModelInfo};
use spo_data::{Dataset, Example};

use crate::error::BadInput;
use crate::plan::stage::PlannedStage;
use crate::recipe::Recipe;
use crate::recipe::document::Document;

/// Checks the rows of all stages against the model.
///
/// # Errors
/// [`BadInput`] that names the row and the key of the recipe.
pub(super) fn check(
    document: &Document,
    recipe: &Recipe,
    stages: &[PlannedStage],
    info: &ModelInfo,
) -> Result<(), BadInput> {
    for (i, stage) in stages.iter().enumerate() {
        let (data, key) = match &recipe.stage[i].data {
            Some(data) => (data, format!("stage[{i}].data.max_length")),
            None => (&recipe.data, "data.max_length".to_owned()),
        };
        if let Some(problem) = row_too_long(stage, info) {
            return Err(document.error(&key, format!("is {}, but {problem}", data.max_length)));
        }
        for rows in [&stage.train].into_iter().chain(&stage.eval).filter(|_| stage.view.mismatched.is_some())
        {
            if let Some(problem) = too_long_mismatched(rows, stage, info) {
                return Err(document.error(&format!("stage[{i}].objective"), problem));
            }
        }
        if let Some(rows) = stage.eval.as_ref().filter(|_| recipe.evaluation.mass)
            && let Some(problem) = too_long_together(rows, info)
        {
            return Err(document.error("evaluation.mass", problem));
        }
    }
    Ok(())
}

/// Tells of a row of a stage that is longer than the model reads.
pub(super) fn row_too_long(stage: &PlannedStage, info: &ModelInfo) -> Option<String> {
    let lower = stage.lower.iter().filter_map(|term| term.data.as_ref());
    [&stage.train].into_iter().chain(&stage.eval).chain(lower).find_map(|rows| too_long(rows, info))
}

/// Tells of the longest row, if it is longer than the model reads.
fn too_long(rows: &Dataset, info: &ModelInfo) -> Option<String> {
    let lengths = rows.examples.iter().map(|example| (example.lengths.longest as usize, example));
    let (longest, example) = lengths.max_by_key(|(length, _)| *length)?;
    (longest > info.context).then(|| format!("{} has {longest} tokens, and {}", example.place, limit(info)))
}

/// Tells of a prompt that is too long for the answer of another row that an objective scores with it.
fn too_long_mismatched(rows: &Dataset, stage: &PlannedStage, info: &ModelInfo) -> Option<String> {
    rows.examples.iter().enumerate().find_map(|(row, example)| {
        let other = &rows.examples[stage.view.mismatch(row, rows.examples.len())?];
        let length = (example.lengths.prompt + other.lengths.answer) as usize;
        (length > info.context).then(|| {
            format!(
                "scores the prompt of {} with the answer of {}: {length} tokens, and {}",
                example.place,
                other.place,
                limit(info)
            )
        })
    })
}

/// Tells of the longest prompt and the longest answer, if the model cannot read them together, as it must where
/// every answer is scored with every prompt.
pub(crate) fn too_long_together(rows: &Dataset, info: &ModelInfo) -> Option<String> {
    let longest = |of: fn(&Group) -> usize| {
        let length = |example: &Example| example.in_memory().iter().map(of).max().unwrap_or(0);
        rows.examples
            .iter()
            .map(|example| (length(example), &example.place))
            .max_by_key(|(length, _)| *length)
    };
    let (prompt, at) = longest(|group| group.prompt.len())?;
    let (answer, of) = longest(|group| group.completions.iter().map(Vec::len).max().unwrap_or(0))?;
    (prompt + answer > info.context).then(|| {
        format!(
            "scores every answer with every prompt: the prompt of {at} and the answer of {of} have {} tokens, and {}",
            prompt + answer,
            limit(info)
        )
    })
}

/// How many tokens there is room for after a prompt of this length. The last new token is never read.
pub(crate) fn room(info: &ModelInfo, prompt: usize) -> usize {
    (info.context + 1).saturating_sub(prompt)
}

/// How much the model reads, and why no more.
pub(crate) fn limit(info: &ModelInfo) -> String {
    let key = match &info.context_key[..] {
        "" => String::new(),
        key => format!(" (`{key}`)"),
    };
    format!("the model reads at most {}{key}", info.context)
}
