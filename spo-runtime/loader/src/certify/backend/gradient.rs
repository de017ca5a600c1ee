//! The gradient of the log-probs: along itself, and tensor by tensor.

use spo_api::{ModelSource, Session, Statistics, Vector};

use super::super::Outcome;
use super::super::sample::Figures;
use super::saved::{Scratch, read, tensors};
use super::{Subject, batch, weighted, weights};
use spo_api::Export;

/// Along its own gradient, the sum grows as the gradient says, and so it does along a direction in each tensor; and
/// backward adds to what is there.
pub(super) fn gradient(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open_sharp()?;
    let batch = batch();
    session.vectors().zero(Vector::GRADIENT)?;
    let seen = session.backward(&batch, Statistics::default(), &mut |seen| Ok(weights(seen)))?;
    let (forward, backward) = (session.log_probs(&batch, Statistics::default())?.values, seen.values);
    if forward.iter().zip(&backward).any(|(a, b)| (a - b).abs() > 1e-5) {
        return Err(
            format!("`log_probs` says {forward:?}, and `backward` {backward:?} of the same batch").into()
        );
    }
    let (direction, origin) = (session.vectors().allocate()?, session.vectors().allocate()?);
    session.vectors().copy(Vector::GRADIENT, direction)?;
    session.vectors().copy(Vector::PARAMETERS, origin)?;
    let norm = session.vectors().norm(direction)?;
    weighted(&mut *session, &batch)?;
    session.vectors().axpy(-2.0, direction, Vector::GRADIENT)?;
    let left = session.vectors().norm(Vector::GRADIENT)?;
    if left > 1e-4 * norm {
        return Err(format!(
            "a second backward must add the same gradient: {left:.2e} of {norm:.2e} is left over"
        )
        .into());
    }
    let step = 3e-3 / norm;
    let mut ends = [0.0; 2];
    for (end, sign) in ends.iter_mut().zip([1.0, -1.0]) {
        session.vectors().copy(origin, Vector::PARAMETERS)?;
        session.vectors().axpy(sign * step, direction, Vector::PARAMETERS)?;
        *end = weighted(&mut *session, &batch)?;
    }
    let slope = (ends[0] - ends[1]) / (2.0 * step);
    if (slope - norm * norm).abs() > 0.02 * norm * norm {
        return Err(format!(
            "along its gradient the sum grows by {slope:.6} a unit, the gradient says {:.6}",
            norm * norm
        )
        .into());
    }
    let apart = (slope / (norm * norm) - 1.0).abs();
    if subject.model.is_some() {
        return Ok(format!(
            "agrees with central differences to {apart:.1e}; tensor by tensor on tiny models only"
        ));
    }
    session.vectors().copy(origin, Vector::PARAMETERS)?;
    let tensors = each_tensor(subject, &mut *session, direction)?;
    Ok(format!("agrees with central differences to {apart:.1e}, and in each of {tensors} tensors"))
}

/// A gradient may agree along itself and lack a part. Each tensor is moved by itself, in the file of the saved model.
fn each_tensor(subject: &Subject, session: &mut dyn Session, gradient: Vector) -> Result<usize, Outcome> {
    let gradient = read(session, gradient)?;
    let folder = Scratch::new()?;
    session.save(&folder.0, Export::Model)?;
    let (batch, mut figures) = (batch(), Figures(5));
    let places = tensors(&folder.0)?;
    let fine = places.iter().zip(&gradient).filter(|(place, _)| place.is_fine());
    for (place, slopes) in fine.clone() {
        let signs: Vec<f64> =
            place.values.iter().map(|_| if figures.between(-1.0, 1.0) < 0.0 { -1.0 } else { 1.0 }).collect();
        let at = |by: f64| -> Result<f64, Outcome> {
            place.write(place.values.iter().zip(&signs).map(|(x, sign)| x + by * sign))?;
            let mut moved = subject.open_from(ModelSource::Folder(folder.0.clone()), None)?;
            let seen = moved.log_probs(&batch, Statistics::default())?;
            Ok(seen.values.iter().zip(weights(&seen)).map(|(s, w)| s * w).sum())
        };
        // A hundredth of what the tensor's numbers are like; of a bias that is 0, a hundredth.
        let size = (place.values.iter().map(|x| x * x).sum::<f64>() / place.values.len() as f64).sqrt();
        let step = 1e-2 * if size > 0.0 { size } else { 1.0 };
        let (near, far) = (at(step)? - at(-step)?, at(2.0 * step)? - at(-2.0 * step)?);
        let found = (8.0 * near - far) / (12.0 * step);
        place.write(place.values.iter().copied())?;
        let said: f64 = slopes.values.iter().zip(&signs).map(|(g, sign)| g * sign).sum();
        let length = slopes.values.iter().map(|g| g * g).sum::<f64>().sqrt();
        let apart = (found - said).abs();
        if apart.is_nan() || apart > 0.02 * length.max(found.abs()) + 2e-5 / step {
            return Err(format!(
                "along a direction in {} alone the sum grows by {found:.6} a unit, its gradient says {said:.6}",
                place.name
            )
            .into());
        }
    }
    Ok(fine.count())
}
