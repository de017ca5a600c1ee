use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

/// `1 - x`: falls to 0 in a straight line.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linear {}

impl Part for Linear {}

impl Schedule for Linear {
    fn factor(&self, step: usize, span: Span) -> f64 {
        (1.0 - span.progress(step)).max(0.0)
    }
}

register!(schedule Linear {
    name: "linear",
    summary: "falls to 0 in a straight line",
    source: "transformers, get_linear_schedule_with_warmup",
});
