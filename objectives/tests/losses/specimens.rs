//! Every registered objective with its defaults, and with each of its options at work.

use serde_json::{Value, json};
use spo_api::{Layout, Objective};

use crate::batches::{Answers, Batch, Rows, build, registry};

/// An objective and a configuration of it.
#[derive(Clone, Debug)]
pub struct Specimen {
    pub name: &'static str,
    pub config: Value,
}

impl Specimen {
    pub fn build(&self) -> Box<dyn Objective> {
        build(self.name, &self.config)
    }
}

impl std::fmt::Display for Specimen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.config)
    }
}

/// All specimens, by name, the one with defaults first.
pub fn all() -> Vec<Specimen> {
    let mut all = Vec::new();
    for entry in registry().iter().filter(|e| e.build.kind() == "objective") {
        let schema = (entry.schema)();
        let has = |option: &str| schema.get("properties").is_some_and(|p| p.get(option).is_some());
        let mut configs = vec![json!({})];
        if has("f_divergence") {
            configs.extend(["forward_kl", "js_divergence"].map(|f| json!({"f_divergence": f})));
            configs.push(json!({"f_divergence": {"alpha_divergence": 0.5}}));
        }
        if has("ld_alpha") {
            configs.push(json!({"ld_alpha": 0.3}));
        }
        if has("use_weighting") {
            configs.push(json!({"use_weighting": true}));
        }
        if has("label_smoothing") {
            configs.push(json!({"label_smoothing": 0.1}));
        }
        configs.extend(match entry.name {
            "absolute-gain" => vec![json!({"margin": 0.1}), json!({"shape": "softplus"})],
            "cpo" => vec![json!({"loss_type": "hinge"}), json!({"loss_type": "ipo"}), json!({"alpha": 0.25})],
            "dpo" => vec![json!({"reference_free": true})],
            "dpo-shift" => vec![json!({"lambda": 0.4})],
            "kto" => vec![json!({"desirable_weight": 1.33, "undesirable_weight": 0.75})],
            "odpo" => vec![json!({"growth": "linear"})],
            "tpo" => ["hinge", "ipo", "tpo-l"].map(|l| json!({"loss_type": l})).into(),
            _ => vec![],
        });
        all.extend(configs.into_iter().map(|config| Specimen { name: entry.name, config }));
    }
    all
}

/// A small generator of figures that are the same everywhere: splitmix64.
pub struct Figures(u64);

impl Figures {
    pub fn new(seed: u64) -> Self {
        Figures(seed)
    }

    /// Uniform in `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (high - low) * ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An answer set with these numbers of tokens: log-probs of a policy and of a reference nearby.
    pub fn answers(&mut self, tokens: &[usize]) -> Answers {
        let mut rows = |low, high| {
            let row = |&n: &usize| (0..n).map(|_| self.between(low, high)).collect();
            Rows::new(&tokens.iter().map(row).collect::<Vec<_>>())
        };
        Answers { policy: rows(-3.0, -0.01), reference: rows(-3.0, -0.01), collision: Some(rows(-2.0, -0.1)) }
    }
}

/// A random batch of the layout that is asked for.
pub fn batch(layout: Layout, rows: usize, seed: u64) -> Batch {
    let mut figures = Figures::new(seed);
    let mut lengths = || (0..rows).map(|_| figures.between(1.0, 7.0) as usize).collect::<Vec<_>>();
    let (chosen, rejected) = (lengths(), lengths());
    let rejected = if layout == Layout::Demonstrations { vec![] } else { rejected };
    let mismatched =
        (layout == Layout::Unpaired).then(|| figures.answers(&[chosen.clone(), rejected.clone()].concat()));
    let (chosen, rejected) = (figures.answers(&chosen), figures.answers(&rejected));
    let scored = if layout == Layout::Pairs { rows } else { 0 };
    let gaps = (0..scored).map(|_| figures.between(0.0, 4.0)).collect();
    let margins = (0..scored).map(|_| figures.between(-1.0, 3.0)).collect();
    Batch { layout, chosen, rejected, mismatched, gaps, margins }
}
