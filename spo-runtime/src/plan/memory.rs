//! How much memory a run needs at least.

use spo_api::{ModelInfo, ModelSource, ModelSpec, Quantize, machine};

use crate::error::BadInput;
use crate::plan::stage::PlannedStage;
use crate::recipe::Recipe;
use crate::recipe::document::Document;

/// Bytes that a run needs before the first activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forecast {
    /// For the weights.
    pub(crate) weights: u64,
    /// For the gradient.
    pub(crate) gradient: u64,
    /// For what the optimizer remembers.
    pub(crate) moments: u64,
    /// Whether this is memory of the machine, and not of a device.
    on_host: bool,
}

impl Forecast {
    /// The forecast for a model and stages that train it.
    pub(crate) fn new(recipe: &Recipe, spec: &ModelSpec, info: &ModelInfo, stages: &[PlannedStage]) -> Self {
        let (all, trained) = (info.parameters as u64, info.trainable as u64);
        let each = if info.dtype == "f64" { 8 } else { 4 };
        let untrained = all.saturating_sub(trained);
        let frozen = untrained.saturating_mul(each);
        let frozen = match spec.quantize {
            // Frozen weights take at most what they take on disk: those in bf16, and those in blocks, are kept so.
            None | Some(Quantize::File) => on_disk(spec).map_or(frozen, |bytes| frozen.min(bytes)),
            Some(Quantize::Off) => frozen.min(on_disk(spec).filter(|_| !in_gguf(spec)).unwrap_or(frozen)),
            // 8.5 and 4.5 bits each, scales included.
            Some(Quantize::Q8_0) => untrained.saturating_mul(17) / 16,
            Some(Quantize::Q4K | Quantize::Nf4) => untrained.saturating_mul(9) / 16,
        };
        // A backend may offer to keep moments in half the memory.
        let half = recipe.backend.options.get("moments").is_some_and(|kept| kept == "bf16");
        let kept = |stage: &PlannedStage| {
            let gradient = if stage.recipe.optimizer.own.in_backward { 0 } else { each };
            (gradient, moments(stage) / if half { 2 } else { 1 })
        };
        let most = stages.iter().map(kept).max_by_key(|(gradient, moments)| gradient + moments);
        let (gradient, moments) = most.unwrap_or((each, 0));
        Forecast {
            weights: trained.saturating_mul(each).saturating_add(frozen),
            gradient: trained.saturating_mul(gradient),
            moments: trained.saturating_mul(moments),
            on_host: info.device.starts_with("CPU"),
        }
    }

    /// Checks that the machine has so much memory.
    ///
    /// # Errors
    /// [`BadInput`], saying what it would take and what there is.
    pub(crate) fn check(&self, document: &Document) -> Result<(), BadInput> {
        let Some(there) = machine::memory().filter(|_| self.on_host) else { return Ok(()) };
        self.within(there).map_err(|message| document.error("model", message))
    }

    fn within(&self, there: u64) -> Result<(), String> {
        let training = self.gradient.saturating_add(self.moments);
        let needed = self.weights.saturating_add(training);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        match needed <= there {
            true => Ok(()),
            false => Err(format!(
                "needs at least {:.1} GiB of memory ({:.1} for the weights, {:.1} for gradient and moments, and activations on \
                 top), and this machine has {:.1}: train an adapter, take an optimizer that remembers less (`adamw-8bit`) or keeps no gradient \
                 (`in_backward`), or a smaller model, or go on with `--force`",
                gib(needed),
                gib(self.weights),
                gib(training),
                gib(there)
            )),
        }
    }
}

/// Bytes per trained parameter that an optimizer keeps at least. Of one that only a kernel of the backend runs, the
/// backend knows.
fn moments(stage: &PlannedStage) -> u64 {
    match stage.optimizer.needs_kernel() {
        true => 0,
        false => 4 * stage.optimizer.states() as u64,
    }
}

/// Whether a model is in a GGUF file.
fn in_gguf(spec: &ModelSpec) -> bool {
    matches!(&spec.source, ModelSource::Folder(path) if spo_gguf::file_of(path).is_some())
}

/// Bytes of the weights in a model's folder, or of its GGUF file.
fn on_disk(spec: &ModelSpec) -> Option<u64> {
    let ModelSource::Folder(folder) = &spec.source else { return None };
    if let Some(file) = spo_gguf::file_of(folder) {
        return Some(file.metadata().ok()?.len());
    }
    let entries = folder.read_dir().ok()?.flatten();
    let kinds = ["safetensors", "bin"];
    let weights = entries.filter(|entry| {
        entry.path().extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known))
    });
    Some(weights.filter_map(|entry| Some(entry.path().metadata().ok()?.len())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_both_sizes() {
        let forecast = Forecast { weights: 3 << 30, gradient: 3 << 30, moments: 6 << 30, on_host: true };
        assert_eq!(forecast.within(12 << 30), Ok(()));
        let message = forecast.within(8 << 30).unwrap_err();
        assert!(
            message.contains("at least 12.0 GiB")
                && message.contains("has 8.0")
                && message.contains("--force")
        );
        let countless = Forecast { weights: u64::MAX, gradient: u64::MAX, moments: 1, on_host: true };
        assert!(countless.within(1 << 40).is_err());
    }
}
