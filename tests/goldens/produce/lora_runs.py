"""Eight DPO steps on a LoRA adapter: by TRL's DPOTrainer (f32) and by a plain loop in f64.

    python lora_runs.py MODELS_DIR REFERENCE_RUNS_JSON OUT_DIR
"""
import math
import os
import sys
import tempfile

import torch
import torch.nn.functional as F
from common import BATCH, BETA, BETAS, CLIP, EPS, LR, STEPS, dump, load, log_probs, rows_of, tokenizer, trl_trainer, versions
from peft import LoraConfig, get_peft_model

models_dir, runs_file, out_dir = sys.argv[1:]
torch.set_num_threads(1)
RANK, ALPHA = 4, 8
TARGETS = {"llama-tiny": ["q_proj", "v_proj"], "qwen3-tiny": ["q_proj", "v_proj"], "gpt2-tiny": ["c_attn"]}
METRICS = ["loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]
rows, tokens = rows_of(runs_file)


def config(name):
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[name], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", fan_in_fan_out=name.startswith("gpt2"))


@torch.no_grad()
def set_a(model):
    """A[i][j] = sin(1 + 0.37 i + 0.11 j) / 10 in every module, B = 0."""
    shapes = {}
    for key, p in model.named_parameters():
        if "lora_A" in key:
            i, j = torch.meshgrid(torch.arange(p.shape[0], dtype=torch.float64), torch.arange(p.shape[1], dtype=torch.float64), indexing="ij")
            p.copy_(torch.sin(1 + 0.37 * i + 0.11 * j) / 10)
        if "lora_B" in key:
            p.zero_()
        if "lora_" in key:
            shapes[key] = list(p.shape)
    return shapes


def adapter_sums(model):
    """A digest of the trained adapter: squared norm of all A and of all B, and B's plain sum."""
    a = [p.detach().double() for k, p in model.named_parameters() if "lora_A" in k]
    b = [p.detach().double() for k, p in model.named_parameters() if "lora_B" in k]
    return dict(a_norm=math.sqrt(sum((x * x).sum().item() for x in a)), b_norm=math.sqrt(sum((x * x).sum().item() for x in b)), b_sum=sum(x.sum().item() for x in b))


def by_trl(name):
    trainer = trl_trainer(load(models_dir, name), tokenizer(models_dir, name), rows, tempfile.mkdtemp(), "sigmoid", peft_config=config(name))
    set_a(trainer.model)
    trainer.train()
    steps = [{k: e[k] for k in METRICS} for e in trainer.state.log_history if "loss" in e]
    return steps, adapter_sums(trainer.model)


def in_f64(name):
    model = get_peft_model(load(models_dir, name, torch.float64), config(name), autocast_adapter_dtype=False)
    shapes = set_a(model)
    params = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float64 for p in params)
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    steps = []
    for step in range(STEPS):
        batch = tokens[name][step * BATCH:(step + 1) * BATCH]
        policy = [[log_probs(model, t["prompt_ids"], t[side + "_ids"]).sum() for t in batch] for side in ("chosen", "rejected")]
        with torch.no_grad(), model.disable_adapter():
            reference = [[log_probs(model, t["prompt_ids"], t[side + "_ids"]).sum() for t in batch] for side in ("chosen", "rejected")]
        policy, reference = torch.stack([torch.stack(p) for p in policy]), torch.stack([torch.stack(p) for p in reference])
        reward = BETA * (policy - reference)
        loss = -F.logsigmoid(reward[0] - reward[1]).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        w, l = reward.detach()
        steps.append(dict(zip(METRICS, (x.item() for x in (loss, norm, w.mean(), l.mean(), (w > l).double().mean(), (w - l).mean(), policy[0].mean(), policy[1].mean())))))
    return steps, adapter_sums(model), shapes


out = {}
for name in TARGETS:
    trl_steps, trl_adapter = by_trl(name)
    f64_steps, f64_adapter, shapes = in_f64(name)
    worst = {k: max(abs(a[k] - b[k]) / max(1.0, abs(b[k])) for a, b in zip(trl_steps, f64_steps)) for k in METRICS}
    print(name, worst, trl_adapter, f64_adapter, len(shapes), file=sys.stderr)
    out[name] = dict(targets=TARGETS[name], fan_in_fan_out=name.startswith("gpt2"), adapter_shapes=shapes, trl_f32=trl_steps, f64=f64_steps, adapter_after_f32=trl_adapter, adapter_after_f64=f64_adapter)
dump(os.path.join(out_dir, "lora_runs.json"), dict(
    produced_by=versions(), rows="the 32 rows of trl_dpo_runs.json", rank=RANK, alpha=ALPHA, scaling=ALPHA / RANK, dropout=0.0, a_formula="sin(1 + 0.37*i + 0.11*j) / 10", b_init=0.0,
    batch=BATCH, lr=LR, beta=BETA, adamw=dict(betas=BETAS, eps=EPS, weight_decay=0.0), max_grad_norm=CLIP, order="rows in file order, no shuffle", models=out))
