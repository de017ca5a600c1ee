"""Eight steps of full fine-tuning on the chosen completions, AdamW with weight decay on every parameter, three schedules.

    python sft_runs.py MODELS_DIR REFERENCE_RUNS_JSON OUT_DIR

`f64` is a plain loop; `trl_f32` (constant rate only) is TRL's DPOTrainer with loss_type "sft" and the same optimizer.
"""
import os
import sys
import tempfile

import torch
from common import BATCH, BETAS, CLIP, EPS, LR, STEPS, dump, load, log_probs, rows_of, tokenizer, trl_trainer, versions
from transformers import get_constant_schedule, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

models_dir, runs_file, out_dir = sys.argv[1:]
torch.set_num_threads(1)
DECAY, WARMUP = 0.1, 2
SCHEDULES = {"constant": lambda o: get_constant_schedule(o),
             "linear": lambda o: get_linear_schedule_with_warmup(o, WARMUP, STEPS),
             "cosine": lambda o: get_cosine_schedule_with_warmup(o, WARMUP, STEPS)}
rows, tokens = rows_of(runs_file)


def adamw(model):
    params = list(model.parameters())  # tied weights appear once
    return torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY), params


def in_f64(name, schedule):
    model = load(models_dir, name, torch.float64)
    optimizer, params = adamw(model)
    scheduler = SCHEDULES[schedule](optimizer)
    steps = []
    for step in range(STEPS):
        batch = tokens[name][step * BATCH:(step + 1) * BATCH]
        logp = torch.cat([log_probs(model, t["prompt_ids"], t["chosen_ids"]) for t in batch])
        loss = -logp.mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        steps.append(dict(loss=loss.item(), grad_norm=norm.item(), lr=scheduler.get_last_lr()[0], tokens=len(logp)))
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return steps, sum(p.pow(2).sum() for p in params).sqrt().item()


def by_trl(name):
    model = load(models_dir, name)
    optimizer, _ = adamw(model)
    trainer = trl_trainer(model, tokenizer(models_dir, name), rows, tempfile.mkdtemp(), "sft", optimizers=(optimizer, get_constant_schedule(optimizer)))
    trainer.train()
    return [dict(loss=e["loss"], grad_norm=e["grad_norm"], lr=e["learning_rate"]) for e in trainer.state.log_history if "loss" in e]


out = {}
for name in ("llama-tiny", "qwen3-tiny", "gpt2-tiny"):
    out[name] = {}
    for schedule in SCHEDULES:
        steps, norm = in_f64(name, schedule)
        out[name][schedule] = dict(f64=steps, parameter_norm_after=norm)
    out[name]["constant"]["trl_f32"] = by_trl(name)
    print(name, [max(abs(a[k] - b[k]) for a, b in zip(out[name]["constant"]["trl_f32"], out[name]["constant"]["f64"])) for k in ("loss", "grad_norm", "lr")], file=sys.stderr)
dump(os.path.join(out_dir, "sft_runs.json"), dict(
    produced_by=versions(), rows="the 32 rows of trl_dpo_runs.json, chosen completions", batch=BATCH, lr=LR, adamw=dict(betas=BETAS, eps=EPS, weight_decay=DECAY, decayed="every parameter"),
    max_grad_norm=CLIP, warmup_steps=WARMUP, total_steps=STEPS, order="rows in file order, no shuffle", models=out))
