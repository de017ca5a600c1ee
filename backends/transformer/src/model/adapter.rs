//! Low-rank adapters: choosing the layers that have one, and those that are trained as a whole beside them.
//!
//! Which name is chosen by what is PEFT's rule in every point, so that a folder means the same to both.

mod saved;

use std::collections::BTreeMap;

use fancy_regex::Regex;
use spo_api::{Error, Lora, Result, Targets, nearest};

use crate::config::MlpShape;
use crate::decoder::{Decoder, Scaled};

pub(crate) use saved::{CONFIG, Saved, configuration, peft_name};

/// The layers that have an adapter, and with which rank and scale.
struct Choice<'l> {
    lora: &'l Lora,
    targets: Matcher<'l>,
    exclude: Option<Matcher<'l>>,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
    /// The names of the embedding table and the head.
    ends: [&'static str; 2],
}

/// Freezes the decoder, adds an adapter to every linear layer that is chosen, and trains `modules_to_save` as a whole.
/// If `strict`, whatever chooses nothing is an error.
pub(super) fn attach(decoder: &mut Decoder, lora: &Lora, strict: bool) -> Result<()> {
    let mut choice = Choice::new(decoder, lora)?;
    let mut names: Vec<String> = Vec::new();
    let mut failed = Ok(());
    decoder.adapt(|name| {
        names.push(name.to_owned());
        choice.of(name).unwrap_or_else(|e| {
            failed = Err(e);
            None
        })
    });
    failed?;
    if strict {
        choice.targets.check_used("targets", &names)?;
        choice.exclude.iter().try_for_each(|exclude| exclude.check_used("exclude", &names))?;
        choice.ranks.check_used("rank_pattern")?;
        choice.alphas.check_used("alpha_pattern")?;
        if let Some(index) = lora.layers.iter().find(|&&i| i >= decoder.architecture.layers.len()) {
            let blocks = decoder.architecture.layers.len();
            return Err(error(format!("`layers` names block {index}, and the model has {blocks}, from 0")));
        }
    }
    if decoder.adapted.is_empty() {
        return Err(error("no linear layer is left to adapt".into()));
    }
    if let Some((weight, _)) =
        decoder.adapted.iter().find(|(weight, _)| lora.dora && !decoder.is_linear(*weight))
    {
        let name = decoder.specs[*weight].name.trim_end_matches(".weight");
        return Err(error(format!(
            "`dora` is not for the embedding table and the head: leave {name} out of `targets`, or name it in `exclude`"
        )));
    }
    if lora.dora && decoder.adapted.iter().any(|(weight, _)| decoder.is_of_expert(*weight)) {
        let problem = "`dora` is not for experts, where PEFT has none: leave them out of `targets`, or name them in `exclude`";
        return Err(error(problem.into()));
    }
    if lora.dropout > 0.0 && decoder.adapted.iter().any(|(weight, _)| decoder.is_of_expert(*weight)) {
        let problem = "`dropout` is not for experts, where PEFT has none: leave them out of `targets`, or name them in `exclude`";
        return Err(error(problem.into()));
    }
    for module in &lora.modules_to_save {
        let saved =
            decoder.specs.iter_mut().filter(|spec| !spec.role.of_adapter() && is_part(&spec.name, module));
        if saved.map(|spec| spec.trained = true).count() == 0 {
            let modules = modules(decoder);
            return Err(error(format!(
                "no module's name ends in `{module}` (`modules_to_save`){}; there are {}",
                hint(module, modules.iter().map(String::as_str)),
                modules.join(", ")
            )));
        }
    }
    Ok(())
}

/// What the user should know about an adapter on a model in which only some blocks have experts.
pub(super) fn remark(decoder: &Decoder) -> Option<String> {
    let a = &decoder.architecture;
    let MlpShape::Gated { gate, up, down } = a.block.mlp else { return None };
    let ends = [gate, up, down].map(|name| format!(".{name}.weight"));
    let names = decoder.adapted.iter().map(|(weight, _)| &decoder.specs[*weight].name);
    let mut dense = names.filter(|name| a.experts.is_some() && ends.iter().any(|end| name.ends_with(end)));
    dense.next().map(|first| {
        format!(
            "adapter: PEFT takes it that every MLP of this model is experts, and leaves out the adapters of the others (of \
             {first}, to begin with) when it reads the adapter's folder; merged, the model has them"
        )
    })
}

