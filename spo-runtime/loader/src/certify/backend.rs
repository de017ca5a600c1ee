//! What a backend owes, on a tiny model: log-probs that are log-probs, the gradient of their sum, vectors that
//! obey algebra, a state that can be restored.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use spo_api::{
    Backend, Combine, Constructor, Error, Export, Group, Kernel, LogProbs, Map, ModelSource, ModelSpec,
    Optimizer, Registry, Sampling, Session, Statistics, Tangent, TokenBatch, Update, Vector, VectorSpace,
};

use super::{Check, Outcome, modes};

#[derive(Clone)]
struct Subject {
    build: Constructor<dyn Backend>,
    config: Value,
    model: Option<PathBuf>,
}

impl Subject {
    fn open(&self) -> Result<Box<dyn Session>, Outcome> {
        let backend = (self.build)(&self.config).map_err(|e| e.to_string())?;
        let open = |source| {
            let spec =
                ModelSpec { source, adapter: None, seed: 1, device: "auto".into(), dtype: "f32".into() };
            backend.open(&spec)
        };
        if let Some(folder) = &self.model {
            let opened = open(ModelSource::Folder(folder.clone()));
            return opened.map_err(|e| format!("it cannot open {}: {e}", folder.display()).into());
        }
        let mut refusals = Vec::new();
        for config in tiny_models() {
            match open(ModelSource::Random(config)) {
                Ok(session) => return Ok(session),
                Err(e) => refusals.push(e.to_string()),
            }
        }
        let refusals = refusals.join("; ");
        Err(format!("it cannot open a tiny model of any kind known here, name one with --model: {refusals}")
            .into())
    }
}

