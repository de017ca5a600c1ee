//! What a backend owes, on a tiny model: log-probs that are log-probs, the gradient of their sum, vectors that
//! obey algebra, optimizers that are the rules they are called by, draws that follow the probabilities, a state that can
//! be restored.

mod adapters;
mod enumeration;
mod gradient;
mod optimizers;
mod sampling;
mod saved;

use std::path::PathBuf;

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Combine, Constructor, Error, Export, Group, Kernel, LogProbs, Map, ModelSource,
    ModelSpec, Session, Statistics, Tangent, TokenBatch, Update, Vector, VectorSpace,
};

use super::{Check, Outcome};
use optimizers::rules;
use saved::{Scratch, read};

#[derive(Clone)]
struct Subject {
    build: Constructor<dyn Backend>,
    config: Value,
    model: Option<PathBuf>,
}

impl Subject {
    fn open(&self) -> Result<Box<dyn Session>, Outcome> {
        if let Some(folder) = &self.model {
            let opened = self.open_from(ModelSource::Folder(folder.clone()), None);
            return opened.map_err(|e| format!("it cannot open {}: {e}", folder.display()).into());
        }
        let mut refusals = Vec::new();
        for config in tiny_models() {
            match self.open_from(ModelSource::Random(config), None) {
                Ok(session) => return Ok(session),
                Err(e) => refusals.push(e),
            }
        }
        let refusals = refusals.join("; ");
        Err(format!("it cannot open a tiny model of any kind known here, name one with --model: {refusals}")
            .into())
    }

    fn open_from(&self, source: ModelSource, adapter: Option<Adapter>) -> Result<Box<dyn Session>, String> {
        let backend = (self.build)(&self.config).map_err(|e| e.to_string())?;
        let spec = ModelSpec {
            source,
            adapter,
            quantize: None,
            allow_pickle: false,
            seed: 1,
            device: "auto".into(),
            dtype: "f32".into(),
        };
        backend.open(&spec).map_err(|e| e.to_string())
    }

    /// A model whose probabilities are far from equal: a mistake shows in their digits. Random weights are small, so
    /// they are multiplied.
    fn open_sharp(&self) -> Result<Box<dyn Session>, Outcome> {
        let mut session = self.open()?;
        if self.model.is_none() {
            session.vectors().scale(4.0, Vector::PARAMETERS)?;
        }
        Ok(session)
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
    let all: [(&'static str, Body); 12] = [
        ("log-probs", log_probs),
        ("enumeration", enumeration::enumeration),
        ("gradient", gradient::gradient),
        ("hessian", hessian),
        ("bad batches", bad_batches),
        ("vectors", vectors),
        ("elementwise", elementwise),
        ("optimizers", optimizers::optimizers),
        ("state", state),
        ("sampling", sampling::sampling),
        ("save", save),
        ("adapters", adapters::adapters),
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
    let mut session = subject.open_sharp()?;
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
    if apart > 1e-4 {
        return Err(format!("a completion scored alone differs by {apart:.1e} nats from among others").into());
    }
    if subject.open_sharp()?.log_probs(&batch, ALL)? != seen {
        return Err("opened twice with one seed, a model scores differently".to_owned().into());
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
    exempt(&mut *session)?;
    Ok(format!("{} laws hold; decay spares biases and norms, and nothing else", laws.len()))
}

/// Decay leaves biases and norms alone, and all others it does not.
fn exempt(session: &mut dyn Session) -> Result<(), Outcome> {
    let x = session.vectors().allocate()?;
    session.vectors().map(Map::Add(1.0), x)?;
    session.vectors().decay(0.5, x)?;
    for tensor in read(session, x)? {
        let (kept, what) = match tensor.spared {
            true => (1.0, "has one dimension, as biases and norms have: `decay` must spare it"),
            false => (0.5, "is neither a bias nor a norm: `decay` must multiply it"),
        };
        if let Some(x) = tensor.values.iter().find(|x| **x != kept) {
            return Err(format!("`decay(0.5, v)` makes {x} of 1 in {}, which {what}", tensor.name).into());
        }
    }
    session.vectors().release(x);
    Ok(())
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
    // A vector beside the parameters: what an optimizer or a step keeps.
    let kept = session.vectors().allocate()?;
    session.vectors().copy(Vector::PARAMETERS, kept)?;
    let length = session.vectors().norm(kept)?;
    let before = step(&mut *session, 1)?;
    let after = step(&mut *session, 2)?;
    if after >= before {
        return Err(format!("a step against the gradient took the sum from {before:.4} to {after:.4}").into());
    }
    let folder = Scratch::new()?;
    let file = folder.0.join("state");
    session.save_state(&file)?;
    let straight = [step(&mut *session, 3)?, step(&mut *session, 4)?];
    session.vectors().zero(kept)?;
    session.restore_state(&file)?;
    let again = [step(&mut *session, 3)?, step(&mut *session, 4)?];
    let mut other = open()?;
    other.restore_state(&file)?;
    for (session, place) in [(&mut session, "here"), (&mut other, "in another session")] {
        let found =
            session.vectors().norm(kept).map_err(|e| format!("restored {place}, a vector is gone: {e}"))?;
        if found != length {
            return Err(format!("restored {place}, a vector of length {length} has length {found}").into());
        }
    }
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

/// A saved model scores as the session does, after training too.
fn save(subject: &Subject) -> Result<String, Outcome> {
    let mut session = subject.open_sharp()?;
    session.vectors().zero(Vector::GRADIENT)?;
    weighted(&mut *session, &batch())?;
    let norm = session.vectors().norm(Vector::GRADIENT)?;
    let untrained = session.log_probs(&batch(), Statistics::default())?;
    session.vectors().axpy(0.1 / norm, Vector::GRADIENT, Vector::PARAMETERS)?;
    let folder = Scratch::new()?;
    session.save(&folder.0, Export::Model)?;
    let before = session.log_probs(&batch(), Statistics::default())?;
    if before == untrained {
        return Err("a step along the gradient changes no log-prob: are they computed from vector 0?"
            .to_owned()
            .into());
    }
    let after = subject.open_from(ModelSource::Folder(folder.0.clone()), None);
    let mut after = after.map_err(|e| format!("it cannot open the model that it saved: {e}"))?;
    let after = after.log_probs(&batch(), Statistics::default())?;
    let apart = before.values.iter().zip(&after.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if apart.is_nan() || apart > 1e-5 {
        return Err(format!("the saved model's log-probs are {apart:.1e} nats off").into());
    }
    Ok(format!("a saved model scores within {apart:.1e} nats"))
}
