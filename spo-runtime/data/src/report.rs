use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::choice::LeftOut;
use crate::error::{At, DataError, Place, Result};

/// Something about a row that the user should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Kept: an answer (or, with `keep_end`, the prompt) was truncated to the window.
    Truncated,
    /// Kept: the chosen and the rejected answer have the same tokens, so nothing can be learned from the
    /// pair.
    IdenticalPair,
    /// Kept: an answer's text is empty, so only its end token is learned.
    EmptyAnswer,
    /// Kept: the prompt has no tokens. The beginning-of-text token is used instead. If the tokenizer has
    /// none, each answer's first token is read but not scored.
    EmptyPrompt,
    /// Kept: the prompt ends in text that its answers, as the chat template renders them, do not continue. It is left
    /// out, as TRL does, so the model learns in another context than the one it will generate in.
    EndOfPrompt,
    /// Kept: an answer of a conversation holds none of the tokens that generation stops at.
    Endless,
    /// Kept: a message has the text of a special token in it.
    SpecialToken,
    /// Dropped: the prompt alone fills the window.
    PromptFillsWindow,
    /// Dropped: longer than the window (`truncation = "drop"`).
    TooLong,
    /// Dropped: no token of an answer has a token before it to be predicted from.
    NothingToScore,
}

impl Finding {
    /// Whether rows with this finding are dropped.
    pub fn dropped(self) -> bool {
        matches!(self, Finding::PromptFillsWindow | Finding::TooLong | Finding::NothingToScore)
    }

    fn words(self) -> &'static str {
        match self {
            Finding::Truncated => "truncated to max_length",
            Finding::IdenticalPair => "chosen and rejected are the same",
            Finding::EmptyAnswer => "empty answer",
            Finding::EmptyPrompt => "empty prompt",
            Finding::EndOfPrompt => "the end of the prompt is left out",
            Finding::Endless => "no stop token in an answer",
            Finding::SpecialToken => "a special token in the text of a message",
            Finding::PromptFillsWindow => "the prompt fills max_length",
            Finding::TooLong => "longer than max_length",
            Finding::NothingToScore => "no token of an answer can be scored",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A finding about one row.
pub(crate) struct Noticed {
    pub finding: Finding,
    /// What there is to say about it besides, or nothing.
    pub detail: String,
}

impl From<Finding> for Noticed {
    fn from(finding: Finding) -> Self {
        Noticed { finding, detail: String::new() }
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(f, self.finding, &self.detail)
    }
}

fn written(f: &mut fmt::Formatter<'_>, finding: Finding, detail: &str) -> fmt::Result {
    let colon = if detail.is_empty() { "" } else { ": " };
    write!(f, "{finding}{colon}{detail}")
}

/// How many rows have a finding, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Number of rows.
    pub count: usize,
    /// The places of the first few rows.
    pub first: Vec<Place>,
    /// What there is to say about the first row besides, or nothing.
    pub detail: String,
}

/// Number of rows listed by place for each finding. Further rows are only counted.
const NAMED: usize = 5;

/// How the form of rows without messages begins.
pub(crate) const PLAIN_TEXT: &str = "plain text with";

/// Number of columns listed for each file.
const LISTED: usize = 20;

/// Summary of the rows read and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows read (a pair taken as two unpaired answers counts as two).
    pub read: usize,
    /// Rows kept.
    pub kept: usize,
    /// The findings, with the rows concerned.
    pub findings: BTreeMap<Finding, Found>,
    /// Rows that were left out before they were read, by reason.
    pub left_out: BTreeMap<LeftOut, usize>,
    /// The columns that were not used, by file.
    pub unused: BTreeMap<Arc<Path>, Vec<String>>,
    /// What the rows of each file were taken for.
    pub forms: BTreeMap<Arc<Path>, String>,
}

impl Report {
    /// Adds one row to the report.
    pub(crate) fn add(&mut self, place: &Place, noticed: &[Noticed], strict: bool) -> Result<()> {
        if let Some(first) = noticed.first().filter(|_| strict) {
            return Err(DataError::new(format!("{first}, and the recipe says strict")).at(place));
        }
        self.read += 1;
        self.kept += usize::from(!noticed.iter().any(|noticed| noticed.finding.dropped()));
        for Noticed { finding, detail } in noticed {
            let found = self.findings.entry(*finding).or_default();
            found.count += 1;
            if found.count == 1 {
                found.detail.clone_from(detail);
            }
            if found.first.len() < NAMED {
                found.first.push(place.clone());
            }
        }
        Ok(())
    }

    /// The files whose rows are plain text, and not messages.
    pub fn plain_text(&self) -> impl Iterator<Item = &Path> {
        let plain = |form: &str| form.split(", ").any(|part| part.starts_with(PLAIN_TEXT));
        self.forms.iter().filter(move |(_, form)| plain(form)).map(|(file, _)| &**file)
    }

    /// Number of rows with this finding.
    pub fn count(&self, finding: Finding) -> usize {
        self.findings.get(&finding).map_or(0, |found| found.count)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows read, {} kept", self.read, self.kept)?;
        for (finding, found) in &self.findings {
            let fate = if finding.dropped() { "dropped" } else { "kept" };
            let more = if found.count > found.first.len() { ", ..." } else { "" };
            write!(f, "\n{:>7} {fate}: ", found.count)?;
            written(f, *finding, &found.detail)?;
            write!(f, " ({}{more})", listed(&found.first))?;
        }
        for (reason, count) in &self.left_out {
            write!(f, "\n{count:>7} left out {}", reason.words())?;
        }
        for (file, columns) in &self.unused {
            let more = if columns.len() > LISTED { ", ..." } else { "" };
            let columns = columns[..columns.len().min(LISTED)].join(", ");
            write!(f, "\n        columns not used: {columns}{more} ({})", file.display())?;
        }
        Ok(())
    }
}

/// Lists places, naming each file once: `train.jsonl:3, 17, 40`.
fn listed(places: &[Place]) -> String {
    let mut text = String::new();
    for (i, place) in places.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let again = i > 0 && places[i - 1].file == place.file;
        text += &match place.at {
            At::Line(number) | At::Row(number) if again => format!("{separator}{number}"),
            _ => format!("{separator}{place}"),
        };
    }
    text
}
