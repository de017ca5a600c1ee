//! Rotary position embedding (Su et al. 2021): angles per position, and scaling for long-context models.

use std::f64::consts::PI;

use serde_json::Value;
use spo_api::Result;

use super::fields::Fields;

/// How positions are converted to angles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the wavelengths are scaled.
    pub scaling: Scaling,
}

/// Scaling of the wavelengths for contexts longer than the one used in pretraining.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// No scaling.
    Default,
    /// All frequencies divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths divided by the factor, short ones kept, those in between interpolated (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// The context length used in pretraining, in tokens.
        original_context: f64,
    },
}

impl Rope {
    pub fn parse(fields: &Fields<'_>) -> Result<Self> {
        let parameters = fields.maybe_table("rope_parameters")?.or(fields.maybe_table("rope_scaling")?);
        let empty = Value::Object(Default::default());
        let inner = Fields { config: parameters.unwrap_or(&empty), origin: fields.origin };
        let theta = match inner.maybe_positive("rope_theta")? {
            Some(theta) => theta,
            None => fields.maybe_positive("rope_theta")?.unwrap_or(10_000.0),
        };
        let partial = inner
            .maybe_positive("partial_rotary_factor")?
            .or(fields.maybe_positive("partial_rotary_factor")?);
        if partial.is_some_and(|p| p != 1.0) {
            return Err(fields.error("partial_rotary_factor", "other than 1 is not supported"));
        }
        let kind = inner.maybe_text("rope_type")?.or(inner.maybe_text("type")?).unwrap_or("default");
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: inner.positive("factor")? },
            "llama3" => {
                let (low, high) = (inner.positive("low_freq_factor")?, inner.positive("high_freq_factor")?);
                if low >= high {
                    let problem = format!("must be above `low_freq_factor`, {low}, got {high}");
                    return Err(inner.error("high_freq_factor", problem));
                }
                Scaling::Llama3 {
                    factor: inner.positive("factor")?,
                    low_frequency_factor: low,
                    high_frequency_factor: high,
                    original_context: inner.positive("original_max_position_embeddings")?,
                }
            }
            other => {
                return Err(fields.error(
                    "rope_type",
                    format!("= \"{other}\" is not supported, only default, linear, llama3"),
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// Radians per position of each of the `dim / 2` pairs.
    pub fn frequencies(&self, dim: usize) -> Vec<f64> {
        (0..dim / 2)
            .map(|i| {
                let frequency = self.theta.powf(-2.0 * i as f64 / dim as f64);
                match self.scaling {
                    Scaling::Default => frequency,
                    Scaling::Linear { factor } => frequency / factor,
                    Scaling::Llama3 {
                        factor,
                        low_frequency_factor,
                        high_frequency_factor,
                        original_context,
                    } => {
                        let turns = original_context * frequency / (2.0 * PI);
                        let keep =
                            (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                        let keep = keep.clamp(0.0, 1.0);
                        keep * frequency + (1.0 - keep) * frequency / factor
                    }
                }
            })
            .collect()
    }

    /// Cosine and sine of each position's angles, both `[positions, dim / 2]`.
    pub fn tables(&self, positions: &[u32], dim: usize) -> [Vec<f32>; 2] {
        let frequencies = self.frequencies(dim);
        let angles = || positions.iter().flat_map(|&p| frequencies.iter().map(move |f| f64::from(p) * f));
        [angles().map(|a| a.cos() as f32).collect(), angles().map(|a| a.sin() as f32).collect()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalings_stretch_the_wavelengths_they_should() {
        let rope = |scaling| Rope { theta: 500_000.0, scaling }.frequencies(128);
        let plain = rope(Scaling::Default);
        assert_eq!(plain[0], 1.0);
        assert!((plain[32] - 500_000f64.powf(-0.5)).abs() < 1e-15);
        assert!(rope(Scaling::Linear { factor: 4.0 }).iter().zip(&plain).all(|(a, b)| a * 4.0 == *b));

        // The setting of Llama 3.1: a context of 8,192 tokens stretched by a factor of eight.
        let stretched = rope(Scaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        });
        for (scaled, plain) in stretched.iter().zip(&plain) {
            let wavelength = 2.0 * PI / plain;
            match wavelength {
                short if short < 8192.0 / 4.0 => assert_eq!(scaled, plain),
                long if long > 8192.0 => assert_eq!(*scaled, plain / 8.0),
                _ => assert!(*scaled < *plain && *scaled > plain / 8.0),
            }
        }
    }
}
