use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{Answer, Pair, Scalar};

/// The f-divergence between policy and reference that the loss trades against the reward: it decides
/// how an answer's log-ratio `r` becomes its score, `f'(e^r)` shifted to be 0 at `r = 0`.
///
/// Wang et al. 2023, "Beyond Reverse KL", table 1; the scores are TRL's. The shift cancels in the margin
/// of two scores, but not where each is divided by its own length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FDivergence {
    /// `KL(policy || reference)`: the score is `r`.
    #[default]
    ReverseKl,
    /// `KL(reference || policy)`: the score is `1 - e^-r`.
    ForwardKl,
    /// Jensen-Shannon: the score is `ln(2 sigmoid(r))`.
    JsDivergence,
    /// The alpha-divergence with this alpha: the score is `(e^t - 1) / (alpha - 1)`,
    /// `t = (alpha - 1) r`.
    /// Alpha 1 is the reverse KL. As in TRL, `t` stops at 80, where the score is beyond all use, and
    /// such an answer gets no gradient.
    AlphaDivergence(f64),
}

impl FDivergence {
    /// The score of an answer.
    pub fn score<S: Scalar>(self, answer: &Answer<S>) -> S {
        let r = answer.log_ratio();
        match self {
            FDivergence::ReverseKl => r,
            FDivergence::ForwardKl => -(-r).exp_m1(),
            FDivergence::JsDivergence => r.log_sigmoid() + std::f64::consts::LN_2,
            // Closer to 1, cancellation leaves the quotient without accurate digits.
            FDivergence::AlphaDivergence(alpha) if (alpha - 1.0).abs() < 1e-6 => r,
            FDivergence::AlphaDivergence(alpha) => {
                let t = r * (alpha - 1.0);
                let t = if t.value() > 80.0 { S::from(80.0) } else { t };
                t.exp_m1() / (alpha - 1.0)
            }
        }
    }

    /// Score of the chosen answer minus score of the rejected: the margin, if the divergence is the
    /// reverse KL.
    pub fn margin<S: Scalar>(self, pair: &Pair<S>) -> S {
        self.score(&pair.chosen) - self.score(&pair.rejected)
    }

    /// The same with each score divided by its answer's number of tokens.
    pub fn mean_margin<S: Scalar>(self, pair: &Pair<S>) -> S {
        self.score(&pair.chosen) / pair.chosen.tokens - self.score(&pair.rejected) / pair.rejected.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_divergence_scores_nothing_as_nothing_and_rises() {
        use FDivergence::{AlphaDivergence, ForwardKl, JsDivergence, ReverseKl};
        for divergence in [
            ReverseKl,
            ForwardKl,
            JsDivergence,
            AlphaDivergence(0.5),
            AlphaDivergence(1.0),
            AlphaDivergence(2.0),
        ] {
            let score = |r: f64| divergence.score(&Answer { policy: r - 9.0, reference: -9.0, tokens: 3.0 });
            assert!(score(0.0).abs() < 1e-15, "{divergence:?}");
            assert!(score(-1.0) < 0.0 && score(1.0) > 0.0, "{divergence:?}");
            // Near the reference, all scores approach the log-ratio or half of it.
            let slope = (score(1e-6) - score(-1e-6)) / 2e-6;
            let expected = if divergence == JsDivergence { 0.5 } else { 1.0 };
            assert!((slope - expected).abs() < 1e-6, "{divergence:?}");
        }
    }
}
