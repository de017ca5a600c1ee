//! `spo-run cache`: lists and prunes the entries of a cache.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};

use crate::error::bad;
use crate::reporter::say;
use crate::store::cache::{Entry, entries};

#[derive(clap::Args)]
pub(crate) struct CacheArguments {
    /// Its folder.
    #[arg(default_value = "runs/.cache")]
    folder: PathBuf,
    /// Remove entries: those beyond `--older-than` and `--max-size`. What a process has in use stays.
    #[arg(long, requires = "limits")]
    prune: bool,
    /// Those that no run has asked for in so many days.
    #[arg(long, value_name = "DAYS", group = "limits", requires = "prune")]
    older_than: Option<f64>,
    /// Those that were used longest ago, until the others take so many GiB at most; 0 for all.
    #[arg(long, value_name = "GIB", group = "limits", requires = "prune")]
    max_size: Option<f64>,
}

impl CacheArguments {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        say(&self.list_or_prune()?);
        Ok(())
    }

    fn list_or_prune(&self) -> anyhow::Result<String> {
        let place = self.folder.display();
        let limits = [("--older-than", self.older_than), ("--max-size", self.max_size)];
        if let Some((name, limit)) =
            limits.into_iter().find(|(_, x)| x.is_some_and(|x| x.is_nan() || x < 0.0))
        {
            let limit = limit.unwrap_or_default();
            return Err(bad(format!("{name} must be at least 0, got {limit}")).into());
        }
        let found = entries(&self.folder).map_err(|e| bad(format!("{place}: {e}")))?;
        let found = found.ok_or_else(|| bad(format!("{place} is not a cache of spo-run")))?;
        let now = SystemTime::now();
        if !self.prune {
            return Ok(table(&found, now));
        }
        let (mut removed, mut freed, mut busy) = (0, 0, 0);
        for entry in self.doomed(&found, now) {
            match entry.remove().with_context(|| format!("cannot remove {} in {place}", entry.key))? {
                true => (removed, freed) = (removed + 1, freed + entry.bytes),
                false => busy += 1,
            }
        }
        let kept = found.iter().map(|entry| entry.bytes).sum::<u64>() - freed;
        let in_use = if busy > 0 { format!(", {busy} more are in use") } else { String::new() };
        Ok(format!(
            "removed {removed} of {} entries, {}{in_use}; {} are left",
            found.len(),
            size(freed),
            size(kept)
        ))
    }

    /// The entries that exceed the limits. `found` is sorted by last use, most recent first.
    fn doomed<'a>(&self, found: &'a [Entry], now: SystemTime) -> Vec<&'a Entry> {
        let oldest = self.older_than.and_then(|days| Duration::try_from_secs_f64(days * 86400.0).ok());
        let limit = self.max_size.map(|gib| gib * f64::from(1 << 30));
        let mut total = 0.0;
        let beyond = |entry: &&Entry| {
            let old = oldest.is_some_and(|oldest| age(entry, now) > oldest);
            if !old {
                total += entry.bytes as f64;
            }
            old || limit.is_some_and(|limit| total > limit || limit == 0.0)
        };
        found.iter().filter(beyond).collect()
    }
}

/// Time since the last use. Clocks may jump, so a negative age counts as 0.
fn age(entry: &Entry, now: SystemTime) -> Duration {
    now.duration_since(entry.used).unwrap_or_default()
}

fn table(found: &[Entry], now: SystemTime) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["entry", "size", "last used"]);
    for entry in found {
        // Enough digits of the hash for a person to tell entries apart.
        let name: String = entry.key.char_indices().take_while(|(i, _)| *i < 24).map(|(_, c)| c).collect();
        table.add_row([name, size(entry.bytes), ago(age(entry, now))]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let total = found.iter().map(|entry| entry.bytes).sum();
    format!("{table}\n{} entries, {}", found.len(), size(total))
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    let (unit, name) = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .map(|(power, name)| (f64::from(1u32 << power), name))
        .into_iter()
        .find(|(unit, _)| bytes >= *unit)
        .unwrap_or((1.0, "B"));
    format!("{:.*} {name}", usize::from(unit > 1.0), bytes / unit)
}

fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_read_well() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let ages = [0, 1, 59, 60, 7200, 86400 * 3].map(|s| ago(Duration::from_secs(s)));
        assert_eq!(
            ages,
            ["0 seconds ago", "1 second ago", "59 seconds ago", "1 minute ago", "2 hours ago", "3 days ago"]
        );
    }
}