/// Whether the embedding table or the head has an adapter, or is among `modules_to_save`. What is trained of one is not of the
/// other then, as in PEFT.
pub(super) fn unties(decoder: &Decoder, lora: &Lora) -> Result<bool> {
    let mut choice = Choice::new(decoder, lora)?;
    let named =
        |part: &str| lora.modules_to_save.iter().any(|module| is_part(&format!("{part}.weight"), module));
    for part in choice.ends {
        if decoder.architecture.tied && (named(part) || choice.of(part)?.is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The adapter with all its targets by their names, where "all-linear" is one of several: PEFT knows it alone.
pub(super) fn named(decoder: &mut Decoder, lora: &Lora) -> Lora {
    let mut lora = lora.clone();
    let Targets::Names(names) = &mut lora.targets else { return lora };
    if names.len() > 1 && names.iter().any(|name| name == Targets::ALL) {
        names.retain(|name| name != Targets::ALL);
        decoder.visit_linears(|linear| {
            let leaf = linear.rsplit('.').next().unwrap_or(linear);
            if !names.iter().any(|name| name == leaf) {
                names.push(leaf.to_owned());
            }
        });
    }
    lora
}

/// Whether a parameter belongs to a module whose name ends in `ending`.
fn is_part(parameter: &str, ending: &str) -> bool {
    parameter.match_indices('.').any(|(dot, _)| parameter[..dot].ends_with(ending))
}

/// The last parts of the names of the modules that have parameters.
fn modules(decoder: &Decoder) -> Vec<String> {
    let mut leaves: Vec<String> = Vec::new();
    for spec in decoder.specs.iter().filter(|spec| !spec.role.of_adapter()) {
        let leaf = spec.name.rsplit('.').nth(1).unwrap_or_default();
        if !leaves.iter().any(|known| known == leaf) {
            leaves.push(leaf.to_owned());
        }
    }
    leaves
}

impl<'l> Choice<'l> {
    fn new(decoder: &Decoder, lora: &'l Lora) -> Result<Self> {
        let ranks = [&lora.rank].into_iter().chain(lora.rank_pattern.values());
        let alphas = [&lora.alpha].into_iter().chain(lora.alpha_pattern.values());
        if ranks.clone().any(|rank| *rank == 0) {
            return Err(error("needs a rank of at least 1, got 0".into()));
        }
        if let Some(alpha) = alphas.clone().find(|alpha| !(**alpha > 0.0 && alpha.is_finite())) {
            return Err(error(format!("needs an alpha above 0, got {alpha}")));
        }
        if !(0.0..1.0).contains(&lora.dropout) {
            return Err(error(format!("needs a dropout from 0 to below 1, got {}", lora.dropout)));
        }
        if lora.dora && lora.dropout > 0.0 {
            let problem = "`dora` and `dropout` exclude each other: PEFT drops parts of the base's result too then, which is not \
                           implemented";
            return Err(error(problem.into()));
        }
        Ok(Choice {
            lora,
            targets: Matcher::new(&lora.targets)?,
            exclude: lora.exclude.as_ref().map(Matcher::new).transpose()?,
            ranks: Patterns::new(&lora.rank_pattern)?,
            alphas: Patterns::new(&lora.alpha_pattern)?,
            ends: [decoder.architecture.names.table, decoder.architecture.names.head],
        })
    }

    /// Rank and scale of the adapter of a layer; `None` if it has none.
    fn of(&mut self, name: &str) -> Result<Option<Scaled>> {
        let linear = !self.ends.contains(&name);
        let excluded = match &mut self.exclude {
            Some(exclude) => exclude.matches(name, linear)?,
            None => false,
        };
        let saved = self.lora.modules_to_save.iter().any(|module| is_part(&format!("{name}."), module));
        let wanted = self.targets.matches(name, linear)? && !excluded && !saved;
        let by_name = matches!(self.lora.targets, Targets::Names(_));
        if !wanted || (by_name && !self.lora.layers.is_empty() && !self.lora.layers.contains(&block(name))) {
            return Ok(None);
        }
        let rank = self.ranks.of(name)?.unwrap_or(self.lora.rank);
        let alpha = self.alphas.of(name)?.unwrap_or(self.lora.alpha);
        let divisor = if self.lora.rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Some(Scaled {
            rank,
            scale: alpha / divisor,
            magnitude: self.lora.dora,
            dropout: self.lora.dropout,
        }))
    }
}

/// The number of the block that a layer is in: the first number in its name.
fn block(name: &str) -> usize {
    name.split('.').find_map(|part| part.parse().ok()).unwrap_or(usize::MAX)
}

/// [`Targets`], and which of them have chosen something.
struct Matcher<'l> {
    targets: &'l Targets,
    regex: Option<Regex>,
    used: Vec<bool>,
}

impl<'l> Matcher<'l> {
    fn new(targets: &'l Targets) -> Result<Self> {
        let (regex, n) = match targets {
            Targets::Names(names) => (None, names.len()),
            Targets::Pattern(pattern) if pattern == Targets::ALL => (None, 1),
            Targets::Pattern(pattern) => (Some(regex(pattern, "")?), 1),
        };
        Ok(Matcher { targets, regex, used: vec![false; n] })
    }

    /// Whether a layer is chosen; `linear` says whether it belongs to "all-linear": the embedding table and the head do not.
    fn matches(&mut self, name: &str, linear: bool) -> Result<bool> {
        let called = |target: &String| is_called(name, target) || (linear && target == Targets::ALL);
        let found: Vec<bool> = match (self.targets, &self.regex) {
            (_, Some(regex)) => vec![is_match(regex, name)?],
            (Targets::Names(names), None) => names.iter().map(called).collect(),
            (Targets::Pattern(_), None) => vec![linear],
        };
        self.used.iter_mut().zip(&found).for_each(|(used, found)| *used |= found);
        Ok(found.contains(&true))
    }

    fn check_used(&self, key: &str, names: &[String]) -> Result<()> {
        let target = match (self.used.iter().position(|used| !used), self.targets) {
            (None, Targets::Names(names)) if names.is_empty() => {
                return Err(error(format!("`{key}` is empty")));
            }
            (None, _) => return Ok(()),
            (Some(i), Targets::Names(names)) => &names[i],
            (Some(_), Targets::Pattern(pattern)) => pattern,
        };
        let mut leaves: Vec<&str> = Vec::new();
        for leaf in names.iter().filter_map(|name| name.rsplit('.').next()) {
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
        let problem = match self.targets {
            Targets::Names(_) => "no linear layer is called",
            Targets::Pattern(_) => "the whole name of no linear layer matches",
        };
        let whole = match (self.targets, names.first()) {
            (Targets::Pattern(_), Some(name)) => format!(" (the first is {name})"),
            _ => String::new(),
        };
        Err(error(format!(
            "{problem} `{target}`{}; there are {}{whole}, or {}",
            hint(target, leaves.iter().copied()),
            leaves.join(", "),
            Targets::ALL
        )))
    }
}

/// Whether a layer has this name, or one that ends in a dot and it.
fn is_called(name: &str, target: &str) -> bool {
    name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// Values for layers whose name matches a pattern, and whether each was used.
struct Patterns<T>(Vec<(String, Regex, T, bool)>);

impl<T: Copy + PartialEq> Patterns<T> {
    fn new(patterns: &BTreeMap<String, T>) -> Result<Self> {
        let compiled =
            |(key, value): (&String, &T)| Ok((key.clone(), regex(key, "(?:.*\\.)?")?, *value, false));
        patterns.iter().map(compiled).collect::<Result<_>>().map(Patterns)
    }

    fn of(&mut self, name: &str) -> Result<Option<T>> {
        let mut found: Option<(&str, T)> = None;
        for (key, regex, value, used) in &mut self.0 {
            if !is_match(regex, name)? {
                continue;
            }
            *used = true;
            match found {
                Some((other, first)) if first != *value => {
                    return Err(error(format!("the patterns `{other}` and `{key}` disagree about {name}")));
                }
                _ => found = Some((key, *value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    fn check_used(&self, key: &str) -> Result<()> {
        match self.0.iter().find(|(.., used)| !used) {
            None => Ok(()),
            Some((pattern, ..)) => {
                Err(error(format!("`{key}`: `{pattern}` matches no layer that is adapted")))
            }
        }
    }
}

/// A pattern for the whole of a name, after whatever `before` matches.
fn regex(pattern: &str, before: &str) -> Result<Regex> {
    // Compiled alone first, so that an error counts from its beginning.
    Regex::new(pattern)
        .and_then(|_| Regex::new(&format!("\\A{before}(?:{pattern})\\z")))
        .map_err(|e| error(format!("`{pattern}` is not a regular expression: {e}")))
}

fn is_match(regex: &Regex, name: &str) -> Result<bool> {
    regex.is_match(name).map_err(|e| error(format!("`{}` takes too long on {name}: {e}", regex.as_str())))
}

fn hint<'n>(word: &str, known: impl Iterator<Item = &'n str>) -> String {
    nearest(word, known).map(|n| format!(" (nearest: {n})")).unwrap_or_default()
}

fn error(problem: String) -> Error {
    Error::Model(format!("adapter: {problem}"))
}
