//! Describes the results in sentences.

use crate::arms::{Arm, Over};
use crate::figures::{ALL, CHOSEN_CHANGE, DISPLACED, EXACT_MATCH, Figure, PAIR_ACCURACY, REJECTED_CHANGE};
use crate::load::Stage;
use crate::plots::{changes, ends, masses};
use crate::stats::{Estimate, mean};

/// What happened in an arm.
pub fn of_arm(arm: &Arm<'_>) -> String {
    let stage = arm.first();
    let mut sentences = Vec::new();
    sentences.extend(of_pairs(arm).or_else(|| of_probes(arm)));
    sentences.extend(of_end(stage).filter(|_| arm.over() == Over::Rows));
    sentences.extend(of_accuracy(arm));
    if arm.over() == Over::Rows {
        sentences.extend(of_mass(stage));
        sentences.extend(of_leaks(stage));
        sentences.extend(of_geometry(stage));
    }
    let budget = of_budget(arm);
    sentences.extend(of_safe_set(stage).filter(|_| arm.over() == Over::Rows && budget.is_none()));
    sentences.extend(budget);
    sentences.extend(of_guard(stage));
    sentences.extend(of_early_stop(stage));
    if sentences.is_empty() {
        sentences.push(format!("{} has no figures on held-out rows or probes yet.", arm.label));
    }
    sentences.join(" ")
}

/// How an arm compares with the first.
pub fn against(arm: &Arm<'_>, baseline: &Arm<'_>) -> Option<String> {
    let clauses: Vec<String> = [EXACT_MATCH, PAIR_ACCURACY, DISPLACED, CHOSEN_CHANGE]
        .iter()
        .filter_map(|figure| {
            let difference = arm.difference(baseline, figure)?;
            let verdict = match (difference.mean == 0.0, difference.may_be_chance()) {
                (true, _) => "the same".to_owned(),
                _ if difference.interval.is_none() && difference.count > 1 => {
                    format!("{} throughout", signed(figure, &difference))
                }
                (_, true) => format!("{}, which may be chance", signed(figure, &difference)),
                (_, false) => signed(figure, &difference),
            };
            Some(format!("{}: {verdict}", figure.title))
        })
        .collect();
    (!clauses.is_empty())
        .then(|| format!("{} against {}: {}.", arm.label, baseline.label, clauses.join("; ")))
}

fn name(arm: &Arm<'_>) -> String {
    let (stage, seeds) = (arm.first(), arm.members.len());
    let steps = stage.steps_done();
    let method = stage.method();
    let method = if method == arm.label { String::new() } else { method + ", " };
    match seeds {
        1 => format!("{} ({method}{steps} steps)", arm.label),
        n => format!("{} ({method}{steps} steps, {n} seeds)", arm.label),
    }
}

fn of_pairs(arm: &Arm<'_>) -> Option<String> {
    let (displaced, chosen) = (arm.estimate(&DISPLACED)?, arm.estimate(&CHOSEN_CHANGE)?);
    let rows = arm.first().after.as_ref()?.chosen.iter().flatten().count();
    let each = if arm.over() == Over::Seeds { " a seed" } else { "" };
    let mut text = format!(
        "{} lowered the preferred answers of {} of {rows} held-out pairs{each}; their mean log-prob changed by {}",
        name(arm),
        share(displaced.mean),
        signed(&CHOSEN_CHANGE, &chosen),
    );
    match arm.estimate(&REJECTED_CHANGE) {
        Some(rejected) => {
            let both = both_fell(arm).map(|both| format!("; {} of the pairs lost both", share(both)));
            text += &format!(", that of the dispreferred ones by {}", signed(&REJECTED_CHANGE, &rejected));
            text += &both.unwrap_or_default();
        }
        None => text += " (no dispreferred answers are known)",
    }
    Some(text + ".")
}

/// Share of held-out pairs in which both answers lost probability, over all seeds.
fn both_fell(arm: &Arm<'_>) -> Option<f64> {
    let mut both = Vec::new();
    for (_, stage) in &arm.members {
        let (w, l) = (CHOSEN_CHANGE.rows(stage)?, REJECTED_CHANGE.rows(stage)?);
        both.extend(
            w.iter().zip(&l).filter_map(|(w, l)| Some(f64::from(u8::from((*w)? < 0.0 && (*l)? < 0.0)))),
        );
    }
    (!both.is_empty()).then(|| mean(&both))
}

fn of_probes(arm: &Arm<'_>) -> Option<String> {
    let (first, last) = ends(arm.first())?;
    let known: Vec<f64> = changes(&first.chosen, &last.chosen).into_iter().flatten().collect();
    let fell = if mean(&known) < 0.0 { "lowered" } else { "raised" };
    Some(format!(
        "After {} steps, {} has lowered the preferred answers of {} of {} probes and {fell} their log-prob by {} on average.",
        last.step,
        name(arm),
        share(last.displaced),
        known.len(),
        nats(mean(&known).abs()),
    ))
}

