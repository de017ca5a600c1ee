//! The log-probs of a dataset under one model, stored in a safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use spo_api::{Error, read_whole, write_whole};
use spo_data::Dataset;

use crate::store::LARGE;

/// Log-probs of every row of a dataset under one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// For each row, the log-probs of the chosen answer's tokens, in nats.
    pub(crate) chosen: Vec<Vec<f64>>,
    /// The same for the rejected answer; empty if there is none.
    pub(crate) rejected: Vec<Vec<f64>>,
    /// The same for the row's prompt with another row's answer, if the objective requires it.
    pub(crate) mismatched: Vec<Vec<f64>>,
}

impl Scores {
    /// Empty scores for a dataset.
    pub(crate) fn empty(dataset: &Dataset) -> Self {
        let empty = || vec![Vec::new(); dataset.examples.len()];
        Scores { chosen: empty(), rejected: empty(), mismatched: empty() }
    }

    /// The log-probs of a row's own answers.
    pub(crate) fn answers(&self, row: usize) -> [(&'static str, &[f64]); 2] {
        [("chosen", &self.chosen[row]), ("rejected", &self.rejected[row])]
    }

    /// Whether a row has been scored.
    pub(crate) fn knows(&self, row: usize) -> bool {
        !self.chosen[row].is_empty() || !self.rejected[row].is_empty()
    }

    /// Copies the scores of these rows.
    pub(crate) fn merge(&mut self, from: &Scores, rows: &[usize]) {
        for &row in rows {
            self.chosen[row].clone_from(&from.chosen[row]);
            self.rejected[row].clone_from(&from.rejected[row]);
            self.mismatched[row].clone_from(&from.mismatched[row]);
        }
    }
}

type Side = (&'static str, fn(&mut Scores) -> &mut Vec<Vec<f64>>);

/// The names of the sides in the file.
const SIDES: [Side; 3] =
    [("chosen", |s| &mut s.chosen), ("rejected", |s| &mut s.rejected), ("mismatched", |s| &mut s.mismatched)];

/// Writes named scores. Each side is stored as the flat log-probs of all rows, and the rows' lengths.
pub(crate) fn write<'a>(
    path: &Path,
    scores: impl IntoIterator<Item = (String, &'a Scores)>,
) -> anyhow::Result<()> {
    let mut tensors = Vec::new();
    for (name, scores) in scores {
        for (side, rows) in
            [("chosen", &scores.chosen), ("rejected", &scores.rejected), ("mismatched", &scores.mismatched)]
        {
            let values: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
            let lengths: Vec<u8> = rows.iter().flat_map(|row| (row.len() as u64).to_le_bytes()).collect();
            tensors.push((format!("{name}/{side}"), Dtype::F64, values));
            tensors.push((format!("{name}/{side}/lengths"), Dtype::U64, lengths));
        }
    }
    let views = tensors.iter().map(|(name, dtype, bytes)| {
        let view = TensorView::new(*dtype, vec![bytes.len() / 8], bytes).expect("eight bytes a number");
        (name, view)
    });
    let file = safetensors::serialize(views, None).context("cannot lay out the scores")?;
    Ok(write_whole(path, |out| out.write_all(&file).map_err(|e| Error::io(path, e)))?)
}

/// Reads scores written by [`write`].
pub(crate) fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Scores>> {
    let bytes = read_whole(path, LARGE).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is damaged", path.display()))
}

fn parse(bytes: &[u8]) -> anyhow::Result<BTreeMap<String, Scores>> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut all = BTreeMap::<String, Scores>::new();
    for (name, lengths) in file.tensors() {
        let Some(side) = name.strip_suffix("/lengths") else { continue };
        let values = file.tensor(side)?;
        let (of, side) = side.rsplit_once('/').context("a name without a side")?;
        let (_, rows) = SIDES.iter().find(|(name, _)| *name == side).context("an unknown side")?;
        ensure!(lengths.dtype() == Dtype::U64 && values.dtype() == Dtype::F64, "types of another program");
        let lengths = lengths.data().as_chunks().0.iter().map(|b| u64::from_le_bytes(*b) as usize);
        let mut rest = values.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
        let taken: Vec<Vec<f64>> = lengths.map(|length| rest.by_ref().take(length).collect()).collect();
        ensure!(rest.next().is_none(), "more log-probs than rows");
        *rows(all.entry(of.to_owned()).or_default()) = taken;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_bit_for_bit() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("scores.safetensors");
        let one = Scores {
            chosen: vec![vec![-0.1, -1e-300], vec![], vec![-3.0]],
            rejected: vec![vec![f64::NEG_INFINITY], vec![], vec![]],
            mismatched: vec![vec![], vec![], vec![]],
        };
        let other = Scores::default();
        write(&path, [("known/a b".to_owned(), &one), ("train".to_owned(), &other)]).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["known/a b", "train"]);
        assert_eq!(read["known/a b"], one);
        assert_eq!(read["train"], other);
    }
}
