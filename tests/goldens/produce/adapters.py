"""Adapters with every option, as PEFT saves them, and what PEFT computes with them.

    python adapters.py GOLDENS_DIR

Reads the models in GOLDENS_DIR/architectures; writes GOLDENS_DIR/adapters/NAME/{adapter_config.json,
adapter_model.safetensors, figures.json}. Every trained value is drawn at random, except magnitudes, which are moved at
random from where they begin. Figures are in f32, one sequence at a time, without padding.
"""
import json
import os
import shutil
import sys
import tempfile

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tiny import log_probs, norm, sft
from transformers import AutoModelForCausalLM

goldens = sys.argv[1]
torch.set_num_threads(1)
SGD_LR, LR, BETAS, EPS, CLIP, STEPS = 0.02, 2e-3, (0.9, 0.999), 1e-8, 1.0, 3

# The name of the model, and PEFT's configuration.
CASES = {
    "patterns": ("llama", dict(r=3, lora_alpha=6, target_modules="all-linear", exclude_modules=["k_proj", "0.mlp.up_proj"], use_rslora=True,
                               rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\.[qv]_proj": 4}, alpha_pattern={"1.mlp.(up|gate)_proj": 9})),
    "blocks": ("gemma3", dict(r=2, lora_alpha=5, target_modules=["q_proj", "o_proj", "down_proj"], layers_to_transform=[0, 2])),
    "regex": ("olmo2", dict(r=2, lora_alpha=3, target_modules=r".*\.(0|1)\.(?!mlp).*_proj")),
    "saved-embedding": ("qwen2", dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens"])),
    "saved-head": ("qwen2", dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])),
    "saved-both": ("gpt2", dict(r=2, lora_alpha=4, target_modules=["c_attn"], modules_to_save=["wte", "lm_head"], fan_in_fan_out=True)),
    "saved-modules": ("gpt2", dict(r=2, lora_alpha=4, target_modules="all-linear", modules_to_save=["ln_f", "1.mlp"], fan_in_fan_out=True)),
    "dora": ("llama", dict(r=3, lora_alpha=6, target_modules="all-linear", use_dora=True)),
    "ends": ("llama", dict(r=3, lora_alpha=6, target_modules=["q_proj", "embed_tokens", "lm_head"], rank_pattern={"lm_head": 2})),
    "ends-tied": ("gemma3", dict(r=2, lora_alpha=5, target_modules=["down_proj", "embed_tokens", "lm_head"], use_rslora=True)),
    "embedding-tied": ("granite", dict(r=2, lora_alpha=5, target_modules=r".*(embed_tokens|v_proj)")),
    "head-tied": ("cohere", dict(r=2, lora_alpha=3, target_modules=["o_proj", "lm_head"])),
    "head-bias": ("phi", dict(r=2, lora_alpha=4, target_modules=["fc1", "lm_head"])),
    "embedding-transposed": ("gpt2", dict(r=2, lora_alpha=4, target_modules=["c_fc", "wte"], fan_in_fan_out=True)),
    "dora-transposed": ("gpt2", dict(r=2, lora_alpha=4, target_modules=["c_attn", "c_fc"], use_dora=True, use_rslora=True, fan_in_fan_out=True)),
}


def produce(name, base, settings):
    source = os.path.join(goldens, "architectures", base)
    with open(os.path.join(source, "figures.json")) as f:
        groups = json.load(f)["groups"]
    model = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **settings)).eval()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in trained.items():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(p * (1 + 0.2 * noise) if "magnitude" in key else p + 0.1 * noise if "modules_to_save" in key else 0.3 * noise)
    folder = os.path.join(goldens, "adapters", name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        shutil.copy(os.path.join(scratch, "adapter_model.safetensors"), folder)
        with open(os.path.join(scratch, "adapter_config.json")) as f:
            config = json.load(f)
    config["base_model_name_or_path"] = base
    for key, value in config.items():
        if isinstance(value, list):
            config[key] = sorted(value)
    with open(os.path.join(folder, "adapter_config.json"), "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)
        f.write("\n")
    with torch.no_grad():
        found = [[log_probs(model, group["prompt"], completion).tolist() for completion in group["completions"]] for group in groups]
    before = {key: p.detach().clone() for key, p in trained.items()}
    optimizer, sgd = torch.optim.SGD(trained.values(), lr=SGD_LR), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = sft(model, groups)
        loss.backward()
        sgd.append(dict(loss=loss.item(), grad_norm=norm(p.grad for p in trained.values())))
        optimizer.step()
    with torch.no_grad():
        for key, p in trained.items():
            p.copy_(before[key])
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = sft(model, groups)
        loss.backward()
        norms = {kind: norm(p.grad for key, p in trained.items() if kind in key) for kind in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "magnitude", "modules_to_save") if any(kind in key for key in trained)}
        steps.append(dict(loss=loss.item(), grad_norm=norm(p.grad for p in trained.values()), of=norms))
        torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
        optimizer.step()
    produced_by = f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__.split('+')[0]}"
    figures = dict(produced_by=produced_by, base=base, asked=settings, log_probs=found, sgd=sgd, steps=steps, parameter_norm_after=norm(trained.values()))
    with open(os.path.join(folder, "figures.json"), "w") as f:
        json.dump(figures, f, indent=1)
        f.write("\n")


for name, (base, settings) in CASES.items():
    produce(name, base, settings)
