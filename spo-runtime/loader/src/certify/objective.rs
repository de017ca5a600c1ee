//! What an objective owes: a gradient that is that of its loss, numbers that stay finite, the same answer to
//! the same question.

use std::time::Instant;

use serde_json::Value;
use spo_api::{Constructor, Error, Evaluation, Layout, Objective, PreferenceBatch, Requirements};

use super::sample::{Sample, evaluate, evaluate_fenced};
use super::{Check, Outcome};

/// Calls after which memory must not have grown.
const CALLS: usize = 100_000;

/// How often a running mean sees a batch until the batch no longer moves it.
const SETTLE: usize = 20_000;

/// An objective and what is known of it.
#[derive(Clone)]
struct Subject {
    build: Constructor<dyn Objective>,
    config: Value,
}

impl Subject {
    fn make(&self) -> Result<Box<dyn Objective>, Outcome> {
        (self.build)(&self.config).map_err(|e| Outcome::Failed(e.to_string()))
    }

    fn needs(&self) -> Result<Requirements, Outcome> {
        Ok(self.make()?.requirements())
    }

    fn sample(&self, rows: usize, seed: u64) -> Result<Sample, Outcome> {
        Ok(Sample::random(self.needs()?.data, rows, seed))
    }

    /// Whether it has a state once it has seen a batch.
    fn keeps_state(&self) -> Result<bool, Outcome> {
        let mut objective = self.make()?;
        self.sample(3, 1)?.evaluate(&mut *objective)?;
        Ok(!objective.state().is_empty())
    }
}

