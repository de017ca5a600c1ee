//! What other trainers call a key of the recipe: an error about an unknown key says what to write instead.

/// Keys of transformers, TRL, PEFT, LLaMA-Factory and axolotl, each with what stands for it here.
const KEYS: [(&str, &str); 64] = [
    ("adam_beta1", "`optimizer.betas`"),
    ("adam_beta2", "`optimizer.betas`"),
    ("adam_epsilon", "`optimizer.epsilon`"),
    ("base_model", "`model.path`"),
    ("bf16", "`backend.dtype = \"bf16\"`"),
    ("cpo_alpha", "`sft_weight`"),
    ("cutoff_len", "`data.max_length`"),
    ("dataset", "`data.train`"),
    ("early_stopping_patience", "`early_stopping` of a stage"),
    ("eval_dataset", "`data.eval`"),
    ("eval_steps", "`evaluation.every`"),
    ("exclude_modules", "`model.adapter.exclude`"),
    ("fp16", "`backend.dtype`"),
    ("gamma_beta_ratio", "`gamma`, which is that ratio times `beta`"),
    (
        "gradient_accumulation_steps",
        "`batch_size`, the rows of an update; `micro_batch` splits them for memory",
    ),
    ("gradient_checkpointing", "`backend.options.memory`, where the backend has it"),
    ("layers_to_transform", "`model.adapter.layers`"),
    ("learning_rate", "`optimizer.lr`"),
    ("load_best_model_at_end", "`checkpoint.best`"),
    ("logging_steps", "nothing: every step is in metrics.jsonl"),
    ("lora_alpha", "`model.adapter.alpha`"),
    ("lora_dropout", "nothing: an adapter is trained without dropout"),
    ("lora_modules_to_save", "`model.adapter.modules_to_save`"),
    ("lora_r", "`model.adapter.rank`"),
    ("lora_rank", "`model.adapter.rank`"),
    ("lora_target", "`model.adapter.targets`"),
    ("lora_target_modules", "`model.adapter.targets`"),
    ("loss_type", "the objective's `name`"),
    ("loss_weights", "a list of objectives with a `weight` each"),
    ("lr_scheduler", "`optimizer.schedule`"),
    ("lr_scheduler_type", "`optimizer.schedule`"),
    ("max_seq_length", "`data.max_length`"),
    ("max_steps", "`steps` of a stage"),
    ("micro_batch_size", "`micro_batch = { rows = N }` of a stage"),
    ("model_name_or_path", "`model.path`"),
    ("num_epochs", "`epochs` of a stage"),
    ("num_train_epochs", "`epochs` of a stage"),
    ("optim", "`optimizer.name`"),
    ("output_dir", "`run.output`"),
    ("overwrite_output_dir", "`run.overwrite`"),
    ("per_device_train_batch_size", "`batch_size` of a stage"),
    ("pref_beta", "the objective's `beta`"),
    ("pref_loss", "the objective's `name`"),
    ("r", "`model.adapter.rank`"),
    ("ref_model", "`reference = { external = { .. } }` of a stage"),
    ("ref_model_mixup_alpha", "`reference = { moving = { .. } }` of a stage"),
    ("ref_model_sync_steps", "`reference = { moving = { .. } }` of a stage"),
    ("report_to", "`run.tensorboard`, and `spo-run report`"),
    ("resume_from_checkpoint", "`run.resume`, or `spo-run resume`"),
    ("rpo_alpha", "`alpha` of the objective rpo"),
    ("save_steps", "`checkpoint.every`"),
    ("save_total_limit", "`checkpoint.keep_last`"),
    ("simpo_gamma", "`gamma`"),
    ("sync_ref_model", "`reference = { moving = { .. } }` of a stage"),
    ("target_modules", "`model.adapter.targets`"),
    ("tpo_alpha", "`sft_weight`"),
    ("tpo_l_gamma", "`gamma`"),
    ("train_dataset", "`data.train`"),
    ("truncation_mode", "`data.truncation`"),
    ("use_dora", "`model.adapter.dora`"),
    ("use_rslora", "`model.adapter.rslora`"),
    ("val_size", "`data.split`"),
    ("warmup_ratio", "`optimizer.warmup`, a share of the steps"),
    ("warmup_steps", "`optimizer.warmup = { steps = N }`"),
];

/// What stands for a key of another trainer; `None` for any other key.
pub(super) fn here(key: &str) -> Option<String> {
    let (_, ours) = KEYS.iter().find(|(theirs, _)| *theirs == key)?;
    Some(format!("`{key}` of other trainers is {ours} here"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use spo_api::Registry;
    use spo_backend_candle as _;

    use super::*;
    use crate::recipe::schema::schema;

    #[test]
    fn every_key_is_listed_once_and_what_stands_for_it_is_there() {
        assert!(KEYS.windows(2).all(|pair| pair[0].0 < pair[1].0), "in alphabetical order");
        let schema = schema(&Registry::linked().unwrap()).to_string();
        for (theirs, ours) in KEYS {
            let named: BTreeSet<&str> = ours.split('`').skip(1).step_by(2).collect();
            for path in named.into_iter().filter(|path| !path.starts_with("spo-run")) {
                let path = path.split(" = ").next().unwrap();
                for key in path.split('.') {
                    assert!(schema.contains(&format!("\"{key}\":")), "{theirs}: there is no key `{key}`");
                }
            }
        }
    }
}
