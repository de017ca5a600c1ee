//! What an objective owes: a gradient that is that of its loss, numbers that stay finite, the same answer to
//! the same question.

use std::time::Instant;

use serde_json::Value;
use spo_api::{Constructor, Error, Evaluation, Layout, Objective, PreferenceBatch, Requirements};

use super::sample::{Sample, evaluate, evaluate_fenced};
use super::{Check, Outcome};

/// Calls after which memory must not have grown.
const CALLS: usize = 100_000;

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
        let needs = self.needs()?;
        Ok(Sample::random(needs.data, rows, seed).with_columns(&needs))
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
    let figure = figures(out).find(|(_, _, x)| !x.is_finite());
    let metric = out.metrics.iter().find(|(_, x)| !x.is_finite());
    figure
        .map(|(name, i, x)| format!("{name}[{i}] is {x}"))
        .or_else(|| metric.map(|(name, x)| format!("its metric `{name}` is {x}")))
}

/// One reward for each answer, or none at all.
fn rewards(out: &Evaluation, batch: &PreferenceBatch<'_>) -> Result<(), String> {
    let given = [out.rewards.chosen.len(), out.rewards.rejected.len()];
    let answers = [batch.chosen.policy.rows(), batch.rejected.policy.rows()];
    match given == [0, 0] || given == answers {
        true => Ok(()),
        false => Err(format!("it gives {given:?} rewards for {answers:?} chosen and rejected answers")),
    }
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
            rewards(&out, &sample.view(&needs))?;
        }
    }
    declared(subject, &needs)?;
    match needs.data {
        Layout::Pairs => {}
        Layout::Unpaired => unequal_kinds(subject, &needs)?,
        Layout::Demonstrations => chosen_of_pairs(subject, &needs)?,
    }
    let sample = subject.sample(64, 0)?;
    let (mut objective, began) = (subject.make()?, Instant::now());
    for _ in 0..100 {
        sample.evaluate(&mut *objective)?;
    }
    let micros = began.elapsed().as_secs_f64() * 1e4;
    Ok(format!("finite on batches of 1 to 64 rows; {micros:.1} us for 64 rows of 4 tokens"))
}

/// What it asks for, it needs.
fn declared(subject: &Subject, needs: &Requirements) -> Result<(), Outcome> {
    let sample = subject.sample(2, 0)?;
    let all = || needs.clone();
    let mut cases = vec![
        (needs.reference, "reference log-probs".to_owned(), all().reference(false)),
        (needs.collision, "the collision statistic".to_owned(), all().collision(false)),
        (needs.mismatched, "mismatched answers".to_owned(), all().mismatched(false)),
        (needs.gaps, "score gaps".to_owned(), all().gaps(false)),
    ];
    for column in &needs.columns {
        let mut without = all();
        without.columns.retain(|other| other != column);
        cases.push((true, format!("the column `{}`", column.name), without));
    }
    for (asked, what, without) in cases {
        let sample = sample.clone().with_columns(&without);
        if asked && evaluate(&mut *subject.make()?, &sample.view(&without)).is_ok() {
            return Err(format!(
                "it asks for {what} and is content without: either it does not need them, or it must return an error \
                 when they are missing"
            )
            .into());
        }
    }
    Ok(())
}

/// Unpaired answers come in any numbers of either kind, perhaps all of one.
fn unequal_kinds(subject: &Subject, needs: &Requirements) -> Result<(), Outcome> {
    for [chosen, rejected] in [[3, 5], [5, 2], [4, 0], [0, 4]] {
        let sample = Sample::unpaired(chosen, rejected, 7).with_columns(needs);
        let place = format!("on {chosen} desirable and {rejected} undesirable answers");
        let out = sample.evaluate(&mut *subject.make()?).map_err(|e| format!("{place}, it fails: {e}"))?;
        if let Some(words) = not_finite(&out) {
            return Err(format!("{place}, {words}").into());
        }
        rewards(&out, &sample.view(needs)).map_err(|words| format!("{place}, {words}"))?;
    }
    Ok(())
}

/// A loss on demonstrations gets pairs too, and then learns from the chosen answers alone.
fn chosen_of_pairs(subject: &Subject, needs: &Requirements) -> Result<(), Outcome> {
    let pairs = Sample::random(Layout::Pairs, 4, 7).with_columns(needs);
    let alone = pairs.demonstrations().evaluate(&mut *subject.make()?)?;
    let out = pairs.evaluate(&mut *subject.make()?).map_err(|e| {
        format!(
            "it learns from demonstrations and fails on pairs, of which it is to take the chosen answers: {e}"
        )
    })?;
    if out.losses != alone.losses || out.grad_chosen != alone.grad_chosen {
        return Err("given pairs, it must take the chosen answers alone, and gives another loss for them"
            .to_owned()
            .into());
    }
    match out.grad_rejected.iter().position(|g| *g != 0.0) {
        Some(i) => Err(format!(
            "given pairs, it must take the chosen answers alone, and grad_rejected[{i}] is {:?}",
            out.grad_rejected[i]
        )
        .into()),
        None => Ok(()),
    }
}

