//! What TRL's settings are in a recipe. Defaults are those of TRL 1.16.

use spo_api::Targets;
use toml::{Table, Value as Toml};

use super::draft::Draft;
use super::left_out;
use super::settings::{Settings, Value};
use crate::error::BadInput;

/// A trainer of TRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Trainer {
    Dpo,
    Sft,
    Kto,
    Cpo,
    Orpo,
}

impl Trainer {
    /// The trainer of `trl NAME`, or of a script of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [
            ("dpo", Trainer::Dpo),
            ("sft", Trainer::Sft),
            ("kto", Trainer::Kto),
            ("cpo", Trainer::Cpo),
            ("orpo", Trainer::Orpo),
        ];
        let is =
            |known: &str| name == known || name == format!("run_{known}") || name == format!("train_{known}");
        all.into_iter().find(|(known, _)| is(known)).map(|(_, trainer)| trainer)
    }

    fn name(self) -> &'static str {
        match self {
            Trainer::Dpo => "DPO",
            Trainer::Sft => "SFT",
            Trainer::Kto => "KTO",
            Trainer::Cpo => "CPO",
            Trainer::Orpo => "ORPO",
        }
    }
}

/// A recipe, and what it does not carry over although results depend on it.
pub(super) struct Imported {
    pub(super) text: String,
    pub(super) loud: Vec<String>,
}

/// What becomes of a tracker that is not there.
const REPORTED: &str = "`spo-run report` shows runs, and `run.tensorboard` writes TensorBoard files";

/// Where a default value comes from, for a comment.
const DEFAULT: &str = "TRL's default";

/// Makes the recipe.
pub(super) fn recipe(trainer: Trainer, settings: Settings) -> Result<Imported, BadInput> {
    let mut import = Import { trainer, settings, draft: Draft::default() };
    import.run()?;
    import.model()?;
    import.data()?;
    import.evaluation()?;
    import.checkpoint()?;
    import.stage()?;
    import.optimizer()?;
    let Import { settings, mut draft, .. } = import;
    for setting in settings.unused() {
        let shown = format!("{} = {}", setting.key, setting.value);
        match left_out::why(&setting.key) {
            _ if is_off(&setting.value) => draft.leave_out(&shown, "off"),
            (why, false) => draft.leave_out(&shown, why),
            (why, true) => draft.warn(&shown, why),
        }
    }
    let (given, lacking) = (settings.keys().count(), settings.keys().filter(|key| draft.lacks(key)).count());
    let title = format!(
        "Made by `spo-run import` from a configuration of TRL's {} trainer: {} of {given} settings are carried over.",
        trainer.name(),
        given - lacking
    );
    Ok(Imported { text: draft.text(&title), loud: draft.loud })
}

/// Whether a setting turns something off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::None => true,
        Value::Text(text) => ["false", "no", "off", "none"].contains(&&*text.to_ascii_lowercase()),
        Value::List(items) => items.is_empty(),
        Value::Table(entries) => entries.is_empty(),
    }
}

struct Import {
    trainer: Trainer,
    settings: Settings,
    draft: Draft,
}

impl Import {
    /// The value of a key and where it comes from, or TRL's default.
    fn or<T>(given: Option<T>, key: &'static str, default: T) -> (T, &'static str) {
        given.map_or((default, DEFAULT), |given| (given, key))
    }

    fn run(&mut self) -> Result<(), BadInput> {
        if let Some(folder) = self.settings.text("output_dir")? {
            self.draft.set("[run]", "output", folder, "output_dir");
        }
        let (seed, from) = Self::or(self.settings.count("seed")?, "seed", 42);
        self.draft.set("[run]", "seed", seed as i64, &format!("{from}; the random numbers are others"));
        if self.settings.flag("overwrite_output_dir")? == Some(true) {
            self.draft.set("[run]", "overwrite", true, "overwrite_output_dir");
        }
        match self.settings.texts("report_to")?.unwrap_or_default() {
            to if to.iter().any(|name| name == "tensorboard" || name == "all") => {
                self.draft.set("[run]", "tensorboard", true, "report_to");
            }
            to if to.iter().all(|name| is_off(&Value::Text(name.clone()))) => {}
            to => self.draft.leave_out(&format!("report_to = {}", to.join(", ")), REPORTED),
        }
        if let Some(from) =
            self.settings.text("resume_from_checkpoint")?.filter(|from| !is_off(&Value::Text(from.clone())))
        {
            self.draft.set("[run]", "resume", "auto", &format!("resume_from_checkpoint = {from}"));
        }
        Ok(())
    }

