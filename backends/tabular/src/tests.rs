//! Tests of the session contract, on every kind of model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Export, Group, LogProbs, Lora, ModelSource, ModelSpec, Sampling, Session, Statistics,
    Tangent, Targets, TokenBatch, Vector, VectorSpace,
};

use crate::Tabular;
use crate::config::Config;
use crate::model::add;
use crate::session::TabularSession;
use crate::storage;

const VOCABULARY: u32 = 5;
const ALL: Statistics = Statistics { entropy: true, collision: true, greedy: true };

fn kinds() -> [Value; 3] {
    let common = json!({
        "model_type": "tabular", "vocab_size": VOCABULARY, "max_position_embeddings": 9, "initializer_range": 0.8
    });
    let with = |keys: Value| {
        let mut config = common.clone();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        config
    };
    [
        with(json!({"kind": "table", "order": 2})),
        with(json!({"kind": "linear", "order": 4})),
        with(json!({"kind": "mlp", "order": 3, "embedding_size": 3, "hidden_size": 4})),
    ]
}

fn open(config: &Value, seed: u64) -> TabularSession {
    let parsed = Config::parse(config, "test").unwrap();
    let parameters = parsed.model().random(seed, parsed.initializer_range);
    TabularSession::new(parsed, config.clone(), parameters)
}

fn spec(source: ModelSource) -> ModelSpec {
    ModelSpec {
        source,
        adapter: None,
        quantize: None,
        allow_pickle: false,
        seed: 3,
        device: "auto".into(),
        dtype: "f32".into(),
    }
}

/// Completions that share windows; one of them is empty.
fn batch() -> TokenBatch {
    let group = |prompt: &[u32], completions: &[&[u32]]| Group {
        prompt: prompt.to_vec(),
        completions: completions.iter().map(|c| c.to_vec()).collect(),
    };
    TokenBatch {
        groups: vec![
            group(&[1, 2], &[&[3, 4, 0], &[3, 4, 1], &[], &[2]]),
            group(&[4], &[&[0, 0, 0, 0]]),
            group(&[2, 2, 1, 2], &[&[3, 0], &[3, 0]]),
        ],
    }
}

fn weights(n: usize) -> Vec<f64> {
    (0..n).map(|i| [0.7, -1.1, 0.0, 0.4, 1.3][i % 5]).collect()
}

fn weighted_sum(session: &mut TabularSession) -> f64 {
    let values = session.log_probs(&batch(), Statistics::default()).unwrap().values;
    values.iter().zip(weights(values.len())).map(|(l, w)| l * w).sum()
}

#[test]
fn every_parameter_has_the_gradient_that_differences_find() {
    for config in kinds() {
        let mut session = open(&config, 1);
        session.space.zero(Vector::GRADIENT).unwrap();
        // Run twice to check that gradients accumulate.
        for _ in 0..2 {
            session.backward(&batch(), Statistics::default(), &mut |l| Ok(weights(l.values.len()))).unwrap();
        }
        let gradient = session.space.get(Vector::GRADIENT).unwrap().clone();
        let mut moved = 0;
        for (i, g) in gradient.iter().enumerate() {
            let h = 1e-5;
            let mut at = |step: f64| {
                session.space.get_mut(Vector::PARAMETERS).unwrap()[i] += step;
                weighted_sum(&mut session)
            };
            let (above, below) = (at(h), at(-2.0 * h));
            at(h);
            let difference = (above - below) / h;
            assert!((difference - g).abs() < 1e-8, "{config} parameter {i}: {g}, difference {difference}");
            moved += usize::from(*g != 0.0);
        }
        assert!(moved > 20, "{config}: the test must see gradients");
    }
}