/// It leaves its inputs alone, and writes inside its buffers.
fn buffers(subject: &Subject) -> Result<String, Outcome> {
    for rows in [1, 7] {
        let sample = subject.sample(rows, 3)?;
        let before = sample.clone();
        let mut objective = subject.make()?;
        let needs = objective.requirements();
        let view = sample.view(&needs);
        evaluate_fenced(&mut *objective, &view)?;
        if sample != before {
            return Err("it changes the log-probs it is given, which are the runtime's own"
                .to_owned()
                .into());
        }
    }
    Ok("inputs unchanged, nothing written past the end".into())
}

/// Steps of the differences, in nats: the widest is the most exact, but may reach past a kink or, where the loss
/// bends sharply, too far.
const STEPS: [f64; 4] = [1e-3, 1e-4, 1e-5, 1e-6];

/// How exact the gradient must be, relative to the largest of the batch.
const EXACT: f64 = 1e-6;

/// An objective in a state, at a batch.
struct Point<'a> {
    subject: &'a Subject,
    needs: &'a Requirements,
    state: Vec<u8>,
    at: Sample,
    /// Mean magnitude of the losses, which limits what differences resolve.
    size: f64,
}

impl Point<'_> {
    fn make(&self) -> Result<Box<dyn Objective>, Outcome> {
        let mut objective = self.subject.make()?;
        objective.restore(&self.state)?;
        Ok(objective)
    }

    /// The evaluation of another batch, with the constants of the gradient held at the point if they are to be.
    fn evaluate(&self, moved: &Sample, held: bool) -> Result<Evaluation, Outcome> {
        let mut out = Evaluation::default();
        let (mut objective, moved) = (self.make()?, moved.view(self.needs));
        match held {
            true => out.compute_held(&mut *objective, &self.at.view(self.needs), &moved)?,
            false => out.compute(&mut *objective, &moved)?,
        }
        Ok(out)
    }

    /// The derivative of the batch loss with respect to a token's log-prob, by central differences of fourth order.
    fn difference(&self, chosen: bool, token: usize, step: f64, held: bool) -> Result<f64, Outcome> {
        let mut moved = self.at.clone();
        let mut at = |by: f64| -> Result<f64, Outcome> {
            let (side, was) = match chosen {
                true => (&mut moved.chosen, &self.at.chosen),
                false => (&mut moved.rejected, &self.at.rejected),
            };
            side.policy[token] = was.policy[token] + by;
            Ok(self.evaluate(&moved, held)?.loss(&moved.view(self.needs)))
        };
        let near = at(step)? - at(-step)?;
        let far = at(2.0 * step)? - at(-2.0 * step)?;
        Ok((8.0 * near - far) / (12.0 * step))
    }

    /// What the rounding of the loss makes of a difference.
    fn noise(&self, step: f64) -> f64 {
        16.0 * f64::EPSILON * self.size / step
    }
}

/// The gradient is that of the loss, relative to the largest of the batch.
fn gradient(subject: &Subject) -> Result<String, Outcome> {
    let needs = subject.needs()?;
    let (mut tokens, mut worst, mut constant, mut flat) = (0, 0.0f64, 0, true);
    let long = Sample::long(needs.data, 12).with_columns(&needs);
    for at in [subject.sample(4, 10)?, subject.sample(4, 11)?, long] {
        let mut objective = subject.make()?;
        // A running value is not to be that of this batch alone.
        subject.sample(3, 13)?.evaluate(&mut *objective)?;
        let state = objective.state();
        let out = at.evaluate(&mut *objective)?;
        let size = out.losses.iter().map(|l| l.abs()).sum::<f64>() / at.view(&needs).whole.rows as f64;
        let point = Point { subject, needs: &needs, state, at, size };
        if point.evaluate(&point.at, true)?.losses != out.losses {
            let words = "`evaluate_held`, held at the very batch that it evaluates, gives other losses than `evaluate`: it \
                         may hold constant what the gradient does, and change nothing else";
            return Err(words.to_owned().into());
        }
        let largest = out.grad_chosen.iter().chain(&out.grad_rejected).fold(0.0, |m: f64, g| m.max(g.abs()));
        flat &= largest == 0.0;
        let usable: Vec<f64> = match largest == 0.0 {
            true => vec![STEPS[0]],
            false => STEPS.into_iter().filter(|step| point.noise(*step) <= 1e-3 * largest).collect(),
        };
        if usable.is_empty() {
            return Err(format!(
                "the losses are of size {size:.1e} and the gradient at most {largest:.1e}: no difference of such losses \
                 can tell whether it is right; leave out what is constant"
            )
            .into());
        }
        for (chosen, name, gradient) in
            [(true, "grad_chosen", &out.grad_chosen), (false, "grad_rejected", &out.grad_rejected)]
        {
            // Of long answers, some tokens.
            for token in (0..gradient.len()).step_by(1 + gradient.len() / 64) {
                let exact = gradient[token];
                let agrees = |held: bool| -> Result<Result<f64, f64>, Outcome> {
                    let mut nearest = f64::NAN;
                    for &step in &usable {
                        let found = point.difference(chosen, token, step, held)?;
                        let apart = (exact - found).abs();
                        if apart <= EXACT * largest + point.noise(step) {
                            return Ok(Ok(apart));
                        }
                        nearest = found;
                    }
                    Ok(Err(nearest))
                };
                match agrees(true)? {
                    Ok(apart) => worst = worst.max(if apart == 0.0 { 0.0 } else { apart / largest }),
                    Err(found) => {
                        return Err(format!(
                            "{name}[{token}] is {exact:?}, central differences of the batch loss (the sum of `losses` over \
                             the number of rows) give {found:?}, where the largest derivative of the batch is {largest:?}; \
                             what the gradient holds constant on purpose is said with `detach` in the formula of a pair, \
                             with `evaluate_held` elsewhere"
                        )
                        .into());
                    }
                }
                constant += usize::from(agrees(false)?.is_err());
                tokens += 1;
            }
        }
    }
    if flat {
        return Err("the gradient is 0 at every token of three batches: nothing would be learned"
            .to_owned()
            .into());
    }
    let held = match constant {
        0 => String::new(),
        n => format!("; at {n} of them with what it declares constant held"),
    };
    Ok(format!("agrees with central differences at {tokens} tokens, worst {worst:.1e} of the largest{held}"))
}

