//! TRL's own figures for its own losses: losses, gradients per token, rewards.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use spo_api::{Evaluation, Layout, Objective};
use spo_objectives::losses::{Component, Mix};

use crate::batches::{Answers, Batch, Rows, build, registry};

/// A case of either file in one form.
struct Case {
    id: String,
    trainer: String,
    losses: Vec<String>,
    params: Map<String, Value>,
    single_precision: bool,
    batch: Batch,
    /// What TRL says; `Err` is its exception.
    expected: Result<Expected, String>,
}

struct Expected {
    loss: f64,
    /// Losses of the rows, each evaluated alone.
    losses: Option<Vec<f64>>,
    /// Gradient per policy token log-prob, chosen and rejected.
    gradients: [Rows; 2],
    /// Rewards, chosen and rejected.
    rewards: Option<[Vec<f64>; 2]>,
}

/// How a case became objectives of ours.
enum Ours {
    Terms(Vec<(&'static str, Value, f64)>),
    /// We do otherwise on purpose, for this reason.
    Otherwise(&'static str),
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(s) => s.parse().unwrap(),
        v => v.as_f64().unwrap(),
    }
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

pub fn rows(value: &Value) -> Rows {
    Rows::new(&value.as_array().unwrap().iter().map(numbers).collect::<Vec<_>>())
}

pub fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(file);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// Spreads a gradient with respect to a sum or a mean of log-probs over the tokens.
fn per_token(d: &[f64], like: &Rows, averaged: bool) -> Rows {
    let view = like.view();
    let row = |i: usize| vec![if averaged { d[i] / view.tokens(i) as f64 } else { d[i] }; view.tokens(i)];
    Rows::new(&(0..d.len()).map(row).collect::<Vec<_>>())
}

fn averaged(trainer: &str, loss: &str) -> bool {
    trainer == "orpo" || trainer == "cpo" && matches!(loss, "simpo" | "ipo")
}

/// `trl_losses.json`.
fn first_file() -> Vec<Case> {
    let file = read("trl_losses.json");
    let case = |(index, c): (usize, &Value)| {
        let trainer = c["trainer"].as_str().unwrap().to_owned();
        let losses: Vec<_> =
            c["losses_mixed"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect();
        let mut params = c["hyper"].as_object().unwrap().clone();
        let mut collision = [None, None];
        if let Some(statistics) = params.remove("log_sum_sq_probs") {
            collision = [Some(rows(&statistics[0])), Some(rows(&statistics[1]))];
            params.insert("use_weighting".into(), json!(true));
        }
        params.remove("note");
        if let Some(alpha) = params.remove("f_alpha_divergence_coef")
            && params["f_divergence_type"] == "alpha_divergence"
        {
            params.insert("f_alpha_divergence_coef".into(), alpha);
        }
        let [chosen_collision, rejected_collision] = collision;
        let batch = Batch {
            layout: Layout::Pairs,
            chosen: Answers {
                policy: rows(&c["policy_chosen"]),
                reference: rows(&c["reference_chosen"]),
                collision: chosen_collision,
            },
            rejected: Answers {
                policy: rows(&c["policy_rejected"]),
                reference: rows(&c["reference_rejected"]),
                collision: rejected_collision,
            },
            mismatched: None,
            gaps: vec![],
            margins: vec![],
        };
        let expected = if trainer == "dpo" {
            Expected {
                loss: number(&c["batch_loss"]),
                losses: None,
                gradients: [rows(&c["grad_chosen"]), rows(&c["grad_rejected"])],
                rewards: None,
            }
        } else {
            // ORPO's `losses` are rewards: their negative is minimised.
            let sign = if trainer == "orpo" { -1.0 } else { 1.0 };
            let losses_of: Vec<f64> = numbers(&c["losses"]).iter().map(|l| sign * l).collect();
            let n = losses_of.len() as f64;
            let gradient = |d: &str, like: &Rows| {
                let d: Vec<f64> = numbers(&c[d]).iter().map(|d| sign * d / n).collect();
                per_token(&d, like, averaged(&trainer, &losses[0]))
            };
            Expected {
                loss: losses_of.iter().sum::<f64>() / n,
                gradients: [
                    gradient("d_chosen", &batch.chosen.policy),
                    gradient("d_rejected", &batch.rejected.policy),
                ],
                losses: Some(losses_of),
                rewards: None,
            }
        };
        Case {
            id: format!("trl_losses[{index}] {trainer} {losses:?} {params:?}"),
            trainer,
            losses,
            params,
            single_precision: c["dtype"] == "float32",
            batch,
            expected: Ok(expected),
        }
    };
    file["cases"].as_array().unwrap().iter().enumerate().map(case).collect()
}

/// A named batch of `trl_reference.json`.
fn named_batch(b: &Value) -> Batch {
    if b["kind"] == "paired" {
        let side = |name: &str| Answers {
            policy: rows(&b[format!("policy_{name}")]),
            reference: rows(&b[format!("ref_{name}")]),
            collision: Some(rows(&b[format!("policy_{name}_log_sum_sq")])),
        };
        return Batch {
            layout: Layout::Pairs,
            chosen: side("chosen"),
            rejected: side("rejected"),
            mismatched: None,
            gaps: vec![],
            margins: vec![],
        };
    }
    let [desirable, undesirable] = by_label(b);
    let answers = |policy: &str, reference: &str| Answers {
        policy: rows(&b[policy]),
        reference: rows(&b[reference]),
        collision: None,
    };
    let own = answers("policy", "ref");
    Batch {
        layout: Layout::Unpaired,
        chosen: own.select(&desirable),
        rejected: own.select(&undesirable),
        mismatched: Some(answers("kl_policy", "kl_ref").select(&[desirable, undesirable].concat())),
        gaps: vec![],
        margins: vec![],
    }
}

/// Indices of the desirable rows, and of the others.
fn by_label(b: &Value) -> [Vec<usize>; 2] {
    let labels = b["label"].as_array().unwrap();
    [true, false].map(|wanted| (0..labels.len()).filter(|&i| labels[i] == wanted).collect())
}

/// `trl_reference.json`.
fn second_file() -> Vec<Case> {
    let file = read("trl_reference.json");
    let case = |c: &Value| {
        let trainer = c["trainer"].as_str().unwrap().to_owned();
        let mut params = c["params"].as_object().unwrap().clone();
        let losses = match params.remove("loss_type") {
            Some(Value::Array(types)) => types.iter().map(|t| t.as_str().unwrap().to_owned()).collect(),
            Some(Value::String(one)) => vec![one],
            _ => vec![trainer.clone()],
        };
        let named = &file["batches"][c["batch"].as_str().unwrap()];
        let batch = named_batch(named);
        let expected = match &c["error"] {
            Value::String(error) => Err(error.clone()),
            _ => Ok(expected(c, &trainer, &losses[0], named, &batch)),
        };
        Case {
            id: c["id"].as_str().unwrap().to_owned(),
            trainer,
            losses,
            params,
            single_precision: c["dtype"] == "float32",
            batch,
            expected,
        }
    };
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

fn expected(c: &Value, trainer: &str, loss: &str, named: &Value, batch: &Batch) -> Expected {
    let (outputs, grads) = (&c["outputs"], &c["grads"]);
    let pick = |all: Vec<f64>, rows: &[usize]| rows.iter().map(|&i| all[i]).collect::<Vec<_>>();
    let mut losses = match &outputs["losses"] {
        Value::Array(l) if l.iter().all(|l| !l.is_null()) => Some(numbers(&outputs["losses"])),
        _ => None,
    };
    let both = |d: &Value, averaged| {
        let spread = |name: &str, like: &Rows| per_token(&numbers(&d[name]), like, averaged);
        [spread("policy_chosen", &batch.chosen.policy), spread("policy_rejected", &batch.rejected.policy)]
    };
    let (gradients, rewards) = match trainer {
        "dpo" | "tpo" => (
            [rows(&grads["policy_chosen"]), rows(&grads["policy_rejected"])],
            Some([numbers(&outputs["chosen_rewards"]), numbers(&outputs["rejected_rewards"])]),
        ),
        "kto" => {
            let labelled = by_label(named);
            losses = losses.map(|l| pick(l, &labelled.concat()));
            let all = rows(&grads["policy"]);
            let rewards = numbers(&outputs["rewards"]);
            (labelled.clone().map(|l| all.select(&l)), Some(labelled.map(|l| pick(rewards.clone(), &l))))
        }
        _ => (
            both(grads, averaged(trainer, loss)),
            Some([numbers(&outputs["chosen_rewards"]), numbers(&outputs["rejected_rewards"])]),
        ),
    };
    if trainer == "orpo" {
        losses = losses.map(|l| l.iter().map(|l| -l).collect());
    }
    Expected { loss: number(&outputs["loss"]), losses, gradients, rewards }
}

fn registered(name: &str) -> &'static str {
    registry().get("objective", name).unwrap().name
}

/// Our objectives for a case of TRL's.
fn ours(case: &Case) -> Ours {
    let mut terms = Vec::new();
    for (i, loss) in case.losses.iter().enumerate() {
        let mut params = case.params.clone();
        let weights = params.remove("loss_weights").unwrap_or(Value::Null);
        let weight = weights.get(i).map_or(1.0, number);
        let divergence = match (params.remove("f_divergence_type"), params.remove("f_alpha_divergence_coef"))
        {
            (Some(Value::String(f)), alpha) if f == "alpha_divergence" => {
                Some(json!({"alpha_divergence": alpha.unwrap_or(json!(0.5))}))
            }
            (f, _) => f,
        };
        params.extend(divergence.map(|d| ("f_divergence".to_owned(), d)));
        let name: &'static str = match (case.trainer.as_str(), loss.as_str()) {
            ("dpo", "sft") => {
                if params.contains_key("use_weighting") {
                    return Ours::Otherwise("`sft` has no `use_weighting`, with which TRL fails");
                }
                // TRL takes, and ignores, all other options with it.
                params.clear();
                "sft"
            }
            ("dpo", "sigmoid") => {
                if params.remove("label_smoothing").is_some_and(|e| number(&e) != 0.0) {
                    return Ours::Otherwise("`dpo` obeys the label smoothing that TRL's `sigmoid` ignores");
                }
                "dpo"
            }
            ("dpo", other) => {
                if !matches!(other, "robust" | "exo_pair" | "aot" | "aot_unpaired") {
                    // TRL takes, and ignores, it with all others.
                    assert_eq!(params.remove("label_smoothing").map_or(0.0, |e| number(&e)), 0.0);
                }
                registered(other)
            }
            ("cpo", loss) => {
                let alpha = params["alpha"].clone();
                let gamma = params.remove("simpo_gamma").unwrap();
                if loss == "simpo" {
                    params.insert("gamma".into(), gamma);
                    if number(&alpha) == 0.0 {
                        params.remove("alpha");
                        "simpo"
                    } else {
                        "alphapo"
                    }
                } else {
                    params.insert("loss_type".into(), json!(loss));
                    params.insert("sft_weight".into(), json!(0));
                    "cpo"
                }
            }
            ("orpo", _) => {
                params.insert("sft_weight".into(), json!(0));
                "orpo"
            }
            ("tpo", loss) => {
                params.insert("loss_type".into(), json!(loss));
                for (theirs, ours) in [("tpo_l_gamma", "gamma"), ("tpo_alpha", "sft_weight")] {
                    let value = params.remove(theirs).unwrap();
                    params.insert(ours.into(), value);
                }
                "tpo"
            }
            ("kto", other) => registered(other),
            ("bco", _) => {
                // Becomes the objective's state: see `objective`.
                params.remove("running_before");
                "bco"
            }
            (trainer, loss) => panic!("no objective for {trainer} {loss}"),
        };
        terms.push((name, Value::Object(params), weight));
    }
    Ours::Terms(terms)
}

fn objective(case: &Case, terms: &[(&'static str, Value, f64)]) -> Box<dyn Objective> {
    if let [(name, config, 1.0)] = terms {
        let mut objective = build(name, config);
        if let Some(running) = case.params.get("running_before") {
            let state = ["mean", "count"].map(|figure| number(&running[figure]).to_le_bytes()).concat();
            objective.restore(&state).unwrap();
        }
        return objective;
    }
    let component = |(name, config, weight): &(&'static str, Value, f64)| Component {
        name: (*name).to_owned(),
        weight: *weight,
        schedule: None,
        objective: build(name, config),
    };
    Box::new(Mix::new(terms.iter().map(component).collect()).unwrap())
}

struct Check<'a> {
    case: &'a Case,
    failures: Vec<String>,
}

impl Check<'_> {
    fn close(&mut self, what: &str, ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len(), "{}: {what}", self.case.id);
        // A difference of numbers near 1 is known to their last digit only, here and there.
        let (relative, absolute) = if self.case.single_precision { (1e-5, 1e-7) } else { (1e-9, 1e-15) };
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            let close = (a - b).abs() <= relative * b.abs() + absolute;
            if a != b && !close {
                self.failures.push(format!("{}: {what}[{i}] is {a:e}, TRL says {b:e}", self.case.id));
                return;
            }
        }
    }

    fn evaluation(&mut self, out: &Evaluation, expected: &Expected) {
        let loss = out.losses.iter().sum::<f64>() / out.losses.len() as f64;
        self.close("loss", &[loss], &[expected.loss]);
        self.close("chosen gradient", &out.grad_chosen, &expected.gradients[0].values);
        self.close("rejected gradient", &out.grad_rejected, &expected.gradients[1].values);
        if let Some([chosen, rejected]) = &expected.rewards
            && out.rewards != Default::default()
        {
            self.close("chosen reward", &out.rewards.chosen, chosen);
            self.close("rejected reward", &out.rewards.rejected, rejected);
        }
    }
}

#[test]
fn trl_agrees_on_every_case() {
    let mut counts = BTreeMap::<String, usize>::new();
    let mut failures = Vec::new();
    for case in first_file().into_iter().chain(second_file()) {
        let terms = match ours(&case) {
            Ours::Terms(terms) => terms,
            Ours::Otherwise(reason) => {
                *counts.entry(format!("otherwise: {reason}")).or_default() += 1;
                continue;
            }
        };
        let out = match case.batch.evaluate(&mut *objective(&case, &terms)) {
            Ok(out) => out,
            Err(error) => {
                failures.push(format!("{}: {error}", case.id));
                continue;
            }
        };
        let expected = match &case.expected {
            Ok(expected) if !expected.loss.is_nan() => expected,
            failed => {
                let figures = [&out.losses, &out.grad_chosen, &out.grad_rejected].into_iter().flatten();
                assert!(figures.copied().all(f64::is_finite), "{}", case.id);
                let how = if failed.is_ok() { "says NaN" } else { "raises" };
                *counts.entry(format!("finite where TRL {how}: {:?}", case.losses)).or_default() += 1;
                continue;
            }
        };
        let mut check = Check { case: &case, failures: Vec::new() };
        check.evaluation(&out, expected);
        if let (Some(losses), Layout::Unpaired) = (&expected.losses, case.batch.layout) {
            check.close("loss of a row", &out.losses, losses);
        }
        if let (Some(losses), Layout::Pairs) = (&expected.losses, case.batch.layout) {
            for (i, &loss) in losses.iter().enumerate() {
                let alone = case.batch.pairs(&[i]).evaluate(&mut *objective(&case, &terms)).unwrap();
                check.close("loss of a row alone", &alone.losses, &[loss]);
            }
        }
        failures.extend(check.failures);
        *counts.entry("equal".into()).or_default() += 1;
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    let counts: Vec<_> = counts.iter().map(|(what, n)| (what.as_str(), *n)).collect();
    assert_eq!(
        counts,
        [
            ("equal", 1156),
            ("finite where TRL raises: [\"hinge\"]", 2),
            ("finite where TRL raises: [\"sigmoid\", \"hinge\"]", 1),
            ("finite where TRL says NaN: [\"discopop\"]", 2),
            ("finite where TRL says NaN: [\"sigmoid\"]", 1),
            ("otherwise: `dpo` obeys the label smoothing that TRL's `sigmoid` ignores", 1),
            ("otherwise: `sft` has no `use_weighting`, with which TRL fails", 2),
        ],
        "every case of the two files is in one of these classes"
    );
}

/// `margin_dpo.json`.
#[test]
fn margins_are_those_of_torch() {
    for case in read("margin_dpo.json").as_array().unwrap() {
        let side = |policy: &str, reference: &str| Answers {
            policy: rows(&case[policy]),
            reference: rows(&case[reference]),
            collision: None,
        };
        let batch = Batch {
            layout: Layout::Pairs,
            chosen: side("policy_chosen", "reference_chosen"),
            rejected: side("policy_rejected", "reference_rejected"),
            mismatched: None,
            gaps: vec![],
            margins: numbers(&case["margin"]),
        };
        let ours = batch.evaluate(&mut *build("margin-dpo", &json!({ "beta": case["beta"] }))).unwrap();
        for (what, ours, theirs) in [
            ("losses", &ours.losses, numbers(&case["losses"])),
            ("grad_chosen", &ours.grad_chosen, rows(&case["grad_chosen"]).values),
            ("grad_rejected", &ours.grad_rejected, rows(&case["grad_rejected"]).values),
        ] {
            assert_eq!(ours.len(), theirs.len(), "{what}");
            let apart = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1e-3);
            let worst = ours.iter().zip(&theirs).map(apart).fold(0.0, f64::max);
            assert!(worst < 1e-12, "{what}: {worst:e}");
        }
    }
}
