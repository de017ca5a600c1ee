//! Metrics in JSON, which cannot represent non-finite numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use spo_api::Metrics;

/// Deserializes metrics, skipping those that are null because they were not finite.
pub(crate) fn figures<'de, D: Deserializer<'de>>(from: D) -> Result<Metrics, D::Error> {
    Ok(optional_figures(from)?.unwrap_or_default())
}

/// Like [`figures`], for an optional field.
pub(crate) fn optional_figures<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Metrics>, D::Error> {
    let figures: Option<BTreeMap<String, Option<f64>>> = Deserialize::deserialize(from)?;
    let number = |(name, figure): (String, Option<f64>)| (name, figure.unwrap_or(f64::NAN));
    Ok(figures.map(|figures| figures.into_iter().map(number).collect()))
}
