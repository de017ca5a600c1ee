use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spo_api::{Column, Group, Layout};

use crate::choice::{Content, Counts, Draw, LeftOut, Seen, Side, last};
use crate::error::{DataError, Place, Result};
use crate::hash;
use crate::interpret::Interpreter;
use crate::report::{Finding, Noticed, Report};
use crate::row::{Answers, Row, Text};
use crate::source::Source;
use crate::special::SpecialTokens;
use crate::tokenize::tokenize;
use crate::tokenizer::Tokenizer;
use crate::tokens::{Tokens, Writer, unwritable};
use crate::turns::TrainOn;
use crate::window::{Truncation, cut};

/// Which rows are used, and how they are fitted to the model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fit {
    /// Longest prompt + answer, in tokens.
    #[schemars(range(min = 2))]
    pub max_length: usize,
    /// What to do with longer rows.
    pub truncation: Truncation,
    /// What becomes of special tokens in the text of messages.
    pub special_tokens: SpecialTokens,
    /// What is learned of a conversation.
    pub train_on: TrainOn,
    /// The side of a split to use; by default there is no split.
    #[serde(skip)]
    pub side: Option<Side>,
    /// Leave out rows whose prompt and answers have been before.
    pub deduplicate: bool,
    /// Make an error of whatever would be dropped, cut or is doubtful.
    pub strict: bool,
    /// The columns whose numbers the objectives read.
    #[serde(skip)]
    pub columns: Vec<Column>,
}

impl Default for Fit {
    fn default() -> Self {
        Fit {
            max_length: 1024,
            truncation: Truncation::default(),
            special_tokens: SpecialTokens::default(),
            train_on: TrainOn::default(),
            side: None,
            deduplicate: false,
            strict: false,
            columns: Vec::new(),
        }
    }
}

/// One tokenized row.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub(crate) tokens: Tokens,
    /// How long they are.
    pub lengths: Lengths,
    /// For each answer, the ranges of its tokens that are scored; empty if all tokens are.
    pub scored: Vec<Vec<Range<usize>>>,
    /// The label of an unpaired answer; true for all other layouts.
    pub desirable: bool,
    /// For a pair with scores: the score of the chosen answer minus that of the rejected one.
    pub gap: Option<f64>,
    /// The factor of the row's loss, 0 or more.
    pub weight: f64,
    /// The row's number in each of [`Dataset::columns`].
    pub columns: Vec<f64>,
    /// Where the row came from.
    pub place: Place,
}

/// Lengths of a row, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Lengths {
    /// Of the longest prompt with an answer.
    pub longest: u32,
    /// Of the last group's prompt.
    pub prompt: u32,
    /// Of the first answer.
    pub answer: u32,
}

impl Lengths {
    pub(crate) fn of(groups: &[Group]) -> Self {
        let answers = |group: &Group| group.completions.iter().map(Vec::len).max().unwrap_or(0);
        let longest = groups.iter().map(|group| group.prompt.len() + answers(group)).max().unwrap_or(0);
        let prompt = groups.last().map_or(0, |group| group.prompt.len());
        let answer = groups.first().and_then(|group| group.completions.first()).map_or(0, Vec::len);
        let [longest, prompt, answer] = [longest, prompt, answer].map(|length| length as u32);
        Lengths { longest, prompt, answer }
    }
}

impl Example {
    /// The tokens of an answer of this length that are scored. The others are read, as what others said between the
    /// assistant's turns.
    pub fn scored(&self, answer: usize, tokens: usize) -> Vec<Range<usize>> {
        self.scored.get(answer).cloned().unwrap_or_else(|| std::iter::once(0..tokens).collect())
    }

    /// The prompt and its answers, the chosen one first. There are two groups of one answer each when the
    /// answers do not share a context (the prompt was cut at the beginning, or there is no prompt).
    ///
    /// # Errors
    /// When they are in a file ([`Dataset::load_to_disk`]) that cannot be read.
    pub fn groups(&self) -> spo_api::Result<Cow<'_, [Group]>> {
        self.tokens.groups()
    }

    /// The same, of a row that is in memory; nothing of one in a file.
    pub fn in_memory(&self) -> &[Group] {
        match &self.tokens {
            Tokens::Memory(groups) => groups,
            Tokens::File(..) => &[],
        }
    }
}

