//! Rotary positions: their base, and how they are scaled. llama.cpp keeps some scalings as tables of factors.

use serde_json::{Value, json};
use spo_api::Result;

use super::config::Keys;
use crate::config::ModelType;

/// The settings of Llama 3.1 and later: of these, only `factor` differs.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);

/// Keys of `config.json`.
pub(super) fn settings(
    keys: &Keys<'_>,
    model_type: ModelType,
    width: i64,
) -> Result<Vec<(&'static str, Value)>> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut settings =
        vec![("rope_theta", theta.into()), ("rope_scaling", scaling(keys, model_type, theta)?)];
    let rotated = keys.integer("rope.dimension_count")?.unwrap_or(width);
    match model_type {
        ModelType::Phi3 => {
            settings.push(("partial_rotary_factor", (rotated as f64 / width as f64).into()));
            let original = keys.integer("rope.scaling.original_context_length")?;
            settings.push(("original_max_position_embeddings", original.into()));
        }
        ModelType::Gemma3 => {
            let local = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            settings.push(("rope_local_base_freq", local.into()));
        }
        _ if rotated != width => {
            let problem = format!(
                "= {rotated} is not supported for this architecture, only the width of a head, {width}"
            );
            return Err(keys.error("rope.dimension_count", problem));
        }
        _ => {}
    }
    Ok(settings)
}

/// `rope_scaling`, or null.
fn scaling(keys: &Keys<'_>, model_type: ModelType, theta: f64) -> Result<Value> {
    let original = keys.integer("rope.scaling.original_context_length")?;
    let table = |name: &str| -> Result<Option<Vec<f32>>> {
        keys.gguf.tensors().get(name).map(|tensor| keys.gguf.values(tensor)).transpose()
    };
    if let (Some(short), Some(long)) =
        (table("rope_factors_short.weight")?, table("rope_factors_long.weight")?)
    {
        return Ok(json!({
            "type": "longrope", "short_factor": decimals(&short), "long_factor": decimals(&long),
        }));
    }
    if let Some(factors) = table("rope_freqs.weight")? {
        return Ok(of_factors(&factors, theta));
    }
    let factor = keys.number("rope.scaling.factor")?;
    match keys.text("rope.scaling.type")?.filter(|kind| *kind != "none") {
        None => Ok(Value::Null),
        // Only the layers that attend to everything; transformers reads it so, too.
        Some("linear") => Ok(json!({ "rope_type": "linear", "factor": factor })),
        Some("yarn") if model_type != ModelType::Phi3 => {
            Ok(json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original }))
        }
        Some(other) => {
            let problem = format!("= \"{other}\" is not supported here, only none, linear, yarn");
            Err(keys.error("rope.scaling.type", problem))
        }
    }
}

/// Factors that frequencies are divided by: those of Llama 3.1 under their name, others as they are.
fn of_factors(factors: &[f32], theta: f64) -> Value {
    let factor = f64::from(factors.last().copied().unwrap_or(1.0));
    let (low, high, original) = LLAMA3;
    let expected = |i: usize| {
        let frequency = theta.powf(-(i as f64) / factors.len() as f64);
        let turns = original * frequency / (2.0 * std::f64::consts::PI);
        let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / (keep + (1.0 - keep) / factor)
    };
    let near = |(i, &found): (usize, &f32)| (f64::from(found) / expected(i) - 1.0).abs() < 1e-4;
    match factors.iter().enumerate().all(near) {
        true => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        }),
        false => json!({
            "rope_type": "longrope", "short_factor": decimals(factors), "long_factor": decimals(factors), "factor": 1.0,
        }),
    }
}

/// Numbers as the shortest decimals that stand for them.
fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| x.to_string().parse().unwrap_or_else(|_| f64::from(*x))).collect()
}
