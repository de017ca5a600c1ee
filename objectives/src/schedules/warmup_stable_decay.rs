use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{ConfigError, Part, Schedule, Span, register};

use super::cosine::half_cosine;
use crate::NumberOr;

/// Stays at the peak, and falls over the last steps alone: `(1 - end_factor) f(y) + end_factor`, y the share of
/// those steps that lies behind, f by `shape`: `1 - y`, `(1 + cos(pi y)) / 2` or `1 - sqrt(y)`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmupStableDecay {
    /// Over which of the last steps it falls: a share of the stage's steps, or `{ steps = 100 }`.
    #[serde(default = "default_decay")]
    pub decay: NumberOr<Decay>,
    /// How it falls.
    #[serde(default)]
    pub shape: Shape,
    /// Where it ends, as a share of the peak.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub end_factor: f64,
}

/// How long a learning rate falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// So many steps.
    Steps(usize),
}

fn default_decay() -> NumberOr<Decay> {
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

impl Part for WarmupStableDecay {
    fn validate(&self) -> Result<(), ConfigError> {
        match self.decay {
            NumberOr::Number(share) if !(0.0..=1.0).contains(&share) => {
                Err(ConfigError::at("decay", format!("must be a share from 0 to 1, or steps, got {share}")))
            }
            _ => Ok(()),
        }
    }
}

impl Schedule for WarmupStableDecay {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let steps = match self.decay {
            // Rounded up, as the warm-up is.
            NumberOr::Number(share) => (share * span.total as f64).ceil() as usize,
            NumberOr::Form(Decay::Steps(steps)) => steps,
        };
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
