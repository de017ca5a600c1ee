//! The ways a command can fail, told apart by the exit code.

use std::path::PathBuf;

use signal_hook::consts::{SIGINT, SIGTERM};

/// The user's input cannot be used: a recipe, data, a model folder, an argument. Exit code 2, found
/// before training begins.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub String);

/// Said of an error that ended a run which can go on.
#[derive(Debug, thiserror::Error)]
#[error("{} is not finished", folder.display())]
pub(crate) struct Unfinished {
    /// The run's folder.
    pub(crate) folder: PathBuf,
}

/// The run was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {}", match *signal { SIGINT => "Ctrl-C (SIGINT)".to_owned(), SIGTERM => "SIGTERM".to_owned(), other => format!("signal {other}") })]
pub(crate) struct Interrupted {
    /// The signal.
    pub(crate) signal: i32,
}

/// 2 when the user's input is at fault, 128 + N when signal N stopped the run, 1 when it failed.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let cause = |is: &dyn Fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(is);
    if let Some(Interrupted { signal }) = error.chain().find_map(|cause| cause.downcast_ref()) {
        return u8::try_from(128 + signal).unwrap_or(1);
    }
    let bad_input = cause(&|cause| {
        cause.is::<BadInput>()
            || cause.is::<spo_api::ConfigError>()
            || cause.is::<spo_data::DataError>()
            || cause
                .downcast_ref::<spo_api::Error>()
                .is_some_and(|e| matches!(e, spo_api::Error::Config(_) | spo_api::Error::Model(_)))
    });
    if bad_input { 2 } else { 1 }
}

/// What is printed of an error.
pub(crate) fn report(error: &anyhow::Error) -> String {
    let unfinished = error.downcast_ref::<Unfinished>();
    let mut causes: Vec<String> =
        error.chain().skip(usize::from(unfinished.is_some())).map(ToString::to_string).collect();
    // Some errors tell their cause themselves.
    causes.dedup_by(|cause, effect| effect.ends_with(&**cause));
    let text = causes.join(": ");
    let prefix = if text.starts_with("error") { "" } else { "error: " };
    // It would end there again.
    let again = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(spo_api::Error::NonFinite(_) | spo_api::Error::Stopped(_)))
    });
    let hint = match unfinished {
        Some(Unfinished { folder }) if exit_code(error) != 2 && !again => {
            format!("\n`spo-run resume {}` goes on from the last checkpoint", folder.display())
        }
        _ => String::new(),
    };
    format!("{prefix}{text}{hint}")
}
