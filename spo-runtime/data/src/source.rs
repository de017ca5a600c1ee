use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::nearest;
use spo_hub::{Progress, Repo};

use crate::choice::{Counts, LeftOut};
use crate::error::{DataError, Place, Result};
use crate::files::files;
use crate::mapping::{Mapped, Mapping};
use crate::read::recognize::{extension, refuse_others};
use crate::tokenize::brief;
use crate::{hash, hub, read, saved};

/// Data files and how to read them: a table of the recipe.
///
/// Rows are told by their columns:
/// - pairs: `chosen` and `rejected`, with a `prompt` or without (then it is the beginning they share);
/// - demonstrations: `prompt` and `completion`, or `messages` of which the last is the assistant's;
/// - unpaired: `prompt`, `completion` and `label` (true: desirable);
/// - ShareGPT's `conversations`, Alpaca's `instruction`, `input`, `output` and `history`, Orca's `question`;
/// - with any messages, a `system` prompt.
///
/// Each text is a string, taken as it stands, or a list of messages (`role` and `content`, or `from` and
/// `value`), rendered by the model's chat template, which also sees `tools` and `chat_template_kwargs`.
/// All rows of a file have one form. Columns that are not used are listed by `spo-run check` and by the run.
/// [data.md](data.md) shows a row of every form.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a folder (its files of known formats, or what `save_to_disk` of the Python package `datasets` wrote) or a
    /// pattern such as `"rows/*.jsonl"`. Several files are read in the order of their names. Text files may be compressed with gzip, Zstandard or xz. Where there is none of this name,
    /// `owner/name` is the id of a data set on the Hugging Face Hub.
    pub path: PathBuf,
    /// Of a data set on the hub, or of a folder in its layout: the subset; by default the one that it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// And the split: `train` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The branch, the tag or the commit of a data set on the hub; `main` unless given. A run keeps the commit that it
    /// begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The format; by default that of each file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The file's own names of the columns: `{ prompt = "question", chosen = "answer" }`. A text with `{{` is a template
    /// over the row. `"hh"`, `"ranked"`, `"ranked-pairs"` and `"ranked-random"` name a form of rows, alone or as the key
    /// `form`.
    #[serde(default, skip_serializing_if = "Mapping::is_empty")]
    pub columns: Mapping,
    /// Rows to use: an expression over the columns, such as `"len(chosen) > 20"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Rows of the files to pass over at the beginning.
    #[serde(default)]
    pub skip: usize,
    /// Rows to take after those; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<usize>,
    /// Rows to draw at random from those that are left by everything else; by default all. They keep their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub sample: Option<usize>,
    /// How many times the rows are taken: 2 is twice, 0.5 is half of them, drawn at random; by default once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: Option<f64>,
    /// Seed of what is drawn at random.
    #[serde(default)]
    pub seed: u64,
}

impl spo_api::Part for Source {}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line. Blank lines are passed over.
    Jsonl,
    /// One JSON array of objects.
    ///
    /// The two are told apart by their first bytes, whatever the name. Objects over several lines, and one object with
    /// the array under one of its keys, are read too.
    Json,
    /// Comma-separated values (RFC 4180), with the names of the columns in the first row.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// Apache Parquet: uncompressed, Snappy, gzip or LZ4.
    Parquet,
    /// Apache Arrow: a stream or a file, also called Feather.
    Arrow,
}

impl Format {
    /// The extensions of all formats, for messages.
    pub(crate) const EXTENSIONS: &'static str = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow";

    /// The format of files with this extension.
    pub(crate) fn of(extension: &str) -> Option<Self> {
        match extension {
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "json" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            "tsv" => Some(Format::Tsv),
            "parquet" => Some(Format::Parquet),
            "arrow" | "feather" => Some(Format::Arrow),
            _ => None,
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "JSON lines",
            Format::Json => "JSON",
            Format::Csv => "CSV",
            Format::Tsv => "TSV",
            Format::Parquet => "Parquet",
            Format::Arrow => "Arrow",
        }
    }

    /// A file of it, in messages.
    pub(crate) fn a_file(self) -> String {
        let article = if self == Format::Arrow { "an" } else { "a" };
        format!("{article} {} file", self.name())
    }

    /// The usual extension, which is also its name in a recipe.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Parquet => "parquet",
            Format::Arrow => "arrow",
        }
    }
}

/// A row as read from the file: column name to value.
pub(crate) type Record = Map<String, Value>;

/// Called with each record; returning `false` stops reading.
pub(crate) type Visit<'a> = dyn FnMut(Place, Record) -> Result<bool> + 'a;

