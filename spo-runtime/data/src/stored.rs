//! Tokenized rows in a file. Reading it takes a fraction of the time of tokenizing.
//!
//! The file is JSON Lines: what concerns all rows, then the rows. So a row is in memory once, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spo_api::{Group, Layout};

use crate::choice::LeftOut;
use crate::dataset::{Dataset, Example, Lengths};
use crate::error::{At, Place};
use crate::report::{Finding, Found, Report};
use crate::tokens::{TokenFile, Tokens};

/// A dataset without what the reader already knows: the layout, and the files that the rows came from.
#[derive(Deserialize, Serialize)]
struct Stored {
    columns: Vec<String>,
    /// How many rows follow.
    rows: usize,
    /// The hash of the file of tokens, if there is one.
    tokens: Option<String>,
    read: usize,
    kept: usize,
    findings: BTreeMap<Finding, (usize, Vec<StoredPlace>, String)>,
    left_out: BTreeMap<LeftOut, usize>,
    unused: Vec<(usize, Vec<String>)>,
    forms: Vec<(usize, String)>,
}

/// A position, and the number of the file that it is in.
type StoredPlace = (usize, At);

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum StoredTokens {
    Groups(Vec<Group>),
    /// Where they begin in the file of tokens.
    From(u64),
}

#[derive(Deserialize, Serialize)]
struct StoredExample {
    tokens: StoredTokens,
    lengths: Lengths,
    scored: Vec<Vec<Range<usize>>>,
    desirable: bool,
    /// The bits of the gap, because JSON has no infinity.
    gap: Option<u64>,
    weight: f64,
    columns: Vec<f64>,
    at: StoredPlace,
}

impl Dataset {
    /// Writes the tokens that are in a file, if they are ([`load_to_disk`](Self::load_to_disk)). Returns whether they are.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub fn store_tokens(&self, into: impl FnOnce() -> std::io::Result<File>) -> std::io::Result<bool> {
        let Some(file) = self.token_file() else { return Ok(false) };
        file.copy(&mut into()?)?;
        Ok(true)
    }

    /// The file of the tokens, if they are in one.
    pub(crate) fn token_file(&self) -> Option<&TokenFile> {
        match &self.examples.first()?.tokens {
            Tokens::File(file, _) => Some(file),
            Tokens::Memory(_) => None,
        }
    }

    /// Writes the rows as JSON Lines. All rows must come from these files, whose names are not stored.
    ///
    /// # Errors
    /// When writing fails, or a row comes from another file.
    pub fn store(&self, mut into: impl Write, files: &[PathBuf]) -> std::io::Result<()> {
        let numbers: HashMap<&Path, usize> =
            files.iter().enumerate().map(|(i, f)| (f.as_path(), i)).collect();
        let number = |file: &Path| {
            let number = numbers.get(file).copied();
            number.ok_or_else(|| std::io::Error::other(format!("{} is none of the files", file.display())))
        };
        let stored = |place: &Place| std::io::Result::Ok((number(&place.file)?, place.at));
        let example = |example: &Example| {
            std::io::Result::Ok(StoredExample {
                tokens: match &example.tokens {
                    Tokens::Memory(groups) => StoredTokens::Groups(groups.clone()),
                    Tokens::File(_, start) => StoredTokens::From(*start),
                },
                lengths: example.lengths,
                scored: example.scored.clone(),
                desirable: example.desirable,
                gap: example.gap.map(f64::to_bits),
                weight: example.weight,
                columns: example.columns.clone(),
                at: stored(&example.place)?,
            })
        };
        let mut findings = BTreeMap::new();
        for (&finding, found) in &self.report.findings {
            let first = found.first.iter().map(stored).collect::<std::io::Result<Vec<_>>>()?;
            findings.insert(finding, (found.count, first, found.detail.clone()));
        }
        let stored = Stored {
            columns: self.columns.clone(),
            tokens: self.token_file().map(|file| file.sha256().to_owned()),
            rows: self.examples.len(),
            read: self.report.read,
            kept: self.report.kept,
            findings,
            left_out: self.report.left_out.clone(),
            unused: numbered(&self.report.unused, number)?,
            forms: numbered(&self.report.forms, number)?,
        };
        serde_json::to_writer(&mut into, &stored)?;
        for row in &self.examples {
            into.write_all(b"\n")?;
            serde_json::to_writer(&mut into, &example(row)?)?;
        }
        into.write_all(b"\n")
    }

    /// Reads what [`store`](Self::store) wrote, given the layout of the rows, the files they came from, and the file that
    /// [`store_tokens`](Self::store_tokens) wrote.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn restore(
        from: impl BufRead,
        layout: Layout,
        files: &[PathBuf],
        tokens: Option<&Path>,
    ) -> std::io::Result<Self> {
        let mut lines = from.lines();
        let mut line = || lines.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()));
        let stored: Stored = serde_json::from_str(&line()?)?;
        let token_file = match (tokens, stored.tokens) {
            (Some(path), Some(sha256)) => Some(TokenFile::open(path, sha256)?),
            _ => None,
        };
        let files: Vec<Arc<Path>> = files.iter().map(|file| file.as_path().into()).collect();
        let file = |number: usize| {
            files
                .get(number)
                .cloned()
                .ok_or_else(|| std::io::Error::other("rows of a file that is not given"))
        };
        let place = |(number, at): StoredPlace| std::io::Result::Ok(Place { file: file(number)?, at });
        let example = |StoredExample { tokens, lengths, scored, desirable, gap, weight, columns, at }| {
            std::io::Result::Ok(Example {
                tokens: match (tokens, &token_file) {
                    (StoredTokens::Groups(groups), _) => Tokens::Memory(groups),
                    (StoredTokens::From(start), Some(file)) => Tokens::File(file.clone(), start),
                    (StoredTokens::From(_), None) => {
                        return Err(std::io::Error::other("the file of tokens is not given"));
                    }
                },
                lengths,
                scored,
                desirable,
                gap: gap.map(f64::from_bits),
                weight,
                columns,
                place: place(at)?,
            })
        };
        let mut examples = Vec::new();
        for _ in 0..stored.rows {
            examples.push(example(serde_json::from_str(&line()?)?)?);
        }
        let mut findings = BTreeMap::new();
        for (finding, (count, first, detail)) in stored.findings {
            let first = first.into_iter().map(place).collect::<std::io::Result<_>>()?;
            findings.insert(finding, Found { count, first, detail });
        }
        Ok(Dataset {
            layout,
            columns: stored.columns,
            examples,
            report: Report {
                read: stored.read,
                kept: stored.kept,
                findings,
                left_out: stored.left_out,
                unused: named(stored.unused, file)?,
                forms: named(stored.forms, file)?,
            },
        })
    }
}

