//! Rotary position embedding (Su et al. 2021): angles per position, and scaling for long-context models.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use serde_json::Value;
use spo_api::Result;

use super::fields::Fields;
use crate::engine::Pairs;

/// How positions are converted to angles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Number of elements of a head that are rotated: an even number.
    pub dim: usize,
    pub pairs: Pairs,
    /// How the wavelengths are scaled.
    pub scaling: Scaling,
    /// Factor of the rotated vectors.
    pub magnitude: f64,
}

/// Scaling of the wavelengths for contexts longer than the one used in pretraining. Context lengths are in
/// tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// No scaling.
    Default,
    /// All frequencies divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A larger base for sequences longer than the context ("dynamic NTK").
    Dynamic {
        /// The factor.
        factor: f64,
        /// The context that needs no scaling.
        context: usize,
    },
    /// Frequencies divided by the factor where a context holds few turns, kept where it holds many (Peng et
    /// al. 2023).
    Yarn {
        /// The factor.
        factor: f64,
        /// Pairs up to here are kept, those from there on divided.
        ramp: [f64; 2],
    },
    /// Each frequency divided by its own factor, which is another for long sequences (Ding et al. 2024).
    LongRope {
        /// For sequences up to `original_context`.
        short: Vec<f64>,
        /// For longer ones.
        long: Vec<f64>,
        /// The context length used in pretraining.
        original_context: usize,
    },
    /// Long wavelengths divided by the factor, short ones kept, those in between interpolated (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// The context length used in pretraining.
        original_context: f64,
    },
}

/// What a family calls the settings of its rotary positions, and what it takes if they are not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct RopeKeys {
    pub theta: f64,
    /// Where the base is found outside the table, if anywhere.
    pub theta_key: Option<&'static str>,
    /// Width of a head.
    pub head: usize,
    /// The part of a head that is rotated; `None` if the family always rotates all of it.
    pub partial: Option<f64>,
    pub partial_key: &'static str,
    pub pairs: Pairs,
    /// The context used in pretraining, if the family has one by default.
    pub original_context: Option<f64>,
    /// Further names of the scaling `longrope`.
    pub longrope: &'static [&'static str],
}

impl RopeKeys {
    pub fn new(theta: f64, head: usize) -> Self {
        RopeKeys {
            theta,
            theta_key: Some("rope_theta"),
            head,
            partial: None,
            partial_key: "partial_rotary_factor",
            pairs: Pairs::Halves,
            original_context: None,
            longrope: &[],
        }
    }
}

/// Types of layers that may have tables of their own.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

impl Rope {
    /// The rotation of all layers: in `rope_scaling` (older files) or `rope_parameters`.
    pub(super) fn parse(fields: &Fields<'_>, keys: &RopeKeys) -> Result<Self> {
        let empty = Value::Object(Default::default());
        let (key, table) = match (table(fields, "rope_scaling")?, table(fields, "rope_parameters")?) {
            (Some(table), _) => ("rope_scaling", table),
            (None, Some(table)) => ("rope_parameters", table),
            (None, None) => ("rope_parameters", &empty),
        };
        if let Some(kind) = LAYER_TYPES.into_iter().find(|kind| table.get(kind).is_some()) {
            let problem = format!("has a table for {kind}, but all layers of this model share one");
            return Err(fields.error(key, problem));
        }
        Self::of(fields, table, keys, true)
    }

    /// The rotations of the layers that attend to everything and of those that slide, in `rope_parameters`.
    /// In older files, `rope_scaling` is for the former.
    pub(super) fn by_layer_type(
        fields: &Fields<'_>,
        full: &RopeKeys,
        sliding: &RopeKeys,
    ) -> Result<(Self, Self)> {
        let parameters = table(fields, "rope_parameters")?;
        let scaling = table(fields, "rope_scaling")?;
        if let Some(parameters) = parameters
            && !LAYER_TYPES.iter().any(|kind| parameters.get(kind).is_some())
        {
            let problem = format!("must have a table for each of {}", LAYER_TYPES.join(", "));
            return Err(fields.error("rope_parameters", problem));
        }
        let of = |kind: &str, scaling: Option<&Value>, keys| {
            let mut joined = serde_json::Map::new();
            for table in [parameters.and_then(|parameters| parameters.get(kind)), scaling] {
                joined.extend(table.and_then(Value::as_object).cloned().unwrap_or_default());
            }
            Self::of(fields, &Value::Object(joined), keys, false)
        };
        Ok((of("full_attention", scaling, full)?, of("sliding_attention", None, sliding)?))
    }

