//! What every part of the engine needs of tensors.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

/// What an operation of libtorch comes to.
pub(crate) type Outcome<T> = std::result::Result<T, TchError>;

/// libtorch's words for people: it appends a stack of its own functions.
pub(crate) fn first_line(error: TchError) -> String {
    let words = match error {
        TchError::Torch(words) => words,
        other => other.to_string(),
    };
    words.lines().next().unwrap_or("it did not say why").to_owned()
}

/// Token ids as libtorch wants an index.
pub(crate) fn index(ids: &[u32], device: Device) -> Outcome<Tensor> {
    let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
    Tensor::f_from_slice(&ids)?.f_to_device(device)
}

/// Some rows of a matrix, in place.
pub(crate) fn rows(x: &Tensor, range: &Range<usize>) -> Outcome<Tensor> {
    x.f_narrow(0, range.start as i64, range.len() as i64)
}

pub(crate) fn download(x: &Tensor) -> Outcome<Vec<f32>> {
    let x = x.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0.0; x.numel()];
    x.f_copy_data(&mut values, x.numel())?;
    Ok(values)
}
