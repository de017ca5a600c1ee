//! What preference costs: arms that differ by one strength (a budget, a lambda, a beta) form a curve of what they win over
//! what they cost, and curves are compared by the area below them.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::arms::Arm;
use crate::chart::{Lines, Series, lines};
use crate::load::Stage;
use crate::plots::Plot;
use crate::stats::{Estimate, holm, mean, p_value, student, wilson};

/// How cost is reckoned.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Compare what arms win by what they cost, up to this rise of the held-out SFT loss (nats per token). Arms whose names
    /// differ by their last number form one curve.
    #[arg(long, value_name = "NATS", value_parser = positive)]
    front: Option<f64>,
    /// With --front: the share of demonstrations that are the rejected answer.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, requires = "front")]
    mistaken: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "must be a number above 0".into())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| "must be a number from 0 to 1".into())
}

/// What can be won: title, value at the end (or at the start) of a stage, factor in tables, decimals.
type Gain = (&'static str, fn(&Stage, End) -> Option<f64>, f64, usize);

#[derive(Clone, Copy)]
enum End {
    Start,
    Last,
}

const GAINS: [Gain; 3] = [
    ("pair accuracy, %", |stage, end| at(stage, "eval_pair_accuracy", end), 100.0, 1),
    (
        "margin, nats",
        |stage, end| {
            Some(at(stage, "eval_sum_logps/chosen", end)? - at(stage, "eval_sum_logps/rejected", end)?)
        },
        1.0,
        2,
    ),
    ("exact match, %", |stage, end| at(stage, "eval_exact_match", end), 100.0, 1),
];

fn at(stage: &Stage, metric: &str, end: End) -> Option<f64> {
    let curve = stage.curves.get(metric)?;
    let (first, last) = (curve.first()?, curve.last()?);
    // A stage that has not ended has its start alone.
    (first.0 == 0.0 && last.0 > 0.0).then_some(match end {
        End::Start => first.1,
        End::Last => last.1,
    })
}

/// Curves of arms, and what they are compared by.
pub struct Fronts<'a> {
    /// The cost at which curves end.
    most: f64,
    mistaken: f64,
    /// Families of arms by what their names share.
    families: Vec<(String, Vec<&'a Arm<'a>>)>,
}