/// Tokenized rows in the order of their files.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The layout of every example.
    pub layout: Layout,
    /// The columns whose numbers the rows have.
    pub columns: Vec<String>,
    /// The rows that were kept.
    pub examples: Vec<Example>,
    /// How many rows were read and kept, and what was found about them.
    pub report: Report,
}

/// Number of rows tokenized in parallel at a time.
const CHUNK: usize = 1024;

impl Dataset {
    /// Reads and tokenizes files. Only a bounded number of rows is held in memory as text.
    ///
    /// Pairs can also be read as [`Layout::Demonstrations`] (the chosen answer) and as [`Layout::Unpaired`]
    /// (two labelled answers).
    ///
    /// # Errors
    /// When a file cannot be read or parsed, when the chat template rejects a row, when no row is left,
    /// and, with [`Fit::strict`], when a row has any finding.
    pub fn load(sources: &[Source], layout: Layout, tokenizer: &Tokenizer, fit: &Fit) -> Result<Self> {
        Builder::new(layout, tokenizer, fit)?.sources(sources)
    }

    /// Reads and tokenizes files as [`load`](Self::load) does, and keeps the tokens in a file without a name in this
    /// folder. In memory, a row takes about 150 bytes, whatever its length.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the file cannot be written.
    pub fn load_to_disk(
        sources: &[Source],
        layout: Layout,
        tokenizer: &Tokenizer,
        fit: &Fit,
        folder: &Path,
    ) -> Result<Self> {
        let mut builder = Builder::new(layout, tokenizer, fit)?;
        builder.disk = Some(Writer::new(folder).map_err(|e| unwritable(folder, &e))?);
        builder.sources(sources)
    }

    /// Tokenizes rows that were built in memory, whose [`columns`](Row::columns) may be left empty where all have defaults.
    ///
    /// # Errors
    /// As [`load`](Self::load), and for a row without a column that is needed.
    pub fn from_rows(
        rows: impl IntoIterator<Item = Row>,
        layout: Layout,
        tokenizer: &Tokenizer,
        fit: &Fit,
    ) -> Result<Self> {
        let mut builder = Builder::new(layout, tokenizer, fit)?;
        for mut row in rows {
            for column in fit.columns.iter().skip(row.columns.len()) {
                row.columns.push(column.default.ok_or_else(|| {
                    let name = &column.name;
                    DataError::new(format!("the objective reads the column `{name}`, and the row has none"))
                        .at(&row.place)
                })?);
            }
            builder.push(row)?;
        }
        builder.finish()
    }

    /// SHA-256 of the layout, token ids, what of them is scored, labels, score gaps, weights and columns, in hexadecimal. It does not depend on where
    /// the rows came from.
    ///
    /// Rows whose tokens are in a file are hashed by the file's hash and their place in it.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut number = |n: usize| hasher.update((n as u64).to_le_bytes());
        number(self.layout as usize);
        for column in &self.columns {
            number(column.len());
            column.bytes().for_each(|byte| number(byte.into()));
        }
        if let Some(file) = self.token_file() {
            file.sha256().bytes().for_each(|byte| number(byte.into()));
        }
        for example in &self.examples {
            number(example.desirable.into());
            number(example.gap.map_or(0, |gap| gap.to_bits() as usize));
            // Rows without weights have the hash that they had before there were weights.
            if example.weight != 1.0 {
                number(example.weight.to_bits() as usize);
            }
            for span in example.scored.iter().flatten() {
                number(span.start);
                number(span.end);
            }
            example.columns.iter().for_each(|x| number(x.to_bits() as usize));
            let groups = match &example.tokens {
                Tokens::Memory(groups) => groups,
                Tokens::File(_, start) => {
                    number(*start as usize);
                    continue;
                }
            };
            number(groups.len());
            for group in groups {
                number(group.completions.len());
                for ids in std::iter::once(&group.prompt).chain(&group.completions) {
                    number(ids.len());
                    ids.iter().for_each(|id| number(*id as usize));
                }
            }
        }
        hash::hex(hasher)
    }
}