    fn model(&mut self) -> Result<(), BadInput> {
        let given = self.settings.text("model_name_or_path")?;
        let (model, from) =
            given.map_or(("MODEL".to_owned(), "give the folder"), |model| (model, "model_name_or_path"));
        let note = format!("{from}; a folder here: nothing is downloaded");
        self.draft.set("[model]", "path", model, &note);
        for key in ["dtype", "torch_dtype"] {
            if let Some(dtype) =
                self.settings.text(key)?.filter(|dtype| !["auto", "float32"].contains(&&**dtype))
            {
                self.draft.warn(
                    &format!("{key} = {dtype}"),
                    "weights are trained in f32 unless `backend.dtype` says otherwise",
                );
            }
        }
        if self.settings.flag("bf16")? == Some(true) {
            let why = "activations there are in bf16 and weights in f32; here both are in f32 unless `backend.dtype` says \
                       otherwise";
            self.draft.leave_out("bf16 = true", why);
        }
        if let Some(weight) = self.settings.number("router_aux_loss_coef")? {
            self.draft.set("[model]", "router_aux_loss", weight, "router_aux_loss_coef");
        }
        let adapter = self.settings.flag("use_peft")? == Some(true);
        let rank = Self::or(self.settings.count("lora_r")?, "lora_r", 16);
        let alpha = Self::or(self.settings.number("lora_alpha")?, "lora_alpha", 32.0);
        let dropout = Self::or(self.settings.number("lora_dropout")?, "lora_dropout", 0.05);
        // The trainers of preferences turn it off in the adapter too, unless told not to.
        let kept = self.settings.flag("disable_dropout")? == Some(false) || self.trainer == Trainer::Sft;
        let stable = self.settings.flag("use_rslora")? == Some(true);
        let dora = self.settings.flag("use_dora")? == Some(true);
        let targets = self.settings.texts("lora_target_modules")?;
        let modules = self.settings.texts("lora_modules_to_save")?;
        if !adapter {
            return Ok(());
        }
        let section = "[model.adapter]";
        self.draft.set(section, "rank", rank.0 as i64, rank.1);
        self.draft.set(section, "alpha", alpha.0, alpha.1);
        match targets.as_deref() {
            // TRL gives PEFT a list of one as a text: a regular expression for the whole name, unless it is a plain one.
            Some([one]) if one == Targets::ALL || one.contains(['.', '*', '(', '|', '[']) => {
                self.draft.set(section, "targets", one.as_str(), "lora_target_modules");
            }
            Some(names) => self.draft.set(section, "targets", names.to_vec(), "lora_target_modules"),
            None => {
                let from = "PEFT's default for models like Llama";
                self.draft.set(section, "targets", vec!["q_proj", "v_proj"], from);
            }
        }
        for (given, key, theirs) in [(stable, "rslora", "use_rslora"), (dora, "dora", "use_dora")] {
            if given {
                self.draft.set(section, key, true, theirs);
            }
        }
        if let Some(modules) = modules {
            self.draft.set(section, "modules_to_save", modules, "lora_modules_to_save");
        }
        if dropout.0 > 0.0 {
            let setting = format!("lora_dropout = {} ({})", dropout.0, dropout.1);
            match (kept, dora) {
                (true, false) => self.draft.set(section, "dropout", dropout.0, dropout.1),
                (true, true) => {
                    self.draft.warn(&setting, "an adapter with `dora` is trained without dropout");
                }
                (false, _) => self.draft.leave_out(&setting, "TRL turns it off (`disable_dropout`)"),
            }
        }
        Ok(())
    }