fn of_accuracy(arm: &Arm<'_>) -> Option<String> {
    let figure = [EXACT_MATCH, PAIR_ACCURACY].into_iter().find(|figure| arm.estimate(figure).is_some())?;
    let after = arm.estimate(&figure)?;
    let before: Vec<f64> = arm.members.iter().filter_map(|(_, stage)| figure.before(stage)).collect();
    let what = if figure.key == EXACT_MATCH.key {
        "Greedy answers right to the letter"
    } else {
        "Pairs ranked right by log-prob"
    };
    let range = interval(&after, &|x| share(x));
    let tied = |of: fn(&Stage) -> Option<f64>| {
        let tied: Vec<f64> = arm.members.iter().filter_map(|(_, stage)| of(stage)).collect();
        let some = figure.key == PAIR_ACCURACY.key && tied.iter().any(|share| *share > 0.0);
        if some { format!(" ({} tied, which counts half)", share(mean(&tied))) } else { String::new() }
    };
    Some(format!(
        "{what}: {}{} before, {}{range}{} after.",
        share(mean(&before)),
        tied(|stage| crate::figures::tied(stage.before.as_ref()?)),
        share(after.mean),
        tied(|stage| crate::figures::tied(stage.after.as_ref()?)),
    ))
}

/// Whether the loss of log-prob is mostly that of the end token.
fn of_end(stage: &Stage) -> Option<String> {
    let (first, last) = ends(stage)?;
    let known = |from: &[Option<f64>], to: &[Option<f64>]| {
        mean(&changes(from, to).into_iter().flatten().collect::<Vec<f64>>())
    };
    let (whole, end) = (known(&first.chosen, &last.chosen), known(&first.chosen_end, &last.chosen_end));
    let part = end / whole;
    (whole < -0.1 && part > 0.25).then(|| {
        let part = share(part);
        format!(
            "Of that loss, {part} is the end token\u{2019}s: the model goes on where the answer should stop."
        )
    })
}

fn of_mass(stage: &Stage) -> Option<String> {
    let (first, last) = ends(stage)?;
    let (from, to) = (masses(first), masses(last));
    if from[0].max(to[0]) < 0.01 {
        return None;
    }
    let mut text = format!(
        "A prompt\u{2019}s preferred answer had probability {} at the start and {} at the end, its dispreferred one {} and {}",
        share(from[0]),
        share(to[0]),
        share(from[1]),
        share(to[1])
    );
    let unnamed = |masses: [f64; 5]| 1.0 - masses.iter().sum::<f64>();
    let gained = unnamed(to) - unnamed(from);
    if gained > 0.05 {
        text += &format!("; {} of all probability went to answers that no probe names", share(gained));
    }
    Some(text + ".")
}

fn of_leaks(stage: &Stage) -> Option<String> {
    let (first, last) = ends(stage)?;
    let names = ["", "", "answers to other prompts", "shuffled answers", "what the model used to answer"];
    let of_kind = |i: usize| {
        let changes = changes(first.answers()[i].1, last.answers()[i].1);
        let known: Vec<f64> = changes.into_iter().flatten().collect();
        (!known.is_empty()).then(|| {
            let change = mean(&known);
            format!("{} {} by {}", names[i], if change < 0.0 { "fell" } else { "rose" }, nats(change.abs()))
        })
    };
    let kinds: Vec<String> = (2..5).filter_map(of_kind).collect();
    (!kinds.is_empty()).then(|| format!("Of answers that nobody asked for, {}.", kinds.join(", ")))
}

fn of_geometry(stage: &Stage) -> Option<String> {
    let pairs = stage.geometry.iter().flat_map(|g| g.product.iter().zip(&g.norm_chosen));
    let dragged: Vec<f64> =
        pairs.filter_map(|(product, norm)| Some(f64::from(u8::from((*product)? > norm * norm)))).collect();
    (!dragged.is_empty()).then(|| {
        format!(
            "In {} of the gradients looked at, a plain step on the pair\u{2019}s own margin would have lowered its preferred \
             answer (\u{27e8}\u{2207}s_w, \u{2207}s_l\u{27e9} > \u{2016}\u{2207}s_w\u{2016}\u{b2}).",
            share(mean(&dragged))
        )
    })
}

fn of_safe_set(stage: &Stage) -> Option<String> {
    let values = |name: &str| Some(stage.curves.get(name)?.iter().map(|p| p.1).collect::<Vec<f64>>());
    let constraint = values("bilevel/constraint")?;
    let outside = constraint.iter().filter(|c| **c > 0.0).count() as f64 / constraint.len() as f64;
    let weight = values("bilevel/weight");
    let pull = weight.map(|w| format!("; the SFT gradient weighed {} on average", number(mean(&w))));
    let pull = pull.unwrap_or_default();
    Some(format!("The policy was outside the safe set at {} of the steps{pull}.", share(outside)))
}

