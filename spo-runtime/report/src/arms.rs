//! What is compared: stages. Those of runs that differ only by their seed form one arm.

use serde_json::Value;

use crate::Error;
use crate::figures::Figure;
use crate::load::{self, Cell, Run, Stage};
use crate::stats::{Estimate, bootstrap, crossed, mean, student, wilson};

/// A stage of one run, or of several runs that differ only by their seed.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    /// Its name in the report.
    pub label: String,
    /// The stage in each run, with the run's seed.
    pub members: Vec<(Option<u64>, &'a Stage)>,
    /// Whether the recipe of its sweep makes it the arm that the others are compared with.
    pub baseline: bool,
}

/// The population that an arm's intervals cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Seeds: the whole training was repeated. If all seeds were measured on the same held-out rows, other rows too.
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
        let seeds: Vec<Rows> =
            self.members.iter().filter_map(|(_, s)| Rows::of(s, figure.rows(s)?)).collect();
        (!seeds.is_empty()).then(|| match figure.share {
            true => over(&seeds, wilson).within(0.0, 1.0),
            false => over(&seeds, bootstrap),
        })
    }

    /// The mean difference to another arm: paired by seed, and row by row on the held-out rows. `None` if nothing can be
    /// paired.
    pub fn difference(&self, baseline: &Arm<'_>, figure: &Figure) -> Option<Estimate> {
        let alone = self.over() == Over::Rows && baseline.over() == Over::Rows;
        let of_seed = |(seed, mine): &(Option<u64>, &Stage)| {
            let same_seed = |(other, _): &&(Option<u64>, &Stage)| alone || (other == seed && seed.is_some());
            let (_, theirs) = baseline.members.iter().find(same_seed)?;
            let same_rows = mine.after.as_ref()?.data == theirs.after.as_ref()?.data;
            let pairs = figure.rows(mine)?.into_iter().zip(figure.rows(theirs)?).filter(|_| same_rows);
            Rows::of(mine, pairs.map(|(a, b)| Some(a? - b?)).collect())
        };
        let seeds: Vec<Rows> = self.members.iter().filter_map(of_seed).collect();
        (!seeds.is_empty()).then(|| match figure.share {
            true => over(&seeds, bootstrap).within(-1.0, 1.0),
            false => over(&seeds, bootstrap),
        })
    }
}

/// A value on each held-out row of a seed.
struct Rows {
    /// Hash of the rows.
    data: String,
    values: Vec<Option<f64>>,
}

impl Rows {
    /// `None` if no row has a value.
    fn of(stage: &Stage, values: Vec<Option<f64>>) -> Option<Self> {
        let data = stage.after.as_ref()?.data.clone();
        values.iter().any(Option::is_some).then_some(Rows { data, values })
    }

    fn known(&self) -> Vec<f64> {
        self.values.iter().copied().flatten().collect()
    }
}

/// The mean over seeds with its interval. `of_rows` gives the interval of a single seed.
fn over(seeds: &[Rows], of_rows: fn(&[f64]) -> Estimate) -> Estimate {
    if let [alone] = seeds {
        return of_rows(&alone.known());
    }
    let means: Vec<f64> = seeds.iter().map(|seed| mean(&seed.known())).collect();
    let same_rows = seeds.iter().all(|seed| seed.data == seeds[0].data);
    let estimate = if same_rows {
        let known_by_all =
            |row: &usize| seeds.iter().all(|s| s.values.get(*row).is_some_and(Option::is_some));
        let common: Vec<usize> = (0..seeds[0].values.len()).filter(known_by_all).collect();
        let of_seed = |seed: &Rows| common.iter().filter_map(|row| seed.values[*row]).collect();
        crossed(&seeds.iter().map(of_seed).collect::<Vec<Vec<f64>>>())
    } else {
        // The means of seeds that have rows of their own differ by the rows' noise too.
        student(&means)
    };
    // Seeds that agree to the digit show nothing of how much they differ: the rows remain.
    let rows = || match same_rows {
        true => of_rows(&seeds[0].known()),
        false => of_rows(&seeds.iter().flat_map(Rows::known).collect::<Vec<f64>>()),
    };
    let interval = estimate.interval.or_else(|| rows().interval);
    Estimate { mean: mean(&means), interval, count: seeds.len() }
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
            recipe => load::without_identity(recipe),
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
        baseline: members.iter().all(|(run, _)| run.cell.as_ref().is_some_and(Cell::is_baseline)),
    });
    Ok(arms.collect())
}

fn shares_run(group: &[(&Run, &Stage)], other: &[(&Run, &Stage)]) -> bool {
    group.iter().any(|(run, _)| other.iter().any(|(theirs, _)| std::ptr::eq(*run, *theirs)))
}

/// The shortest name that is unique among the arms. `of_run`: the number of arms from the same run.
fn label<'a>(members: &[(&'a Run, &Stage)], runs: &[Run], of_run: usize) -> String {
    let stage = &members[0].1.name;
    let names: Vec<&str> = members.iter().map(|(run, _)| run.label.as_str()).collect();
    // Cells of a sweep are called by its arms, if they are of one.
    let cell = |run: &'a Run| run.cell.as_ref().map(|cell| cell.arm.as_str());
    let of_sweep = cell(members[0].0).filter(|arm| members.iter().all(|(run, _)| cell(run) == Some(*arm)));
    let name = of_sweep.filter(|_| members.len() > 1).unwrap_or_else(|| shared_name(&names));
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
