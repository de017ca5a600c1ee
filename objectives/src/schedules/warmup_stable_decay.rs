use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{Part, Schedule, Span, register};

use super::cosine::half_cosine;
use crate::{NumberOr, ShareOrSteps};

/// Stays at the peak, and falls over the last steps alone: `(1 - end_factor) f(y) + end_factor`, y the share of
/// those steps that lies behind, f by `shape`: `1 - y`, `(1 + cos(pi y)) / 2` or `1 - sqrt(y)`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmupStableDecay {
    /// Over which of the last steps it falls: a share of the stage's steps, or `{ steps = 100 }`.
    #[serde(default = "default_decay")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub decay: ShareOrSteps,
    /// How it falls.
    #[serde(default)]
    pub shape: Shape,
    /// Where it ends, as a share of the peak.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub end_factor: f64,
}

fn default_decay() -> ShareOrSteps {
    NumberOr::Number(0.1)
}

/// How a learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Shape {
    /// In a straight line.
    #[serde(rename = "linear")]
    Linear,
    /// Along half a cosine.
    #[default]
    #[serde(rename = "cosine")]
    Cosine,
    /// Steeply at first (Hägele et al. 2024).
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Part for WarmupStableDecay {}

impl Schedule for WarmupStableDecay {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let steps = self.decay.steps(span.total);
        let falls_over = steps.min(span.total - span.warmup);
        let Some(behind) = (step + falls_over).checked_sub(span.total) else { return 1.0 };
        let y = (behind as f64 / falls_over.max(1) as f64).min(1.0);
        let f = match self.shape {
            Shape::Linear => 1.0 - y,
            Shape::Cosine => half_cosine(y),
            Shape::OneMinusSqrt => 1.0 - y.sqrt(),
        };
        (1.0 - self.end_factor) * f + self.end_factor
    }
}

register!(schedule WarmupStableDecay {
    name: "warmup-stable-decay",
    aliases: ["warmup_stable_decay"],
    summary: "stays at the peak, falls at the end",
    source: "transformers, get_wsd_schedule; Hu et al. 2024 (MiniCPM)",
});