/// Compares the products with the Hessian of the weighted sum of log-probs, and the derivatives of the
/// log-probs along the same direction, with fourth-order finite differences.
#[test]
fn hessian_vector_products_are_what_differences_find() {
    for config in kinds() {
        let mut session = open(&config, 1);
        let [v, into, before] = [(); 3].map(|()| session.space.allocate().unwrap());
        let n = session.space.dimension();
        *session.space.get_mut(v).unwrap() = (0..n).map(|i| (0.7 * i as f64).sin()).collect();
        *session.space.get_mut(into).unwrap() = vec![1.0; n];
        session.space.copy(Vector::PARAMETERS, before).unwrap();
        let all = |l: &LogProbs| Ok(weights(l.values.len()));
        let Tangent { log_probs, derivatives } =
            session.hessian_vector(&batch(), &mut { all }, v, into).unwrap();
        assert_eq!(log_probs, session.log_probs(&batch(), Statistics::default()).unwrap());
        assert_eq!(session.space.get(before).unwrap(), session.parameters());

        let h = 2e-4;
        let mut slopes = (vec![0.0; n], vec![0.0; derivatives.len()]);
        for (displacement, factor) in [(1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)] {
            session.space.copy(before, Vector::PARAMETERS).unwrap();
            session.space.axpy(displacement * h, v, Vector::PARAMETERS).unwrap();
            session.space.zero(Vector::GRADIENT).unwrap();
            let seen = session.backward(&batch(), Statistics::default(), &mut { all }).unwrap();
            add(factor / (12.0 * h), session.space.get(Vector::GRADIENT).unwrap(), &mut slopes.0);
            add(factor / (12.0 * h), &seen.values, &mut slopes.1);
        }
        // The product is added to the previous content of `into`.
        let product: Vec<f64> = session.space.get(into).unwrap().iter().map(|x| x - 1.0).collect();
        for (exact, difference) in [(product, slopes.0), (derivatives, slopes.1)] {
            let greatest = difference.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            assert!(greatest > 0.1, "{config}: the test must see something");
            for (x, y) in exact.iter().zip(&difference) {
                assert!((x - y).abs() < 1e-9 * greatest, "{config}: {x}, difference {y}");
            }
        }
    }
}

#[test]
fn what_is_shared_changes_no_bit() {
    for config in kinds() {
        let mut session = open(&config, 1);
        let together = session.log_probs(&batch(), ALL).unwrap();
        let mut alone = Vec::new();
        for group in &batch().groups {
            for completion in &group.completions {
                let group = Group { prompt: group.prompt.clone(), completions: vec![completion.clone()] };
                let batch = TokenBatch { groups: vec![group] };
                alone.extend(session.log_probs(&batch, Statistics::default()).unwrap().values);
            }
        }
        assert_eq!(together.values, alone);
    }
}

/// All answers of at most `length` tokens: those that end with `stop`, and those cut off at `length`.
fn answers(length: usize, stop: u32) -> Vec<Vec<u32>> {
    let mut open = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..length {
        let next = |begun: Vec<u32>| (0..VOCABULARY).map(move |t| [begun.as_slice(), &[t]].concat());
        let (ended, going): (Vec<_>, Vec<_>) =
            open.into_iter().flat_map(next).partition(|answer| answer.last() == Some(&stop));
        all.extend(ended);
        open = going;
    }
    all.extend(open);
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn the_probabilities_of_all_answers_sum_to_one(seed: u64, range in 0.0..20.0, kind in 0usize..3) {
        let mut config = kinds()[kind].clone();
        config["initializer_range"] = json!(range);
        let mut session = open(&config, seed);
        let group = Group { prompt: vec![3, 1], completions: answers(4, 0) };
        let scores = session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).unwrap();
        let of = |w: &[usize]| scores.values[w[0]..w[1]].iter().sum::<f64>().exp();
        let sum: f64 = scores.offsets.windows(2).map(of).sum();
        prop_assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
}

