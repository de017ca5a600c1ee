//! What is generated follows the model's own probabilities: the most probable token, or draws from the distribution
//! that temperature and `top_p` make of it.

use spo_api::{Sampling, Session};

use super::super::Outcome;
use super::Subject;
use super::enumeration::{ENUMERABLE, distribution};

const PROMPT: [u32; 3] = [1, 2, 3];

/// Draws for a comparison with the distribution.
const DRAWS: u64 = 300;

fn greedy() -> Sampling {
    Sampling { seed: 7, ..Sampling::greedy(5, &[]) }
}

pub(super) fn sampling(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open_sharp()?;
    let session = &mut *session;
    let prompts = [vec![1, 2], PROMPT.to_vec(), vec![3]];
    let nucleus = Sampling { temperature: 1.0, top_p: 0.9, ..greedy() };
    for sampling in [&greedy(), &nucleus] {
        let (one, two) = (session.generate(&prompts, sampling)?, session.generate(&prompts, sampling)?);
        if one != two || one.len() != prompts.len() || one.iter().any(|tokens| tokens.len() != 5) {
            return Err(format!(
                "{} prompts were continued by 5 tokens as {one:?}, and again as {two:?}",
                prompts.len()
            )
            .into());
        }
    }
    most_probable(session, &prompts)?;
    stops(session)?;
    if session.info().vocabulary > ENUMERABLE {
        return Ok("deterministic; greedy tokens are the most probable ones; the vocabulary is too large to compare \
                   draws with all probabilities"
            .into());
    }
    let p = distribution(session, &PROMPT)?;
    draws(session, &p, Sampling { temperature: 0.25, ..nucleus.clone() }, 1.0)?;
    draws(session, &p, Sampling { temperature: 3.0, ..nucleus.clone() }, 1.0)?;
    draws(session, &p, Sampling { temperature: 1.0, ..nucleus }, 0.6)?;
    Ok(format!(
        "deterministic; {DRAWS} draws each at two temperatures and with top_p = 0.6 as the probabilities say"
    ))
}

/// With a temperature of 0, or a tiny `top_p`, each token is the most probable one, whatever the other prompts are.
fn most_probable(session: &mut dyn Session, prompts: &[Vec<u32>]) -> Result<(), Outcome> {
    let together = session.generate(prompts, &greedy())?;
    for (prompt, continued) in prompts.iter().zip(&together) {
        if session.generate(std::slice::from_ref(prompt), &greedy())?[0] != *continued {
            let words = "a prompt is continued greedily in one way among others and in another alone: it must not depend on \
                         its neighbours";
            return Err(words.to_owned().into());
        }
        let group = spo_api::Group { prompt: prompt.clone(), completions: vec![continued.clone()] };
        let statistics = spo_api::Statistics { greedy: true, ..Default::default() };
        let seen = session.log_probs(&spo_api::TokenBatch { groups: vec![group] }, statistics)?;
        if let Some(at) = seen.greedy.iter().position(|flag| *flag != 1.0) {
            return Err(format!(
                "with temperature 0 the prompt {prompt:?} is continued by {continued:?}, and token {at} is not the most \
                 probable one by `log_probs`"
            )
            .into());
        }
    }
    for (what, sampling) in [
        ("top_p = 1e-6", Sampling { temperature: 1.0, top_p: 1e-6, ..greedy() }),
        ("temperature = 1e-4", Sampling { temperature: 1e-4, ..greedy() }),
    ] {
        for seed in 0..8 {
            let found = session.generate(prompts, &Sampling { seed, ..sampling.clone() })?;
            if found != together {
                return Err(format!(
                    "with {what} only the most probable token is left, and it generates {found:?} instead of {together:?}"
                )
                .into());
            }
        }
    }
    Ok(())
}

/// A continuation ends with the first stop token, which is kept, and the others go on.
fn stops(session: &mut dyn Session) -> Result<(), Outcome> {
    let prompts = [PROMPT.to_vec(), vec![9]];
    let whole = session.generate(&prompts, &greedy())?;
    let stop = vec![whole[0][2], whole[1][1]];
    let cut = |tokens: &Vec<u32>| {
        let end = tokens.iter().position(|token| stop.contains(token)).map_or(tokens.len(), |at| at + 1);
        tokens[..end].to_vec()
    };
    let wanted: Vec<Vec<u32>> = whole.iter().map(cut).collect();
    let found = session.generate(&prompts, &Sampling { stop: stop.clone(), ..greedy() })?;
    match found == wanted {
        true => Ok(()),
        false => Err(format!(
            "with the stop tokens {stop:?}, {whole:?} must end as {wanted:?}, the first of them included; it gives {found:?}"
        )
        .into()),
    }
}

/// Draws of one token, with a seed each, come from the distribution: none from outside the nucleus, and the mean of
/// their log-probs is what it should be, within six standard errors.
fn draws(session: &mut dyn Session, p: &[f64], sampling: Sampling, top_p: f64) -> Result<(), Outcome> {
    let mut q: Vec<(usize, f64)> = p.iter().map(|p| p.powf(1.0 / sampling.temperature)).enumerate().collect();
    q.sort_by(|a, b| b.1.total_cmp(&a.1));
    let whole: f64 = q.iter().map(|(_, q)| q).sum();
    let mut mass = 0.0;
    // A token at the very edge may fall on either side.
    q.retain(|(_, q)| {
        mass += q / whole;
        mass - q / whole < top_p + 1e-5
    });
    let whole: f64 = q.iter().map(|(_, q)| q).sum();
    q.iter_mut().for_each(|(_, q)| *q /= whole);
    let mean: f64 = q.iter().map(|(token, q)| q * p[*token].ln()).sum();
    let variance: f64 = q.iter().map(|(token, q)| q * (p[*token].ln() - mean).powi(2)).sum();
    let setting = format!("temperature {} and top_p {top_p}", sampling.temperature);
    let mut sum = 0.0;
    for seed in 0..DRAWS {
        let sampling = Sampling { max_new_tokens: 1, top_p, seed, ..sampling.clone() };
        let token = session.generate(&[PROMPT.to_vec()], &sampling)?[0][0] as usize;
        if !q.iter().any(|(inside, _)| *inside == token) {
            return Err(format!(
                "with {setting} it draws token {token}, which is not among the {} most probable ones that make up {top_p}",
                q.len()
            )
            .into());
        }
        sum += p[token].ln();
    }
    let found = sum / DRAWS as f64;
    let error = (variance / DRAWS as f64).sqrt() + 1e-9;
    match (found - mean).abs() <= 6.0 * error {
        true => Ok(()),
        false => Err(format!(
            "with {setting} the log-probs of {DRAWS} draws have a mean of {found:.3}, where the probabilities make it \
             {mean:.3} give or take {error:.3}"
        )
        .into()),
    }
}
