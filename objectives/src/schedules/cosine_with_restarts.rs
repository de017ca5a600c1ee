use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Part, Schedule, Span, register};

use super::cosine::half_cosine;

/// `(1 + cos(pi (num_cycles x mod 1))) / 2`: falls to 0 along half a cosine, begins anew at the peak, and so on.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CosineWithRestarts {
    /// How often it falls.
    #[serde(default = "default_num_cycles")]
    #[schemars(range(min = 1))]
    pub num_cycles: usize,
}

fn default_num_cycles() -> usize {
    1
}

impl Part for CosineWithRestarts {}

impl Schedule for CosineWithRestarts {
    fn factor(&self, step: usize, span: Span) -> f64 {
        half_cosine((self.num_cycles as f64 * span.progress(step)) % 1.0)
    }
}

register!(schedule CosineWithRestarts {
    name: "cosine-with-restarts",
    aliases: ["cosine_with_restarts"],
    summary: "falls along half a cosine, again and again",
    source: "transformers, get_cosine_with_hard_restarts_schedule_with_warmup",
});