    fn data(&mut self) -> Result<(), BadInput> {
        let given = self.settings.text("dataset_name")?;
        let splits = [("train", "dataset_train_split"), ("test", "dataset_test_split")];
        let [train, test] =
            splits.map(|(default, key)| self.settings.text(key).map(|split| split.unwrap_or(default.into())));
        let (train, test) = (train?, test?);
        let subset = self.settings.text("dataset_config")?;
        let file = |split: &str| match &given {
            None if split == train => (Toml::from("ROWS.jsonl"), "give the file"),
            None => (Toml::from("HELD-OUT.jsonl"), "give the file"),
            Some(name) if is_file(name) => (Toml::from(name.as_str()), "dataset_name"),
            Some(name) => {
                let parts = [("path", Some(&**name)), ("subset", subset.as_deref()), ("split", Some(split))];
                let table =
                    parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
                (Toml::Table(table.collect()), "dataset_name, and the split")
            }
        };
        let (path, from) = file(&train);
        self.draft.set("[data]", "train", path, from);
        let evaluates = self.settings.text("eval_strategy")?.or(self.settings.text("evaluation_strategy")?);
        if evaluates.as_deref().is_some_and(|strategy| strategy != "no") {
            let (path, from) = file(&test);
            match given.as_deref().is_some_and(is_file) {
                true => self.draft.set(
                    "[data]",
                    "split",
                    Toml::Table(Table::from_iter([("eval".to_owned(), Toml::Float(0.02))])),
                    "held-out rows: name a file of them as `eval` if there is one",
                ),
                false => self.draft.set("[data]", "eval", path, from),
            }
        }
        match self.settings.value("max_length").or(self.settings.value("max_seq_length")) {
            None if self.settings.has("max_length") => {
                self.draft.warn(
                    "max_length = null",
                    "rows have a limit, `data.max_length`, which is 1024 unless given",
                );
            }
            None => self.draft.set("[data]", "max_length", 1024, DEFAULT),
            Some(_) => {
                let key = if self.settings.has("max_length") { "max_length" } else { "max_seq_length" };
                let length = self.settings.count(key)?.unwrap_or(1024);
                self.draft.set("[data]", "max_length", length as i64, key);
            }
        }
        match self.settings.text("truncation_mode")?.as_deref() {
            None | Some("keep_start") => {}
            Some("keep_end") => self.draft.set("[data]", "truncation", "keep_end", "truncation_mode"),
            Some(other) => {
                self.draft.warn(&format!("truncation_mode = {other}"), "rows are cut at one of their ends");
            }
        }
        Ok(())
    }

