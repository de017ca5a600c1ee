"""A tiny random model of every architecture, and what transformers, torch and PEFT compute for it.

    python architectures.py OUT_DIR [NAME ...]

Writes OUT_DIR/NAME/{config.json, model.safetensors, figures.json}. Every weight is drawn at random, norms and biases
too, and rounded to bf16. All figures are in f32 with eager attention, one sequence at a time, without padding.
"""
import json
import os
import shutil
import sys
import tempfile

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from tiny import fresh, log_probs, norm, sft
from transformers import AutoConfig, AutoModelForCausalLM

out_dir, wanted = sys.argv[1], sys.argv[2:]
torch.set_num_threads(1)
VOCABULARY, NEW = 61, 14
STEPS, SGD_LR, LR, BETA, BETAS, EPS, CLIP = 3, 0.05, 2e-3, 0.1, (0.9, 0.999), 1e-8, 1.0
RANK, ALPHA = 3, 6

COMMON = dict(vocab_size=VOCABULARY, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=8.0, original_max_position_embeddings=16)

# Windows are shorter than the sequences, and there are layers enough for each kind of layer to occur.
MODELS = {
    "llama": dict(COMMON, model_type="llama", attention_bias=True, mlp_bias=True, head_dim=10,
                  rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
    "mistral": dict(COMMON, model_type="mistral", sliding_window=6, head_dim=8, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    "qwen2": dict(COMMON, model_type="qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1, num_hidden_layers=3, tie_word_embeddings=True,
                  max_position_embeddings=24, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    "qwen3": dict(COMMON, model_type="qwen3", head_dim=8, use_sliding_window=True, sliding_window=7, layer_types=["sliding_attention", "full_attention"],
                  rope_parameters=YARN),
    "gpt2": dict(model_type="gpt2", vocab_size=VOCABULARY, n_embd=24, n_head=4, n_layer=2, n_positions=64, bos_token_id=None, eos_token_id=None),
    "gemma": dict(COMMON, model_type="gemma", head_dim=8, hidden_act="gelu"),
    "gemma2": dict(COMMON, model_type="gemma2", head_dim=8, sliding_window=6, query_pre_attn_scalar=9, attn_logit_softcapping=3.0, final_logit_softcapping=5.0),
    "gemma3": dict(COMMON, model_type="gemma3_text", head_dim=8, sliding_window=6, query_pre_attn_scalar=9, num_hidden_layers=3,
                   layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                   rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0), sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
    "phi3": dict(COMMON, model_type="phi3", sliding_window=30, hidden_size=32, original_max_position_embeddings=16,
                 rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.5], long_factor=[1.5, 3.0, 9.0])),
    "olmo2": dict(COMMON, model_type="olmo2"),
    "olmo3": dict(COMMON, model_type="olmo3", sliding_window=6, num_hidden_layers=4, rope_parameters=dict(full_attention=YARN, sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
    "granite": dict(COMMON, model_type="granite", embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=2.0, attention_bias=True),
    "smollm3": dict(COMMON, model_type="smollm3", num_hidden_layers=4),
    "gpt_neox": dict(COMMON, model_type="gpt_neox", hidden_size=32, rotary_pct=0.5),
    "ministral": dict(COMMON, model_type="ministral", head_dim=8, sliding_window=6, layer_types=["full_attention", "sliding_attention"]),
    "stablelm": dict(COMMON, model_type="stablelm", hidden_size=32, use_qkv_bias=True),
    "stablelm-parallel": dict(COMMON, model_type="stablelm", hidden_size=32, use_parallel_residual=True, hidden_act="gelu"),
    "starcoder2": dict(COMMON, model_type="starcoder2", sliding_window=6),
    "phi": dict(COMMON, model_type="phi", hidden_size=32),
    "cohere": dict(COMMON, model_type="cohere", logit_scale=0.4),
    "cohere2": dict(COMMON, model_type="cohere2", logit_scale=0.4, sliding_window=6, num_hidden_layers=4, attention_bias=True),
    "mixtral": dict(COMMON, model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=6),
    "qwen3_moe": dict(COMMON, model_type="qwen3_moe", head_dim=8, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True, mlp_only_layers=[0],
                      num_hidden_layers=3, use_sliding_window=True, sliding_window=7, rope_parameters=YARN),
    "olmoe": dict(COMMON, model_type="olmoe", num_experts=4, num_experts_per_tok=2),
    "glm": dict(COMMON, model_type="glm", head_dim=8),
    "glm4": dict(COMMON, model_type="glm4", head_dim=8, attention_bias=False),
    "helium": dict(COMMON, model_type="helium", head_dim=6, mlp_bias=True),
    "seed_oss": dict(COMMON, model_type="seed_oss", head_dim=8, attention_out_bias=True),
    "ernie4_5": dict(COMMON, model_type="ernie4_5", head_dim=8, use_bias=True),
    "exaone4": dict(COMMON, model_type="exaone4", sliding_window=6, num_hidden_layers=4),
    "exaone4-full": dict(COMMON, model_type="exaone4", sliding_window=None, layer_types=["full_attention", "full_attention"]),
    "gpt_bigcode": dict(model_type="gpt_bigcode", vocab_size=VOCABULARY, n_embd=24, n_head=4, n_layer=2, n_positions=64, bos_token_id=None, eos_token_id=None),
    "gpt_bigcode-all": dict(model_type="gpt_bigcode", vocab_size=VOCABULARY, n_embd=24, n_head=4, n_layer=2, n_positions=64, bos_token_id=None, eos_token_id=None, multi_query=False),
    "gptj": dict(model_type="gptj", vocab_size=VOCABULARY, n_embd=32, n_head=4, n_layer=2, n_positions=64, rotary_dim=6, bos_token_id=None, eos_token_id=None),
    "gpt_neox-sequential": dict(COMMON, model_type="gpt_neox", hidden_size=32, use_parallel_residual=False, attention_bias=False),
}


def tokens(n, salt):
    return [(i * i * 5 + i * 3 + salt * 7 + (i * salt) % 5) % VOCABULARY for i in range(n)]


# Prompts with completions of other lengths, some of which begin alike; some sequences are longer than every window.
GROUPS = [
    dict(prompt=tokens(9, 1), completions=[tokens(6, 2), tokens(11, 3)]),
    dict(prompt=tokens(3, 4), completions=[tokens(5, 5) + tokens(17, 6), tokens(5, 5) + tokens(4, 7)]),
    dict(prompt=tokens(26, 8), completions=[tokens(7, 9), tokens(1, 10)]),
    dict(prompt=tokens(1, 11), completions=[tokens(4, 12), tokens(4, 13)]),
]
PROMPTS = [tokens(5, 21), tokens(1, 22), tokens(12, 23), tokens(28, 24)]


def make(config):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() >= 2:
                # Logits that tell tokens apart, and attention that is neither even nor all on one key.
                p.copy_(noise * (0.5 if "embed" in name or "wte" in name or "lm_head" in name else 0.3))
            else:
                p.copy_((0.0 if name.endswith("bias") or "gemma" in config.model_type else 1.0) + 0.3 * noise)
            p.copy_(p.to(torch.bfloat16))
    return model.eval()


def all_log_probs(model):
    return [[log_probs(model, group["prompt"], completion) for completion in group["completions"]] for group in GROUPS]


def dpo(model, reference):
    """The first completion is chosen, the second rejected."""
    margins = [chosen.sum() - rejected.sum() for chosen, rejected in all_log_probs(model)]
    return -F.logsigmoid(BETA * (torch.stack(margins) - reference)).mean()


def train(model, loss_of, optimizer, clip):
    params = [p for p in model.parameters() if p.requires_grad]
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        steps.append(dict(loss=loss.item(), grad_norm=norm(p.grad for p in params)))
        if clip:
            torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
    return dict(steps=steps, parameter_norm_after=norm(params))


def lists(nested):
    return [[x.tolist() for x in pair] for pair in nested]


@torch.no_grad()
def greedy(model):
    rows = []
    for prompt in PROMPTS:
        fresh(model)
        found = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
        top = torch.stack(found.logits)[:, 0].topk(2, dim=-1).values
        rows.append(dict(prompt=prompt, new=found.sequences[0, len(prompt):].tolist(), smallest_gap=(top[:, 0] - top[:, 1]).min().item()))
    return rows


def adapter(folder, transposed):
    """An adapter on every linear layer but the head, and on those of the attention alone where there are experts, which PEFT adapts joined: A[i][j] = sin(1 + 0.37 i + 0.11 j) / 5, B[i][j] = sin(2 + 0.23 i + 0.41 j) / 5."""
    model = load(folder)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if any("experts" in key for key, _ in model.named_parameters()) else "all-linear"
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM", fan_in_fan_out=transposed))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                i, j = torch.meshgrid(torch.arange(p.shape[0]).double(), torch.arange(p.shape[1]).double(), indexing="ij")
                p.copy_(torch.sin(1 + 0.37 * i + 0.11 * j) / 5 if "lora_A" in key else torch.sin(2 + 0.23 * i + 0.41 * j) / 5)
    with torch.no_grad():
        found = lists(all_log_probs(model))
    loss = sft(model, GROUPS)
    loss.backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    names = sorted(key.replace(".default", "") for key in trained)
    return dict(rank=RANK, alpha=ALPHA, **({} if targets == "all-linear" else dict(targets=targets)), tensors=names, log_probs=found, sft_loss=loss.item(), grad_norm=norm(p.grad for p in trained.values()))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def produce(name, settings):
    folder = os.path.join(out_dir, name)
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        make(AutoConfig.for_model(**settings)).to(torch.bfloat16).save_pretrained(scratch)
        os.makedirs(folder)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(os.path.join(scratch, file), folder)
    model = load(folder)
    with torch.no_grad():
        first = all_log_probs(model)
        reference = torch.stack([chosen.sum() - rejected.sum() for chosen, rejected in first])
    figures = dict(
        produced_by=f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__.split('+')[0]}",
        groups=[dict(group, log_probs=found) for group, found in zip(GROUPS, lists(first))],
        greedy=greedy(model),
        sft=dict(train(model, lambda model: sft(model, GROUPS), torch.optim.SGD(model.parameters(), lr=SGD_LR), clip=False), optimizer=f"SGD, lr {SGD_LR}"),
    )
    model = load(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    figures["dpo"] = dict(train(model, lambda model: dpo(model, reference), optimizer, clip=True), beta=BETA, optimizer=f"AdamW, lr {LR}, gradient clipped at {CLIP}")
    figures["lora"] = adapter(folder, settings["model_type"] == "gpt2")
    with open(os.path.join(folder, "figures.json"), "w") as f:
        f.write(json.dumps(figures, separators=(",", ":")).replace("},{", "},\n{") + "\n")
    gap = min(row["smallest_gap"] for row in figures["greedy"])
    size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder)) // 1024
    print(f"{name}: {size} KiB, gap {gap:.4f}, sft {[round(s['loss'], 4) for s in figures['sft']['steps']]}, dpo {[round(s['loss'], 4) for s in figures['dpo']['steps']]}, "
          f"norms {[round(s['grad_norm'], 2) for s in figures['sft']['steps']]}", file=sys.stderr)


for name, settings in MODELS.items():
    if not wanted or name in wanted:
        produce(name, settings)
