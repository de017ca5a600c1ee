use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Backend, Error, ModelSpec, Part, Result, Session, nearest, register};
use spo_transformer::{Options, TransformerSession};
use tch::{Cuda, Device, Kind};

use crate::engine::TchEngine;
use crate::shim;
use crate::tensor::first_line;

/// Runs the model with libtorch 2.11, the library inside PyTorch: CPU and NVIDIA GPUs.
///
/// Devices: `cpu`, `cuda`, `cuda:N`; `auto` takes a GPU where libtorch finds one. Types: `f32`, and `bf16`
/// (activations and frozen weights; what is trained stays in f32). On the CPU it uses as many threads as
/// `RAYON_NUM_THREADS` or `OMP_NUM_THREADS` says, else one per core.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tch {
    /// Keep only each block's input and compute the rest again in the backward pass: about a third more
    /// computation, a fraction of the memory for activations.
    #[serde(default)]
    pub checkpoint: bool,
    /// GiB for weights, gradient, optimizer and activations: batches that are forecast to need more are
    /// computed as with `checkpoint`. Changes no number.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub memory: Option<f64>,
}

impl Part for Tch {}

impl Backend for Tch {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let device = device(&spec.device)?;
        let compute = compute(&spec.dtype)?;
        settle()?;
        let options = Options { checkpoint: self.checkpoint, memory: self.memory, half_moments: false };
        Ok(Box::new(TransformerSession::open(TchEngine::new(device, compute), spec, options)?))
    }
}

register!(backend Tch {
    name: "tch",
    summary: "libtorch: CPU, CUDA",
    source: "https://github.com/LaurentMazare/tch-rs",
});

/// The settings of libtorch that this backend relies on, in this process.
fn settle() -> Result<()> {
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    if let Some(threads) = threads.filter(|&n| n > 0) {
        tch::set_num_threads(threads);
    }
    shim::keep_memory();
    shim::deterministic().map_err(|e| Error::Engine(format!("libtorch: {}", first_line(e))))
}

fn device(name: &str) -> Result<Device> {
    let failed = |words: String| Error::Engine(format!("device {name}: {words}"));
    let (kind, ordinal) = match name.split_once(':') {
        None => (name, 0),
        Some((kind, number)) => match number.parse() {
            Ok(ordinal) => (kind, ordinal),
            Err(_) => return Err(failed("expected a number after the colon".into())),
        },
    };
    match kind {
        "cpu" => Ok(Device::Cpu),
        "auto" if shim::load_cuda().is_ok() && Cuda::is_available() => Ok(Device::Cuda(0)),
        "auto" => Ok(Device::Cpu),
        "cuda" => {
            shim::load_cuda().map_err(|e| {
                failed(format!(
                    "libtorch's CUDA parts cannot be loaded ({}); with plugins.libtorch in the recipe, or \
                     SPO_LIBTORCH, point to the `torch` folder of a Python environment whose PyTorch uses the GPU",
                    first_line(e)
                ))
            })?;
            match Cuda::device_count() {
                0 => Err(failed("libtorch finds no GPU; does `nvidia-smi` work here? Else use cpu".into())),
                count if (ordinal as i64) < count => Ok(Device::Cuda(ordinal)),
                count => Err(failed(format!("there are {count} GPUs, numbered from 0"))),
            }
        }
        other => {
            let known = ["auto", "cpu", "cuda"];
            let hint = nearest(other, known).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            Err(Error::Engine(format!("unknown device `{name}`{hint}, expected one of {}", known.join(", "))))
        }
    }
}

fn compute(name: &str) -> Result<Kind> {
    match name {
        "f32" => Ok(Kind::Float),
        "bf16" => Ok(Kind::BFloat16),
        other => Err(Error::Engine(format!("unknown dtype `{other}`, expected f32 or bf16"))),
    }
}
