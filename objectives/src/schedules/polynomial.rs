use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

/// `(1 - end_factor) (1 - x)^power + end_factor`.
///
/// transformers gives the rate at the end as it is (`lr_end`); here it is a share of the peak.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Polynomial {
    /// 1 is a straight line; more falls faster at first, less more slowly.
    #[serde(default = "default_power")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub power: f64,
    /// Where it ends, as a share of the peak.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub end_factor: f64,
}

fn default_power() -> f64 {
    1.0
}

impl Part for Polynomial {}

impl Schedule for Polynomial {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let left = (1.0 - span.progress(step)).max(0.0);
        (1.0 - self.end_factor) * left.powf(self.power) + self.end_factor
    }
}

register!(schedule Polynomial {
    name: "polynomial",
    summary: "falls as a power of the way that is left",
    source: "transformers, get_polynomial_decay_schedule_with_warmup",
});
