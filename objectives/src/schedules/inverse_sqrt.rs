use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

/// `1 / sqrt(1 + n / timescale)`, n the steps since the warm-up: falls ever more slowly, wherever the end is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InverseSqrt {
    /// Steps over which it falls to `1 / sqrt(2)`: as many as the warm-up has, or 10,000 if it has none, unless
    /// given.
    #[schemars(range(min = 1))]
    pub timescale: Option<usize>,
}

impl Part for InverseSqrt {}

impl Schedule for InverseSqrt {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let by_warmup = if span.warmup > 0 { span.warmup } else { 10_000 };
        let timescale = self.timescale.unwrap_or(by_warmup);
        1.0 / ((step - span.warmup + timescale) as f64 / timescale as f64).sqrt()
    }
}

register!(schedule InverseSqrt {
    name: "inverse-sqrt",
    aliases: ["inverse_sqrt"],
    summary: "falls as one over the root of the steps",
    source: "transformers, get_inverse_sqrt_schedule",
});
