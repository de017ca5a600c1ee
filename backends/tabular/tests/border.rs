//! A backend that is loaded instead of linked behaves the same, to the last bit: sessions, vectors, the upstream
//! gradient that goes back across the border, and every kind of failure.

use serde_json::json;
use spo_api::{
    Backend, Combine, Error, Export, Group, Kernel, LogProbs, Map, ModelSource, ModelSpec, Registry, Result,
    Sampling, Session, Statistics, TokenBatch, Update, Vector, abi,
};
use spo_backend_tabular as _;
use test_support::valgrind;

const ALL: Statistics = Statistics { entropy: true, collision: true, greedy: true };

fn spec() -> ModelSpec {
    let config = json!({
        "model_type": "tabular", "kind": "mlp", "order": 3, "embedding_size": 3, "hidden_size": 4, "vocab_size": 5,
        "max_position_embeddings": 9, "initializer_range": 0.8
    });
    let source = ModelSource::Random(config);
    ModelSpec {
        source,
        adapter: None,
        quantize: None,
        allow_pickle: false,
        seed: 3,
        device: "auto".into(),
        dtype: "f64".into(),
    }
}

/// The session, linked and loaded.
fn both() -> [Box<dyn Session>; 2] {
    let entry = Registry::linked().unwrap().get("backend", "tabular").unwrap();
    [entry, abi::through(entry)]
        .map(|entry| entry.make::<dyn Backend>(&json!({})).unwrap().open(&spec()).unwrap())
}

fn batch() -> TokenBatch {
    let group = |prompt: &[u32], completions: &[&[u32]]| Group {
        prompt: prompt.to_vec(),
        completions: completions.iter().map(|c| c.to_vec()).collect(),
    };
    TokenBatch { groups: vec![group(&[1, 2], &[&[3, 4, 0], &[], &[2]]), group(&[4], &[&[0, 0, 0]])] }
}

/// Does with both what is asked for, and holds the answers to be the same.
fn alike<T: PartialEq + std::fmt::Debug>(
    sessions: &mut [Box<dyn Session>; 2],
    what: impl Fn(&mut dyn Session) -> Result<T>,
) -> Result<T> {
    let [ours, theirs] = sessions.each_mut().map(|session| what(&mut **session));
    // What the system says of a file crosses in words alone; the kind of an error crosses as it is.
    let told = |answer: &Result<T>| match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{:?} {error}", std::mem::discriminant(error)),
    };
    assert_eq!(told(&ours), told(&theirs));
    ours
}

