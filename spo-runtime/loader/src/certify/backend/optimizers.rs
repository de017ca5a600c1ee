//! Optimizers on a backend: its kernels, and its vector operations, lead where the rule leads in f64.

use std::collections::BTreeSet;

use spo_api::{Kernel, Map, MemorySpace, Optimizer, Registry, Session, Update, Vector, VectorSpace};

use super::super::{Outcome, modes};
use super::saved::{flat, read, spared};
use super::{Subject, batch, weighted};

/// A linked optimizer in one of its modes, and the kernel to ask a session for.
pub(super) struct Rule {
    optimizer: Box<dyn Optimizer>,
    pub kernel: Kernel,
}

/// Every linked optimizer that may have a kernel, in every mode.
pub(super) fn rules() -> Result<Vec<Rule>, Outcome> {
    let registry = Registry::linked()?;
    let mut rules = Vec::new();
    for entry in registry.of_kind("optimizer") {
        for config in modes(entry) {
            let optimizer = entry.make::<dyn Optimizer>(&config).map_err(|e| e.to_string())?;
            rules.extend(optimizer.kernel().map(|kernel| Rule { optimizer, kernel }));
        }
    }
    Ok(rules)
}

impl Rule {
    /// The rule by which the kernel is measured. States in 8 bits follow the rule that they are an 8-bit form of, but for
    /// their rounding.
    fn exact(&self) -> Option<Box<dyn Optimizer>> {
        let Kernel { name, config } = &self.kernel;
        let name = match self.optimizer.needs_kernel() {
            true => name.strip_suffix("-8bit")?,
            false => name,
        };
        Registry::linked().ok()?.optimizer(name, config).ok()
    }

    /// How far its kernel may lead from there, relative to the greatest move.
    fn tolerance(&self) -> f64 {
        if self.optimizer.needs_kernel() { 0.2 } else { 1e-3 }
    }
}

/// Parameters of a large model.
const LARGE: usize = 1_000_000;

/// The updates: sizes of the gradient, and clipping that differs from one to the next, so that a rule which is blind to
/// a common factor shows it.
const UPDATES: [(f64, f64); 4] = [(1.0, 1.0), (-0.5, 0.125), (2.0, 0.5), (0.25, 1.0)];

fn updates() -> impl Iterator<Item = (f64, Update)> {
    let update = |(i, (size, gradient_scale)): (u64, (f64, f64))| {
        (size, Update { lr: 1e-2, gradient_scale, count: i })
    };
    (1..).zip(UPDATES).map(update)
}

/// The updates from a place along a direction, by the session's kernel or by its vector operations; where they lead.
fn trajectory(
    session: &mut dyn Session,
    rule: &Rule,
    fused: bool,
    [from, along]: [Vector; 2],
) -> Result<Vec<f64>, Outcome> {
    let taken = session.adopt_optimizer(fused.then_some(&rule.kernel))?;
    if taken != fused {
        let words = format!("asked for {} and then for none, it says {taken}", rule.kernel.name);
        return Err(words.into());
    }
    session.vectors().copy(from, Vector::PARAMETERS)?;
    let states = if fused { 0 } else { rule.optimizer.states() };
    let state = (0..states).map(|_| session.vectors().allocate()).collect::<spo_api::Result<Vec<_>>>()?;
    for (size, update) in updates() {
        session.vectors().copy(along, Vector::GRADIENT)?;
        session.vectors().scale(size, Vector::GRADIENT)?;
        match fused {
            true => session.optimize(&update)?,
            false => rule.optimizer.step(session.vectors(), &state, &update)?,
        }
    }
    state.into_iter().for_each(|v| session.vectors().release(v));
    Ok(flat(&read(session, Vector::PARAMETERS)?))
}

/// Where the rule leads in f64.
fn expected(rule: &dyn Optimizer, space: &MemorySpace) -> Result<Vec<f64>, Outcome> {
    let mut space = space.clone();
    let along = space.get(Vector::GRADIENT)?.clone();
    let state = (0..rule.states()).map(|_| space.allocate());
    let state = state.collect::<spo_api::Result<Vec<_>>>()?;
    for (size, update) in updates() {
        *space.get_mut(Vector::GRADIENT)? = along.iter().map(|g| size * g).collect();
        rule.step(&mut space, &state, &update)?;
    }
    Ok(space.get(Vector::PARAMETERS)?.clone())
}