    /// `alone` if the table is for all layers. As in transformers, some keys beside it count only then.
    fn of(fields: &Fields<'_>, table: &Value, keys: &RopeKeys, alone: bool) -> Result<Self> {
        let inner = Fields { config: table, origin: fields.origin };
        let theta = match inner.maybe_positive("rope_theta")? {
            Some(theta) => theta,
            None => match keys.theta_key {
                Some(key) => fields.maybe_positive(key)?.unwrap_or(keys.theta),
                None => keys.theta,
            },
        };
        let given = match inner.maybe_positive("partial_rotary_factor")? {
            Some(partial) => Some(partial),
            None => fields.maybe_positive(keys.partial_key)?,
        };
        if keys.partial.is_none() && given.is_some_and(|partial| partial != 1.0) {
            return Err(fields.error(keys.partial_key, "other than 1 is not supported for this model_type"));
        }
        let partial = given.or(keys.partial).unwrap_or(1.0);
        let dim = (keys.head as f64 * partial) as usize;
        if partial > 1.0 || !dim.is_multiple_of(2) || dim == 0 {
            let problem = format!("must give an even number of at most {}, got {dim}", keys.head);
            let key = if given.is_some() { keys.partial_key } else { "head_dim" };
            return Err(fields.error(key, format!("{problem} rotated elements of a head")));
        }
        let kind = inner.maybe_text("rope_type")?.or(inner.maybe_text("type")?).unwrap_or("default");
        let context = fields.context("max_position_embeddings")?;
        let original = || -> Result<f64> {
            let key = "original_max_position_embeddings";
            let outer = if alone { fields.maybe_positive(key)?.or(keys.original_context) } else { None };
            Ok(outer.or(inner.maybe_positive(key)?).unwrap_or(context as f64))
        };
        let required = |key: &str| inner.positive(key);
        let (scaling, magnitude) = match kind {
            "default" => (Scaling::Default, 1.0),
            "linear" => (Scaling::Linear { factor: required("factor")? }, 1.0),
            "dynamic" => (Scaling::Dynamic { factor: required("factor")?, context }, 1.0),
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if low >= high {
                    let problem = format!("must be above `low_freq_factor`, {low}, got {high}");
                    return Err(inner.error("high_freq_factor", problem));
                }
                let scaling = Scaling::Llama3 {
                    factor: required("factor")?,
                    low_frequency_factor: low,
                    high_frequency_factor: high,
                    original_context: original()?,
                };
                (scaling, 1.0)
            }
            kind if kind == "longrope" || keys.longrope.contains(&kind) => {
                let original = original()?;
                let factor = inner.maybe_positive("factor")?.unwrap_or(context as f64 / original);
                let magnitude = match inner.maybe_positive("attention_factor")? {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                let scaling = Scaling::LongRope {
                    short: factors(&inner, "short_factor", dim / 2)?,
                    long: factors(&inner, "long_factor", dim / 2)?,
                    original_context: original as usize,
                };
                (scaling, magnitude)
            }
            "yarn" => {
                let original = original()?;
                let factor = inner.maybe_positive("factor")?.unwrap_or(context as f64 / original);
                // transformers looks for `truncate` only in a table that is for all layers.
                let truncate = !alone || inner.flag("truncate", true)?;
                let turns = [("beta_fast", 32.0), ("beta_slow", 1.0)]
                    .map(|(key, default)| Ok(inner.maybe_positive(key)?.unwrap_or(default)));
                let [fast, slow]: [Result<f64>; 2] = turns;
                // The pair that makes this many turns in the original context.
                let pair =
                    |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (mut low, mut high) = (pair(fast?), pair(slow?));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let ramp = [low.max(0.0), high.min(dim as f64 - 1.0)];
                (Scaling::Yarn { factor, ramp }, yarn_magnitude(&inner, factor)?)
            }
            other => {
                return Err(fields.error(
                    "rope_type",
                    format!(
                        "= \"{other}\" is not supported, only default, linear, dynamic, yarn, longrope, llama3"
                    ),
                ));
            }
        };
        Ok(Rope { theta, dim, pairs: keys.pairs, scaling, magnitude })
    }

    /// The longest sequence, in tokens, where without scaling it would be this.
    pub fn context(&self, unscaled: usize) -> usize {
        match self.scaling {
            Scaling::Dynamic { factor, context } => (factor.max(1.0) * context as f64) as usize,
            _ => unscaled,
        }
    }

    /// A length that a sequence of `length` tokens shares its frequencies with; `None` if frequencies do not
    /// depend on lengths.
    pub fn representative(&self, length: usize) -> Option<usize> {
        match self.scaling {
            Scaling::Dynamic { context, .. } => Some(length.max(context)),
            Scaling::LongRope { original_context, .. } => {
                Some(if length > original_context { original_context + 1 } else { original_context })
            }
            _ => None,
        }
    }

    /// The first length with the factors for long sequences.
    pub fn switches_at(&self) -> Option<usize> {
        match self.scaling {
            Scaling::LongRope { original_context, .. } => Some(original_context + 1),
            _ => None,
        }
    }

