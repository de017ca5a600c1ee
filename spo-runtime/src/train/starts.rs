//! Parameters that later stages start from or use as their reference.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use spo_api::{Result, Session, Vector};

use crate::recipe::{Recipe, Reference, Stage};

/// The name of the model as opened.
pub(crate) const MODEL: &str = "model";

/// Which earlier parameters a stage uses.
pub(crate) struct Uses {
    name: String,
    from: String,
    opened: bool,
}

impl Uses {
    /// The uses of all stages of a recipe.
    pub(crate) fn of(recipe: &Recipe) -> Vec<Uses> {
        let uses = |(i, stage): (usize, &Stage)| Uses {
            name: stage.name.clone(),
            from: recipe.from(i).to_owned(),
            opened: stage.reference == Reference::Model,
        };
        recipe.stage.iter().enumerate().map(uses).collect()
    }
}

/// Copies of parameters, by the name of the stage that produced them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Starts {
    /// Handles of session vectors.
    kept: BTreeMap<String, u32>,
    /// The stage (or `model`) that produced the current parameters.
    current: String,
}

/// The names whose parameters must be kept when stage `next` begins, for it or for later stages. The session
/// currently has the parameters of `current`.
pub(crate) fn wanted(uses: &[Uses], next: usize, current: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, stage) in uses.iter().enumerate().skip(next) {
        if stage.opened {
            names.insert(MODEL.to_owned());
        }
        if i > next || stage.from != current {
            names.insert(stage.from.clone());
        }
    }
    names.retain(|name| name == MODEL || uses[..next].iter().any(|made| made.name == *name));
    names
}

impl Starts {
    /// The state before the first stage.
    pub(crate) fn new(session: &mut dyn Session, uses: &[Uses]) -> Result<Self> {
        let mut starts = Starts { kept: BTreeMap::new(), current: MODEL.into() };
        starts.settle(session, uses, 0)?;
        Ok(starts)
    }

    /// Copies the current parameters if they will be needed, and releases copies that no longer are.
    fn settle(&mut self, session: &mut dyn Session, uses: &[Uses], next: usize) -> Result<()> {
        let wanted = wanted(uses, next, &self.current);
        if wanted.contains(&self.current) && !self.kept.contains_key(&self.current) {
            let copy = session.vectors().allocate()?;
            session.vectors().copy(Vector::PARAMETERS, copy)?;
            self.kept.insert(self.current.clone(), copy.0);
        }
        self.kept.retain(|name, handle| {
            let stays = wanted.contains(name);
            if !stays {
                session.vectors().release(Vector(*handle));
            }
            stays
        });
        Ok(())
    }

    /// Loads the parameters that a stage starts from.
    pub(crate) fn enter(&mut self, session: &mut dyn Session, uses: &[Uses], stage: usize) -> Result<()> {
        let from = &uses[stage].from;
        if *from != self.current {
            session.vectors().copy(Vector(self.kept[from]), Vector::PARAMETERS)?;
            self.current = from.clone();
        }
        self.settle(session, uses, stage)
    }

    /// Records that a stage has finished and updates the copies.
    pub(crate) fn leave(&mut self, session: &mut dyn Session, uses: &[Uses], stage: usize) -> Result<()> {
        self.current = uses[stage].name.clone();
        self.settle(session, uses, stage + 1)
    }

    /// The parameters of the model as opened, if a stage needs them.
    pub(crate) fn opened(&self) -> Option<Vector> {
        self.kept.get(MODEL).map(|&handle| Vector(handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(stages: &[(&str, &str, bool)]) -> Vec<Uses> {
        stages
            .iter()
            .map(|&(name, from, opened)| Uses { name: name.into(), from: from.into(), opened })
            .collect()
    }

    #[test]
    fn only_what_a_later_stage_asks_for_is_wanted() {
        let names = |uses: &[Uses], next: usize, current: &str| -> Vec<String> {
            wanted(uses, next, current).into_iter().collect()
        };
        let chain = uses(&[("sft", "model", false), ("dpo", "sft", false)]);
        assert!(names(&chain, 0, "model").is_empty() && names(&chain, 1, "sft").is_empty());
        let branches = uses(&[("sft", "model", false), ("dpo", "sft", false), ("spo", "sft", true)]);
        assert_eq!(names(&branches, 0, "model"), ["model"]);
        assert_eq!(names(&branches, 1, "sft"), ["model", "sft"]);
        assert_eq!(names(&branches, 2, "dpo"), ["model", "sft"]);
        assert!(names(&branches, 3, "spo").is_empty());
    }
}
