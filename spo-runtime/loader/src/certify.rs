//! Certification: a part, loaded or linked, is held to its contract, and what was found is told in words an
//! author can act on.

mod backend;
mod config;
mod fuse;
mod objective;
mod optimizer;
mod sample;
mod schedule;
mod step;

pub use config::modes;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use spo_api::{Build, Entry};

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The part keeps its contract; what was measured.
    Passed(String),
    /// It does not; what was expected, what came, and what may be done.
    Failed(String),
    /// It was not looked into; why.
    Skipped(String),
}

/// Something that happened during a certification, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A check began.
    Began {
        /// "objective `my-loss`".
        part: String,
        /// Name of the check.
        check: String,
    },
    /// It ended.
    Ended(Verdict),
}

/// What the author may say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The part's table in a recipe; its defaults unless given.
    pub config: Option<Value>,
    /// Checks to leave out.
    pub skip: Vec<String>,
    /// For backends: the Hugging Face folder to open, instead of a tiny model with random weights.
    pub model: Option<std::path::PathBuf>,
}

/// A check of a part: what was measured, or what is wrong.
type Check<'a> = (&'static str, Box<dyn FnOnce() -> Result<String, Outcome> + 'a>);

/// How a check ends that does not pass.
enum Outcome {
    Failed(String),
    Skipped(String),
}

impl From<String> for Outcome {
    fn from(words: String) -> Self {
        Outcome::Failed(words)
    }
}

impl From<spo_api::Error> for Outcome {
    fn from(error: spo_api::Error) -> Self {
        Outcome::Failed(error.to_string())
    }
}

/// Puts a part to the test, telling of each check when it begins and ends.
pub fn certify(entry: &'static Entry, options: &Options, tell: &mut dyn FnMut(Event)) {
    let schema = (entry.schema)();
    let usable = config::usable(entry, schema.as_value(), options.config.as_ref());
    let config = usable.as_ref().ok().cloned().unwrap_or_default();
    let mut checks: Vec<Check<'_>> = vec![
        ("entry", Box::new(|| config::entry(entry, schema.as_value()))),
        ("configuration", Box::new(|| config::refusals(entry, schema.as_value(), usable))),
    ];
    match entry.build {
        Build::Objective(build) => checks.extend(objective::checks(build, config)),
        Build::Step(build) => checks.extend(step::checks(build, config)),
        Build::Optimizer(build) => checks.extend(optimizer::checks(build, config)),
        Build::Schedule(build) => checks.extend(schedule::checks(build, config)),
        Build::Backend(build) => checks.extend(backend::checks(build, config, options.model.clone())),
    }
    for (name, check) in checks {
        tell(Event::Began {
            part: format!("{} `{}`", entry.build.kind(), entry.name),
            check: name.to_owned(),
        });
        let verdict = if options.skip.iter().any(|skipped| skipped == name) {
            Verdict::Skipped("left out on demand".into())
        } else {
            match check() {
                Ok(words) => Verdict::Passed(words),
                Err(Outcome::Failed(words)) => Verdict::Failed(words),
                Err(Outcome::Skipped(words)) => Verdict::Skipped(words),
            }
        };
        let fatal = name == "configuration" && matches!(verdict, Verdict::Failed(_));
        tell(Event::Ended(verdict));
        if fatal {
            // Without a configuration there is nothing to put to the test.
            return;
        }
    }
}
