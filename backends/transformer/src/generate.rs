//! Generates continuations of prompts with a key-value cache.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardUniform};
use spo_api::{Result, Sampling, Watch};

use crate::config::Architecture;
use crate::decoder::{KvCache, Rows};
use crate::engine::{Cluster, Engine, Head, Memory, Precision, Span};
use crate::model::Model;
use crate::packing::check;

/// Maximum number of elements in the caches of prompts continued together: half a gigabyte of f32.
const CACHE_ELEMENTS: usize = 1 << 27;

pub(crate) fn generate<E: Engine>(
    e: &E,
    model: &Model<E>,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    for (i, prompt) in prompts.iter().enumerate() {
        // The last new token is never fed back to the model.
        let more = sampling.max_new_tokens.saturating_sub(1);
        check(prompt, more, &model.decoder.architecture, || format!("prompt {i} with {more} new tokens"))?;
    }
    if sampling.max_new_tokens == 0 {
        return Ok(vec![Vec::new(); prompts.len()]);
    }
    let a = &model.decoder.architecture;
    let per_token = 2 * a.layers.len() * a.heads.kv_heads * a.heads.dim;
    let mut results = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut elements = 0;
        let fitting = rest.iter().take_while(|prompt| {
            elements += capacity(a, prompt, sampling) * per_token;
            elements <= CACHE_ELEMENTS
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        results.extend(together(e, model, now, results.len(), sampling, watch)?);
        rest = later;
    }
    Ok(results)
}

/// Rows of the caches that a prompt and its continuation need.
fn capacity(a: &Architecture, prompt: &[u32], sampling: &Sampling) -> usize {
    let length = prompt.len() + sampling.max_new_tokens;
    // Twice where it is computed anew on the way.
    let recomputed = |&from: &usize| prompt.len() < from && from <= length;
    length * if a.recomputed_from().as_ref().is_some_and(recomputed) { 2 } else { 1 }
}

/// A prompt that is being continued.
struct Line {
    /// First row of this prompt in the caches.
    start: usize,
    /// Number of tokens read so far.
    read: usize,
    new: Vec<u32>,
    rng: ChaCha8Rng,
    done: bool,
}

/// Continues prompts as one batch; `first` is the index of the first of them.
fn together<E: Engine>(
    e: &E,
    model: &Model<E>,
    prompts: &[Vec<u32>],
    first: usize,
    sampling: &Sampling,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<u32>>> {
    let decoder = &model.decoder;
    let a = &decoder.architecture;
    let mut rows = 0;
    let mut lines: Vec<Line> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        // One random stream per prompt, so that a sample does not depend on the other prompts.
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream((first + i) as u64);
        lines.push(Line { start: rows, read: 0, new: Vec::new(), rng, done: false });
        rows += capacity(a, prompt, sampling);
    }
    let empty = || e.memory().zeros(&[rows, a.heads.kv_heads * a.heads.dim], Precision::Compute);
    let caches = a
        .layers
        .iter()
        .map(|_| Ok(KvCache { keys: empty()?, values: empty()? }))
        .collect::<Result<Vec<_>>>()?;

    while lines.iter().any(|line| !line.done) {
        let mut rows = Rows::default();
        let mut cached = Vec::new();
        let mut last = Vec::new();
        for (line, prompt) in lines.iter_mut().zip(prompts).filter(|(line, _)| !line.done) {
            if line.read > 0 && Some(line.read + 1) == a.recomputed_from() {
                // From here on all keys are rotated in another way. They go into rows that are still zero.
                line.start += line.read;
                line.read = 0;
            }
            let ids: Vec<u32> = prompt.iter().chain(&line.new).skip(line.read).copied().collect();
            let queries = rows.ids.len()..rows.ids.len() + ids.len();
            let begin = line.start + line.read;
            line.read += ids.len();
            let keys = line.start..line.start + line.read;
            rows.ids.extend(&ids);
            rows.positions.extend((begin..keys.end).map(|row| (row - line.start) as u32));
            rows.lengths.extend(ids.iter().map(|_| line.read as u32));
            cached.extend((begin..keys.end).map(|row| row as u32));
            last.push(queries.end as u32 - 1);
            let span = Span { queries: queries.clone(), prefix: keys.start..keys.start, own: keys.clone() };
            rows.clusters.push(Cluster { queries, keys, spans: vec![span] });
        }
        let x = decoder.extend(e, &model.parameters, &rows, &caches, &cached)?;
        let mut hidden = decoder.head_input(e, &model.parameters, &e.gather(&x, &last)?, &last)?;
        let Head { bias, low_rank, cap, .. } = model.head();
        let weight = model.parameters.matrix(e, decoder.head.weight)?;
        let mut added = None;
        if let (Some(b), Some(rank)) = (low_rank, decoder.head_rank()) {
            let reduced = e.columns(&hidden, 1, a.hidden..a.hidden + rank)?;
            hidden = e.columns(&hidden, 1, 0..a.hidden)?;
            added = Some(e.linear(&reduced, b, None)?);
        }
        let logits = e.linear(&hidden, &weight, bias)?;
        added.iter().try_for_each(|added| e.axpy(&logits, 1.0, added))?;
        let mut logits = e.memory().download(&logits)?;
        if let Some(cap) = cap {
            logits.iter_mut().for_each(|l| *l = (cap * (f64::from(*l) / cap).tanh()) as f32);
        }
        let rows = logits.chunks_exact(a.vocabulary);
        let going = lines.iter_mut().enumerate().filter(|(_, line)| !line.done);
        for ((i, Line { new, rng, done, .. }), logits) in going.zip(rows) {
            let logits = logits.iter().copied().map(f64::from).collect();
            let token =
                sampling.choose(logits, prompts[i].iter().chain(&*new), || StandardUniform.sample(rng))?;
            new.push(token);
            let more = watch(first + i, token);
            *done = !more || sampling.stop.contains(&token) || new.len() == sampling.max_new_tokens;
        }
    }
    Ok(lines.into_iter().map(|line| line.new).collect())
}
