//! Figures as JSON keeps them: it has no form for those that are not finite.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use spo_api::Metrics;

/// Figures, where JSON has null for those that are not finite.
pub(crate) fn figures<'de, D: Deserializer<'de>>(from: D) -> Result<Metrics, D::Error> {
    Ok(optional_figures(from)?.unwrap_or_default())
}

/// As [`figures`], where there may be none.
pub(crate) fn optional_figures<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Metrics>, D::Error> {
    let figures: Option<BTreeMap<String, Option<f64>>> = Deserialize::deserialize(from)?;
    let number = |(name, figure): (String, Option<f64>)| (name, figure.unwrap_or(f64::NAN));
    Ok(figures.map(|figures| figures.into_iter().map(number).collect()))
}