pub(super) fn checks<'a>(build: Constructor<dyn Objective>, config: Value) -> Vec<Check<'a>> {
    let subject = Subject { build, config };
    type Body = fn(&Subject) -> Result<String, Outcome>;
    let all: [(&'static str, Body); 9] = [
        // First of all, and into buffers with a fence: what is written beyond them ends the process otherwise.
        ("buffers", buffers),
        ("evaluation", evaluation),
        ("gradient", gradient),
        ("extreme margins", extremes),
        ("determinism", determinism),
        ("permutation", permutation),
        ("accumulation", accumulation),
        ("state", state),
        ("memory", memory),
    ];
    let bind = |(name, body): (&'static str, Body)| -> Check<'a> {
        let subject = subject.clone();
        (name, Box::new(move || body(&subject)))
    };
    all.into_iter().map(bind).collect()
}

fn figures(out: &Evaluation) -> impl Iterator<Item = (&'static str, usize, f64)> + '_ {
    [
        ("losses", &out.losses),
        ("grad_chosen", &out.grad_chosen),
        ("grad_rejected", &out.grad_rejected),
        ("rewards.chosen", &out.rewards.chosen),
        ("rewards.rejected", &out.rewards.rejected),
    ]
    .into_iter()
    .flat_map(|(name, values)| values.iter().enumerate().map(move |(i, x)| (name, i, *x)))
}

fn not_finite(out: &Evaluation) -> Option<String> {
    figures(out).find(|(_, _, x)| !x.is_finite()).map(|(name, i, x)| format!("{name}[{i}] is {x}"))
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + a.abs())
}

/// It answers ordinary batches of every size, with finite numbers.
fn evaluation(subject: &Subject) -> Result<String, Outcome> {
    let needs = subject.needs()?;
    for rows in [1, 2, 5, 64] {
        for seed in 0..3 {
            let sample = subject.sample(rows, seed)?;
            let out = sample.evaluate(&mut *subject.make()?).map_err(|e| {
                format!("a batch of {rows} rows fails: {e}; does `requirements` ask for all that is read?")
            })?;
            if let Some(words) = not_finite(&out) {
                return Err(format!("on a batch of {rows} ordinary rows, {words}").into());
            }
        }
    }
    if needs.reference {
        let sample = subject.sample(2, 0)?;
        let bare = sample.view(needs.reference(false));
        if evaluate(&mut *subject.make()?, &bare).is_ok() {
            let words = "it asks for reference log-probs and is content without them: either it does not need them, or it \
                         must return an error when they are missing";
            return Err(words.to_owned().into());
        }
    }
    let sample = subject.sample(64, 0)?;
    let (mut objective, began) = (subject.make()?, Instant::now());
    for _ in 0..100 {
        sample.evaluate(&mut *objective)?;
    }
    let micros = began.elapsed().as_secs_f64() * 1e4;
    Ok(format!("finite on batches of 1 to 64 rows; {micros:.1} us for 64 rows of 4 tokens"))
}

/// It leaves its inputs alone, and writes inside its buffers.
fn buffers(subject: &Subject) -> Result<String, Outcome> {
    for rows in [1, 7] {
        let sample = subject.sample(rows, 3)?;
        let before = sample.clone();
        let mut objective = subject.make()?;
        let view = sample.view(objective.requirements());
        evaluate_fenced(&mut *objective, &view)?;
        if sample != before {
            return Err("it changes the log-probs it is given, which are the runtime's own"
                .to_owned()
                .into());
        }
    }
    Ok("inputs unchanged, nothing written past the end".into())
}

/// The gradient is that of the loss.
fn gradient(subject: &Subject) -> Result<String, Outcome> {
    let keeps_state = subject.keeps_state()?;
    let tolerance = if keeps_state { 1e-4 } else { 1e-6 };
    let (step, mut tokens, mut worst) = (1e-5, 0, 0.0f64);
    for seed in 0..3 {
        let mut sample = subject.sample(4, 10 + seed)?;
        let needs = subject.needs()?;
        // A running mean is a constant for the gradient: let it have seen so much that a batch does not move it.
        let mut settled = subject.make()?;
        for _ in 0..if keeps_state { SETTLE } else { 0 } {
            sample.evaluate(&mut *settled)?;
        }
        let state = settled.state();
        let at = |sample: &Sample| -> Result<Evaluation, Outcome> {
            let mut objective = subject.make()?;
            objective.restore(&state)?;
            Ok(evaluate(&mut *objective, &sample.view(needs))?)
        };
        let out = at(&sample)?;
        for chosen in [true, false] {
            let gradient = if chosen { &out.grad_chosen } else { &out.grad_rejected };
            for (token, exact) in gradient.iter().enumerate() {
                // Where the collision statistic is read, it is to weigh tokens by the policy's confidence, a
                // constant for the gradient: moved along, it leaves the confidence as it is.
                let mut difference = |along: bool| -> Result<f64, Outcome> {
                    let mut at_offset = |by: f64| -> Result<f64, Outcome> {
                        let mut moved = std::mem::replace(&mut sample, Sample::random(needs.data, 1, 0));
                        let side = if chosen { &mut moved.chosen } else { &mut moved.rejected };
                        side.policy[token] += by;
                        side.collision[token] += if along { by } else { 0.0 };
                        let loss = at(&moved).map(|out| out.loss(&moved.view(needs)));
                        let side = if chosen { &mut moved.chosen } else { &mut moved.rejected };
                        side.policy[token] -= by;
                        side.collision[token] -= if along { by } else { 0.0 };
                        sample = moved;
                        loss
                    };
                    Ok((at_offset(step)? - at_offset(-step)?) / (2.0 * step))
                };
                let plain = difference(false)?;
                let mut found = plain;
                if needs.collision && !close(*exact, plain, tolerance) {
                    found = difference(true)?;
                }
                if !close(*exact, found, tolerance) {
                    let side = if chosen { "grad_chosen" } else { "grad_rejected" };
                    return Err(format!(
                        "{side}[{token}] is {exact:.9}, central differences of the batch loss (the sum of `losses` over \
                         the number of rows) give {plain:.9}; if a part of the loss is a constant for the gradient on \
                         purpose, say --skip gradient"
                    )
                    .into());
                }
                worst = worst.max((exact - found).abs() / (1.0 + exact.abs()));
                tokens += 1;
            }
        }
    }
    Ok(format!("agrees with central differences at {tokens} tokens, worst {worst:.1e}"))
}

/// Margins of up to 2e4 nats, either way.
fn extremes(subject: &Subject) -> Result<String, Outcome> {
    const LOG_PROBS: [f64; 4] = [-1e4, -700.0, -0.5, 0.0];
    let (needs, mut corners, mut given_up) = (subject.needs()?, 0, 0);
    for w in LOG_PROBS {
        for l in LOG_PROBS {
            for rw in LOG_PROBS {
                for rl in LOG_PROBS {
                    let sample = Sample::corner(needs.data, [w, l, rw, rl], 2);
                    let place = format!("at log-probs {w} and {l} (reference {rw} and {rl})");
                    match sample.evaluate(&mut *subject.make()?) {
                        Ok(out) => {
                            if let Some(words) = not_finite(&out) {
                                return Err(format!(
                                    "{place}, {words}: use the stable forms of log-sigmoid, log(1 - e^x) and softplus, \
                                     and clamp what grows without bound"
                                )
                                .into());
                            }
                        }
                        Err(Error::NonFinite(_)) => given_up += 1,
                        Err(e) => return Err(format!("{place}, it fails: {e}").into()),
                    }
                    corners += 1;
                }
            }
        }
    }
    let overflow = if given_up > 0 {
        format!("; at {given_up} it says itself that its numbers overflow")
    } else {
        String::new()
    };
    Ok(format!("finite at {} corners{overflow}", corners - given_up))
}

/// The same question gets the same answer.
fn determinism(subject: &Subject) -> Result<String, Outcome> {
    let sample = subject.sample(16, 5)?;
    let (mut one, mut other) = (subject.make()?, subject.make()?);
    let (first, second) = (sample.evaluate(&mut *one)?, sample.evaluate(&mut *other)?);
    if first != second {
        return Err("two instances answer one batch differently: is something random, or uninitialised?"
            .to_owned()
            .into());
    }
    if !subject.keeps_state()? && sample.evaluate(&mut *one)? != first {
        let words = "asked twice, one instance answers differently, though its state is empty: what it remembers would be \
                     lost on resume; give it to `state` and `restore`";
        return Err(words.to_owned().into());
    }
    Ok("bit-identical".into())
}

/// Compares two evaluations of the same rows in different orders or parts.
fn same(what: &str, one: &[f64], other: &[f64]) -> Result<(), Outcome> {
    let apart = one.iter().zip(other).position(|(a, b)| !close(*a, *b, 1e-9));
    match apart {
        Some(i) => Err(format!("{what}[{i}] is {} and becomes {}", one[i], other[i]).into()),
        None => Ok(()),
    }
}

fn turned(values: &[f64], offsets: &[usize], order: &[usize]) -> Vec<f64> {
    order.iter().flat_map(|&row| &values[offsets[row]..offsets[row + 1]]).copied().collect()
}

/// The order of rows is of no account.
fn permutation(subject: &Subject) -> Result<String, Outcome> {
    for seed in 0..3 {
        let sample = subject.sample(6, 20 + seed)?;
        let order = [3, 0, 5, 1, 4, 2];
        let other = sample.select(&order);
        let (one, two) = (sample.evaluate(&mut *subject.make()?)?, other.evaluate(&mut *subject.make()?)?);
        let rows: Vec<usize> = (0..=one.losses.len()).collect();
        let unpaired = sample.layout == Layout::Unpaired;
        let both: Vec<usize> =
            order.iter().copied().chain(order.iter().filter(|_| unpaired).map(|row| row + 6)).collect();
        let words = |e| match e {
            Outcome::Failed(e) => Outcome::Failed(format!("when the rows come in another order, {e}")),
            skipped => skipped,
        };
        same("losses", &turned(&one.losses, &rows, &both), &two.losses).map_err(words)?;
        let gradient = turned(&one.grad_chosen, &sample.chosen.offsets, &order);
        same("grad_chosen", &gradient, &two.grad_chosen).map_err(words)?;
        if sample.layout != Layout::Demonstrations {
            let gradient = turned(&one.grad_rejected, &sample.rejected.offsets, &order);
            same("grad_rejected", &gradient, &two.grad_rejected).map_err(words)?;
        }
    }
    Ok("rows may come in any order".into())
}

/// The parts of a batch add up to the whole, as it declares.
fn accumulation(subject: &Subject) -> Result<String, Outcome> {
    let needs = subject.needs()?;
    let sample = subject.sample(6, 30)?;
    let whole = sample.view(needs);
    let parts = [&[0, 1][..], &[2, 3, 4, 5]].map(|rows| sample.select(rows));
    if needs.whole_batch {
        let part = PreferenceBatch { whole: whole.whole, ..parts[0].view(needs) };
        return match evaluate(&mut *subject.make()?, &part) {
            Err(Error::Batch(_)) => Ok("it asks for whole batches, and refuses parts".into()),
            Err(e) => Err(e.into()),
            Ok(_) => Err(Outcome::Skipped("it asks for whole batches, which the runtime gives it".into())),
        };
    }
    if subject.keeps_state()? {
        return Err(Outcome::Skipped(
            "it keeps running values, which the parts of a batch advance one by one".into(),
        ));
    }
    let together = evaluate(&mut *subject.make()?, &whole)?;
    let (mut loss, mut chosen, mut rejected) = (0.0, vec![], vec![]);
    for part in &parts {
        let view = PreferenceBatch { whole: whole.whole, ..part.view(needs) };
        let out = evaluate(&mut *subject.make()?, &view)?;
        loss += out.loss(&view);
        chosen.extend(out.grad_chosen);
        rejected.extend(out.grad_rejected);
    }
    let words = |e| match e {
        Outcome::Failed(e) => Outcome::Failed(format!(
            "when a batch is split for gradient accumulation, {e}: divide by `whole.rows` and `whole.chosen_tokens`, not by \
             the counts of the part; if rows depend on one another, ask for `whole_batch`"
        )),
        skipped => skipped,
    };
    same("the loss", &[together.loss(&whole)], &[loss]).map_err(words)?;
    same("grad_chosen", &together.grad_chosen, &chosen).map_err(words)?;
    same("grad_rejected", &together.grad_rejected, &rejected).map_err(words)?;
    Ok("the parts of a batch add up to the whole".into())
}

/// What it remembers survives a resume.
fn state(subject: &Subject) -> Result<String, Outcome> {
    if !subject.keeps_state()? {
        return match subject.make()?.restore(b"no state of this objective") {
            Err(_) => Ok("it keeps none, and refuses one".into()),
            Ok(()) => Err("it keeps no state, and swallows one without a word".to_owned().into()),
        };
    }
    let mut straight = subject.make()?;
    for seed in 0..4 {
        subject.sample(5, 40 + seed)?.evaluate(&mut *straight)?;
        let mut resumed = subject.make()?;
        resumed.restore(&straight.state())?;
        let next = subject.sample(5, 50 + seed)?;
        if next.evaluate(&mut *resumed)? != next.evaluate(&mut *straight)?
            || resumed.state() != straight.state()
        {
            return Err("restored, it goes on otherwise than without the interruption".to_owned().into());
        }
    }
    let length = straight.state().len();
    for broken in [&b"?"[..], &straight.state()[..length - 1]] {
        if subject.make()?.restore(broken).is_ok() {
            return Err(format!("it takes {} bytes for a state of {length}", broken.len()).into());
        }
    }
    Ok(format!("{length} bytes, restored to the bit; broken ones refused"))
}

/// A hundred thousand calls leave memory as it was.
fn memory(subject: &Subject) -> Result<String, Outcome> {
    let Some(_) = resident() else {
        return Err(Outcome::Skipped("the memory of a process cannot be read here".into()));
    };
    let sample = subject.sample(4, 60)?;
    let needs = subject.needs()?;
    let (batch, mut objective, mut out) = (sample.view(needs), subject.make()?, Evaluation::default());
    let mut run = |calls: usize| -> Result<usize, Outcome> {
        for _ in 0..calls {
            out.compute(&mut *objective, &batch)?;
        }
        Ok(resident().unwrap_or_default())
    };
    let before = run(CALLS / 5)?;
    let after = run(CALLS)?;
    let per_call = after.saturating_sub(before) as f64 / CALLS as f64;
    if per_call > 4.0 {
        return Err(format!(
            "{CALLS} evaluations of one batch made the process {} KiB larger, {per_call:.0} bytes a call: it leaks",
            (after - before) / 1024
        )
        .into());
    }
    Ok(format!("no growth over {CALLS} calls"))
}

/// Bytes of the process in memory.
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