/// A kernel is the rule whose name it has, and forgets when it is adopted anew; vector operations are the rule too.
pub(super) fn optimizers(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open_sharp()?;
    let [from, along] = [session.vectors().allocate()?, session.vectors().allocate()?];
    session.vectors().zero(Vector::GRADIENT)?;
    weighted(&mut *session, &batch())?;
    session.vectors().copy(Vector::GRADIENT, along)?;
    session.vectors().copy(Vector::PARAMETERS, from)?;
    // Biases begin at 0, where decay does nothing: away from there.
    let elementwise = session.vectors().map(Map::Add(0.5), from);
    let place = read(&mut *session, from)?;
    let space = {
        let mut space = MemorySpace::new(flat(&place)).sparing(spared(&place));
        *space.get_mut(Vector::GRADIENT)? = flat(&read(&mut *session, along)?);
        space
    };
    let start = space.get(Vector::PARAMETERS)?.clone();
    let (mut run, mut compared, mut refused) = (BTreeSet::new(), 0, 0);
    let mut rules = rules()?;
    if start.len() > LARGE {
        // Each comparison saves the model: of a large one, one mode of each rule will do.
        rules.dedup_by(|a, b| a.kernel.name == b.kernel.name);
    }
    for rule in rules {
        let Kernel { name, config } = &rule.kernel;
        let Ok(fused) = session.adopt_optimizer(Some(&rule.kernel)) else {
            refused += 1;
            continue;
        };
        let led = rule.exact().map(|exact| expected(&*exact, &space)).transpose()?;
        if fused {
            run.insert(name.clone());
            let once = trajectory(&mut *session, &rule, true, [from, along])?;
            if trajectory(&mut *session, &rule, true, [from, along])? != once {
                return Err(format!(
                    "{name} {config}, adopted anew, goes on otherwise: it does not forget what it did before"
                )
                .into());
            }
            if let Some(led) = &led {
                near(&place, &start, &once, led, rule.tolerance())
                    .map_err(|words| format!("its kernel for {name} {config}: {words}"))?;
                compared += 1;
            }
        }
        if let (true, true, Some(led)) = (elementwise.is_ok(), !rule.optimizer.needs_kernel(), &led) {
            let found = trajectory(&mut *session, &rule, false, [from, along])?;
            near(&place, &start, &found, led, 1e-3)
                .map_err(|words| format!("{name} {config} by its vector operations: {words}"))?;
        }
    }
    if run.is_empty() {
        return Ok(match elementwise {
            Ok(()) => "it has no kernels: vector operations move its parameters".into(),
            Err(e) => format!("it has no kernels, and no optimizer runs on it: {e}"),
        });
    }
    let run = run.into_iter().collect::<Vec<_>>().join(", ");
    Ok(format!("{run}: {compared} modes as the rule in f64, {refused} refused"))
}

/// Every parameter is where the rule leads, but for rounding. Biases and norms, which are few, are looked at apart.
fn near(
    place: &[super::saved::Tensor],
    start: &[f64],
    found: &[f64],
    led: &[f64],
    tolerance: f64,
) -> Result<(), String> {
    let greatest = |x: &mut dyn Iterator<Item = f64>| {
        x.fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most })
    };
    let moved = greatest(&mut led.iter().zip(start).map(|(to, from)| (to - from).abs()));
    let mut begin = 0;
    for tensor in place {
        let range = begin..begin + tensor.values.len();
        begin = range.end;
        let apart = greatest(&mut range.map(|i| ((found[i] - led[i]).abs() - 1e-6 * led[i].abs()).max(0.0)));
        if apart.is_nan() || apart > tolerance * moved {
            return Err(format!(
                "after {} updates {} is {apart:.1e} from where the rule leads, of a move of {moved:.1e}",
                UPDATES.len(),
                tensor.name
            ));
        }
    }
    Ok(())
}
