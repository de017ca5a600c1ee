//! The context in which a stage trains.

use spo_api::{Session, Vector};

use crate::plan::Plan;
use crate::plan::provenance::Provenance;
use crate::plan::stage::PlannedStage;
use crate::recipe::{External, Reference};
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::Cache;
use crate::store::logs::Logs;
use crate::store::output::Output;
use crate::train::keeper::{Keeper, Known};
use crate::train::starts::MODEL;

pub(crate) struct Training<'a> {
    pub(crate) plan: &'a mut Plan,
    pub(crate) stage: &'a mut PlannedStage,
    /// The parameters of the model as opened, if they are the reference.
    pub(crate) opened: Option<Vector>,
    /// The reference, if it is another model, while its log-probs are computed.
    pub(crate) other: Option<Box<dyn Session>>,
    pub(crate) known: &'a mut Known,
    pub(crate) logs: &'a mut Logs,
    pub(crate) reporter: &'a mut Reporter,
    pub(crate) keeper: &'a mut Keeper,
    pub(crate) output: &'a Output,
    pub(crate) cache: &'a Cache,
    pub(crate) provenance: Option<&'a Provenance>,
    pub(crate) stop: &'a Stop,
}

impl Training<'_> {
    /// The reference, if it is another model than the one that is trained.
    pub(super) fn external(&self) -> Option<&External> {
        match &self.stage.recipe.reference {
            Reference::External(external) => Some(external),
            _ => None,
        }
    }

    /// What the reference is: the name of a stage, `model`, or the description of another model.
    pub(super) fn reference_by(&self) -> String {
        match self.external() {
            Some(external) => format!("{external:?}"),
            None if self.opened.is_some() => MODEL.to_owned(),
            None => self.stage.from.clone(),
        }
    }
}
