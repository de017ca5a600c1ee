//! Tokenized rows in a file. Reading it takes a fraction of the time of tokenizing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spo_api::{Group, Layout};

use crate::dataset::{Dataset, Example};
use crate::error::{At, Place};
use crate::report::{Finding, Found, Report};

/// A dataset without what the reader already knows: the layout, and the file all rows came from.
#[derive(Deserialize, Serialize)]
struct Stored {
    examples: Vec<StoredExample>,
    read: usize,
    kept: usize,
    findings: BTreeMap<Finding, (usize, Vec<At>, String)>,
    unused: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct StoredExample {
    groups: Vec<Group>,
    desirable: bool,
    /// The bits of the gap, because JSON has no infinity.
    gap: Option<u64>,
    at: At,
}

impl Dataset {
    /// Writes the rows as JSON. All rows must come from one file, whose name is not stored.
    ///
    /// # Errors
    /// When writing fails.
    pub fn store(&self, into: impl Write) -> std::io::Result<()> {
        let example = |example: &Example| StoredExample {
            groups: example.groups.clone(),
            desirable: example.desirable,
            gap: example.gap.map(f64::to_bits),
            at: example.place.at,
        };
        let found = |found: &Found| {
            let first = found.first.iter().map(|place| place.at).collect::<Vec<_>>();
            (found.count, first, found.detail.clone())
        };
        let stored = Stored {
            examples: self.examples.iter().map(example).collect(),
            read: self.report.read,
            kept: self.report.kept,
            findings: self.report.findings.iter().map(|(&finding, f)| (finding, found(f))).collect(),
            unused: self.report.unused.values().flatten().cloned().collect(),
        };
        Ok(serde_json::to_writer(into, &stored)?)
    }

    /// Reads what [`store`](Self::store) wrote, given the layout of the rows and the file they came from.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn restore(mut from: impl Read, layout: Layout, file: &Path) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let stored: Stored = serde_json::from_slice(&bytes)?;
        let file: Arc<Path> = file.into();
        let place = |at| Place { file: file.clone(), at };
        let example = |StoredExample { groups, desirable, gap, at }| Example {
            groups,
            desirable,
            gap: gap.map(f64::from_bits),
            place: place(at),
        };
        let found = |(count, first, detail): (usize, Vec<At>, String)| Found {
            count,
            first: first.into_iter().map(place).collect(),
            detail,
        };
        let findings = stored.findings.into_iter().map(|(finding, f)| (finding, found(f))).collect();
        let unused = match stored.unused.is_empty() {
            true => BTreeMap::new(),
            false => [(file.clone(), stored.unused)].into(),
        };
        Ok(Dataset {
            layout,
            examples: stored.examples.into_iter().map(example).collect(),
            report: Report { read: stored.read, kept: stored.kept, findings, unused },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back() {
        let file: Arc<Path> = Path::new("rows.jsonl").into();
        let place = |line| Place { file: file.clone(), at: At::Line(line) };
        let group = |prompt: &[u32], completions: &[&[u32]]| Group {
            prompt: prompt.to_vec(),
            completions: completions.iter().map(|ids| ids.to_vec()).collect(),
        };
        let example = |groups, gap, line| Example { groups, desirable: line != 3, gap, place: place(line) };
        let found = Found { count: 2, first: vec![place(2), place(9)], detail: "so".into() };
        let data = Dataset {
            layout: Layout::Pairs,
            examples: vec![
                example(vec![group(&[1, 2], &[&[3], &[4, u32::MAX]])], Some(0.1), 1),
                example(vec![group(&[1], &[&[3]]), group(&[2], &[&[]])], Some(f64::INFINITY), 3),
                example(vec![group(&[7], &[&[0]])], None, 4),
            ],
            report: Report {
                read: 9,
                kept: 3,
                findings: [(Finding::TooLong, found)].into(),
                unused: [(file.clone(), vec!["id".into()])].into(),
            },
        };
        let mut bytes = Vec::new();
        data.store(&mut bytes).unwrap();
        let back = Dataset::restore(&*bytes, Layout::Pairs, &file).unwrap();
        assert_eq!((back.examples, back.report), (data.examples, data.report));
        assert!(Dataset::restore(&bytes[..bytes.len() / 2], Layout::Pairs, &file).is_err());
    }
}
