//! Inner products of the gradients of a pair's two log-probs, and the first-order prediction of how the next
//! update changes them.

use serde::Serialize;
use spo_api::{Result, Session, Statistics, Vector};

use super::probes::{Answer, Probe, spans};

/// Gradient norms and products of s_w and s_l for some probes. One entry per probe; `None` if a probe has no
/// rejected answer.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Geometry {
    /// `<grad s_w, grad s_l>`. Its unit, like that of the squared norms, is nats squared per squared
    /// parameter unit.
    pub(crate) product: Vec<Option<f64>>,
    /// `||grad s_w||`.
    pub(crate) norm_chosen: Vec<f64>,
    /// `||grad s_l||`.
    pub(crate) norm_rejected: Vec<Option<f64>>,
}

/// The changes caused by the next update, predicted and measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Prediction {
    /// `<grad s_w, update>`, nats.
    pub(crate) predicted_chosen: Vec<f64>,
    /// `<grad s_l, update>`, nats.
    pub(crate) predicted_rejected: Vec<Option<f64>>,
    /// The measured change of s_w, nats.
    pub(crate) actual_chosen: Vec<f64>,
    /// The measured change of s_l, nats.
    pub(crate) actual_rejected: Vec<Option<f64>>,
}

/// The geometry at the current parameters.
pub(crate) fn geometry(session: &mut dyn Session, probes: &[&Probe]) -> Result<Geometry> {
    Ok(along(session, probes, None)?.0)
}

/// The parameters before an update.
#[derive(Clone, Debug)]
pub(crate) struct Before(Vector);

impl Before {
    /// Copies the current parameters.
    pub(crate) fn keep(session: &mut dyn Session) -> Result<Self> {
        let parameters = session.vectors().allocate()?;
        session.vectors().copy(Vector::PARAMETERS, parameters)?;
        Ok(Before(parameters))
    }

    /// Computes the gradients at the saved parameters and compares them with the update made since. The
    /// current parameters are restored bit for bit.
    pub(crate) fn measure(
        self,
        session: &mut dyn Session,
        probes: &[&Probe],
    ) -> Result<(Geometry, Prediction)> {
        let (now, Before(after)) = (pairs(session, probes)?, Before::keep(session)?);
        let Before(update) = self;
        session.vectors().copy(update, Vector::PARAMETERS)?;
        let then = pairs(session, probes)?;
        session.vectors().scale(-1.0, update)?;
        session.vectors().axpy(1.0, after, update)?;
        let (geometry, mut prediction) = along(session, probes, Some(update))?;
        session.vectors().copy(after, Vector::PARAMETERS)?;
        session.vectors().release(after);
        session.vectors().release(update);
        for ([w, l], [w_then, l_then]) in now.into_iter().zip(then) {
            prediction.actual_chosen.extend(w.zip(w_then).map(|(now, then)| now - then));
            prediction.actual_rejected.push(l.zip(l_then).map(|(now, then)| now - then));
        }
        Ok((geometry, prediction))
    }
}

/// The geometry, and the products of the gradients with an update.
fn along(
    session: &mut dyn Session,
    probes: &[&Probe],
    update: Option<Vector>,
) -> Result<(Geometry, Prediction)> {
    let (mut geometry, mut prediction) = (Geometry::default(), Prediction::default());
    let of_chosen = session.vectors().allocate()?;
    for probe in probes {
        gradient(session, probe, Answer::Chosen)?;
        let vectors = session.vectors();
        vectors.copy(Vector::GRADIENT, of_chosen)?;
        geometry.norm_chosen.push(vectors.norm(of_chosen)?);
        if let Some(update) = update {
            prediction.predicted_chosen.push(vectors.dot(of_chosen, update)?);
        }
        let paired = gradient(session, probe, Answer::Rejected)?;
        let vectors = session.vectors();
        let only_paired = |value: Result<f64>| paired.then_some(value).transpose();
        geometry.norm_rejected.push(only_paired(vectors.norm(Vector::GRADIENT))?);
        geometry.product.push(only_paired(vectors.dot(of_chosen, Vector::GRADIENT))?);
        if let Some(update) = update {
            prediction.predicted_rejected.push(only_paired(vectors.dot(Vector::GRADIENT, update))?);
        }
    }
    session.vectors().zero(Vector::GRADIENT)?;
    session.vectors().release(of_chosen);
    Ok((geometry, prediction))
}

/// `GRADIENT <- grad of one answer's log-prob`. Returns false, leaving `GRADIENT` zero, if the probe has no
/// such answer.
fn gradient(session: &mut dyn Session, probe: &Probe, of: Answer) -> Result<bool> {
    session.vectors().zero(Vector::GRADIENT)?;
    let (batch, answers) = probe.pair();
    session.backward(&batch, Statistics::default(), &mut |scored| {
        let mut upstream = vec![0.0; scored.values.len()];
        for (span, answer) in spans(scored).zip(&answers) {
            upstream[span].fill(f64::from(u8::from(*answer == of)));
        }
        Ok(upstream)
    })?;
    Ok(answers.contains(&of))
}

/// s_w and s_l of each probe.
fn pairs(session: &mut dyn Session, probes: &[&Probe]) -> Result<Vec<[Option<f64>; 2]>> {
    let mut pairs = Vec::with_capacity(probes.len());
    for probe in probes {
        let (batch, answers) = probe.pair();
        let scored = session.log_probs(&batch, Statistics::default())?;
        let mut sums = [None; 2];
        for (span, answer) in spans(&scored).zip(answers) {
            sums[answer as usize] = Some(scored.values[span].iter().sum());
        }
        pairs.push(sums);
    }
    Ok(pairs)
}
