"""python trl_dpo.py MODEL_FOLDER ROWS.jsonl: the run of dpo.toml with TRL's DPOTrainer. Seconds of each step, peak memory."""
import json
import os
import resource
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

STEPS, BATCH = 6, 4
model_folder, rows_file = sys.argv[1:]
torch.set_num_threads(2)


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.began)


clock = Clock()
with open(rows_file) as lines:
    rows = [json.loads(line) for _, line in zip(range(STEPS * BATCH), lines)]
trainer = DPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
    args=DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=1e-6,
        lr_scheduler_type="constant", beta=0.1, train_sampling_strategy="sequential", logging_steps=1, report_to=[],
        save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=PreTrainedTokenizerFast.from_pretrained(model_folder),
    callbacks=[clock],
)
trainer.train()
for seconds, log in zip(clock.seconds, trainer.state.log_history):
    print(f"{seconds:.2f} s, loss {log['loss']}, grad_norm {log['grad_norm']}")
print(f"steps {sum(clock.seconds):.1f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
