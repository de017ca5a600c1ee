//! Which files of a data set are a split of a subset: by the head of its README.md, else by their names, as in the Python
//! package `datasets`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::card::{self, Subset};
use crate::{Error, Result, cache};

/// Ends of names of files with rows, and of such files compressed.
const FORMATS: [&str; 7] = ["arrow", "csv", "json", "jsonl", "ndjson", "parquet", "tsv"];
const PACKED: [&str; 4] = ["gz", "xz", "zst", "zstd"];

/// Files that are about a data set.
const ABOUT: [&str; 4] = ["dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"];

/// The split that is meant if none is named.
const TRAIN: &str = "train";

/// Words in the names of files that stand for a split.
const WORDS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Names listed in an error.
const LISTED: usize = 12;

/// Whether a file holds rows, by its name.
pub fn is_rows(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let hidden = name.split('/').any(|part| part.starts_with(['.', '_']));
    let mut ends = file.rsplit('.');
    let end = match ends.next() {
        Some(end) if PACKED.contains(&end) => ends.next(),
        end => end,
    };
    let known = end.is_some_and(|end| FORMATS.contains(&end)) && file.contains('.');
    known && !hidden && !ABOUT.contains(&file)
}

/// The files of a folder that are a split of a subset, in the order in which they are read. If no split is named,
/// `train` is meant, or all files where none is named after a split.
///
/// # Errors
/// If there are none; the message tells what there is.
pub fn in_folder(folder: &Path, subset: Option<&str>, split: Option<&str>) -> Result<Vec<PathBuf>> {
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let names = select(&cache::names(folder), &readme, subset, split)?.ok_or_else(|| {
        Error(format!("{}: no file of a format that is read ({})", folder.display(), FORMATS.join(", ")))
    })?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The files among these names; `None` if none of them holds rows.
///
/// # Errors
/// If there is no such subset or split, if one must be named, or if a part of a split is missing.
pub(crate) fn select(
    names: &[String],
    readme: &str,
    subset: Option<&str>,
    split: Option<&str>,
) -> Result<Option<Vec<String>>> {
    let files: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_rows(name)).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let subsets = card::subsets(readme);
    let found = match subsets.is_empty() {
        true => by_folder(&files, subset).and_then(|files| by_name(&files, split))?,
        false => {
            let subset = named(&subsets, subset)?;
            match subset.splits.is_empty() {
                true => by_name(&below(&files, subset.folder.as_deref().unwrap_or_default()), split)?,
                false => by_pattern(&files, subset, split)?,
            }
        }
    };
    whole(&found)?;
    Ok(Some(found.into_iter().map(str::to_owned).collect()))
}

/// The subset of this name among those of a README.md, or the default.
fn named<'a>(subsets: &'a [Subset], name: Option<&str>) -> Result<&'a Subset> {
    let all = || listed(subsets.iter().map(|subset| subset.name.as_str()));
    match (name, subsets) {
        (None, [one]) => Ok(one),
        (None, several) => several.iter().find(|subset| subset.is_default).ok_or_else(|| {
            Error(format!("the data set has several subsets: name one as `subset`, of {}", all()))
        }),
        (Some(name), several) => several
            .iter()
            .find(|subset| subset.name == name)
            .ok_or_else(|| Error(format!("there is no subset `{name}`: expected one of {}", all()))),
    }
}

/// The files of a split that patterns name.
fn by_pattern<'a>(files: &[&'a str], subset: &Subset, split: Option<&str>) -> Result<Vec<&'a str>> {
    let wanted = split.unwrap_or(TRAIN);
    let Some((_, patterns)) = subset.splits.iter().find(|(name, _)| name == wanted) else {
        return Err(no_split(wanted, split, subset.splits.iter().map(|(name, _)| name.as_str())));
    };
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let mut found = Vec::new();
    for pattern in patterns {
        let pattern = match &subset.folder {
            Some(folder) => format!("{folder}/{pattern}"),
            None => pattern.trim_start_matches("./").to_owned(),
        };
        let matches = Pattern::new(&pattern).map_err(|e| Error(format!("README.md: `{pattern}`: {e}")))?;
        found.extend(files.iter().filter(|file| matches.matches_with(file, options)));
    }
    found.sort_unstable();
    found.dedup();
    match found.is_empty() {
        true => Err(Error(format!(
            "no file of the split `{wanted}` is there: README.md names {}",
            patterns.join(", ")
        ))),
        false => Ok(found),
    }
}

