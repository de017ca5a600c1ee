//! How the rows of a pass relate to each other: the position of each row, and the rows it attends to.

use spo_api::Result;

use super::balance::Slopes;
use crate::config::Architecture;
use crate::engine::{Attention, Cluster, Engine, Memory, Precision, Rotation};

/// The input of a pass: packed rows, one token each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// The length of the sequence that each row is in, on which rotations may depend.
    pub lengths: Vec<u32>,
    pub clusters: Vec<Cluster>,
    /// A number for the tokens up to each row, which dropout depends on; empty where there is none.
    pub histories: Vec<u64>,
    /// How many sequences each row is part of, where the routers' loss is computed, which counts it as often; else empty.
    pub copies: Vec<u32>,
}

/// The wiring of every block of a decoder for some rows.
pub(crate) struct Wiring<T> {
    clusters: Vec<Cluster>,
    rows: usize,
    rotations: Vec<Rotation<T>>,
    /// For each block, how it attends, and the index of its rotation.
    of_block: Vec<(Attention, Option<usize>)>,
    /// The gradient of the routers' loss, if the backward pass is to add it.
    pub of_loss: Option<Slopes>,
}

/// The wiring of one block.
pub(super) struct BlockWiring<'a, T> {
    pub attention: &'a Attention,
    /// `None` if the block does not use rotary positions.
    pub rotation: Option<&'a Rotation<T>>,
    pub clusters: &'a [Cluster],
    pub rows: usize,
    pub of_loss: Option<&'a Slopes>,
}

impl<T> Wiring<T> {
    /// Blocks with the same rotary settings share tables.
    pub fn new<E: Engine<Tensor = T>>(e: &E, a: &Architecture, rows: &Rows) -> Result<Self> {
        let (mut ropes, mut rotations, mut of_block) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &a.layers {
            let attention = Attention {
                heads: a.heads,
                scale: a.attention_scale,
                cap: a.attention_cap,
                window: layer.window,
            };
            let Some(rope) = &layer.rope else {
                of_block.push((attention, None));
                continue;
            };
            let known = ropes.iter().position(|known| *known == rope);
            if known.is_none() {
                let shape = [rows.ids.len(), rope.dim / 2];
                let upload = |table| e.memory().upload(table, &shape, Precision::Full);
                let [cos, sin] = rope.tables(&rows.positions, &rows.lengths);
                let (cos, sin) = (upload(cos)?, upload(sin)?);
                rotations.push(Rotation { cos, sin, dim: a.heads.dim, pairs: rope.pairs });
                ropes.push(rope);
            }
            of_block.push((attention, known.or(Some(ropes.len() - 1))));
        }
        let clusters = rows.clusters.clone();
        Ok(Wiring { clusters, rows: rows.ids.len(), rotations, of_block, of_loss: None })
    }

    pub(super) fn blocks(&self) -> impl DoubleEndedIterator<Item = BlockWiring<'_, T>> + ExactSizeIterator {
        self.of_block.iter().map(|(attention, rotation)| BlockWiring {
            attention,
            rotation: rotation.map(|index| &self.rotations[index]),
            clusters: &self.clusters,
            rows: self.rows,
            of_loss: self.of_loss.as_ref(),
        })
    }
}
