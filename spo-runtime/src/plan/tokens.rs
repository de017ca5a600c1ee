//! Tokenized files in the cache, shared by later runs and by the cells of a sweep.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use serde_json::json;
use spo_api::Layout;
use spo_data::{Dataset, Fit, Source, Tokenizer};

use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::{Cache, Slot};
use crate::store::key::{Kind, key, own_hash};

/// The files in a cache entry that hold the rows, and their tokens if these are read from a file.
const ROWS: &str = "rows.jsonl";
const TOKENS: &str = "tokens.bin";

/// Rows to read.
pub(crate) struct Reading<'a> {
    pub(crate) sources: &'a [Source],
    pub(crate) layout: Layout,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) fit: &'a Fit,
    /// The folder for their tokens, if they are to be kept in a file and not in memory.
    pub(crate) disk: Option<&'a Path>,
}

impl Reading<'_> {
    /// Reads and tokenizes them.
    pub(crate) fn dataset(&self) -> spo_data::Result<Dataset> {
        let Reading { sources, layout, tokenizer, fit, disk } = *self;
        match disk {
            Some(folder) => Dataset::load_to_disk(sources, layout, tokenizer, fit, folder),
            None => Dataset::load(sources, layout, tokenizer, fit),
        }
    }
}

/// Access to tokenized files in a run's cache.
pub(crate) struct TokenCache<'a> {
    pub(crate) cache: Cache,
    /// Reports waiting.
    pub(crate) reporter: &'a Reporter,
    /// Ends the wait for another process.
    pub(crate) stop: &'a Stop,
}

impl TokenCache<'_> {
    /// The rows of files, tokenized here or by an earlier run.
    pub(crate) fn load(&self, reading: &Reading<'_>) -> anyhow::Result<spo_data::Result<Dataset>> {
        let sources = reading.sources;
        // An unreadable file has no identity. Loading it gives the actual error.
        let identity: spo_data::Result<Vec<_>> = sources.iter().map(Source::identity).collect();
        let files: spo_data::Result<Vec<_>> = sources.iter().map(Source::files).collect();
        let (Ok(identity), Ok(files)) = (identity, files) else { return Ok(reading.dataset()) };
        let (identity, files) = (identity.join("\n"), files.concat());
        let Some(slot) = self.slot(&identity, reading)? else { return Ok(reading.dataset()) };
        let found = slot.read(self.reporter, |folder| {
            let tokens = reading.disk.map(|_| folder.join(TOKENS));
            let rows = BufReader::new(File::open(folder.join(ROWS))?);
            Ok(Dataset::restore(rows, reading.layout, &files, tokens.as_deref())?)
        });
        if let Some(found) = found {
            let paths: Vec<_> = sources.iter().map(Source::name).collect();
            let (paths, rows) = (paths.join(", "), found.examples.len());
            self.reporter.note(&format!("{paths}: the tokens of {rows} rows are taken from the cache"));
            return Ok(Ok(found));
        }
        let data = reading.dataset();
        if let Ok(data) = &data {
            slot.write(self.reporter, |folder| {
                let mut file = BufWriter::new(File::create(folder.join(ROWS))?);
                data.store(&mut file, &files)?;
                data.store_tokens(|| File::create(folder.join(TOKENS)))?;
                Ok(file.flush()?)
            });
        }
        Ok(data)
    }

    /// The cache slot for the rows. Its key includes the program's hash, because tokenized rows depend on the
    /// code, and the moment that the chat template asks for, if it does; they do not depend on the model.
    fn slot(&self, identity: &str, reading: &Reading<'_>) -> anyhow::Result<Option<Slot>> {
        let Reading { layout, tokenizer, fit, disk, .. } = reading;
        let what = json!({
            "program": own_hash()?,
            "rows": identity,
            "layout": format!("{layout:?}"),
            "tokenizer": tokenizer.hash(),
            "fit": format!("{fit:?}"),
            "moment": tokenizer.moment(),
            "disk": disk.is_some(),
        });
        self.cache.slot(&key(Kind::Tokens, &what), self.stop, self.reporter)
    }
}