    /// Radians per position of each of the `dim / 2` pairs, in a sequence of `length` tokens.
    pub fn frequencies(&self, length: usize) -> Vec<f64> {
        let dim = self.dim as f64;
        let theta = match self.scaling {
            Scaling::Dynamic { factor, context } if length > context => {
                let stretch = factor * length as f64 / context as f64 - (factor - 1.0);
                self.theta * stretch.powf(dim / (dim - 2.0))
            }
            _ => self.theta,
        };
        let scaled = |i: usize| {
            let frequency = theta.powf(-2.0 * i as f64 / dim);
            // The part that is kept; the rest is divided by the factor.
            let mix = |keep: f64, factor: f64| keep * frequency + (1.0 - keep) * frequency / factor;
            match &self.scaling {
                Scaling::Default | Scaling::Dynamic { .. } => frequency,
                Scaling::Linear { factor } => frequency / factor,
                Scaling::Yarn { factor, ramp: [low, high] } => {
                    // A ramp without length would divide by zero.
                    let length = if low == high { 0.001 } else { high - low };
                    mix(1.0 - ((i as f64 - low) / length).clamp(0.0, 1.0), *factor)
                }
                Scaling::LongRope { short, long, original_context } => {
                    frequency / if length > *original_context { long[i] } else { short[i] }
                }
                Scaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                    let turns = original_context * frequency / (2.0 * PI);
                    let keep =
                        (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                    mix(keep.clamp(0.0, 1.0), *factor)
                }
            }
        };
        (0..self.dim / 2).map(scaled).collect()
    }

    /// Cosine and sine of each position's angles, both `[positions, dim / 2]`. `lengths` are those of the
    /// sequences that the positions are in.
    pub fn tables(&self, positions: &[u32], lengths: &[u32]) -> [Vec<f32>; 2] {
        let of = |length: u32| self.representative(length as usize).unwrap_or(0);
        let mut frequencies = BTreeMap::new();
        for &length in lengths {
            frequencies.entry(of(length)).or_insert_with_key(|&length| self.frequencies(length));
        }
        let angles = || {
            let each = positions.iter().zip(lengths);
            each.flat_map(|(&p, &length)| frequencies[&of(length)].iter().map(move |f| f64::from(p) * f))
        };
        let m = self.magnitude;
        [angles().map(|a| (m * a.cos()) as f32).collect(), angles().map(|a| (m * a.sin()) as f32).collect()]
    }
}

/// The table under a key; an empty one counts as absent, as in transformers.
fn table<'f>(fields: &'f Fields<'_>, key: &str) -> Result<Option<&'f Value>> {
    match fields.get(key) {
        Some(Value::Object(table)) if table.is_empty() => Ok(None),
        Some(table @ Value::Object(_)) => Ok(Some(table)),
        Some(other) => Err(fields.error(key, format!("must be a table, got {other}"))),
        None => Ok(None),
    }
}

/// A list of factors, one for each pair.
fn factors(fields: &Fields<'_>, key: &str, pairs: usize) -> Result<Vec<f64>> {
    let listed = fields.required(key, fields.get(key))?;
    let numbers = listed.as_array().filter(|list| list.len() == pairs).and_then(|list| {
        list.iter().map(|v| v.as_f64().filter(|factor| *factor > 0.0)).collect::<Option<Vec<_>>>()
    });
    numbers.ok_or_else(|| {
        fields.error(
            key,
            format!("must be a list of {pairs} positive numbers, one per rotated pair, got {listed}"),
        )
    })
}

/// The factor of rotated vectors under YaRN.
fn yarn_magnitude(fields: &Fields<'_>, factor: f64) -> Result<f64> {
    if let Some(given) = fields.maybe_positive("attention_factor")? {
        return Ok(given);
    }
    let magnitude = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let weight = |key: &str| Ok(fields.maybe_within(key, 0.0, 1e6)?.filter(|weight| *weight != 0.0));
    let weights: [Result<Option<f64>>; 2] = ["mscale", "mscale_all_dim"].map(weight);
    let [one, all] = weights;
    Ok(match (one?, all?) {
        (Some(one), Some(all)) => magnitude(one) / magnitude(all),
        _ => magnitude(1.0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rope(scaling: Scaling) -> Vec<f64> {
        let rope = Rope { theta: 500_000.0, dim: 128, pairs: Pairs::Halves, scaling, magnitude: 1.0 };
        rope.frequencies(100)
    }

    #[test]
    fn scalings_stretch_the_wavelengths_they_should() {
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

    /// A table with something wrong, and what is said of it.
    #[test]
    fn settings_that_make_no_sense_are_named() {
        let said = |parameters: Value| {
            let config = json!({ "max_position_embeddings": 64, "rope_parameters": parameters });
            let fields = Fields { config: &config, origin: "test" };
            Rope::parse(&fields, &RopeKeys::new(1e4, 8)).unwrap_err().to_string()
        };
        for (parameters, words) in &[
            (json!({ "rope_type": "linear" }), "`factor` is missing"),
            (json!({ "rope_type": "linear", "factor": 0 }), "`factor` must be a number above 0"),
            (json!({ "rope_type": "su" }), "\"su\" is not supported, only default, linear, dynamic"),
            (json!({ "partial_rotary_factor": 0.5 }), "other than 1 is not supported"),
            (json!({ "full_attention": {} }), "all layers of this model share one"),
            (
                json!({ "rope_type": "longrope", "short_factor": [1, 1, 1] }),
                "`short_factor` must be a list of 4",
            ),
            (json!([1]), "`rope_parameters` must be a table"),
        ] {
            assert!(said(parameters.clone()).contains(*words), "{parameters}: {}", said(parameters.clone()));
        }
    }
}
