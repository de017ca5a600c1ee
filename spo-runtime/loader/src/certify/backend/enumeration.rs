//! Log-probs and their statistics, against the probabilities of all tokens.

use spo_api::{Group, LogProbs, Session, Statistics, TokenBatch};

use super::super::Outcome;
use super::{ALL, Subject};

/// The largest vocabulary of which every token is scored.
pub(super) const ENUMERABLE: usize = 1024;

fn score(session: &mut dyn Session, prompt: &[u32], completions: Vec<Vec<u32>>) -> Result<LogProbs, Outcome> {
    let group = Group { prompt: prompt.to_vec(), completions };
    Ok(session.log_probs(&TokenBatch { groups: vec![group] }, ALL)?)
}

/// The probability of every token after a prompt.
pub(super) fn distribution(session: &mut dyn Session, prompt: &[u32]) -> Result<Vec<f64>, Outcome> {
    let all = (0..session.info().vocabulary as u32).map(|token| vec![token]).collect();
    let group = Group { prompt: prompt.to_vec(), completions: all };
    let seen = session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default())?;
    Ok(seen.values.iter().map(|l| l.exp()).collect())
}

/// The probabilities of all tokens add up to 1, entropy and collision are theirs, and a token is greedy if it is the most
/// probable. A completion's tokens are each conditioned on the prompt and on all tokens before.
pub(super) fn enumeration(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open_sharp()?;
    let session = &mut *session;
    if session.info().vocabulary > ENUMERABLE {
        let words =
            format!("the vocabulary has {} tokens: too many to score each", session.info().vocabulary);
        return Err(Outcome::Skipped(words));
    }
    // The tokens of the prompt are read, not scored, and each counts.
    let completion = [4, 5, 11, 2];
    let seen = score(session, &[1, 2, 3], vec![completion.to_vec()])?;
    if seen.offsets != [0, completion.len()] {
        return Err(format!(
            "for one completion of {} tokens the offsets are {:?}: only the tokens of completions are scored",
            completion.len(),
            seen.offsets
        )
        .into());
    }
    let mut worst = 0.0f64;
    for (at, &token) in completion.iter().enumerate() {
        let prompt = [&[1, 2, 3], &completion[..at]].concat();
        let p = distribution(session, &prompt)?;
        let whole: f64 = p.iter().sum();
        if (whole - 1.0).abs() > 1e-3 {
            return Err(format!(
                "the probabilities of all tokens after {prompt:?} add up to {whole:.6}, not to 1"
            )
            .into());
        }
        let entropy = -p.iter().map(|p| p * p.ln()).sum::<f64>();
        let collision = p.iter().map(|p| p * p).sum::<f64>().ln();
        let greatest = p.iter().fold(0.0, |most: f64, p| most.max(*p));
        let own = p[token as usize];
        for (what, found, wanted) in [
            ("log-prob", seen.values[at], own.ln()),
            ("entropy", seen.entropy[at], entropy),
            ("collision statistic (the log of the sum of squares)", seen.collision[at], collision),
        ] {
            let apart = (found - wanted).abs();
            if apart.is_nan() || apart > 1e-3 {
                return Err(format!(
                    "token {at} of a completion: its {what} is {found:.6}; by the probabilities of all tokens after the \
                     prompt and the tokens before, it is {wanted:.6}"
                )
                .into());
            }
            worst = worst.max(apart);
        }
        // Of tokens that are as probable as each other, either may count.
        let clear = (own - greatest).abs() > 1e-6 || own == greatest;
        if clear && seen.greedy[at] != f64::from(u8::from(own == greatest)) {
            return Err(format!(
                "token {at} of a completion has probability {own:.6}, the most probable {greatest:.6}, and `greedy` is {}",
                seen.greedy[at]
            )
            .into());
        }
    }
    // The most probable token itself, which is unlikely among those above.
    let p = distribution(session, &[1, 2, 3])?;
    let best = (0..p.len()).fold(0, |best, i| if p[i] > p[best] { i } else { best });
    if score(session, &[1, 2, 3], vec![vec![best as u32]])?.greedy != [1.0] {
        return Err(format!("token {best} is the most probable one, and `greedy` is not 1").into());
    }
    Ok(format!(
        "probabilities of all tokens add up to 1; log-probs, entropy and collision are theirs within {worst:.1e}"
    ))
}
