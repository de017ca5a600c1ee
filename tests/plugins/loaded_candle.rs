//! The candle backend as a library. Loaded, it must do exactly what it does when it is linked.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Backend, ModelSpec, Part, Result, Session, register};
use spo_backend_candle::Candle;

spo_api::export_plugins!();

/// The candle backend under another name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoadedCandle {
    /// As in the linked backend.
    #[serde(default)]
    checkpoint: bool,
}

impl Part for LoadedCandle {}

impl Backend for LoadedCandle {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        Candle { checkpoint: self.checkpoint, ..Candle::default() }.open(spec)
    }
}

register!(backend LoadedCandle {
    name: "loaded-candle",
    summary: "candle, loaded",
    source: "a test",
});