/// The files of a subset that has a folder of its name.
fn by_folder<'a>(files: &[&'a str], subset: Option<&str>) -> Result<Vec<&'a str>> {
    // The hub's own Parquet files are in `subset/split/0000.parquet`.
    let folders: BTreeSet<&str> = files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let converted = |file: &&str| {
        let parts: Vec<&str> = file.split('/').collect();
        matches!(*parts, [_, _, name] if name.ends_with(".parquet") && name.bytes().take(4).all(|c| c.is_ascii_digit()))
    };
    match subset {
        Some(name) if folders.contains(name) => Ok(below(files, name)),
        Some(name) => Err(Error(format!("there is no subset `{name}`: no file is in a folder of this name"))),
        None if files.iter().all(converted) && folders.len() > 1 => match folders.contains("default") {
            true => Ok(below(files, "default")),
            false => {
                let all = listed(folders.into_iter());
                Err(Error(format!("the data set has several subsets: name one as `subset`, of {all}")))
            }
        },
        None => Ok(files.to_vec()),
    }
}

fn below<'a>(files: &[&'a str], folder: &str) -> Vec<&'a str> {
    let inside = |file: &&&str| {
        folder.is_empty() || file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    files.iter().filter(inside).copied().collect()
}

/// The files of a split by their names, or by those of their folders.
fn by_name<'a>(files: &[&'a str], split: Option<&str>) -> Result<Vec<&'a str>> {
    let wanted = split.unwrap_or(TRAIN);
    let mut splits = BTreeSet::new();
    // The name of a part tells the whole name of its split; other names tell it in words; else a folder does.
    let tellers: [fn(&str) -> Vec<String>; 3] = [
        |file| part(file).map(|(split, ..)| split.to_owned()).into_iter().collect(),
        |file| in_words(file.rsplit('/').next().unwrap_or(file)),
        |file| in_words(file.rsplit_once('/').map_or("", |(folder, _)| folder)),
    ];
    for (place, tell) in tellers.into_iter().enumerate() {
        let told: Vec<(&'a str, Vec<String>)> = files.iter().map(|file| (*file, tell(file))).collect();
        let of_split = told.iter().filter(|(_, splits)| splits.iter().any(|split| split == wanted));
        let found: Vec<_> = of_split.map(|(file, _)| *file).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        splits.extend(told.into_iter().flat_map(|(_, splits)| splits));
        if place == 0 && !splits.is_empty() {
            return Err(no_split(wanted, split, splits.iter().map(String::as_str)));
        }
        if !splits.is_empty() {
            break;
        }
    }
    let exact = |file: &&&str| words(file).any(|word| word == wanted);
    let found: Vec<_> = files.iter().filter(exact).copied().collect();
    match (found.is_empty(), splits.is_empty(), split) {
        (false, ..) => Ok(found),
        (true, true, None) => Ok(files.to_vec()),
        _ => Err(no_split(wanted, split, splits.iter().map(String::as_str))),
    }
}

/// Of `folder/train-00001-of-00003.parquet`, the split, the number and the count.
fn part(file: &str) -> Option<(&str, usize, usize)> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let (before, after) = name.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let count = &after[..digits(after)];
    let number = (number.len() >= 5 && digits(number) == number.len()).then_some(number)?;
    Some((split, number.parse().ok()?, count.parse().ok()?))
}

/// The splits that the words of a name stand for.
fn in_words(name: &str) -> Vec<String> {
    let stands = |(split, of): &(&str, &[&str])| {
        words(name).any(|word| of.contains(&word)).then(|| (*split).to_owned())
    };
    WORDS.iter().filter_map(stands).collect()
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric())
}

