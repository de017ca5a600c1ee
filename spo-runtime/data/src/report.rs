use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{At, DataError, Place, Result};

/// Something about a row that its owner should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Kept: an answer (or, with `keep_end`, the prompt) was cut to the window.
    Truncated,
    /// Kept: the chosen and the rejected answer have the same tokens; the pair teaches nothing.
    IdenticalPair,
    /// Kept: an answer's text is empty; only its end is learnt.
    EmptyAnswer,
    /// Kept: the prompt has no tokens. The beginning-of-text token stands in for it, or, where the
    /// tokenizer has none, each answer's first token is read and not scored.
    EmptyPrompt,
    /// Dropped: the prompt alone fills the window.
    PromptFillsWindow,
    /// Dropped: longer than the window (`truncation = "drop"`).
    TooLong,
    /// Dropped: no token of an answer has one before it to be predicted from.
    NothingToScore,
}

impl Finding {
    /// Whether rows of which this is true are left out.
    pub fn dropped(self) -> bool {
        matches!(self, Finding::PromptFillsWindow | Finding::TooLong | Finding::NothingToScore)
    }

    fn words(self) -> &'static str {
        match self {
            Finding::Truncated => "truncated to max_length",
            Finding::IdenticalPair => "chosen and rejected are the same",
            Finding::EmptyAnswer => "empty answer",
            Finding::EmptyPrompt => "empty prompt",
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

/// How often something was found, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Number of rows.
    pub count: usize,
    /// The first of them.
    pub first: Vec<Place>,
}

/// Rows that are named; the others are counted.
const NAMED: usize = 5;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows read (a pair taken as two unpaired answers counts as two).
    pub read: usize,
    /// Rows kept.
    pub kept: usize,
    /// What was found about them.
    pub findings: BTreeMap<Finding, Found>,
}

impl Report {
    /// Takes one row into account.
    pub(crate) fn add(&mut self, place: &Place, findings: &[Finding], strict: bool) -> Result<()> {
        if let Some(finding) = findings.first().filter(|_| strict) {
            return Err(DataError::new(format!("{finding}, and the recipe says strict")).at(place));
        }
        self.read += 1;
        self.kept += usize::from(!findings.iter().any(|finding| finding.dropped()));
        for finding in findings {
            let found = self.findings.entry(*finding).or_default();
            found.count += 1;
            if found.first.len() < NAMED {
                found.first.push(place.clone());
            }
        }
        Ok(())
    }

    /// Rows of which this was found.
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
            write!(f, "\n{:>7} {fate}: {finding} ({}{more})", found.count, listed(&found.first))?;
        }
        Ok(())
    }
}

/// Places, their file named once: `train.jsonl:3, 17, 40`.
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
