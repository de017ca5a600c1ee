"""The run of dpo.toml with TRL's DPOTrainer. compare.py calls it; prints one JSON line per optimizer step.

Without --lean: TRL as it comes. With it, the fastest f32 setting we found: reference log-probs computed before
training, one pair at a time, so that nothing is padded to another pair's length.
"""
import argparse
import json
import os
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--lean", action="store_true")
parser.add_argument("--lora", action="store_true")
parser.add_argument("--bf16", action="store_true", help="weights in bf16")
given = parser.parse_args()
torch.set_num_threads(2)


class Lines(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds = time.perf_counter() - self.began

    def on_log(self, _, state, __, logs, **___):
        if "loss" in logs:
            print(json.dumps({"step": state.global_step, "seconds": self.seconds, "loss": logs["loss"]}), flush=True)


with open(given.rows) as lines:
    rows = [json.loads(line) for _, line in zip(range(given.steps * given.batch), lines)]
dtype = torch.bfloat16 if given.bf16 else torch.float32
DPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(given.model, dtype=dtype),
    args=DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=1 if given.lean else given.batch,
        gradient_accumulation_steps=given.batch if given.lean else 1,
        precompute_ref_log_probs=given.lean,
        max_steps=given.steps, learning_rate=1e-6, lr_scheduler_type="constant", beta=0.1,
        train_sampling_strategy="sequential", logging_steps=1, report_to=[], save_strategy="no", bf16=False,
        use_cpu=True, gradient_checkpointing=False, disable_tqdm=True,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=PreTrainedTokenizerFast.from_pretrained(given.model),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]) if given.lora else None,
    callbacks=[Lines()],
).train()