#[test]
fn statistics_follow_their_definitions() {
    for config in kinds() {
        let mut session = open(&config, 2);
        let group = Group { prompt: vec![3, 1], completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
        let scores = session.log_probs(&TokenBatch { groups: vec![group] }, ALL).unwrap();
        let p: Vec<f64> = scores.values.iter().map(|l| l.exp()).collect();
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let collision = p.iter().map(|p| p * p).sum::<f64>().ln();
        let best = (0..p.len()).max_by(|&i, &j| p[i].total_cmp(&p[j])).unwrap();
        for i in 0..p.len() {
            assert!((scores.entropy[i] - entropy).abs() < 1e-12);
            assert!((scores.collision[i] - collision).abs() < 1e-12);
            assert_eq!(scores.greedy[i], f64::from(u8::from(i == best)));
        }
        let none = session.log_probs(&batch(), Statistics::default()).unwrap();
        assert!(none.entropy.is_empty() && none.collision.is_empty() && none.greedy.is_empty());
    }
}

#[test]
fn greedy_answers_are_those_of_the_greedy_statistic_and_end_with_a_stop_token() {
    for config in kinds() {
        let mut session = open(&config, 4);
        let prompts = vec![vec![1, 2], vec![3], vec![4, 4, 0]];
        let greedy = Sampling::greedy(5, &[]);
        let answers = session.generate(&prompts, &greedy).unwrap();
        for (prompt, answer) in prompts.iter().zip(&answers) {
            assert_eq!(answer.len(), 5);
            let group = Group { prompt: prompt.clone(), completions: vec![answer.clone()] };
            let scores = session.log_probs(&TokenBatch { groups: vec![group] }, ALL).unwrap();
            assert!(scores.greedy.iter().all(|g| *g == 1.0));
        }
        let stop = answers[0][1];
        let end = answers[0].iter().position(|t| *t == stop).unwrap() + 1;
        let stopped = session.generate(&prompts[..1], &Sampling { stop: vec![stop], ..greedy.clone() });
        assert_eq!(stopped.unwrap()[0], answers[0][..end]);
        let narrow = Sampling { temperature: 1.0, top_p: 1e-9, seed: 3, ..greedy };
        assert_eq!(session.generate(&prompts, &narrow).unwrap(), answers);
    }
}

#[test]
fn samples_follow_the_distribution() {
    let mut session = open(&kinds()[1], 5);
    let group = Group { prompt: vec![3, 1], completions: (0..VOCABULARY).map(|t| vec![t]).collect() };
    let scores = session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).unwrap();
    let (temperature, n) = (0.6, 20_000);
    let p: Vec<f64> = scores.values.iter().map(|l| (l / temperature).exp()).collect();
    let whole: f64 = p.iter().sum();
    let sampling = Sampling { temperature, seed: 9, ..Sampling::greedy(1, &[]) };
    let drawn = session.generate(&vec![vec![3, 1]; n], &sampling).unwrap();
    assert_eq!(drawn, session.generate(&vec![vec![3, 1]; n], &sampling).unwrap(), "the seed decides");
    let mut shares = BTreeMap::<u32, f64>::new();
    drawn.iter().for_each(|answer| *shares.entry(answer[0]).or_default() += 1.0 / n as f64);
    for (token, p) in p.iter().enumerate() {
        let (share, p) = (shares.get(&(token as u32)).copied().unwrap_or(0.0), p / whole);
        assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{token}: {share} {p}");
    }
}

#[test]
fn vectors_behave() {
    let mut session = open(&kinds()[0], 1);
    let start = session.parameters().to_vec();
    let (x, y) = (session.space.allocate().unwrap(), session.space.allocate().unwrap());
    session.space.copy(Vector::PARAMETERS, x).unwrap();
    session.space.copy(x, y).unwrap();
    session.space.axpy(-3.0, x, y).unwrap(); // y = -2 x
    session.space.axpy(0.5, y, y).unwrap(); // y = -3 x
    let exact: f64 = start.iter().map(|v| v * v).sum();
    assert!((session.space.dot(x, y).unwrap() + 3.0 * exact).abs() < 1e-12 * exact);
    session.space.scale(2.0, Vector::PARAMETERS).unwrap();
    assert_ne!(session.parameters(), start);
    session.space.copy(x, Vector::PARAMETERS).unwrap();
    assert_eq!(session.parameters(), start);
    session.space.release(y);
    session.space.release(Vector::PARAMETERS);
    assert!(session.space.norm(y).is_err() && session.space.norm(Vector::PARAMETERS).is_ok());
    let z = session.space.allocate().unwrap();
    assert!(z != x && session.space.norm(z).unwrap() == 0.0);
}

#[test]
fn what_is_saved_opens_again_to_the_last_bit() {
    for config in kinds() {
        let mut session = open(&config, 6);
        let folder = tempfile::tempdir().unwrap();
        session.save(folder.path(), Export::Model).unwrap();
        let mut again = Tabular {}.open(&spec(ModelSource::Folder(folder.path().into()))).unwrap();
        assert_eq!(session.log_probs(&batch(), ALL).unwrap(), again.log_probs(&batch(), ALL).unwrap());
        assert!(session.save(folder.path(), Export::Adapter).is_err());

        let mut other = config.clone();
        other["vocab_size"] = json!(VOCABULARY + 1);
        std::fs::write(folder.path().join("config.json"), other.to_string()).unwrap();
        let error = storage::open(folder.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("wants F64"), "{error}");
        std::fs::write(folder.path().join("model.safetensors"), "short").unwrap();
        assert!(storage::open(folder.path()).is_err());
    }
}