/// Margins of up to 2e4 nats, either way.
fn extremes(subject: &Subject) -> Result<String, Outcome> {
    const LOG_PROBS: [f64; 4] = [-1e4, -700.0, -0.5, 0.0];
    let (needs, mut corners, mut given_up) = (subject.needs()?, 0, 0);
    for w in LOG_PROBS {
        for l in LOG_PROBS {
            for rw in LOG_PROBS {
                for rl in LOG_PROBS {
                    let sample = Sample::corner(needs.data, [w, l, rw, rl], 2).with_columns(&needs);
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
    // A resumed run calls `begin` with the number of its first step, not with those before.
    let (mut all, mut last) = (subject.make()?, subject.make()?);
    (0..=7).for_each(|steps| all.begin(steps));
    last.begin(7);
    if sample.evaluate(&mut *all)? != sample.evaluate(&mut *last)? {
        let words = "after begin(7) it answers otherwise than after begin(0), begin(1) and so on to begin(7): what it counts \
                     itself is lost on resume; use the number it is given";
        return Err(words.to_owned().into());
    }
    Ok("bit-identical".into())
}

/// Compares two evaluations of the same rows in different orders or parts.
fn same(what: &str, one: &[f64], other: &[f64]) -> Result<(), Outcome> {
    if one.len() != other.len() {
        return Err(format!("{what} has {} figures and then {}", one.len(), other.len()).into());
    }
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
        for (name, one, two) in [
            ("rewards.chosen", &one.rewards.chosen, &two.rewards.chosen),
            ("rewards.rejected", &one.rewards.rejected, &two.rewards.rejected),
        ] {
            let answers: Vec<usize> = (0..=one.len()).collect();
            // Another number of them is a fault of its own: see `evaluation`.
            if one.len() == order.len() {
                same(name, &turned(one, &answers, &order), two).map_err(words)?;
            }
        }
    }
    Ok("rows may come in any order".into())
}

/// The parts of a batch add up to the whole, as it declares.
fn accumulation(subject: &Subject) -> Result<String, Outcome> {
    let needs = subject.needs()?;
    let sample = subject.sample(6, 30)?;
    let whole = sample.view(&needs);
    let parts = [&[0, 1][..], &[2, 3, 4, 5]].map(|rows| sample.select(rows));
    if needs.whole_batch {
        let part = PreferenceBatch { whole: whole.whole, ..parts[0].view(&needs) };
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
    let (mut chosen, mut rejected) = (vec![], vec![]);
    // Of unpaired data, the desirable answers of all parts come before the undesirable.
    let mut losses = [vec![], vec![]];
    for part in &parts {
        let view = PreferenceBatch { whole: whole.whole, ..part.view(&needs) };
        let out = evaluate(&mut *subject.make()?, &view)?;
        let (first, second) = out.losses.split_at(view.chosen.policy.rows());
        losses[0].extend_from_slice(first);
        losses[1].extend_from_slice(second);
        chosen.extend(out.grad_chosen);
        rejected.extend(out.grad_rejected);
    }
    let words = |e| match e {
        Outcome::Failed(e) => Outcome::Failed(format!(
            "when a batch is split for gradient accumulation, {e}: divide by `whole.rows` and `whole.chosen_tokens`, not by \
             the counts of the part, and give each row its own loss; if rows depend on one another, ask for `whole_batch`"
        )),
        skipped => skipped,
    };
    same("losses", &together.losses, &losses.concat()).map_err(words)?;
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
    let (batch, mut objective, mut out) = (sample.view(&needs), subject.make()?, Evaluation::default());
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