struct Builder<'a> {
    tokenizer: &'a Tokenizer,
    fit: &'a Fit,
    waiting: Vec<Row>,
    /// Where the tokens go, if not into memory.
    disk: Option<Writer>,
    /// What has been read, if duplicates are left out.
    seen: Seen,
    dataset: Dataset,
}

impl<'a> Builder<'a> {
    fn new(layout: Layout, tokenizer: &'a Tokenizer, fit: &'a Fit) -> Result<Self> {
        if fit.max_length < 2 {
            return Err(DataError::new("max_length must be at least 2: a token to read and one to score"));
        }
        let columns = fit.columns.iter().map(|column| column.name.clone()).collect();
        let dataset = Dataset { layout, columns, examples: Vec::new(), report: Report::default() };
        Ok(Builder { tokenizer, fit, waiting: Vec::new(), disk: None, seen: Seen::new(), dataset })
    }

    /// Reads all sources.
    fn sources(mut self, sources: &[Source]) -> Result<Dataset> {
        for source in sources {
            source.columns.check(&self.fit.columns)?;
            self.source(source)?;
        }
        self.finish()
    }

    /// Adds the rows of a source as often as its weight says.
    fn source(&mut self, source: &Source) -> Result<()> {
        let (times, share) = source.times()?;
        // Where the sample ends, and the part of it that is taken once more.
        let mut ends = [None; 2];
        if source.sample.is_some() || share > 0.0 {
            let mut places = Vec::new();
            let before = self.seen.clone();
            self.pass(source, true, &mut |_, _, place| {
                places.push(place);
                Ok(())
            })?;
            self.seen = before;
            let sample = source.sample.unwrap_or(usize::MAX).min(places.len());
            let part = (share * sample as f64).round() as usize;
            ends = [sample, part].map(|count| last(&mut places, count));
        }
        let [sample, part] = ends;
        let passes = times + usize::from(share > 0.0);
        let before = (passes > 1).then(|| self.seen.clone());
        for time in 0..passes {
            let end = if time < times { sample } else { part };
            let none = time == times && part.is_none();
            if let Some(before) = before.as_ref().filter(|_| time > 0) {
                self.seen.clone_from(before);
            }
            self.pass(source, time > 0, &mut |builder, row, place| {
                if none || end.is_some_and(|end| place > end) {
                    if time == 0 {
                        *builder.dataset.report.left_out.entry(LeftOut::Sample).or_default() += 1;
                    }
                    return Ok(());
                }
                builder.push(row)
            })?;
        }
        Ok(())
    }

