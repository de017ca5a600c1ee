//! What is compared: stages. Those of runs that differ only by their seed form one arm.

use serde_json::Value;

use crate::Error;
use crate::figures::Figure;
use crate::load::{Run, Stage};
use crate::stats::{Estimate, bootstrap, student, wilson};

/// A stage of one run, or of several runs that differ only by their seed.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    /// Its name in the report.
    pub label: String,
    /// The stage in each run, with the run's seed.
    pub members: Vec<(Option<u64>, &'a Stage)>,
}

/// The population that an arm's intervals cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Seeds: the whole training was repeated.
    Seeds,
    /// Held-out rows of one run.
    Rows,
}

impl<'a> Arm<'a> {
    /// The stage of its first run, which represents the others in charts.
    pub fn first(&self) -> &'a Stage {
        self.members[0].1
    }

    /// The population that its intervals cover.
    pub fn over(&self) -> Over {
        if self.members.len() > 1 { Over::Seeds } else { Over::Rows }
    }

    /// A figure's mean, with an interval over seeds or over held-out rows.
    pub fn estimate(&self, figure: &Figure) -> Option<Estimate> {
        let known = |stage: &Stage| Some(figure.rows(stage)?.into_iter().flatten().collect::<Vec<f64>>());
        match self.over() {
            Over::Rows if figure.share => Some(wilson(&known(self.first())?)),
            Over::Rows => Some(bootstrap(&known(self.first())?)),
            Over::Seeds => {
                let means =
                    self.members.iter().filter_map(|(_, stage)| Some(crate::stats::mean(&known(stage)?)));
                let means: Vec<f64> = means.collect();
                (!means.is_empty()).then(|| within(student(&means), figure, 0.0))
            }
        }
    }

    /// The mean difference to another arm: paired by seed, or row by row where both arms are single runs on the same
    /// held-out rows. `None` if nothing can be paired.
    pub fn difference(&self, baseline: &Arm<'_>, figure: &Figure) -> Option<Estimate> {
        let rows_of_both = |mine: &Stage, theirs: &Stage| -> Option<Vec<f64>> {
            let same = mine.after.as_ref()?.data == theirs.after.as_ref()?.data;
            let (mine, theirs) = (figure.rows(mine)?, figure.rows(theirs)?);
            let pairs = mine.into_iter().zip(theirs).filter(|_| same);
            Some(pairs.filter_map(|(a, b)| Some(a? - b?)).collect())
                .filter(|rows: &Vec<f64>| !rows.is_empty())
        };
        if self.over() == Over::Rows && baseline.over() == Over::Rows {
            return Some(bootstrap(&rows_of_both(self.first(), baseline.first())?));
        }
        let of_seeds = self.members.iter().filter_map(|(seed, stage)| {
            let (_, other) = baseline.members.iter().find(|(s, _)| s == seed && s.is_some())?;
            Some(crate::stats::mean(&rows_of_both(stage, other)?))
        });
        let of_seeds: Vec<f64> = of_seeds.collect();
        (!of_seeds.is_empty()).then(|| within(student(&of_seeds), figure, -1.0))
    }
}

/// The interval of a share (or of a difference of two) cut to the values that are possible.
fn within(estimate: Estimate, figure: &Figure, least: f64) -> Estimate {
    let cut = |(low, high): (f64, f64)| (low.max(least), high.min(1.0));
    Estimate { interval: estimate.interval.map(|i| if figure.share { cut(i) } else { i }), ..estimate }
}

