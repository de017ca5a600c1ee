//! `spo-run list`: lists everything in the registry.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use spo_api::Registry;

use super::describe::needs;
use crate::plan::libraries;
use crate::reporter::say;
use crate::terminal::fit;

pub(crate) fn run(registry: &mut Registry) -> anyhow::Result<()> {
    libraries::load_all(registry)?;
    say(&list(registry));
    Ok(())
}

/// The kinds of parts and their titles.
const KINDS: [(&str, &str); 5] = [
    ("objective", "Objectives"),
    ("step", "Bilevel steps"),
    ("optimizer", "Optimizers"),
    ("schedule", "Schedules of the learning rate"),
    ("backend", "Backends"),
];

/// A table of all parts.
fn list(registry: &Registry) -> String {
    let mut out = String::new();
    for (kind, title) in KINDS {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        fit(&mut table);
        for entry in registry.iter().filter(|e| e.build.kind() == kind) {
            let names: Vec<_> = entry.names().collect();
            table.add_row([
                names.join(", "),
                entry.summary.to_owned(),
                needs(entry),
                entry.origin.to_owned(),
            ]);
        }
        let _ = writeln!(out, "{title}\n{table}\n");
    }
    out + "spo-run describe NAME tells more.\n"
}