    /// Goes through the rows that a sample is drawn from, with the place of each in the order of the draw. `again` says
    /// that they are only looked at, or have been counted.
    fn pass(
        &mut self,
        source: &Source,
        again: bool,
        take: &mut dyn FnMut(&mut Self, Row, Content) -> Result<()>,
    ) -> Result<()> {
        let layout = self.dataset.layout;
        let mut draw = Draw::new(source.seed);
        let (mut counts, mut more) = (Counts::new(), Counts::new());
        let drawn = source.sample.is_some() || source.weight.is_some();
        let fit = self.fit;
        let mut files: Vec<(Arc<Path>, Interpreter<'_>)> = Vec::new();
        source.read(&mut counts, &mut |place, record| {
            if files.last().is_none_or(|(file, _)| *file != place.file) {
                files.push((place.file.clone(), Interpreter::new(layout, fit)));
            }
            let Some((_, rows)) = files.last_mut() else { return Ok(false) };
            let row = rows.row(place, &record)?;
            if self.fit.side.is_some_and(|side| !side.has(rows.content(&row, &record))) {
                *more.entry(LeftOut::Split).or_default() += 1;
                return Ok(true);
            }
            if !self.fit.deduplicate && !drawn {
                take(self, row, Content::default())?;
                return Ok(true);
            }
            let content = Content::of(&row, layout);
            if self.fit.deduplicate && !self.seen.insert(content) {
                *more.entry(LeftOut::Duplicate).or_default() += 1;
                return Ok(true);
            }
            take(self, row, draw.place(content))?;
            Ok(true)
        })?;
        if again {
            return Ok(());
        }
        for (reason, count) in counts.into_iter().chain(more) {
            *self.dataset.report.left_out.entry(reason).or_default() += count;
        }
        for (file, rows) in files {
            self.dataset.report.forms.insert(file.clone(), rows.form());
            self.unused(source, file, rows.unused());
        }
        Ok(())
    }

    fn push(&mut self, row: Row) -> Result<()> {
        self.waiting.extend(row.arranged(self.dataset.layout)?);
        if self.waiting.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Notes which columns of a file were not used, by the names that the file has for them.
    fn unused(&mut self, source: &Source, file: Arc<Path>, columns: Vec<String>) {
        if columns.is_empty() {
            return;
        }
        let columns = columns.iter().map(|name| source.columns.own(name).to_owned()).collect();
        self.dataset.report.unused.insert(file, columns);
    }

    fn flush(&mut self) -> Result<()> {
        let (tokenizer, fit) = (self.tokenizer, self.fit);
        let prepared: Vec<_> = self.waiting.par_iter().map(|row| prepare(row, tokenizer, fit)).collect();
        for (row, prepared) in self.waiting.drain(..).zip(prepared) {
            let (mut example, noticed) = prepared.map_err(|e| e.at(&row.place))?;
            self.dataset.report.add(&row.place, &noticed, fit.strict)?;
            if let (Some(Example { tokens, .. }), Some(disk)) = (&mut example, &mut self.disk)
                && let Tokens::Memory(groups) = &*tokens
            {
                *tokens = disk.put(groups).map_err(|e| disk.failed(&e))?;
            }
            self.dataset.examples.extend(example);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Dataset> {
        self.flush()?;
        if let Some(mut disk) = self.disk {
            disk.finish().map_err(|e| disk.failed(&e))?;
        }
        let dataset = self.dataset;
        if dataset.examples.is_empty() {
            return Err(DataError::new(format!("no row is left: {}", dataset.report)));
        }
        Ok(dataset)
    }
}

/// Tokenizes a row and cuts it to the window. Returns no example if the row has to be dropped.
fn prepare(row: &Row, tokenizer: &Tokenizer, fit: &Fit) -> Result<(Option<Example>, Vec<Noticed>)> {
    let (mut tokens, mut noticed) = tokenize(tokenizer, row, fit)?;
    if row.answers.iter().any(Text::says_nothing) {
        noticed.push(Finding::EmptyAnswer.into());
    }
    if tokens.prompt.is_empty() {
        noticed.push(Finding::EmptyPrompt.into());
        tokens.prompt.extend(tokenizer.bos());
    }
    let (groups, scored) = match cut(&tokens, fit.max_length, fit.truncation) {
        Ok(cut) => {
            noticed.extend(cut.truncated.then_some(Finding::Truncated.into()));
            (cut.groups, cut.scored)
        }
        Err(dropped) => {
            noticed.push(dropped.into());
            return Ok((None, noticed));
        }
    };
    if matches!(&*groups, [Group { completions, .. }] if completions.len() == 2 && completions[0] == completions[1])
    {
        noticed.push(Finding::IdenticalPair.into());
    }
    let example = Example {
        lengths: Lengths::of(&groups),
        tokens: Tokens::Memory(groups),
        scored,
        desirable: !matches!(row.answers, Answers::Labelled { desirable: false, .. }),
        gap: row.gap,
        weight: row.weight,
        columns: row.columns.clone(),
        place: row.place.clone(),
    };
    Ok((Some(example), noticed))
}