#[test]
fn a_state_is_taken_back_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let step = |session: &mut TabularSession| {
        session.space.zero(Vector::GRADIENT).unwrap();
        session.backward(&batch(), ALL, &mut |l| Ok(weights(l.values.len()))).unwrap();
        session.space.axpy(-0.1, Vector::GRADIENT, Vector::PARAMETERS).unwrap();
    };
    for config in kinds() {
        let mut session = open(&config, 1);
        let released = session.space.allocate().unwrap();
        let kept = session.space.allocate().unwrap();
        session.space.release(released);
        session.space.copy(Vector::PARAMETERS, kept).unwrap();
        step(&mut session);
        session.save_state(&file).unwrap();
        let mut resumed = open(&config, 2);
        resumed.space.allocate().unwrap();
        resumed.restore_state(&file).unwrap();
        for _ in 0..3 {
            step(&mut session);
            step(&mut resumed);
        }
        assert_eq!(session.parameters(), resumed.parameters());
        assert_eq!(session.space.get(kept).unwrap(), resumed.space.get(kept).unwrap());
        assert!(resumed.space.get(released).is_err());
        assert_eq!(session.space.allocate().unwrap(), resumed.space.allocate().unwrap());

        let before = session.parameters().to_vec();
        let mut refused = |content: Vec<u8>| {
            std::fs::write(&file, content).unwrap();
            assert!(session.restore_state(&file).is_err());
            assert_eq!(session.parameters(), before);
        };
        let whole = std::fs::read(&file).unwrap();
        refused(whole[..whole.len() - 1].to_vec());
        session.save(folder.path(), Export::Model).unwrap();
        let model = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        std::fs::write(&file, model).unwrap();
        let error = session.restore_state(&file).unwrap_err().to_string();
        assert!(error.contains("not a saved state"), "{error}");
    }
}

#[test]
fn the_seed_decides_on_the_weights() {
    let config = &kinds()[2];
    assert_eq!(open(config, 1).parameters(), open(config, 1).parameters());
    assert_ne!(open(config, 1).parameters(), open(config, 2).parameters());
}

#[test]
fn what_cannot_be_opened_or_read_is_said() {
    let refused = |keys: Value, expected: &str| {
        let mut config = kinds()[0].clone();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let error = Tabular {}.open(&spec(ModelSource::Random(config))).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(json!({"model_type": "llama"}), "runs model_type = \"tabular\", got \"llama\"");
    refused(json!({"kind": "tabel"}), "did you mean `table`?");
    refused(json!({"ordre": 3}), "did you mean `order`?");
    refused(json!({"order": 0}), "order: must be at least 1");
    refused(json!({"order": 40}), "countless parameters");
    refused(json!({"order": 12}), "10000000 is the limit");
    refused(json!({"hidden_size": 3}), "hidden_size: has an effect with kind = \"mlp\" only");
    refused(json!({"kind": "mlp", "hidden_size": 3}), "embedding_size: is needed by kind = \"mlp\"");
    let with = |change: fn(&mut ModelSpec)| {
        let mut spec = spec(ModelSource::Random(kinds()[0].clone()));
        change(&mut spec);
        Tabular {}.open(&spec).map(|_| ()).unwrap_err().to_string()
    };
    assert!(with(|s| s.device = "cuda".into()).contains("runs on the cpu"));
    assert!(with(|s| s.dtype = "bf16".into()).contains("computes in f64"));
    let adapter = Adapter::New(Lora::new(1, 1.0, Targets::ALL));
    assert!(
        Tabular {}
            .open(&ModelSpec { adapter: Some(adapter), ..spec(ModelSource::Random(kinds()[0].clone())) })
            .is_err()
    );

    let mut session = open(&kinds()[0], 1);
    let mut unreadable = |prompt: &[u32], completion: &[u32], expected: &str| {
        let group = Group { prompt: prompt.to_vec(), completions: vec![completion.to_vec()] };
        let error = session.log_probs(&TokenBatch { groups: vec![group] }, ALL).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    unreadable(&[], &[1], "the prompt of group 0: is empty");
    unreadable(&[1], &[1, 9], "completion 0 of group 0: token id 9 is outside");
    unreadable(&[1; 6], &[1; 4], "10 tokens, but the model was made for at most 9");
    let sampling = Sampling::greedy(9, &[]);
    assert!(session.generate(&[vec![1]], &sampling).is_ok());
    assert!(session.generate(&[vec![1, 1]], &sampling).is_err());
    let mut wrong = |weights: Vec<f64>| {
        session.backward(&batch(), ALL, &mut |_| Ok(weights.clone())).unwrap_err().to_string()
    };
    assert!(wrong(vec![1.0]).contains("one number per log-prob"));
    assert!(wrong(vec![f64::NAN; 15]).contains("of token 0 is NaN"));
}