impl<'a> Fronts<'a> {
    /// The families of these arms, if a front is asked for.
    pub fn new(arms: &'a [Arm<'a>], options: Options) -> Option<Self> {
        let mut families: Vec<(String, Vec<&Arm<'_>>)> = Vec::new();
        for arm in arms {
            let name = family(&arm.label);
            match families.iter_mut().find(|(other, _)| *other == name) {
                Some((_, members)) => members.push(arm),
                None => families.push((name, vec![arm])),
            }
        }
        Some(Fronts { most: options.front?, mistaken: options.mistaken, families })
    }

    /// The rise of the SFT loss on held-out demonstrations, nats per token.
    fn cost(&self, stage: &Stage) -> Option<f64> {
        let rise = |metric| Some(at(stage, metric, End::Last)? - at(stage, metric, End::Start)?);
        let of_chosen = rise("eval_sft_loss")?;
        Some(match self.mistaken {
            0.0 => of_chosen,
            share => (1.0 - share) * of_chosen + share * rise("eval_sft_loss/rejected")?,
        })
    }

    /// For every seed that all arms of a family have, the mean over costs from 0 to the most of the best that is had for no
    /// more. Where a stage begins is had for nothing.
    fn areas(&self, arms: &[&Arm<'_>], gain: &Gain) -> Vec<(Option<u64>, f64)> {
        let of_seed = |&(seed, first): &(Option<u64>, &Stage)| {
            let stages = arms.iter().map(|arm| arm.members.iter().find(|(other, _)| *other == seed));
            let points = stages.map(|member| {
                let stage = member?.1;
                Some((self.cost(stage)?, gain.1(stage, End::Last)?))
            });
            let points = points.collect::<Option<Vec<_>>>()?;
            Some((seed, mean_best(gain.1(first, End::Start)?, points, self.most)))
        };
        arms[0].members.iter().filter_map(of_seed).collect()
    }

    /// Two tables: the curves by the area below them, against the first; and every arm by what it cost and won.
    pub fn tables(&self) -> String {
        let gains: Vec<&Gain> =
            GAINS.iter().filter(|gain| !self.areas(&self.families[0].1, gain).is_empty()).collect();
        let areas: Vec<Vec<_>> = gains
            .iter()
            .map(|gain| self.families.iter().map(|(_, arms)| self.areas(arms, gain)).collect())
            .collect();
        let differences: Vec<Vec<Vec<f64>>> = areas
            .iter()
            .map(|of_gain: &Vec<Vec<_>>| of_gain.iter().map(|own| paired(own, &of_gain[0])).collect())
            .collect();
        // Holm's correction is over all claims of the table.
        let claims: Vec<(usize, usize, f64)> = (0..gains.len())
            .flat_map(|g| (1..self.families.len()).map(move |f| (g, f)))
            .filter_map(|(g, f)| Some((g, f, p_value(&differences[g][f])?)))
            .collect();
        let corrected = holm(&claims.iter().map(|claim| claim.2).collect::<Vec<_>>());
        let baseline = &self.families[0].0;
        let mut out = format!(
            "The best that is had for a rise of the held-out SFT loss of at most c, on average over c from 0 to {} nats per \
             token: the area below a front, to the reference point ({}, 0), divided by {}. Δ is against `{baseline}`, seed by \
             seed; p is corrected for {} claims (Holm).\n\n| arms | n |",
            self.most,
            self.most,
            self.most,
            claims.len()
        );
        out.extend(gains.iter().map(|gain| format!(" {} | Δ | p |", gain.0)));
        let _ = write!(out, "\n|---|---:|{}", "---:|---:|---:|".repeat(gains.len()));
        for (f, (name, arms)) in self.families.iter().enumerate() {
            let _ = write!(out, "\n| {name} | {} |", arms.len());
            for (g, gain) in gains.iter().enumerate() {
                let own: Vec<f64> = areas[g][f].iter().map(|(_, area)| *area).collect();
                let p = claims.iter().zip(&corrected).find(|((cg, cf, _), _)| (*cg, *cf) == (g, f));
                let p = p.map_or(
                    "-".into(),
                    |(_, p)| if *p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") },
                );
                let delta = if f == 0 { "-".into() } else { shown(&differences[g][f], gain, true) };
                let _ = write!(out, " {} | {delta} | {p} |", shown(&own, gain, false));
            }
        }
        out += "\n\n";
        out + &self.arms(&gains)
    }

    /// A table of all arms.
    fn arms(&self, gains: &[&Gain]) -> String {
        let budgets = self.families.iter().flat_map(|(_, arms)| arms).any(|arm| !kept(arm).is_empty());
        let mut out = "| arm | rise of G |".to_owned();
        out.extend(gains.iter().map(|gain| format!(" {} |", gain.0)));
        out += if budgets { " budget kept | of it used, % |" } else { "" };
        let _ = write!(out, "\n|---|{}", "---:|".repeat(1 + gains.len() + if budgets { 2 } else { 0 }));
        for arm in self.families.iter().flat_map(|(_, arms)| arms) {
            let stages = || arm.members.iter().map(|(_, stage)| *stage);
            let cost: Vec<f64> = stages().filter_map(|stage| self.cost(stage)).collect();
            let _ = write!(out, "\n| {} | {} |", arm.label, shown(&cost, &("", |_, _| None, 1.0, 3), false));
            for gain in gains {
                let values: Vec<f64> = stages().filter_map(|stage| gain.1(stage, End::Last)).collect();
                let _ = write!(out, " {} |", shown(&values, gain, false));
            }
            let kept = kept(arm);
            if kept.is_empty() {
                out += if budgets { "  |  |" } else { "" };
                continue;
            }
            let used: Vec<f64> = stages()
                .filter_map(|s| Some(at_end(s, "eval_budget/rise")? / at_end(s, "eval_budget/nats")?))
                .collect();
            let _ =
                write!(out, " {} of {} | {:.0} |", kept.iter().sum::<f64>(), kept.len(), 100.0 * mean(&used));
        }
        out += "\n";
        out + &self.all_kept()
    }

    /// How many budgets were kept. Those of one seed share its rows and its start, so the interval is over seeds.
    fn all_kept(&self) -> String {
        let mut of_seeds: BTreeMap<Option<u64>, Vec<f64>> = BTreeMap::new();
        for (seed, stage) in self.families.iter().flat_map(|(_, arms)| arms).flat_map(|arm| &arm.members) {
            if let Some(kept) = at_end(stage, "eval_budget/kept") {
                of_seeds.entry(*seed).or_default().push(kept);
            }
        }
        let all: Vec<f64> = of_seeds.values().flatten().copied().collect();
        let shares: Vec<f64> = of_seeds.values().map(|kept| mean(kept)).collect();
        let estimate = student(&shares).within(0.0, 1.0);
        let Some((low, high)) = estimate.interval.or_else(|| wilson(&shares).interval) else {
            return String::new();
        };
        format!(
            "\nBudgets kept: {} of {}, {:.1}% (95% over {} seeds: {:.1} to {:.1}%).\n",
            all.iter().sum::<f64>(),
            all.len(),
            100.0 * mean(&all),
            shares.len(),
            100.0 * low,
            100.0 * high
        )
    }

    /// The curves, by the means of their arms; arms that cost more than the most are not drawn.
    pub fn plots(&self) -> Vec<Plot> {
        let drawn = |gain: &Gain| {
            let (title, of, factor, _) = gain;
            let curve = |(colour, (label, arms)): (usize, &(String, Vec<&Arm<'_>>))| {
                let point = |arm: &&Arm<'_>| {
                    let known = |of: &dyn Fn(&Stage) -> Option<f64>| {
                        arm.members.iter().map(|(_, stage)| of(stage)).collect::<Option<Vec<f64>>>()
                    };
                    let at =
                        (mean(&known(&|s| self.cost(s))?), factor * mean(&known(&|s| of(s, End::Last))?));
                    (at.0 <= self.most).then_some(at)
                };
                let mut points: Vec<(f64, f64)> = arms.iter().filter_map(point).collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Series { label: label.clone(), colour, points, ..Series::default() }
            };
            let series: Vec<Series> = self.families.iter().enumerate().map(curve).collect();
            let series: Vec<Series> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
            (!series.is_empty()).then(|| Plot {
                name: format!("front-{}", title.split([',', ' ']).next().unwrap_or_default()),
                svg: lines(&Lines {
                    title: format!("What is won for what it costs: {title}"),
                    x: Some("rise of the held-out SFT loss, nats per token".into()),
                    y: (*title).into(),
                    series,
                    ..Lines::default()
                }),
                caption: "A curve joins arms that differ by one strength, by their means over seeds. Up and to the left is \
                          better. Arms beyond the cost that was asked for are left out.",
            })
        };
        GAINS.iter().filter_map(drawn).collect()
    }
}

/// An arm's name without its last number.
fn family(label: &str) -> String {
    let Some(last) = label.rfind(|c: char| c.is_ascii_digit()) else { return label.to_owned() };
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let (before, after) = (label[..=last].trim_end_matches(number), &label[last + 1..]);
    before.trim_end_matches(['-', '=', '_', ' ']).to_owned() + after
}

/// The mean over costs from 0 to `most` of the best among `start` and the points that cost no more.
fn mean_best(start: f64, mut points: Vec<(f64, f64)>, most: f64) -> f64 {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut best, mut from, mut area) = (start, 0.0, 0.0);
    for (cost, value) in points.into_iter().filter(|point| point.0 < most && point.1.is_finite()) {
        let cost = cost.max(0.0);
        area += (cost - from) * best;
        (from, best) = (cost, best.max(value));
    }
    (area + (most - from) * best) / most
}

