use serde::{Serialize, de::DeserializeOwned};
use spo_api::{Error, Result};

/// Serializes the state of a step as JSON. Numbers round-trip exactly.
pub(super) fn to_state(state: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(state).expect("a state is plain numbers")
}

/// Restores what [`to_state`] wrote.
pub(super) fn from_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Batch(format!("not the state of this step: {e}")))
}