#[test]
fn sessions_cross_unchanged() {
    let mut sessions = both();
    alike(&mut sessions, |s| Ok(s.info())).unwrap();
    for statistics in [ALL, Statistics::default(), Statistics { greedy: true, ..Statistics::default() }] {
        alike(&mut sessions, |s| s.log_probs(&batch(), statistics)).unwrap();
    }
    let train = |s: &mut dyn Session| {
        s.vectors().zero(Vector::GRADIENT)?;
        let seen =
            s.backward(&batch(), ALL, &mut |seen| Ok(seen.entropy.iter().map(|e| e - 0.3).collect()))?;
        let norm = s.vectors().norm(Vector::GRADIENT)?;
        // Every operation on elements, on the way to a step of a kind.
        let space = s.vectors();
        let v = space.allocate()?;
        space.copy(Vector::GRADIENT, v)?;
        space.combine(Combine::Multiply, Vector::GRADIENT, v)?;
        space.map(Map::SquareRoot, v)?;
        space.map(Map::Add(1e-8), v)?;
        space.combine(Combine::Divide, v, Vector::GRADIENT)?;
        space.map(Map::Divide(3.0), Vector::GRADIENT)?;
        space.combine(Combine::Maximum, Vector::GRADIENT, v)?;
        space.map(Map::Sign, v)?;
        space.map(Map::Absolute, v)?;
        space.combine(Combine::Multiply, v, Vector::GRADIENT)?;
        space.decay(0.9, Vector::PARAMETERS)?;
        space.axpy(-0.05, Vector::GRADIENT, Vector::PARAMETERS)?;
        space.release(v);
        Ok((seen, norm))
    };
    for _ in 0..3 {
        alike(&mut sessions, train).unwrap();
    }
    alike(&mut sessions, |s| {
        let v = s.vectors().allocate()?;
        s.vectors().copy(Vector::PARAMETERS, v)?;
        s.vectors().scale(0.5, v)?;
        s.vectors().axpy(2.0, Vector::GRADIENT, v)?;
        Ok((v, s.vectors().dimension(), s.vectors().dot(v, Vector::PARAMETERS)?))
    })
    .unwrap();
    alike(&mut sessions, |s| {
        let [v, into] = [s.vectors().allocate()?, s.vectors().allocate()?];
        s.vectors().copy(Vector::PARAMETERS, v)?;
        let upstream = |seen: &LogProbs| Ok(seen.values.iter().map(|l| l + 0.5).collect());
        let tangent = s.hessian_vector(&batch(), &mut { upstream }, v, into)?;
        assert_eq!(tangent.derivatives.len(), tangent.log_probs.values.len());
        Ok((tangent, s.vectors().norm(into)?, s.vectors().dot(v, into)?))
    })
    .unwrap();
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, seed: 1, ..Sampling::greedy(4, &[0]) };
    alike(&mut sessions, |s| s.generate(&[vec![1], vec![2, 3]], &sampling)).unwrap();
    alike(&mut sessions, |s| s.generate(&[], &sampling)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let saved = |s: &mut dyn Session| -> Result<_> {
        s.save(folder.path(), Export::Model)?;
        let state = folder.path().join("state");
        s.save_state(&state)?;
        let first = train(s)?;
        s.restore_state(&state)?;
        assert_eq!(train(s)?, first);
        Ok(std::fs::read(state).unwrap())
    };
    alike(&mut sessions, saved).unwrap();
    // It has no kernel of its own, and runs none.
    let adamw = Kernel { name: "adamw".into(), config: json!({"betas": [0.9, 0.999]}) };
    for kernel in [None, Some(&adamw)] {
        assert!(!alike(&mut sessions, |s| s.adopt_optimizer(kernel)).unwrap());
    }
    alike(&mut sessions, |s| s.optimize(&Update { lr: 0.1, gradient_scale: 1.0, count: 1 })).unwrap_err();
}

#[test]
fn failures_cross_as_they_are() {
    let mut sessions = both();
    let bad = |prompt: Vec<u32>, completion: Vec<u32>| TokenBatch {
        groups: vec![Group { prompt, completions: vec![completion] }],
    };
    for batch in [bad(vec![1], vec![99]), bad(vec![], vec![1]), bad(vec![1], vec![1; 20])] {
        let error = alike(&mut sessions, |s| s.log_probs(&batch, ALL)).unwrap_err();
        assert!(matches!(error, Error::Batch(_)), "{error:?}");
    }
    let mut upstream = |_: &LogProbs| Err(Error::NonFinite("row 7".into()));
    let [_, loaded] = &mut sessions;
    let own = [loaded.vectors().allocate().unwrap(), loaded.vectors().allocate().unwrap()];
    for error in [
        loaded.backward(&batch(), ALL, &mut upstream).unwrap_err(),
        loaded.hessian_vector(&batch(), &mut upstream, own[0], own[1]).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::NonFinite(words) if words == "row 7"),
            "an upstream's error keeps its kind"
        );
    }
    let nowhere = std::path::Path::new("/nowhere/at/all");
    alike(&mut sessions, |s| s.save(nowhere, Export::Model)).unwrap_err();
    alike(&mut sessions, |s| s.save(nowhere, Export::Adapter)).unwrap_err();
    alike(&mut sessions, |s| s.restore_state(nowhere)).unwrap_err();
}

/// The tests above once more, with every access to memory watched.
#[test]
fn memory_is_respected() {
    valgrind::watch(&["cross"]);
}
