//! Tokenized files in the cache: what one run has tokenized, later runs and the other cells of a sweep read.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::json;
use spo_api::Layout;
use spo_data::{Dataset, Fit, Source, Tokenizer};

use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::{Cache, Slot};
use crate::store::key::{key, own_hash};

/// In an entry of the cache, the file with the rows.
const ROWS: &str = "rows.json";

/// Where a run keeps tokenized files, whom it tells of it, and what ends its waiting.
pub(crate) struct TokenCache<'a> {
    /// The cache.
    pub(crate) cache: Cache,
    /// Whom it tells.
    pub(crate) reporter: &'a Reporter,
    /// What ends its waiting for another process.
    pub(crate) stop: &'a Stop,
}

impl TokenCache<'_> {
    /// The rows of a file, tokenized here or by a run before.
    pub(crate) fn load(
        &self,
        source: &Source,
        layout: Layout,
        tokenizer: &Tokenizer,
        fit: &Fit,
    ) -> anyhow::Result<spo_data::Result<Dataset>> {
        let tokenized = || Dataset::load(std::slice::from_ref(source), layout, tokenizer, fit);
        // A file that cannot be read has no identity: loading it says why.
        let Ok(identity) = source.identity() else { return Ok(tokenized()) };
        let Some(slot) = self.slot(&identity, layout, tokenizer, fit)? else { return Ok(tokenized()) };
        let found = slot.read(self.reporter, |folder| {
            Ok(Dataset::restore(File::open(folder.join(ROWS))?, layout, &source.path)?)
        });
        if let Some(found) = found {
            let (path, rows) = (source.path.display(), found.examples.len());
            self.reporter.note(&format!("{path}: the tokens of {rows} rows are taken from the cache"));
            return Ok(Ok(found));
        }
        let data = tokenized();
        if let Ok(data) = &data {
            slot.write(self.reporter, |folder| {
                let mut file = BufWriter::new(File::create(folder.join(ROWS))?);
                data.store(&mut file)?;
                Ok(file.flush()?)
            });
        }
        Ok(data)
    }

    /// The place of the rows in the cache. The program has a part in what they come to, the model has not.
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
        });
        self.cache.slot(&key("tokens", &what), self.stop, self.reporter)
    }
}