impl Source {
    /// A source with the format taken from the extension and all rows selected.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Source { path: path.into(), ..Source::default() }
    }

    /// The files, in the order in which they are read.
    ///
    /// # Errors
    /// When a pattern matches none, a folder holds none, or a data set of the hub is not in its cache.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        if let Some(files) = saved::files(self)? {
            return Ok(files);
        }
        match (hub::cached(self)?, &self.subset, &self.split) {
            (Some(files), ..) => Ok(files),
            (None, None, None) => files(&self.path),
            _ => hub::in_folder(self),
        }
    }

    /// The data set of the hub that it names, with the revision. What exists under the path is no such thing.
    ///
    /// # Errors
    /// When the revision is named twice, or has nothing to name.
    pub fn hub(&self) -> Result<Option<(Repo, Option<&str>)>> {
        hub::named(self)
    }

    /// Makes sure that the data set of the hub that it names, if any, is in the hub's cache, and notes the commit as
    /// [`revision`](Self::revision).
    ///
    /// # Errors
    /// When it is neither in the cache nor to be had.
    pub fn fetch(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        hub::fetch(self, progress)
    }

    /// What messages call it: its path, and for a data set of the hub what was chosen of it.
    pub fn name(&self) -> String {
        let mut name = self.path.display().to_string();
        for (what, value) in [("subset", &self.subset), ("split", &self.split), ("at", &self.revision)] {
            name += &value.as_ref().map_or(String::new(), |value| format!(" {what} {value}"));
        }
        name
    }

    /// Identifies the rows that are read: the hash of each file's content, how it is read, and which rows
    /// are selected. The location of the files is not included.
    ///
    /// # Errors
    /// When a file cannot be read, or its format cannot be determined.
    pub fn identity(&self) -> Result<String> {
        let mut identity = String::new();
        for file in self.files()? {
            let format = self.format_of(&file)?;
            let hash = hash::of_file(&file).map_err(|e| DataError::io(&file, &e))?;
            identity += &format!("{hash} {format:?} ");
        }
        let Source { columns, filter, skip, take, sample, weight, seed, .. } = self;
        identity += &format!("{columns:?} {filter:?} {skip} {take:?} {sample:?} {weight:?} {seed}");
        Ok(identity)
    }

    /// Passes the selected records to `visit` one at a time, so that memory stays bounded. Counts those that the filter
    /// leaves out, and those that stand for no row.
    pub(crate) fn read(&self, left_out: &mut Counts, visit: &mut Visit<'_>) -> Result<()> {
        let mapped = Mapped::new(&self.columns, self.filter.as_deref())?;
        let known = |name: &str| self.columns.knows(name);
        let (mut seen, mut taken) = (0, 0);
        let take = self.take.unwrap_or(usize::MAX);
        let files = self.files()?;
        for path in &files {
            let before = seen;
            let mut select = |place: Place, record: Record| {
                seen += 1;
                if seen <= self.skip {
                    return Ok(true);
                }
                taken += 1;
                let mut more = true;
                match mapped.apply(record).map_err(|e| e.at(&place))? {
                    None => *left_out.entry(LeftOut::Filter).or_default() += 1,
                    Some(rows) if rows.is_empty() => *left_out.entry(LeftOut::Tie).or_default() += 1,
                    Some(rows) => {
                        for row in rows {
                            more = more && visit(place.clone(), row)?;
                        }
                    }
                }
                Ok(more && taken < take)
            };
            let wanted = self.skip.saturating_add(take).saturating_sub(before);
            read::records(path, self.format_of(path)?, &known, wanted, &mut select)?;
            if seen == before && path.metadata().is_ok_and(|file| file.len() == 0) {
                let words = "the file is empty, not a byte is in it: was it written to its end?";
                return Err(DataError::in_file(path, words));
            }
            if seen == before {
                return Err(DataError::in_file(path, "the file has no rows"));
            }
            if taken == take {
                break;
            }
        }
        match taken {
            0 => {
                let has = if files.len() == 1 { "file has" } else { "files have" };
                let message = format!("nothing left to read: skip = {} and the {has} {seen} rows", self.skip);
                Err(DataError::in_file(&self.path, message))
            }
            _ => Ok(()),
        }
    }

    /// How many times all rows are taken, and the share of them that is taken once more.
    ///
    /// # Errors
    /// When nothing would be taken.
    pub(crate) fn times(&self) -> Result<(usize, f64)> {
        if self.sample == Some(0) {
            return Err(DataError::new("sample = 0: expected at least 1"));
        }
        match self.weight.unwrap_or(1.0) {
            weight if weight > 0.0 && weight <= 1000.0 => Ok((weight as usize, weight.fract())),
            other => {
                Err(DataError::new(format!("weight = {other}: expected a number above 0, at most 1000")))
            }
        }
    }

    fn format_of(&self, path: &Path) -> Result<Format> {
        refuse_others(path)?;
        if let Some(format) = self.format {
            return Ok(format);
        }
        Format::of(&extension(path)).ok_or_else(|| {
            DataError::in_file(
                path,
                format!(
                    "cannot tell the format from the extension: expected one of {}, or format = \"jsonl\", \"json\", \
                     \"csv\", \"tsv\", \"parquet\" or \"arrow\"",
                    Format::EXTENSIONS
                ),
            )
        })
    }
}

/// The error for a missing column; it lists the columns that exist.
pub(crate) fn missing<'a>(column: &str, present: impl Iterator<Item = &'a String> + Clone) -> DataError {
    if present.clone().any(|name| name == column) {
        return DataError::new(format!("the column `{column}` has no value here"));
    }
    const LISTED: usize = 20;
    let listed: Vec<_> = present.clone().take(LISTED).map(|c| format!("`{}`", brief(c))).collect();
    let more = if present.clone().nth(LISTED).is_some() { ", ..." } else { "" };
    DataError::new(format!(
        "there is no column `{column}`; the row has {}{more}",
        if listed.is_empty() { "no columns".to_owned() } else { listed.join(", ") }
    ))
    .suggest(nearest(column, present.map(String::as_str)))
}
