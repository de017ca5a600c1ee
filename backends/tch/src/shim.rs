//! What tch does not bind: the functions of `shim.cpp`, with their failures as [`TchError`].

use std::ffi::{CStr, c_char, c_int, c_void};

use spo_transformer::AdamWStep;
use tch::{TchError, Tensor};

/// An `at::Tensor`.
type Pointer = *mut c_void;

// Each returns 0, or leaves words for `spo_failure` of the same thread.
unsafe extern "C" {
    fn spo_failure() -> *const c_char;
    fn spo_deterministic() -> c_int;
    fn spo_load_cuda() -> c_int;
    fn spo_keep_memory();
    fn spo_axpy(into: Pointer, a: f64, x: Pointer) -> c_int;
    fn spo_add_product(into: Pointer, scale: f64, a: Pointer, b: Pointer) -> c_int;
    fn spo_dot(x: Pointer, y: Pointer, out: *mut f64) -> c_int;
    fn spo_adamw(
        into: Pointer,
        gradient: Pointer,
        first: Pointer,
        second: Pointer,
        lr: f64,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
        gradient_scale: f64,
        count: f64,
    ) -> c_int;
    fn spo_attention(
        q: Pointer,
        k: Pointer,
        v: Pointer,
        mask: Pointer,
        causal: c_int,
        scale: f64,
        out: *mut Pointer,
    ) -> c_int;
    fn spo_attention_backward(
        q: Pointer,
        k: Pointer,
        v: Pointer,
        mask: Pointer,
        causal: c_int,
        scale: f64,
        upstream: Pointer,
        out: *mut Pointer,
    ) -> c_int;
    fn spo_watch(x: Pointer, watched: c_int) -> c_int;
    fn spo_pull_back(
        outputs: *const Pointer,
        seeds: *const Pointer,
        n: usize,
        inputs: *const Pointer,
        m: usize,
        out: *mut Pointer,
    ) -> c_int;
}

/// The address of the `at::Tensor` behind a handle. The functions of the shim write through it only where
/// libtorch's own in-place operations do.
fn at(x: &Tensor) -> Pointer {
    x.as_ptr().cast_mut().cast()
}

fn done(status: c_int) -> Result<(), TchError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a string of this thread, which lives until the next failure.
    let words = unsafe { CStr::from_ptr(spo_failure()) };
    Err(TchError::Torch(words.to_string_lossy().into_owned()))
}

/// Takes over a tensor that the shim made.
///
/// # Safety
/// The pointer is that of a new `at::Tensor`.
unsafe fn owned(pointer: Pointer) -> Tensor {
    // SAFETY: the caller's.
    unsafe { Tensor::from_ptr(pointer.cast()) }
}

/// Asks for the deterministic variant of operations that have one, in this process.
pub(crate) fn deterministic() -> Result<(), TchError> {
    // SAFETY: it takes nothing.
    done(unsafe { spo_deterministic() })
}

/// Loads libtorch's CUDA parts, which this library is not linked to. To be called before anything asks
/// whether there is a GPU.
pub(crate) fn load_cuda() -> Result<(), TchError> {
    // SAFETY: it takes nothing; initialisers of libtorch run.
    done(unsafe { spo_load_cuda() })
}

/// Lets the C library keep the memory of buffers that are freed.
pub(crate) fn keep_memory() {
    // SAFETY: it takes nothing.
    unsafe { spo_keep_memory() }
}

/// `into <- into + a x`.
pub(crate) fn axpy(into: &Tensor, a: f64, x: &Tensor) -> Result<(), TchError> {
    // SAFETY: live tensors, here and below.
    done(unsafe { spo_axpy(at(into), a, at(x)) })
}

/// `into <- into + scale a b`, all of one type.
pub(crate) fn add_product(into: &Tensor, scale: f64, a: &Tensor, b: &Tensor) -> Result<(), TchError> {
    // SAFETY: as above.
    done(unsafe { spo_add_product(at(into), scale, at(a), at(b)) })
}

/// `<x, y>` of two flat tensors.
pub(crate) fn dot(x: &Tensor, y: &Tensor) -> Result<f64, TchError> {
    let mut out = 0.0;
    // SAFETY: as above.
    done(unsafe { spo_dot(at(x), at(y), &mut out) })?;
    Ok(out)
}

/// AdamW on flat f32 tensors.
pub(crate) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<(), TchError> {
    // SAFETY: as above.
    done(unsafe {
        spo_adamw(
            at(into),
            at(gradient),
            at(first),
            at(second),
            step.lr,
            step.betas[0],
            step.betas[1],
            step.epsilon,
            step.weight_decay,
            step.gradient_scale,
            step.count as f64,
        )
    })
}

/// Which keys a query may see.
pub(crate) enum Sight<'a> {
    /// All.
    Full,
    /// Query `i` keys `0..=i`; as many queries as keys.
    Causal,
    /// Those where the mask `[queries, keys]` is true.
    Masked(&'a Tensor),
}

impl Sight<'_> {
    fn split(&self) -> (Pointer, c_int) {
        match self {
            Sight::Full => (std::ptr::null_mut(), 0),
            Sight::Causal => (std::ptr::null_mut(), 1),
            Sight::Masked(mask) => (at(mask), 0),
        }
    }
}

/// `softmax(scale q k^T) v`, each `[1, heads, rows, dim]`.
pub(crate) fn attention([q, k, v]: [&Tensor; 3], sight: &Sight<'_>, scale: f64) -> Result<Tensor, TchError> {
    let ((mask, causal), mut out) = (sight.split(), std::ptr::null_mut());
    // SAFETY: as above; on success `out` is a new tensor.
    unsafe {
        done(spo_attention(at(q), at(k), at(v), mask, causal, scale, &mut out))?;
        Ok(owned(out))
    }
}

/// Gradients of [`attention`] with respect to q, k, v.
pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    sight: &Sight<'_>,
    scale: f64,
    upstream: &Tensor,
) -> Result<[Tensor; 3], TchError> {
    let ((mask, causal), mut out) = (sight.split(), [std::ptr::null_mut(); 3]);
    // SAFETY: as above; on success `out` are new tensors.
    unsafe {
        done(spo_attention_backward(
            at(q),
            at(k),
            at(v),
            mask,
            causal,
            scale,
            at(upstream),
            out.as_mut_ptr(),
        ))?;
        Ok(out.map(|pointer| owned(pointer)))
    }
}

/// Begins to record what is made of a tensor, or forgets what it was made of.
pub(crate) fn watch(x: &Tensor, watched: bool) -> Result<(), TchError> {
    // SAFETY: as above.
    done(unsafe { spo_watch(at(x), watched.into()) })
}

/// Gradients of `sum_i <outputs[i], seeds[i]>` with respect to the inputs.
pub(crate) fn pull_back(
    outputs: &[Tensor],
    seeds: &[Tensor],
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, TchError> {
    let [outputs, seeds, inputs] = [outputs, seeds, inputs].map(|x| x.iter().map(at).collect::<Vec<_>>());
    assert_eq!(outputs.len(), seeds.len());
    let mut out = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: as above, of as many tensors as are said.
    unsafe {
        done(spo_pull_back(
            outputs.as_ptr(),
            seeds.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            out.as_mut_ptr(),
        ))?;
        Ok(out.into_iter().map(|pointer| owned(pointer)).collect())
    }
}
