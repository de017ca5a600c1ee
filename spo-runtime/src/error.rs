//! The two ways a command can fail, told apart by the exit code.

/// The user's input cannot be used: a recipe, data, a model folder, an argument. Exit code 2, found
/// before training begins.
#[derive(Debug)]
pub struct BadInput(pub String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// 2 when the user's input is at fault, 1 when the run failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let bad_input = error.chain().any(|cause| {
        cause.is::<BadInput>()
            || cause.is::<spo_api::ConfigError>()
            || cause.is::<spo_data::DataError>()
            || cause
                .downcast_ref::<spo_api::Error>()
                .is_some_and(|e| matches!(e, spo_api::Error::Config(_) | spo_api::Error::Model(_)))
    });
    if bad_input { 2 } else { 1 }
}