/// Checks that all parts of files in parts are there.
fn whole(files: &[&str]) -> Result<()> {
    let mut parts: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    for file in files {
        if let Some((_, number, count)) = part(file) {
            let name = file.rsplit_once("-of-").map_or(*file, |(before, _)| before);
            let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
            parts.entry((name.to_owned(), count)).or_default().insert(number);
        }
    }
    match parts.iter().find(|((_, count), there)| there.len() < *count) {
        Some(((name, count), there)) => {
            Err(Error(format!("{} of {count} parts of {name} are there", there.len())))
        }
        None => Ok(()),
    }
}

fn no_split<'a>(wanted: &str, asked: Option<&str>, there: impl Iterator<Item = &'a str>) -> Error {
    let there = listed(there);
    Error(match (asked, there.is_empty()) {
        (_, true) => format!("there is no split `{wanted}`: no name of a file tells a split"),
        (Some(_), _) => format!("there is no split `{wanted}`: expected one of {there}"),
        (None, _) => format!("there is no split `{wanted}`: name one as `split`, of {there}"),
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.len() {
        all if all > LISTED => format!("{} and {} more", names[..LISTED].join(", "), all - LISTED),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], readme: &str, subset: Option<&str>, split: Option<&str>) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        match select(&names, readme, subset, split) {
            Ok(Some(files)) => files.join(" "),
            Ok(None) => "nothing".into(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn files_are_told_by_their_names() {
        for (names, split, expected) in [
            (
                &["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"][..],
                None,
                "data/train-00000-of-00001.parquet",
            ),
            (
                &["data/train_prefs-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"],
                Some("train_prefs"),
                "data/train_prefs-00000-of-00001.parquet",
            ),
            (&["train.jsonl", "dev.jsonl", "test.jsonl.gz"], Some("validation"), "dev.jsonl"),
            (&["train.jsonl", "dev.jsonl", "test.jsonl.gz"], Some("test"), "test.jsonl.gz"),
            (
                &["a/train.jsonl.gz", "b/train.jsonl.gz", "b/test.jsonl.gz"],
                None,
                "a/train.jsonl.gz b/train.jsonl.gz",
            ),
            (&["train/0.csv", "train/1.csv", "test/0.csv"], None, "train/0.csv train/1.csv"),
            (&["my-training-rows.csv", "README.md"], None, "my-training-rows.csv"),
            (&["a.csv", "b.csv", "dataset_info.json", ".c.csv"], None, "a.csv b.csv"),
            (&["custom/rows.csv", "train/rows.csv"], Some("custom"), "custom/rows.csv"),
            (&["README.md", "script.py", "rows.zip"], None, "nothing"),
        ] {
            assert_eq!(chosen(names, "", None, split), expected);
        }
    }

    #[test]
    fn a_readme_tells_before_the_names() {
        let readme = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/*\n- config_name: other\n  data_files:\n  - split: train\n    path: \"**/b*.csv\"\n---\n";
        let names = ["main/a.csv", "main/test.csv", "x/y/b.csv", "train.csv"];
        assert!(chosen(&names, readme, None, None).contains("name one as `subset`, of `main`, `other`"));
        assert_eq!(chosen(&names, readme, Some("main"), None), "main/a.csv main/test.csv");
        assert_eq!(chosen(&names, readme, Some("other"), Some("train")), "x/y/b.csv");
        assert!(
            chosen(&names, readme, Some("mian"), None).contains("no subset `mian`: expected one of `main`")
        );
        assert!(chosen(&names, readme, Some("main"), Some("test")).contains("expected one of `train`"));
    }

    #[test]
    fn what_must_be_named_is_listed() {
        let prefs = ["data/train_prefs-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"];
        assert_eq!(
            chosen(&prefs, "", None, None),
            "error: there is no split `train`: name one as `split`, of `train_prefs`, `train_sft`"
        );
        let converted = ["main/train/0000.parquet", "socratic/train/0000.parquet", "main/test/0000.parquet"];
        assert!(chosen(&converted, "", None, None).contains("of `main`, `socratic`"));
        assert_eq!(chosen(&converted, "", Some("main"), None), "main/train/0000.parquet");
        assert!(chosen(&["a.csv"], "", Some("main"), None).contains("no subset `main`"));
    }

    #[test]
    fn a_part_must_not_be_missing() {
        let names = ["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"];
        assert_eq!(chosen(&names, "", None, None), "error: 2 of 3 parts of data/train are there");
    }
}
