//! `spo-run man`: manual pages. Only in builds with the feature `man`, for `cargo xtask man`.

use std::path::Path;

use anyhow::Context;

/// Writes `spo-run.1`, and a page for every command.
pub(super) fn write(command: clap::Command, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // A page tells nothing of the machine that made it.
    let command = command.long_version(env!("CARGO_PKG_VERSION"));
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write into {}", folder.display()))
}
