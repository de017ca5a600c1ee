use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

/// `(1 + cos(pi x)) / 2`: falls to 0 along half a cosine.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cosine {}

impl Part for Cosine {}

/// Half a cosine, from 1 at 0 to 0 at 1.
pub(super) fn half_cosine(x: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * x).cos())
}

impl Schedule for Cosine {
    fn factor(&self, step: usize, span: Span) -> f64 {
        half_cosine(span.progress(step))
    }
}

register!(schedule Cosine {
    name: "cosine",
    summary: "falls to 0 along half a cosine",
    source: "transformers, get_cosine_schedule_with_warmup",
});
