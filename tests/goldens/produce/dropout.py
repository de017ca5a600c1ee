"""LoRA with dropout: PEFT's `lora_dropout` modules are replaced by the masks that this project draws, written down a second time here.

    python dropout.py ARCHITECTURES_DIR OUT_FILE

Per model, with an adapter on every linear layer (as in architectures.py) and every sequence alone: log-probs, and the norm of the gradient of
the mean over the tokens of the first completions, with one mask for each layer and each beginning of a sequence.
"""
import json
import os
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tiny import log_probs, norm, sft
from transformers import AutoModelForCausalLM

architectures, out_file = sys.argv[1:]
torch.set_num_threads(1)
NAMES, RANK, ALPHA, RATE, SEED = ["llama", "qwen2", "gpt2"], 3, 6, 0.25, 11
BITS = (1 << 64) - 1


def mix(state):
    z = (state + 0x9E3779B97F4A7C15) & BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def fnv(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & BITS
    return h


class Mask(torch.nn.Module):
    def __init__(self, layer, tokens):
        super().__init__()
        self.layer, self.tokens = layer, tokens

    def forward(self, x):
        below, history, rows = int(RATE * 0xFFFFFFFF), 0, []
        for token in self.tokens():
            history = mix(history ^ mix(token))
            row = mix(mix(SEED ^ fnv(self.layer)) ^ history)
            halves = [mix((row + column // 2) & BITS) >> (32 * (column % 2)) & 0xFFFFFFFF for column in range(x.shape[-1])]
            rows.append([0.0 if half < below else 1 / (1 - RATE) for half in halves])
        return x * torch.tensor(rows)


figures = dict(produced_by=f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__.split('+')[0]}", rank=RANK, alpha=ALPHA, dropout=RATE, seed=SEED, models={})
for name in NAMES:
    folder = os.path.join(architectures, name)
    with open(os.path.join(folder, "figures.json")) as f:
        groups = json.load(f)["groups"]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=RATE, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                i, j = torch.meshgrid(torch.arange(p.shape[0]).double(), torch.arange(p.shape[1]).double(), indexing="ij")
                p.copy_(torch.sin(1 + 0.37 * i + 0.11 * j) / 5 if "lora_A" in key else torch.sin(2 + 0.23 * i + 0.41 * j) / 5)
    seen = {}
    for key, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            layer = key.removeprefix("base_model.model.")
            module.lora_dropout["default"] = Mask(layer, lambda: seen["ids"])
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(ids=kwargs["input_ids"][0].tolist()), with_kwargs=True)
    with torch.no_grad():
        found = [[log_probs(model, group["prompt"], completion).tolist() for completion in group["completions"]] for group in groups]
    loss = sft(model, groups)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    figures["models"][name] = dict(log_probs=found, sft_loss=loss.item(), grad_norm=norm(gradients))
with open(out_file, "w") as f:
    f.write(json.dumps(figures, separators=(",", ":")).replace("]],[[", "]],\n[[") + "\n")