/// Configurations of models small enough to be put to the test in no time; a backend need only know one.
fn tiny_models() -> [Value; 2] {
    [
        json!({
            "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        }),
        json!({
            "model_type": "tabular", "kind": "mlp", "order": 3, "embedding_size": 4, "hidden_size": 8,
            "vocab_size": 32, "max_position_embeddings": 64,
        }),
    ]
}

pub(super) fn checks<'a>(
    build: Constructor<dyn Backend>,
    config: Value,
    model: Option<PathBuf>,
) -> Vec<Check<'a>> {
    let subject = Subject { build, config, model };
    type Body = fn(&Subject) -> Result<String, Outcome>;
    let all: [(&'static str, Body); 9] = [
        ("log-probs", log_probs),
        ("gradient", gradient),
        ("hessian", hessian),
        ("bad batches", bad_batches),
        ("vectors", vectors),
        ("elementwise", elementwise),
        ("optimizers", optimizers),
        ("state", state),
        ("generate and save", generate_and_save),
    ];
    let bind = |(name, body): (&'static str, Body)| -> Check<'a> {
        let subject = subject.clone();
        (name, Box::new(move || body(&subject)))
    };
    all.into_iter().map(bind).collect()
}

fn batch() -> TokenBatch {
    let group = |prompt: &[u32], completions: &[&[u32]]| Group {
        prompt: prompt.to_vec(),
        completions: completions.iter().map(|c| c.to_vec()).collect(),
    };
    TokenBatch { groups: vec![group(&[1, 2, 3], &[&[4, 5], &[6, 7, 8]]), group(&[9], &[&[10, 11, 12, 13]])] }
}

const ALL: Statistics = Statistics { entropy: true, collision: true, greedy: true };

/// They are log-probs, the same every time, and a completion's do not depend on its neighbours.
fn log_probs(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let (batch, info) = (batch(), session.info());
    if info.trainable != session.vectors().dimension() {
        let words = format!(
            "{} trainable parameters, but vectors of {}",
            info.trainable,
            session.vectors().dimension()
        );
        return Err(words.into());
    }
    let seen = session.log_probs(&batch, ALL)?;
    let tokens = batch.completions().map(Vec::len).sum::<usize>();
    for (name, values) in [
        ("values", &seen.values),
        ("entropy", &seen.entropy),
        ("collision", &seen.collision),
        ("greedy", &seen.greedy),
    ] {
        if values.len() != tokens || values.iter().any(|x| !x.is_finite()) {
            return Err(format!("{name}: expected {tokens} finite numbers, got {values:?}").into());
        }
    }
    if let Some(x) = seen.values.iter().find(|x| **x > 1e-6) {
        return Err(format!("{x} is no log-prob: it is greater than 0").into());
    }
    if session.log_probs(&batch, ALL)? != seen {
        return Err("asked twice, it answers differently".to_owned().into());
    }
    let mut alone = Vec::new();
    for group in &batch.groups {
        for completion in &group.completions {
            let single = Group { prompt: group.prompt.clone(), completions: vec![completion.clone()] };
            let single = TokenBatch { groups: vec![single] };
            alone.extend(session.log_probs(&single, Statistics::default())?.values);
        }
    }
    let apart = alone.iter().zip(&seen.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if apart > 1e-3 {
        return Err(format!("a completion scored alone differs by {apart:.1e} nats from among others").into());
    }
    Ok(format!(
        "{} parameters, {} trained; {tokens} tokens; alone and together {apart:.1e} apart",
        info.parameters, info.trainable
    ))
}

/// A weighted sum of all log-probs, with its gradient added to vector 1.
fn weighted(session: &mut dyn Session, batch: &TokenBatch) -> Result<f64, Outcome> {
    let seen = session.backward(batch, Statistics::default(), &mut |seen| Ok(weights(seen)))?;
    Ok(seen.values.iter().zip(weights(&seen)).map(|(s, w)| s * w).sum())
}

fn weights(seen: &LogProbs) -> Vec<f64> {
    (0..seen.values.len()).map(|i| 1.0 + 0.1 * i as f64).collect()
}

/// Along its own gradient, the sum grows as the gradient says; and backward adds to what is there.
fn gradient(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let batch = batch();
    session.vectors().zero(Vector::GRADIENT)?;
    weighted(&mut *session, &batch)?;
    let (direction, origin) = (session.vectors().allocate()?, session.vectors().allocate()?);
    session.vectors().copy(Vector::GRADIENT, direction)?;
    session.vectors().copy(Vector::PARAMETERS, origin)?;
    let norm = session.vectors().norm(direction)?;
    weighted(&mut *session, &batch)?;
    session.vectors().axpy(-2.0, direction, Vector::GRADIENT)?;
    let left = session.vectors().norm(Vector::GRADIENT)?;
    if left > 1e-4 * norm {
        return Err(format!(
            "a second backward must add the same gradient: {left:.2e} of {norm:.2e} is left over"
        )
        .into());
    }
    let step = 3e-3 / norm;
    let mut ends = [0.0; 2];
    for (end, sign) in ends.iter_mut().zip([1.0, -1.0]) {
        session.vectors().copy(origin, Vector::PARAMETERS)?;
        session.vectors().axpy(sign * step, direction, Vector::PARAMETERS)?;
        *end = weighted(&mut *session, &batch)?;
    }
    let slope = (ends[0] - ends[1]) / (2.0 * step);
    if (slope - norm * norm).abs() > 0.02 * norm * norm {
        return Err(format!(
            "along its gradient the sum grows by {slope:.6} a unit, the gradient says {:.6}",
            norm * norm
        )
        .into());
    }
    Ok(format!("agrees with central differences to {:.1e}", (slope / (norm * norm) - 1.0).abs()))
}

/// Where it has Hessian-vector products: that of the gradient with itself is how the gradient changes along it, and
/// the derivatives beside it are those of the log-probs.
fn hessian(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    if !session.info().hessian_vectors {
        return Ok("it has no exact Hessian-vector products, and says so".into());
    }
    let batch = batch();
    let [v, product, origin] =
        [session.vectors().allocate()?, session.vectors().allocate()?, session.vectors().allocate()?];
    session.vectors().zero(Vector::GRADIENT)?;
    weighted(&mut *session, &batch)?;
    session.vectors().copy(Vector::GRADIENT, v)?;
    session.vectors().copy(Vector::PARAMETERS, origin)?;
    let upstream = |seen: &LogProbs| Ok(weights(seen));
    let Tangent { log_probs, derivatives } = session.hessian_vector(&batch, &mut { upstream }, v, product)?;
    if derivatives.len() != log_probs.values.len() {
        let words = format!("{} derivatives for {} log-probs", derivatives.len(), log_probs.values.len());
        return Err(words.into());
    }
    let length = session.vectors().norm(product)?;
    let step = 1e-2 / session.vectors().norm(v)?;
    let mut slopes = vec![0.0; derivatives.len()];
    for side in [1.0, -1.0] {
        session.vectors().copy(origin, Vector::PARAMETERS)?;
        session.vectors().axpy(side * step, v, Vector::PARAMETERS)?;
        session.vectors().zero(Vector::GRADIENT)?;
        let seen = session.backward(&batch, Statistics::default(), &mut { upstream })?;
        session.vectors().axpy(-side / (2.0 * step), Vector::GRADIENT, product)?;
        slopes.iter_mut().zip(seen.values).for_each(|(slope, l)| *slope += side * l / (2.0 * step));
    }
    let left = session.vectors().norm(product)?;
    if left.is_nan() || left > 0.02 * length {
        return Err(format!(
            "{left:.2e} of a product of length {length:.2e} is not the change of the gradient"
        )
        .into());
    }
    let greatest = slopes.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    for (i, (exact, slope)) in derivatives.iter().zip(&slopes).enumerate() {
        let apart = (exact - slope).abs();
        if apart.is_nan() || apart > 0.02 * greatest {
            return Err(format!(
                "log-prob {i} changes by {slope:.6} along the vector, it says by {exact:.6}"
            )
            .into());
        }
    }
    Ok(format!("a product agrees with differences of the gradient to {:.1e}", left / length))
}

/// Mistakes in a batch are errors, and an upstream's error comes back as it was.
fn bad_batches(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let vocabulary = session.info().vocabulary as u32;
    let group = |prompt: &[u32], completion: &[u32]| TokenBatch {
        groups: vec![Group { prompt: prompt.to_vec(), completions: vec![completion.to_vec()] }],
    };
    let long = vec![1; session.info().context + 1];
    for (what, bad) in [
        ("a token id outside the vocabulary", group(&[1], &[vocabulary])),
        ("an empty prompt", group(&[], &[1])),
        ("a row longer than the model's context", group(&[1], &long)),
    ] {
        match session.log_probs(&bad, Statistics::default()) {
            Err(Error::Batch(_)) => {}
            Err(e) => return Err(format!("{what}: expected an error of the batch, got: {e}").into()),
            Ok(_) => return Err(format!("it scores {what}").into()),
        }
    }
    let error =
        session.backward(&batch(), Statistics::default(), &mut |_| Err(Error::NonFinite("upstream".into())));
    match error {
        Err(Error::NonFinite(words)) if words == "upstream" => Ok("refused, each in words".into()),
        Err(e) => Err(format!("an error of the objective came back as: {e}").into()),
        Ok(_) => Err("an error of the objective was swallowed".to_owned().into()),
    }
}

/// Algebra holds, and released vectors may be allocated again.
fn vectors(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let space = session.vectors();
    let (x, y) = (space.allocate()?, space.allocate()?);
    if space.norm(x)? != 0.0 {
        return Err("a new vector must hold zeros".to_owned().into());
    }
    space.copy(Vector::PARAMETERS, x)?;
    space.copy(x, y)?;
    space.scale(-2.0, y)?;
    space.axpy(2.0, x, y)?;
    let (left, norm) = (space.norm(y)?, space.norm(x)?);
    if left != 0.0 {
        return Err(format!("2 x - 2 x has norm {left}").into());
    }
    let squared = space.dot(x, x)?;
    if (squared - norm * norm).abs() > 1e-9 * squared {
        return Err(format!("<x, x> is {squared}, and the norm {norm}").into());
    }
    space.zero(x)?;
    if space.norm(x)? != 0.0 {
        return Err("`zero` leaves something".to_owned().into());
    }
    for _ in 0..100 {
        let v = space.allocate()?;
        space.release(v);
    }
    space.release(x);
    space.release(y);
    Ok(format!("of {} numbers", space.dimension()))
}

/// Each operation on elements, by what algebra says of it.
fn elementwise(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let space = session.vectors();
    let [x, y, z] = [space.allocate()?, space.allocate()?, space.allocate()?];
    if let Err(e) = space.map(Map::Sign, z) {
        let words = format!("no optimizer without a kernel of its own runs on it: {e}");
        return Err(Outcome::Skipped(words));
    }
    space.copy(Vector::PARAMETERS, x)?;
    let (norm, dimension) = (space.norm(x)?, space.dimension() as f64);
    // Begins with y = x and must end at y = z, but for rounding.
    type Law = fn(&mut dyn VectorSpace, [Vector; 3]) -> spo_api::Result<()>;
    let laws: [(&str, Law); 7] = [
        ("(x / 4) 4 = x", |space, [x, y, z]| {
            space.map(Map::Divide(4.0), y)?;
            space.scale(4.0, y)?;
            space.copy(x, z)
        }),
        ("(x + 3) - x = 3", |space, [x, y, z]| {
            space.map(Map::Add(3.0), y)?;
            space.axpy(-1.0, x, y)?;
            space.zero(z)?;
            space.map(Map::Add(3.0), z)
        }),
        ("sqrt(x x) = |x|", |space, [x, y, z]| {
            space.combine(Combine::Multiply, y, y)?;
            space.map(Map::SquareRoot, y)?;
            space.copy(x, z)?;
            space.map(Map::Absolute, z)
        }),
        ("sign(x) |x| = x", |space, [x, y, z]| {
            space.map(Map::Sign, y)?;
            space.copy(x, z)?;
            space.map(Map::Absolute, z)?;
            space.combine(Combine::Multiply, z, y)?;
            space.copy(x, z)
        }),
        ("max(x, -x) = |x|", |space, [x, y, z]| {
            space.copy(x, z)?;
            space.scale(-1.0, z)?;
            space.combine(Combine::Maximum, z, y)?;
            space.copy(x, z)?;
            space.map(Map::Absolute, z)
        }),
        ("(x x + 1) / (x x + 1) = 1", |space, [x, y, z]| {
            space.combine(Combine::Multiply, x, y)?;
            space.map(Map::Add(1.0), y)?;
            space.combine(Combine::Divide, y, y)?;
            space.zero(z)?;
            space.map(Map::Add(1.0), z)
        }),
        ("what decay spares and what it halves add up to x", |space, [x, y, z]| {
            space.decay(0.0, y)?;
            space.copy(x, z)?;
            space.decay(0.5, z)?;
            space.scale(2.0, z)?;
            space.axpy(-1.0, y, z)?;
            space.copy(x, y)
        }),
    ];
    for (name, law) in laws {
        space.copy(x, y)?;
        law(space, [x, y, z])?;
        space.axpy(-1.0, z, y)?;
        let left = space.norm(y)?;
        if left.is_nan() || left > 1e-5 * (norm + dimension.sqrt()) {
            return Err(format!("{name} does not hold: the two sides are {left:.2e} apart").into());
        }
    }
    Ok(format!("{} laws hold", laws.len()))
}

/// A linked optimizer in one of its modes, and the kernel to ask a session for.
struct Rule {
    optimizer: Box<dyn Optimizer>,
    kernel: Kernel,
}

fn rules() -> Result<Vec<Rule>, Outcome> {
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

/// Three updates along a fixed direction, from a place, by the session's kernel or by vector operations; where they
/// lead.
fn trajectory(
    session: &mut dyn Session,
    rule: &Rule,
    fused: bool,
    [from, along, to]: [Vector; 3],
) -> Result<(), Outcome> {
    let taken = session.adopt_optimizer(fused.then_some(&rule.kernel))?;
    if taken != fused {
        let words = format!("asked for {} and then for none, it says {taken}", rule.kernel.name);
        return Err(words.into());
    }
    session.vectors().copy(from, Vector::PARAMETERS)?;
    let states = if fused { 0 } else { rule.optimizer.states() };
    let state = (0..states).map(|_| session.vectors().allocate()).collect::<spo_api::Result<Vec<_>>>()?;
    for (count, size) in [(1, 1.0), (2, -0.5), (3, 2.0)] {
        session.vectors().copy(along, Vector::GRADIENT)?;
        session.vectors().scale(size, Vector::GRADIENT)?;
        let update = Update { lr: 1e-2, gradient_scale: 0.5, count };
        match fused {
            true => session.optimize(&update)?,
            false => rule.optimizer.step(session.vectors(), &state, &update)?,
        }
    }
    state.into_iter().for_each(|v| session.vectors().release(v));
    session.vectors().copy(Vector::PARAMETERS, to)?;
    Ok(())
}

/// A kernel of its own is the rule whose name it has, and forgets when it is adopted anew.
fn optimizers(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let [from, along, fused, other] = [(); 4].map(|()| session.vectors().allocate());
    let [from, along, fused, other] = [from?, along?, fused?, other?];
    session.vectors().zero(Vector::GRADIENT)?;
    weighted(&mut *session, &batch())?;
    session.vectors().copy(Vector::GRADIENT, along)?;
    session.vectors().copy(Vector::PARAMETERS, from)?;
    let (mut run, mut compared, mut refused) = (BTreeSet::new(), 0, 0);
    for rule in rules()? {
        let Kernel { name, config } = &rule.kernel;
        match session.adopt_optimizer(Some(&rule.kernel)) {
            Ok(true) => run.insert(name.clone()),
            Ok(false) => continue,
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        trajectory(&mut *session, &rule, true, [from, along, fused])?;
        trajectory(&mut *session, &rule, true, [from, along, other])?;
        let apart = distance(session.vectors(), fused, other)?;
        if apart != 0.0 {
            return Err(format!(
                "{name} {config}, adopted anew, goes on {apart:.1e} off: it does not forget"
            )
            .into());
        }
        if rule.optimizer.needs_kernel() {
            continue;
        }
        trajectory(&mut *session, &rule, false, [from, along, other])?;
        let moved = distance(session.vectors(), from, fused)?;
        let apart = distance(session.vectors(), fused, other)?;
        if apart.is_nan() || apart > 1e-4 * moved {
            return Err(format!(
                "three updates by its kernel for {name} {config} end {apart:.1e} from where vector operations lead, of \
                 {moved:.1e} in all"
            )
            .into());
        }
        compared += 1;
    }
    if run.is_empty() {
        return Ok("it has no kernels: vector operations move its parameters".into());
    }
    let run = run.into_iter().collect::<Vec<_>>().join(", ");
    Ok(format!("{run}: {compared} modes as by vector operations, {refused} refused"))
}

/// Norm of the difference.
fn distance(space: &mut dyn VectorSpace, x: Vector, y: Vector) -> Result<f64, Outcome> {
    let scratch = space.allocate()?;
    space.copy(x, scratch)?;
    space.axpy(-1.0, y, scratch)?;
    let norm = space.norm(scratch)?;
    space.release(scratch);
    Ok(norm)
}

/// It goes down a slope; what was saved comes back bit for bit, and goes on the same way: by each kernel it has, or by
/// plain descent if it has none.
fn state(subject: &Subject) -> Result<String, Outcome> {
    let mut ways = vec![None];
    for rule in rules()? {
        let known = ways.iter().flatten().any(|kernel: &Kernel| kernel.name == rule.kernel.name);
        if !known && subject.open()?.adopt_optimizer(Some(&rule.kernel)).is_ok_and(|taken| taken) {
            ways.push(Some(rule.kernel));
        }
    }
    let mut size = 0;
    for way in &ways {
        size = restored(subject, way.as_ref())?;
    }
    Ok(format!("descends; a state of {size} bytes restored to the bit, here and in another session"))
}

/// Bytes of the state.
fn restored(subject: &Subject, kernel: Option<&Kernel>) -> Result<u64, Outcome> {
    let batch = batch();
    let open = || -> Result<Box<dyn Session>, Outcome> {
        let mut session = subject.open()?;
        session.adopt_optimizer(kernel)?;
        Ok(session)
    };
    let step = |session: &mut dyn Session, count: u64| -> Result<f64, Outcome> {
        session.vectors().zero(Vector::GRADIENT)?;
        let value = weighted(session, &batch)?;
        if kernel.is_some() {
            session.optimize(&Update { lr: 1e-2, gradient_scale: 1.0, count })?;
        } else {
            let norm = session.vectors().norm(Vector::GRADIENT)?;
            session.vectors().axpy(-1e-2 / norm, Vector::GRADIENT, Vector::PARAMETERS)?;
        }
        Ok(value)
    };
    let mut session = open()?;
    let before = step(&mut *session, 1)?;
    let after = step(&mut *session, 2)?;
    if after >= before {
        return Err(format!("a step against the gradient took the sum from {before:.4} to {after:.4}").into());
    }
    let folder = Scratch::new()?;
    let file = folder.0.join("state");
    session.save_state(&file)?;
    let straight = [step(&mut *session, 3)?, step(&mut *session, 4)?];
    session.restore_state(&file)?;
    let again = [step(&mut *session, 3)?, step(&mut *session, 4)?];
    let mut other = open()?;
    other.restore_state(&file)?;
    let elsewhere = [step(&mut *other, 3)?, step(&mut *other, 4)?];
    if straight != again || straight != elsewhere {
        return Err(format!(
            "after restoring, steps give {again:?} and {elsewhere:?} instead of {straight:?}"
        )
        .into());
    }
    let size = std::fs::metadata(&file).map_err(|e| e.to_string())?.len();
    std::fs::write(&file, b"not a state").map_err(|e| e.to_string())?;
    if other.restore_state(&file).is_ok() {
        return Err("it takes a broken file for a state".to_owned().into());
    }
    Ok(size)
}

/// Prompts are continued the same way every time, and a saved model scores as before.
fn generate_and_save(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open()?;
    let sampling = Sampling { max_new_tokens: 5, temperature: 1.0, top_p: 0.9, seed: 7, stop: vec![] };
    let prompts = [vec![1, 2], vec![3]];
    let (one, two) = (session.generate(&prompts, &sampling)?, session.generate(&prompts, &sampling)?);
    if one != two || one.len() != 2 || one.iter().any(|tokens| tokens.len() != 5) {
        return Err(format!("two prompts were continued by 5 tokens as {one:?}, and again as {two:?}").into());
    }
    let folder = Scratch::new()?;
    session.save(&folder.0, Export::Model)?;
    let saved = Subject { model: Some(folder.0.clone()), ..subject.clone() };
    let before = session.log_probs(&batch(), Statistics::default())?;
    let after = saved.open()?.log_probs(&batch(), Statistics::default())?;
    let apart = before.values.iter().zip(&after.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if apart > 1e-5 {
        return Err(format!("the saved model's log-probs are {apart:.1e} nats off").into());
    }
    Ok(format!("deterministic; a saved model scores within {apart:.1e} nats"))
}

/// A folder that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Outcome> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("spo-certify-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