    fn evaluation(&mut self) -> Result<(), BadInput> {
        let strategy = self.settings.text("eval_strategy")?.or(self.settings.text("evaluation_strategy")?);
        let every = self.settings.number("eval_steps")?;
        let logging = self.settings.number("logging_steps")?;
        match strategy.as_deref() {
            Some("steps") => {
                let from = if every.is_some() { "eval_steps" } else { "logging_steps, or its default" };
                self.draft.set("[evaluation]", "every", steps(every.or(logging).unwrap_or(10.0)), from);
            }
            Some("epoch") => {
                let why =
                    "held-out rows are measured before and after a stage; give `evaluation.every` for more";
                self.draft.leave_out("eval_strategy = epoch", why);
            }
            _ => {}
        }
        if let Some(rows) = self.settings.count("per_device_eval_batch_size")? {
            self.draft.set("[evaluation]", "batch_size", rows as i64, "per_device_eval_batch_size");
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), BadInput> {
        let strategy = self.settings.text("save_strategy")?;
        let every = self.settings.number("save_steps")?;
        match strategy.as_deref() {
            None | Some("steps") => {
                let from = if every.is_some() { "save_steps" } else { DEFAULT };
                self.draft.set("[checkpoint]", "every", steps(every.unwrap_or(500.0)), from);
            }
            Some(other) => {
                let why = "a checkpoint is written every 15 minutes and at the end of a stage";
                self.draft.leave_out(&format!("save_strategy = {other}"), why);
            }
        }
        if let Some(kept) = self.settings.count("save_total_limit")? {
            self.draft.set("[checkpoint]", "keep_last", kept.max(1) as i64, "save_total_limit");
        }
        let best = self.settings.flag("load_best_model_at_end")? == Some(true);
        let metric = self.settings.text("metric_for_best_model")?;
        let greater = self.settings.flag("greater_is_better")?;
        if best {
            let metric = metric.unwrap_or("loss".into());
            let name = if metric.starts_with("eval_") { metric.clone() } else { format!("eval_{metric}") };
            let up = greater.unwrap_or(!metric.ends_with("loss"));
            let mut table = Table::from_iter([("metric".to_owned(), Toml::String(name))]);
            if up {
                table.insert("goal".into(), "max".into());
            }
            match self.draft.has("[evaluation]", "every") {
                true => self.draft.set(
                    "[checkpoint]",
                    "best",
                    table,
                    "load_best_model_at_end: it is in STAGE/best",
                ),
                false => self
                    .draft
                    .warn("load_best_model_at_end = true", "`checkpoint.best` needs `evaluation.every`"),
            }
        }
        Ok(())
    }

    fn stage(&mut self) -> Result<(), BadInput> {
        let section = "[[stage]]";
        let name = self.trainer.name().to_lowercase();
        self.draft.set(section, "name", name, "the trainer");
        let objective = self.objective()?;
        self.draft.set(section, "objective", objective.0, &objective.1);
        if self.settings.flag("sync_ref_model")? == Some(true) {
            let steps = self.settings.count("ref_model_sync_steps")?.unwrap_or(512);
            let alpha = self.settings.number("ref_model_mixup_alpha")?.unwrap_or(0.6);
            let moving = Table::from_iter([
                ("sync_steps".to_owned(), Toml::Integer(steps as i64)),
                ("mixup_alpha".to_owned(), Toml::Float(alpha)),
            ]);
            let reference = Table::from_iter([("moving".to_owned(), Toml::Table(moving))]);
            self.draft.set(section, "reference", reference, "sync_ref_model");
        }
        let steps = self.settings.number("max_steps")?.filter(|steps| *steps > 0.0);
        let (epochs, from) = Self::or(self.settings.number("num_train_epochs")?, "num_train_epochs", 3.0);
        match steps {
            Some(steps) => self.draft.set(section, "steps", steps as i64, "max_steps"),
            None => self.draft.set(section, "epochs", epochs, from),
        }
        let rows = self.settings.count("per_device_train_batch_size")?.unwrap_or(8);
        let parts = self.settings.count("gradient_accumulation_steps")?.unwrap_or(1);
        let devices = self.settings.count("num_processes")?.unwrap_or(1);
        let product = match devices {
            1 => {
                "per_device_train_batch_size times gradient_accumulation_steps, times the devices if there were several"
            }
            _ => "per_device_train_batch_size times gradient_accumulation_steps times num_processes",
        };
        self.draft.set(section, "batch_size", (rows * parts * devices) as i64, product);
        if parts * devices > 1 {
            let at_once = Table::from_iter([("rows".to_owned(), Toml::Integer(rows as i64))]);
            self.draft.set(section, "micro_batch", at_once, "per_device_train_batch_size");
        }
        if self.trainer == Trainer::Kto {
            self.draft.set(section, "shuffle", false, "TRL's KTO takes rows in their order");
        }
        Ok(())
    }

    /// The objective, and what it was.
    fn objective(&mut self) -> Result<(Toml, String), BadInput> {
        let beta = self.settings.number("beta")?;
        let smoothing = self.settings.number("label_smoothing")?.filter(|smoothing| *smoothing > 0.0);
        let losses = self.settings.texts("loss_type")?;
        let mut table = Table::new();
        let name = |table: &mut Table, name: &str| drop(table.insert("name".into(), name.into()));
        match self.trainer {
            Trainer::Sft => return Ok(("sft".into(), "SFT".into())),
            Trainer::Orpo => name(&mut table, "orpo"),
            Trainer::Kto => {
                name(
                    &mut table,
                    losses.as_ref().and_then(|losses| losses.first()).map_or("kto", |loss| &**loss),
                );
                for key in ["desirable_weight", "undesirable_weight"] {
                    if let Some(weight) = self.settings.number(key)? {
                        table.insert(key.into(), weight.into());
                    }
                }
            }
            Trainer::Cpo => {
                let loss = losses.and_then(|losses| losses.first().cloned()).unwrap_or("sigmoid".into());
                let weight = self.settings.number("cpo_alpha")?.unwrap_or(1.0);
                let gamma = self.settings.number("simpo_gamma")?;
                match &*loss {
                    "simpo" => {
                        name(&mut table, "simpo");
                        table.insert("gamma".into(), gamma.unwrap_or(0.5).into());
                        if weight > 0.0 {
                            let setting = format!("cpo_alpha = {weight}");
                            self.draft.warn(
                                &setting,
                                "write CPO-SimPO as a list: simpo, and sft with this `weight`",
                            );
                        }
                    }
                    loss => {
                        name(&mut table, "cpo");
                        table.insert("loss_type".into(), loss.into());
                        table.insert("sft_weight".into(), weight.into());
                    }
                }
                if let Some(smoothing) = smoothing {
                    table.insert("label_smoothing".into(), smoothing.into());
                }
            }
            Trainer::Dpo => return self.dpo(beta, smoothing, losses),
        }
        table.insert("beta".into(), beta.unwrap_or(0.1).into());
        Ok((table.into(), "loss_type, beta and the loss's own settings".into()))
    }

    /// The losses of the DPO trainer: one, or a weighted sum.
    fn dpo(
        &mut self,
        beta: Option<f64>,
        smoothing: Option<f64>,
        losses: Option<Vec<String>>,
    ) -> Result<(Toml, String), BadInput> {
        let losses = losses.unwrap_or_else(|| vec!["sigmoid".to_owned()]);
        let weights = self.settings.texts("loss_weights")?;
        let alpha = self.settings.number("rpo_alpha")?;
        let divergence = self
            .settings
            .text("f_divergence_type")?
            .map(|name| name.replace("FDivergenceType.", "").to_lowercase());
        let divergence = divergence.filter(|name| name != "reverse_kl");
        let coefficient = self.settings.number("f_alpha_divergence_coef")?.unwrap_or(0.5);
        let tau = self.settings.number("discopop_tau")?;
        let desensitised = self.settings.number("ld_alpha")?;
        let weighting = self.settings.flag("use_weighting")? == Some(true);
        let mut terms = Vec::new();
        for (i, loss) in losses.iter().enumerate() {
            let mut term = Table::new();
            let ours = match &**loss {
                "sigmoid" if alpha.is_some() => "rpo",
                "sigmoid" => "dpo",
                "bco" => "bco_pair",
                other => other,
            };
            term.insert("name".into(), ours.into());
            if ours != "sft" {
                term.insert("beta".into(), beta.unwrap_or(0.1).into());
            }
            if let (Some(alpha), "rpo") = (alpha, ours) {
                term.insert("alpha".into(), alpha.into());
            }
            match (smoothing, ours) {
                (Some(smoothing), "robust" | "exo_pair" | "aot" | "aot_unpaired") => {
                    term.insert("label_smoothing".into(), smoothing.into());
                }
                (Some(smoothing), _) => {
                    let why = format!(
                        "TRL ignores it with `{loss}`; for conservative DPO give the objective's `label_smoothing`"
                    );
                    self.draft.leave_out(&format!("label_smoothing = {smoothing}"), &why);
                }
                _ => {}
            }
            if let (Some(tau), "discopop") = (tau, ours) {
                term.insert("discopop_tau".into(), tau.into());
            }
            for (key, given) in [
                ("f_divergence", divergence.is_some()),
                ("ld_alpha", desensitised.is_some()),
                ("use_weighting", weighting),
            ] {
                if given && !takes(ours, key) {
                    self.draft.warn(key, &format!("the objective `{ours}` has none"));
                }
            }
            match divergence.as_deref().filter(|_| takes(ours, "f_divergence")) {
                Some("alpha_divergence") => {
                    let of = Table::from_iter([("alpha_divergence".to_owned(), Toml::Float(coefficient))]);
                    term.insert("f_divergence".into(), of.into());
                }
                Some(other) => drop(term.insert("f_divergence".into(), other.into())),
                None => {}
            }
            if let Some(alpha) = desensitised.filter(|_| takes(ours, "ld_alpha")) {
                term.insert("ld_alpha".into(), alpha.into());
            }
            if weighting && takes(ours, "use_weighting") {
                term.insert("use_weighting".into(), true.into());
            }
            if losses.len() > 1 {
                let weight = weights.as_ref().and_then(|weights| weights.get(i)?.parse().ok()).unwrap_or(1.0);
                term.insert("weight".into(), Toml::Float(weight));
            }
            terms.push(term);
        }
        let from = "loss_type, beta and the loss's own settings".to_owned();
        match <[Table; 1]>::try_from(terms) {
            Ok([only]) => Ok((only.into(), from)),
            Err(terms) => Ok((terms.into_iter().map(Toml::Table).collect::<Vec<_>>().into(), from)),
        }
    }

    fn optimizer(&mut self) -> Result<(), BadInput> {
        let section = "[stage.optimizer]";
        let optim = self.settings.text("optim")?;
        let name = match optim.as_deref() {
            None
            | Some(
                "adamw_torch" | "adamw_torch_fused" | "adamw_hf" | "adamw_apex_fused" | "paged_adamw_32bit"
                | "paged_adamw",
            ) => "adamw",
            Some("adamw_8bit" | "adamw_bnb_8bit" | "paged_adamw_8bit") => "adamw-8bit",
            Some("rmsprop") => "rmsprop",
            Some("sgd") => "sgd",
            Some("lion_32bit" | "paged_lion_32bit") => "lion",
            Some(other) => {
                self.draft.warn(&format!("optim = {other}"), "it is not there; adamw takes its place");
                "adamw"
            }
        };
        self.draft.set(section, "name", name, optim.as_deref().map_or(DEFAULT, |_| "optim"));
        let usual = if self.trainer == Trainer::Sft { 2e-5 } else { 1e-6 };
        let (lr, from) = Self::or(self.settings.number("learning_rate")?, "learning_rate", usual);
        self.draft.set(section, "lr", lr, from);
        let given = self.settings.text("lr_scheduler_type")?;
        let schedule = match given.as_deref() {
            None | Some("linear") => "linear",
            Some("cosine") => "cosine",
            Some("constant" | "constant_with_warmup") => "constant",
            Some("cosine_with_restarts") => "cosine-with-restarts",
            Some("polynomial") => "polynomial",
            Some("inverse_sqrt") => "inverse-sqrt",
            Some("warmup_stable_decay") => "warmup-stable-decay",
            Some(other) => {
                self.draft
                    .warn(&format!("lr_scheduler_type = {other}"), "it is not there; cosine takes its place");
                "cosine"
            }
        };
        self.draft.set(section, "schedule", schedule, given.map_or(DEFAULT, |_| "lr_scheduler_type"));
        let (ratio, steps) = (self.settings.number("warmup_ratio")?, self.settings.number("warmup_steps")?);
        match (steps.filter(|steps| *steps > 0.0), ratio.filter(|ratio| *ratio > 0.0)) {
            (Some(steps), _) if steps >= 1.0 => {
                let table = Table::from_iter([("steps".to_owned(), Toml::Integer(steps as i64))]);
                self.draft.set(section, "warmup", table, "warmup_steps");
            }
            (Some(share), _) => self.draft.set(section, "warmup", share, "warmup_steps, a share of them"),
            (None, Some(ratio)) => self.draft.set(section, "warmup", ratio, "warmup_ratio"),
            (None, None) => {}
        }
        let (norm, from) = Self::or(self.settings.number("max_grad_norm")?, "max_grad_norm", 1.0);
        self.draft.set(section, "max_grad_norm", norm, from);
        let betas = [self.settings.number("adam_beta1")?, self.settings.number("adam_beta2")?];
        let epsilon = self.settings.number("adam_epsilon")?;
        let adam = name.starts_with("adamw");
        if betas.iter().any(Option::is_some) && (adam || name == "lion") {
            let betas = vec![Toml::Float(betas[0].unwrap_or(0.9)), Toml::Float(betas[1].unwrap_or(0.999))];
            self.draft.set(section, "betas", betas, "adam_beta1, adam_beta2");
        }
        if let (Some(epsilon), true) = (epsilon, adam) {
            self.draft.set(section, "epsilon", epsilon, "adam_epsilon");
        }
        if let Some(decay) = self.settings.number("weight_decay")?.filter(|decay| *decay > 0.0) {
            self.draft.set(section, "weight_decay", decay, "weight_decay");
            if adam {
                self.draft.set(section, "decay_bias_and_norm", false, "as transformers");
            }
        }
        Ok(())
    }
}

/// Whether an objective of the DPO trainer has an option that is not everyone's.
fn takes(objective: &str, option: &str) -> bool {
    let on_margins =
        ["dpo", "ipo", "hinge", "robust", "exo_pair", "discopop", "sigmoid_norm"].contains(&objective);
    let weighed = ["bco_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"].contains(&objective);
    match option {
        "f_divergence" => on_margins,
        "use_weighting" => on_margins || weighed,
        _ => on_margins || weighed || objective.starts_with("aot"),
    }
}

/// Whether a data set's name is that of a file or of a folder here.
fn is_file(name: &str) -> bool {
    let ends = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"];
    ends.iter().any(|end| name.ends_with(end)) || std::path::Path::new(name).exists()
}

/// A number of steps, or a share of them.
fn steps(number: f64) -> Toml {
    if number >= 1.0 { Toml::Integer(number as i64) } else { Toml::Float(number) }
}