/// The arms of these runs: the stages that learn preferences (all stages if none does), or those of the given name.
///
/// # Errors
/// [`Error::Input`] when no stage has that name.
pub fn arms<'a>(runs: &'a [Run], stage: Option<&str>) -> Result<Vec<Arm<'a>>, Error> {
    let all = || runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)));
    let any_prefers = all().any(|(_, stage)| stage.prefers());
    let wanted = |candidate: &Stage| match stage {
        Some(name) => candidate.name == name,
        None => candidate.prefers() || !any_prefers,
    };
    let compared: Vec<(&Run, &Stage)> = all().filter(|(_, stage)| wanted(stage)).collect();
    if let (Some(name), true) = (stage, compared.is_empty()) {
        let names: Vec<&str> = all().map(|(_, stage)| stage.name.as_str()).collect();
        let hint = spo_api::nearest(name, names.iter().copied());
        let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        return Err(Error::Input(format!("no stage is called `{name}` in these runs{hint}")));
    }
    let mut groups: Vec<(Value, Vec<(&Run, &Stage)>)> = Vec::new();
    for (run, stage) in compared {
        let key = match &run.recipe {
            Value::Null => Value::from(run.label.clone()),
            recipe => without_identity(recipe),
        };
        let fits = |group: &&mut (Value, Vec<(&Run, &Stage)>)| {
            group.0 == key
                && group.1[0].1.name == stage.name
                && group.1.iter().all(|(other, _)| other.seed != run.seed)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.1.push((run, stage)),
            None => groups.push((key, vec![(run, stage)])),
        }
    }
    let arms = groups.iter().map(|(_, members)| Arm {
        label: label(members, runs, groups.iter().filter(|g| shares_run(&g.1, members)).count()),
        members: members.iter().map(|(run, stage)| (run.seed, *stage)).collect(),
    });
    Ok(arms.collect())
}

/// A recipe without the keys that differ between repetitions, or do not affect results.
fn without_identity(recipe: &Value) -> Value {
    let mut recipe = recipe.clone();
    for (table, keys) in [
        ("run", &["seed", "name", "output", "overwrite", "resume"][..]),
        ("", &["checkpoint", "cache", "sweep"]),
    ] {
        let table = if table.is_empty() { Some(&mut recipe) } else { recipe.get_mut(table) };
        if let Some(table) = table.and_then(Value::as_object_mut) {
            keys.iter().for_each(|key| drop(table.remove(*key)));
        }
    }
    recipe
}

fn shares_run(group: &[(&Run, &Stage)], other: &[(&Run, &Stage)]) -> bool {
    group.iter().any(|(run, _)| other.iter().any(|(theirs, _)| std::ptr::eq(*run, *theirs)))
}

/// The shortest name that is unique among the arms. `of_run`: the number of arms from the same run.
fn label(members: &[(&Run, &Stage)], runs: &[Run], of_run: usize) -> String {
    let stage = &members[0].1.name;
    let names: Vec<&str> = members.iter().map(|(run, _)| run.label.as_str()).collect();
    let name = shared_name(&names);
    match (members.len() == runs.len(), of_run) {
        (true, _) => stage.clone(),
        (false, 1) => name.to_owned(),
        (false, _) => format!("{name} / {stage}"),
    }
}

/// The common name of runs that differ only by their seed: the common beginning of their names, without the word
/// for the seed. `dpo-seed=10` and `dpo-seed=11` become `dpo`.
fn shared_name<'a>(names: &[&'a str]) -> &'a str {
    let first = names[0];
    let shared = |other: &str| {
        let same = first.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
        same.last().map_or(0, |((i, a), _)| i + a.len_utf8())
    };
    let end = names.iter().map(|name| shared(name)).min().unwrap_or(0);
    if end == first.len() {
        return first;
    }
    // A common beginning must not end in the middle of a number.
    let whole = match first[end..].starts_with(|c: char| c.is_ascii_digit()) {
        true => first[..end].trim_end_matches(|c: char| c.is_ascii_digit()),
        false => &first[..end],
    };
    let separators = ['-', '_', '.', ',', '=', '/', ' '];
    let stem = whole.trim_end_matches(separators);
    let without = ["seed", "s"].iter().find_map(|word| stem.strip_suffix(word));
    let stem = without.filter(|rest| rest.ends_with(separators)).unwrap_or(stem).trim_end_matches(separators);
    if stem.is_empty() { first } else { stem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_called_by_what_they_share() {
        let cases: [(&[&str], &str); 7] = [
            (&["dpo"], "dpo"),
            (&["dpo-0", "dpo-1"], "dpo"),
            (&["dpo-seed=10", "dpo-seed=11"], "dpo"),
            (&["beta=0.1,s1", "beta=0.1,s2"], "beta=0.1"),
            (&["losses-1", "losses-2"], "losses"),
            (&["gpus0", "gpus1"], "gpus"),
            (&["a", "b"], "a"),
        ];
        for (names, expected) in cases {
            assert_eq!(shared_name(names), expected, "{names:?}");
        }
    }
}
