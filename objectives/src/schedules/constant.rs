use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

/// `1`: stays at the peak.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {}

impl Part for Constant {}

impl Schedule for Constant {
    fn factor(&self, _step: usize, _span: Span) -> f64 {
        1.0
    }
}

register!(schedule Constant {
    name: "constant",
    aliases: ["constant_with_warmup"],
    summary: "stays at the peak",
    source: "transformers, get_constant_schedule_with_warmup",
});