/// Differences by seed.
fn paired(own: &[(Option<u64>, f64)], base: &[(Option<u64>, f64)]) -> Vec<f64> {
    own.iter()
        .filter_map(|(seed, area)| Some(area - base.iter().find(|(other, _)| other == seed)?.1))
        .collect()
}

fn at_end(stage: &Stage, metric: &str) -> Option<f64> {
    Some(stage.curves.get(metric)?.last()?.1)
}

/// Whether the budgets of an arm were kept, 1 or 0.
fn kept(arm: &Arm<'_>) -> Vec<f64> {
    arm.members.iter().filter_map(|(_, stage)| at_end(stage, "eval_budget/kept")).collect()
}

/// A mean with half of its interval.
fn shown(values: &[f64], (_, _, factor, decimals): &Gain, signed: bool) -> String {
    if values.is_empty() {
        return "-".into();
    }
    let scaled: Vec<f64> = values.iter().map(|x| factor * x).collect();
    let Estimate { mean, .. } = student(&scaled);
    let half = student(&scaled).half_width().map_or(String::new(), |half| format!(" ± {half:.decimals$}"));
    if signed { format!("{mean:+.decimals$}{half}") } else { format!("{mean:.decimals$}{half}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_are_of_one_family_if_their_last_number_is_all_that_differs() {
        let cases = [
            ("dpo-sum-0.03", "dpo-sum"),
            ("objective=dpo-beta=0.1,step=spo-budget=0.02", "objective=dpo-beta=0.1,step=spo-budget"),
            ("budget=0.02,single", "budget,single"),
            ("single", "single"),
        ];
        assert_eq!(cases.map(|(label, _)| family(label)), cases.map(|(_, name)| name.to_owned()));
    }

    #[test]
    fn an_area_is_the_mean_of_the_best_within_every_cost() {
        // 0.5 is had for nothing, 0.7 from a quarter of the way, 0.9 costs too much; 0.6 is beaten.
        let points = || vec![(0.5, 0.9), (0.1, 0.7), (0.3, 0.6)];
        assert!((mean_best(0.5, points(), 0.4) - (0.25 * 0.5 + 0.75 * 0.7)).abs() < 1e-15);
        // What costs less than nothing is had for nothing.
        assert!((mean_best(0.5, vec![(-1.0, 0.8)], 0.4) - 0.8).abs() < 1e-15);
        assert!((mean_best(0.5, vec![(0.1, f64::NAN)], 0.4) - 0.5).abs() < 1e-15);
        // To a worse reference everything is the same, so more points never make an area smaller.
        assert!(mean_best(0.5, points(), 0.6) > mean_best(0.5, points(), 0.4));
    }
}
