//! The ways a command can fail, distinguished by exit code.

use std::path::PathBuf;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::shell::word;

/// Unusable user input (a recipe, data, a model folder, an argument), found before training begins. The exit
/// code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub String);

/// A message about what a command was given.
pub(crate) fn bad(message: impl std::fmt::Display) -> BadInput {
    BadInput(format!("error: {message}"))
}

/// Context added to the error that ended a run.
#[derive(Debug, thiserror::Error)]
#[error("{} is not finished", folder.display())]
pub(crate) struct Unfinished {
    pub(crate) folder: PathBuf,
    /// What `spo-run resume` would do; `None` if there is nothing to go on from.
    pub(crate) resume: Option<&'static str>,
}

/// The run was stopped by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {}", match *signal { SIGINT => "Ctrl-C (SIGINT)".to_owned(), SIGTERM => "SIGTERM".to_owned(), other => format!("signal {other}") })]
pub(crate) struct Interrupted {
    pub(crate) signal: i32,
}

/// Returns 2 for bad user input, 128 + N if signal N stopped the run, and 1 for any other failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let cause = |is: &dyn Fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(is);
    if let Some(Interrupted { signal }) = error.chain().find_map(|cause| cause.downcast_ref()) {
        return u8::try_from(128 + signal).unwrap_or(1);
    }
    let bad_input = cause(&|cause| {
        cause.is::<BadInput>()
            || cause.is::<spo_api::ConfigError>()
            || cause.downcast_ref::<spo_data::DataError>().is_some_and(|e| !e.failed)
            || cause
                .downcast_ref::<spo_api::Error>()
                .is_some_and(|e| matches!(e, spo_api::Error::Config(_) | spo_api::Error::Model(_)))
    });
    if bad_input { 2 } else { 1 }
}

/// The error message shown to the user.
pub(crate) fn report(error: &anyhow::Error) -> String {
    let unfinished = error.downcast_ref::<Unfinished>();
    let mut causes: Vec<String> =
        error.chain().skip(usize::from(unfinished.is_some())).map(ToString::to_string).collect();
    // Some errors already include their cause in their message.
    causes.dedup_by(|cause, effect| effect.ends_with(&**cause));
    let text = causes.join(": ");
    let prefix = if text.starts_with("error") { "" } else { "error: " };
    // Resuming would fail at the same place.
    let again = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(spo_api::Error::NonFinite(_) | spo_api::Error::Stopped(_)))
    });
    let hint = match unfinished {
        Some(Unfinished { folder, resume: Some(does) }) if exit_code(error) != 2 && !again => {
            format!("\n`spo-run resume {}` {does}", word(folder))
        }
        _ => String::new(),
    };
    format!("{prefix}{text}{hint}")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn resuming_is_suggested_where_there_is_something_to_go_on_from() {
        let failed = |error: spo_api::Error, resume| {
            let unfinished = Unfinished { folder: "runs/a".into(), resume };
            report(&Err::<(), _>(error).context(unfinished).unwrap_err())
        };
        let engine = || spo_api::Error::Engine("out of memory".into());
        assert_eq!(failed(engine(), None), "error: out of memory");
        let hint = failed(engine(), Some("goes on from the last checkpoint"));
        assert_eq!(hint, "error: out of memory\n`spo-run resume runs/a` goes on from the last checkpoint");
        let again = failed(spo_api::Error::NonFinite("row 3".into()), Some("goes on"));
        assert_eq!(again, "error: row 3", "it would fail again");
    }
}
