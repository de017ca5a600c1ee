//! How the rows of a pass relate to each other: the position of each row, and the rows it attends to.

use spo_api::Result;

use crate::config::Architecture;
use crate::engine::{Cluster, Engine, Heads, Memory, Precision, Rotation};

/// The input of a pass: packed rows, one token each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub clusters: Vec<Cluster>,
}

/// The wiring of every block of a decoder for some rows.
pub(crate) struct Wiring<T> {
    heads: Heads,
    clusters: Vec<Cluster>,
    rotations: Vec<Rotation<T>>,
    /// For each block, the index of its rotation.
    rotation_of: Vec<Option<usize>>,
}

/// The wiring of one block.
pub(super) struct BlockWiring<'a, T> {
    pub heads: Heads,
    /// `None` if the block does not use rotary positions.
    pub rotation: Option<&'a Rotation<T>>,
    pub clusters: &'a [Cluster],
}

impl<T> Wiring<T> {
    /// Blocks with the same rotary settings share tables.
    pub fn new<E: Engine<Tensor = T>>(e: &E, a: &Architecture, rows: &Rows) -> Result<Self> {
        let dim = a.heads.dim;
        let upload = |table| e.memory().upload(table, &[rows.ids.len(), dim / 2], Precision::Full);
        let (mut ropes, mut rotations, mut rotation_of) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &a.layers {
            let Some(rope) = &layer.rope else {
                rotation_of.push(None);
                continue;
            };
            let known = ropes.iter().position(|known| *known == rope);
            if known.is_none() {
                let [cos, sin] = rope.tables(&rows.positions, dim);
                rotations.push(Rotation { cos: upload(cos)?, sin: upload(sin)? });
                ropes.push(rope);
            }
            rotation_of.push(known.or(Some(ropes.len() - 1)));
        }
        Ok(Wiring { heads: a.heads, clusters: rows.clusters.clone(), rotations, rotation_of })
    }

    pub(super) fn blocks(&self) -> impl DoubleEndedIterator<Item = BlockWiring<'_, T>> + ExactSizeIterator {
        self.rotation_of.iter().map(|rotation| BlockWiring {
            heads: self.heads,
            rotation: rotation.map(|index| &self.rotations[index]),
            clusters: &self.clusters,
        })
    }
}
