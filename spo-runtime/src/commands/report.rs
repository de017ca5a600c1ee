//! `spo-run report`: the results of runs, in text and plots.

use crate::error::BadInput;
use crate::reporter::say;

pub(crate) fn run(arguments: &spo_report::Arguments) -> anyhow::Result<()> {
    let told = spo_report::report(arguments).map_err(|e| match e {
        spo_report::Error::Input(message) => anyhow::Error::new(BadInput(message)),
        failed => failed.into(),
    })?;
    say(&told.join("\n"));
    Ok(())
}
