//! Tokenized files in the cache, shared by later runs and by the cells of a sweep.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::json;
use spo_api::Layout;
use spo_data::{Dataset, Fit, Source, Tokenizer};

use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::{Cache, Slot};
use crate::store::key::{Kind, key, own_hash};

/// The file in a cache entry that holds the rows.
const ROWS: &str = "rows.json";

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
    pub(crate) fn load(
        &self,
        sources: &[Source],
        layout: Layout,
        tokenizer: &Tokenizer,
        fit: &Fit,
    ) -> anyhow::Result<spo_data::Result<Dataset>> {
        let tokenized = || Dataset::load(sources, layout, tokenizer, fit);
        // An unreadable file has no identity. Loading it gives the actual error.
        let identity: spo_data::Result<Vec<_>> = sources.iter().map(Source::identity).collect();
        let files: spo_data::Result<Vec<_>> = sources.iter().map(Source::files).collect();
        let (Ok(identity), Ok(files)) = (identity, files) else { return Ok(tokenized()) };
        let (identity, files) = (identity.join("\n"), files.concat());
        let Some(slot) = self.slot(&identity, layout, tokenizer, fit)? else { return Ok(tokenized()) };
        let found = slot.read(self.reporter, |folder| {
            Ok(Dataset::restore(File::open(folder.join(ROWS))?, layout, &files)?)
        });
        if let Some(found) = found {
            let paths: Vec<_> = sources.iter().map(Source::name).collect();
            let (paths, rows) = (paths.join(", "), found.examples.len());
            self.reporter.note(&format!("{paths}: the tokens of {rows} rows are taken from the cache"));
            return Ok(Ok(found));
        }
        let data = tokenized();
        if let Ok(data) = &data {
            slot.write(self.reporter, |folder| {
                let mut file = BufWriter::new(File::create(folder.join(ROWS))?);
                data.store(&mut file, &files)?;
                Ok(file.flush()?)
            });
        }
        Ok(data)
    }

    /// The cache slot for the rows. Its key includes the program's hash, because tokenized rows depend on the
    /// code, and the moment that the chat template asks for, if it does; they do not depend on the model.
    fn slot(
        &self,
        identity: &str,
        layout: Layout,
        tokenizer: &Tokenizer,
        fit: &Fit,
    ) -> anyhow::Result<Option<Slot>> {
        let what = json!({
            "program": own_hash()?,
            "rows": identity,
            "layout": format!("{layout:?}"),
            "tokenizer": tokenizer.hash(),
            "fit": format!("{fit:?}"),
            "moment": tokenizer.moment(),
        });
        self.cache.slot(&key(Kind::Tokens, &what), self.stop, self.reporter)
    }
}
