use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{ConfigError, Part, Schedule, Span, register};

use super::cosine::half_cosine;

/// Stays at the peak, and falls over the last steps alone: `(1 - end_factor) f(y) + end_factor`, y the share of
/// those steps that lies behind, f by `shape`: `1 - y`, `(1 + cos(pi y)) / 2` or `1 - sqrt(y)`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmupStableDecay {
    /// Over what share of the stage's steps it falls; 0.1 unless this or `decay_steps` is given.
    #[schemars(range(min = 0, max = 1))]
    pub decay: Option<f64>,
    /// Over how many steps it falls, instead of `decay`.
    pub decay_steps: Option<usize>,
    /// How it falls.
    #[serde(default)]
    pub shape: Shape,
    /// Where it ends, as a share of the peak.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub end_factor: f64,
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

impl Part for WarmupStableDecay {
    fn validate(&self) -> Result<(), ConfigError> {
        match self.decay.is_some() && self.decay_steps.is_some() {
            true => Err(ConfigError::at("decay_steps", "`decay` and `decay_steps` exclude each other")),
            false => Ok(()),
        }
    }
}

impl Schedule for WarmupStableDecay {
    fn factor(&self, step: usize, span: Span) -> f64 {
        // Rounded up, as the warm-up is.
        let by_share = (self.decay.unwrap_or(0.1) * span.total as f64).ceil() as usize;
        let falls_over = self.decay_steps.unwrap_or(by_share).min(span.total - span.warmup);
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