/// What became of the budgets of an arm's runs.
fn of_budget(arm: &Arm<'_>) -> Option<String> {
    let of = |stage: &Stage, name: &str| Some(stage.curves.get(&format!("eval_budget/{name}"))?.last()?.1);
    let all = |name: &str| arm.members.iter().map(|(_, stage)| of(stage, name)).collect::<Option<Vec<f64>>>();
    let (nats, rises, kept) = (all("nats")?, all("rise")?, all("kept")?);
    let first = *nats.first()?;
    let rose = |x: f64| format!("{} by {:.3}", if x < 0.0 { "fell" } else { "rose" }, x.abs());
    Some(match rises[..] {
        [rise] => format!(
            "The held-out SFT loss {} ± {:.3} of {first} nats per token: the budget was {}.",
            rose(rise),
            all("standard_error")?[0],
            if kept[0] > 0.0 { "kept" } else { "not kept" }
        ),
        _ => format!(
            "The budget of {first} nats per token was kept in {} of {} runs; the held-out SFT loss {} on average, {:.3} at most.",
            kept.iter().sum::<f64>(),
            kept.len(),
            rose(mean(&rises)),
            rises.iter().copied().fold(f64::MIN, f64::max)
        ),
    })
}

fn of_early_stop(stage: &Stage) -> Option<String> {
    let (step, _) = stage.curves.get("eval_stopped_early")?.last()?;
    Some(format!("It stopped early, after step {step}: its held-out figure no longer became better."))
}

fn of_guard(stage: &Stage) -> Option<String> {
    let last = stage.guard.last()?;
    let found = format!("{} displaced, {} allowed", share(last.displaced), share(last.limit));
    Some(match last.lr_factor {
        0.0 => format!("The guard ended the run after {} steps ({found}).", last.step),
        factor => format!(
            "The guard stepped in {} times, and left the learning rate at {} of its schedule.",
            stage.guard.len(),
            share(factor)
        ),
    })
}

/// A figure's value.
pub fn value(figure: &Figure, x: f64) -> String {
    if figure.share { share(x) } else { number(x) }
}

/// A difference of two values, with its sign: percentage points, or nats.
pub fn difference(figure: &Figure, x: f64) -> String {
    let text = if figure.share { format!("{:+.1}", 100.0 * x) } else { format!("{x:+.2}") };
    let nothing = text.chars().all(|c| !c.is_ascii_digit() || c == '0');
    if nothing { text[1..].to_owned() } else { text.replace('-', "\u{2212}") }
}

/// A difference with its unit and interval.
fn signed(figure: &Figure, estimate: &Estimate) -> String {
    let write = |x: f64| difference(figure, x);
    let unit = if figure.share { " points" } else { " nats" };
    write(estimate.mean) + unit + &interval(estimate, &write)
}

fn interval(estimate: &Estimate, write: &dyn Fn(f64) -> String) -> String {
    estimate
        .interval
        .map_or(String::new(), |(low, high)| format!(" (95%: {} to {})", write(low), write(high)))
}

/// A share as a percentage.
pub fn share(x: f64) -> String {
    match 100.0 * x {
        percent if percent > 0.0 && percent < 0.05 => "<0.1%".into(),
        percent if (99.95..100.0).contains(&percent) => ">99.9%".into(),
        percent => format!("{}%", format!("{percent:.1}").trim_end_matches(".0")).replace('-', "\u{2212}"),
    }
}

/// Nats, or another plain number.
fn number(x: f64) -> String {
    format!("{x:.2}").replace('-', "\u{2212}")
}

fn nats(x: f64) -> String {
    number(x) + " nats"
}

/// What the reader of a comparison has to know of its intervals, one sentence each. `comparisons` is the number of
/// differences that it shows.
pub fn cautions(arms: &[Arm<'_>], comparisons: usize) -> Vec<String> {
    let fewest = arms.iter().map(|arm| arm.members.len()).min();
    fewest.and_then(few).into_iter().chain(corrected(comparisons)).collect()
}

/// A warning, if there are fewer than three seeds.
pub fn few(seeds: usize) -> Option<String> {
    let say = match seeds {
        1 => "One seed says",
        2 => "Two seeds say",
        _ => return None,
    };
    Some(format!("{say} little about another one: run at least three."))
}

/// How many comparisons were made, and that the intervals ignore it.
pub fn corrected(comparisons: usize) -> Option<String> {
    (comparisons > 1).then(|| {
        format!(
            "There are {comparisons} comparisons, and their intervals are not corrected for that: where nothing \
             differs, about 1 in 20 still excludes 0."
        )
    })
}

/// Figures that at least one arm has.
pub fn figures(arms: &[Arm<'_>]) -> Vec<Figure> {
    ALL.into_iter().filter(|figure| arms.iter().any(|arm| figure.rows(arm.first()).is_some())).collect()
}
