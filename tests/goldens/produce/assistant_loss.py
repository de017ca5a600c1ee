"""Three steps of TRL's SFTTrainer with `assistant_only_loss` on conversations of several turns.

    python assistant_loss.py MODELS_DIR ASSISTANT_MASKS_JSON OUT_DIR

The conversations and the template with {% generation %} are those of assistant_masks.json.
"""
import json
import sys
import tempfile

from common import BETAS, CLIP, EPS, LR, dump, load, tokenizer, versions
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

models_dir, masks_file, out_dir = sys.argv[1:]
NAME, STEPS, BATCH = "llama-tiny", 3, 2
with open(masks_file) as file:
    cases = [case for case in json.load(file) if case["about"].startswith("chatml: ")]
# An answer of several turns, and one, in every batch.
order = [1, 0, 2, 3, 4, 1]
rows = [{"messages": cases[i]["messages"]} for i in order]
tok = tokenizer(models_dir, NAME)
tok.chat_template = cases[0]["marked"]
args = SFTConfig(
    output_dir=tempfile.mkdtemp(), assistant_only_loss=True, max_length=None, loss_type="nll", per_device_train_batch_size=BATCH, max_steps=STEPS,
    learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS,
    max_grad_norm=CLIP, train_sampling_strategy="sequential", logging_steps=1, logging_strategy="steps", report_to=[], save_strategy="no",
    bf16=False, fp16=False, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, optim="adamw_torch",
)
trainer = SFTTrainer(model=load(models_dir, NAME), args=args, train_dataset=Dataset.from_list(rows), processing_class=tok)
trainer.train()
steps = [{key: entry[key] for key in ("loss", "grad_norm")} for entry in trainer.state.log_history if "loss" in entry]
dump(f"{out_dir}/assistant_loss.json", {
    "produced_by": versions(), "model": NAME, "template": tok.chat_template, "rows": rows, "batch": BATCH, "lr": LR, "max_grad_norm": CLIP,
    "steps": steps,
})