/// What there is for each file, by the number of the file.
fn numbered<T: Clone>(
    of: &BTreeMap<Arc<Path>, T>,
    number: impl Fn(&Path) -> std::io::Result<usize>,
) -> std::io::Result<Vec<(usize, T)>> {
    of.iter().map(|(file, value)| Ok((number(file)?, value.clone()))).collect()
}

/// What there is for each file, by its name.
fn named<T>(
    of: Vec<(usize, T)>,
    file: impl Fn(usize) -> std::io::Result<Arc<Path>>,
) -> std::io::Result<BTreeMap<Arc<Path>, T>> {
    of.into_iter().map(|(number, value)| Ok((file(number)?, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back() {
        let files = ["rows.jsonl", "more.jsonl"].map(PathBuf::from);
        let [file, other]: [Arc<Path>; 2] = [&files[0], &files[1]].map(|file| file.as_path().into());
        let place =
            |line| Place { file: if line == 4 { other.clone() } else { file.clone() }, at: At::Line(line) };
        let group = |prompt: &[u32], completions: &[&[u32]]| Group {
            prompt: prompt.to_vec(),
            completions: completions.iter().map(|ids| ids.to_vec()).collect(),
        };
        let example = |groups: Vec<Group>, gap, line| {
            let (desirable, weight) = (line != 3, 0.1 + line as f64);
            let scored = if line == 1 { vec![vec![0..1], vec![1..2]] } else { vec![] };
            let columns = vec![0.1 * line as f64, -1e300];
            Example {
                lengths: Lengths::of(&groups),
                tokens: Tokens::Memory(groups),
                scored,
                desirable,
                gap,
                weight,
                columns,
                place: place(line),
            }
        };
        let found = Found { count: 2, first: vec![place(2), place(9)], detail: "so".into() };
        let data = Dataset {
            layout: Layout::Pairs,
            columns: vec!["margin".into(), "x".into()],
            examples: vec![
                example(vec![group(&[1, 2], &[&[3], &[4, u32::MAX]])], Some(0.1), 1),
                example(vec![group(&[1], &[&[3]]), group(&[2], &[&[]])], Some(f64::INFINITY), 3),
                example(vec![group(&[7], &[&[0]])], None, 4),
            ],
            report: Report {
                read: 9,
                kept: 3,
                findings: [(Finding::TooLong, found)].into(),
                left_out: [(LeftOut::Duplicate, 2)].into(),
                unused: [(other.clone(), vec!["id".into()])].into(),
                forms: [(file.clone(), "pairs".into()), (other.clone(), "pairs".into())].into(),
            },
        };
        let mut bytes = Vec::new();
        data.store(&mut bytes, &files).unwrap();
        let back = Dataset::restore(&*bytes, Layout::Pairs, &files, None).unwrap();
        assert!(data.store(&mut Vec::new(), &files[..1]).is_err());
        assert_eq!((back.columns, back.examples, back.report), (data.columns, data.examples, data.report));
        assert!(Dataset::restore(&*bytes, Layout::Pairs, &files[..1], None).is_err());
        assert!(Dataset::restore(&bytes[..bytes.len() / 2], Layout::Pairs, &files, None).is_err());
    }
}
