//! Options shared by several commands.

use crate::reporter::{Reporter, Voice};

#[derive(clap::Args)]
pub(crate) struct PluginArguments {
    /// A plugin to load: a path, or a name to look for in the search path. May be repeated.
    #[arg(long = "plugin", value_name = "LIBRARY", global = true)]
    pub(crate) load: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct OverrideArguments {
    /// Override a key of the recipe: `--set stage.align.objective.beta=0.2`.
    #[arg(long, value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct MemoryArguments {
    /// Go on even if the forecast says that the memory of this machine is not enough.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(clap::Args)]
pub(crate) struct TrustArguments {
    /// Load the libraries that the run's folder names, though you have made no run with them yourself. Loading a
    /// library runs its code.
    #[arg(long)]
    pub(crate) trust_plugins: bool,
}

#[derive(clap::Args)]
pub(crate) struct SpeechArguments {
    /// Speak JSON, one object a line.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Say nothing but errors.
    #[arg(long)]
    quiet: bool,
}

impl SpeechArguments {
    pub(crate) fn reporter(&self) -> Reporter {
        Reporter::new(match (self.json, self.quiet) {
            (true, _) => Voice::Json,
            (_, true) => Voice::Quiet,
            _ => Voice::Human,
        })
    }
}
