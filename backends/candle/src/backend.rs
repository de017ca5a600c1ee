use candle_core::{DType, Device};
use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Backend, Error, ModelSpec, Part, Result, Session, nearest, register};
use spo_transformer::{Options, TransformerSession};

use crate::{ComposedEngine, FusedEngine};

/// Runs the model with candle, in pure Rust: no Python, no libtorch.
///
/// Devices: `cpu`, `cuda`, `cuda:N`, `metal`; `auto` takes the first of CUDA, Metal and CPU that this
/// program was built for and the machine has. Types: `f32`, and `bf16` on CUDA and Metal (activations
/// and frozen weights; what is trained stays in f32).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candle {
    /// Keep only each block's input and compute the rest again in the backward pass: about a third more
    /// computation, a fraction of the memory for activations.
    #[serde(default)]
    pub checkpoint: bool,
    /// GiB for weights, gradient, optimizer and activations: batches that are forecast to need more are
    /// computed as with `checkpoint`. Changes no number.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub memory: Option<f64>,
    /// The moments of `adamw` (of no other optimizer): `"f32"`, or `"bf16"` for half their memory (CPU only; rounded
    /// at random, so the numbers differ).
    #[serde(default)]
    pub moments: Moments,
}

/// In what type AdamW's moments are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// As the parameters.
    #[default]
    F32,
    /// Half the memory.
    Bf16,
}

impl Part for Candle {}

impl Backend for Candle {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let device = device(&spec.device)?;
        let dtype = dtype(&spec.dtype, &device)?;
        let half_moments = self.moments == Moments::Bf16;
        if half_moments && !device.is_cpu() {
            return Err(Error::Engine("moments = \"bf16\": only the CPU has it, use \"f32\"".into()));
        }
        let options = Options { checkpoint: self.checkpoint, memory: self.memory, half_moments };
        // On the CPU there is f32 alone.
        Ok(match device.is_cpu() {
            true => Box::new(TransformerSession::open(FusedEngine::default(), spec, options)?),
            false => Box::new(TransformerSession::open(ComposedEngine::new(device, dtype), spec, options)?),
        })
    }
}

register!(backend Candle {
    name: "candle",
    summary: "candle: pure Rust, CPU, CUDA, Metal",
    source: "https://github.com/huggingface/candle",
});

fn device(name: &str) -> Result<Device> {
    let failed = |e: candle_core::Error| Error::Engine(format!("device {name}: {e}"));
    let needs = |feature: &str| {
        Error::Engine(format!(
            "device {name}: this program was built without it; build with `--features {feature}`, or use cpu"
        ))
    };
    let (kind, ordinal) = match name.split_once(':') {
        None => (name, 0),
        Some((kind, number)) => match number.parse() {
            Ok(ordinal) => (kind, ordinal),
            Err(_) => {
                return Err(Error::Engine(format!("device {name}: expected a number after the colon")));
            }
        },
    };
    match kind {
        "auto" if cfg!(feature = "cuda") => Device::cuda_if_available(0).map_err(failed),
        "auto" if cfg!(feature = "metal") => Device::metal_if_available(0).map_err(failed),
        "auto" | "cpu" => Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(ordinal).map_err(failed),
        "metal" if cfg!(feature = "metal") => Device::new_metal(ordinal).map_err(failed),
        "cuda" | "metal" => Err(needs(kind)),
        other => {
            let known = ["auto", "cpu", "cuda", "metal"];
            let hint = nearest(other, known).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            Err(Error::Engine(format!("unknown device `{name}`{hint}, expected one of {}", known.join(", "))))
        }
    }
}

fn dtype(name: &str, device: &Device) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" if device.is_cpu() => Err(Error::Engine(
            "dtype bf16: candle has no fast bf16 on the CPU; use dtype = \"f32\", or a CUDA or Metal device"
                .into(),
        )),
        "bf16" => Ok(DType::BF16),
        other => Err(Error::Engine(format!("unknown dtype `{other}`, expected f32 or bf16"))),
    }
}
