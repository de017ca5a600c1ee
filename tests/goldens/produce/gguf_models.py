"""Tiny random models in GGUF files, and what transformers computes for them.

    python gguf_models.py OUT_DIR [NAME ...]

Writes OUT_DIR/NAME.gguf and OUT_DIR/NAME.json: log-probs of the dequantised weights in f32, and, where a file has a
tokenizer, ids of texts. Files are written as llama.cpp's converter does it: its names (from the package `gguf`), its order
of the rows of q and k, norms with the one added, factors of rotary frequencies as tensors. Where transformers reads such
files itself, the script checks that it computes the same.
"""
import json
import os
import sys
import unicodedata

import numpy as np
import torch
import torch.nn.functional as F
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType as Q, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

out_dir, wanted = sys.argv[1], sys.argv[2:]
torch.set_num_threads(1)
COMMON = dict(vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              head_dim=8, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None)
LONG = dict(short_factor=[1.0, 1.1, 1.5, 1.75], long_factor=[1.5, 3.0, 9.0, 12.5])
# Which tokenizer, the type of most matrices, the configuration, and whether transformers reads the file.
MODELS = {
    "llama": ("llama", Q.Q4_0, dict(COMMON, model_type="llama", tie_word_embeddings=False), True),
    "llama3": (None, Q.Q8_0, dict(COMMON, model_type="llama", head_dim=16, max_position_embeddings=16384, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)), False),
    "qwen2": ("gpt2", Q.Q8_0, dict(COMMON, model_type="qwen2", tie_word_embeddings=True), True),
    "qwen3": (None, Q.BF16, dict(COMMON, model_type="qwen3"), False),
    "gemma": (None, Q.Q5_1, dict(COMMON, model_type="gemma"), False),
    "gemma2": (None, Q.Q4_1, dict(COMMON, model_type="gemma2", sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=3.0,
                                  final_logit_softcapping=5.0), False),
    "gemma3": ("gemma", Q.Q5_0, dict(COMMON, model_type="gemma3_text", sliding_window=6, query_pre_attn_scalar=8, num_hidden_layers=6, rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0), sliding_attention=dict(rope_type="default", rope_theta=10000.0))), False),
    "phi3": (None, Q.Q8_0, dict(COMMON, model_type="phi3", sliding_window=30, original_max_position_embeddings=16,
                                rope_parameters=dict(LONG, rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=1.0)), False),
    "gpt2": (None, Q.F16, dict(model_type="gpt2", vocab_size=61, n_embd=32, n_head=4, n_layer=2, n_positions=64, n_inner=96, bos_token_id=None,
                               eos_token_id=None), False),
    "olmo2": (None, Q.F32, dict(COMMON, model_type="olmo2"), False),
    "granite": (None, Q.Q8_0, dict(COMMON, model_type="granite", embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                   logits_scaling=2.0), False),
    "smollm3": (None, Q.Q8_0, dict(COMMON, model_type="smollm3", num_hidden_layers=4), False),
    "starcoder2": (None, Q.Q8_0, dict(COMMON, model_type="starcoder2", sliding_window=6, tie_word_embeddings=True), False),
}
ARCHITECTURES = {"gemma3_text": "gemma3"}
TEXTS = [
    "", "a", "the other one", "The quick brown fox jumps over the lazy dog.", " leading", "trailing ", "two  spaces,   three", "\ttab\nline\r\n\n",
    "12345 6.78e-9", "don't we'll I'VE", "naïve café", "日本語の文", "Привет, мир", "😀 and 👩‍👩‍👧", "x_1 = foo(bar)[3];", "<s> not </s>", "<|user|>hi",
    "a" * 50, "ﬁ e\u0301 é", "\u00a0nbsp\u2003em", "MiXeD CaSe", "(((", "e.g., i.e.", "1,000,000", "\x00\x01",
]


def tokens(n, salt, vocabulary):
    return [(i * i * 5 + i * 3 + salt * 7 + (i * salt) % 5) % vocabulary for i in range(n)]


def make(config):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 2:
                p.copy_(noise * (0.5 if "embed" in name or "wte" in name or "lm_head" in name else 0.3))
            else:
                p.copy_((0.0 if name.endswith("bias") or "gemma" in config.model_type else 1.0) + 0.3 * noise)
    return model.eval()


def log_probs(model, prompt, completion):
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logp = F.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], dim=-1)
    return logp[len(prompt) - 1:].gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()


def corpus():
    license = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../LICENSE-APACHE")
    return [open(license).read(), *TEXTS]


def add_tokenizer(out, kind):
    """Adds a tokenizer of this kind, trained on a license. Returns the size of its vocabulary."""
    if kind == "gpt2":
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        model = json.loads(trained.to_str())["model"]
        pieces = sorted(model["vocab"], key=model["vocab"].get) + ["<|end|>", "<|user|>"]
        types = [1] * (len(pieces) - 2) + [3, 4]
        out.add_tokenizer_pre("qwen2")
        out.add_token_merges([" ".join(m) for m in model["merges"]])
        bos, eos, bos_wanted = None, len(pieces) - 2, False
    else:
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=230))
        learned = json.loads(trained.to_str())["model"]["vocab"]
        special = ["<unk>", "<s>", "</s>"] if kind == "llama" else ["<pad>", "<eos>", "<bos>", "<unk>"]
        user = ["<|user|>"] if kind == "llama" else ["  ", "   ", "\n\n"]
        pieces = special + user + [f"<0x{byte:02X}>" for byte in range(256)]
        types = [2 if t == "<unk>" else 3 for t in special] + [4] * len(user) + [6] * 256
        scores = [0.0] * len(pieces)
        for rank, piece in enumerate(sorted(learned, key=lambda t: (len(t) == 1, learned[t]))):
            pieces.append(piece)
            types.append(1)
            scores.append(-float(rank))
        out.add_tokenizer_pre("default")
        out.add_token_scores(scores)
        out.add_unk_token_id(pieces.index("<unk>"))
        out.add_add_space_prefix(kind == "llama")
        bos, eos, bos_wanted = special.index("<s>" if kind == "llama" else "<bos>"), special.index("</s>" if kind == "llama" else "<eos>"), True
    out.add_tokenizer_model("gpt2" if kind == "gpt2" else "llama")
    out.add_token_list(pieces)
    out.add_token_types(types)
    if bos is not None:
        out.add_bos_token_id(bos)
    out.add_eos_token_id(eos)
    out.add_add_bos_token(bos_wanted)
    out.add_chat_template("{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}")
    return len(pieces)


def add_config(out, c):
    get = lambda *names: next((getattr(c, n) for n in names if getattr(c, n, None) is not None), None)
    heads = get("num_attention_heads", "n_head")
    out.add_context_length(get("max_position_embeddings", "n_positions"))
    out.add_embedding_length(get("hidden_size", "n_embd"))
    out.add_block_count(get("num_hidden_layers", "n_layer"))
    out.add_feed_forward_length(get("intermediate_size", "n_inner"))
    out.add_head_count(heads)
    out.add_head_count_kv(get("num_key_value_heads") or heads)
    if get("rms_norm_eps"):
        out.add_layer_norm_rms_eps(c.rms_norm_eps)
    else:
        out.add_layer_norm_eps(get("norm_epsilon", "layer_norm_epsilon"))
    if get("head_dim"):
        out.add_key_length(c.head_dim)
        out.add_value_length(c.head_dim)
    rope = get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    if "rope_theta" in full:
        out.add_rope_freq_base(full["rope_theta"])
        out.add_rope_dimension_count(int(c.head_dim * full.get("partial_rotary_factor", 1.0)))
    if full.get("rope_type") == "linear":
        from gguf import RopeScalingType
        out.add_rope_scaling_type(RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(full["factor"])
    if full.get("rope_type") == "llama3":
        base, dim = full["rope_theta"], c.head_dim
        frequencies = 1.0 / base ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        factors = []
        for f in frequencies:
            wavelength, old = 2 * np.pi / f, full["original_max_position_embeddings"]
            low, high = old / full["low_freq_factor"], old / full["high_freq_factor"]
            smooth = (old / wavelength - full["low_freq_factor"]) / (full["high_freq_factor"] - full["low_freq_factor"])
            factors.append(1 if wavelength < high else full["factor"] if wavelength > low else 1 / ((1 - smooth) / full["factor"] + smooth))
        out.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    if full.get("rope_type") == "longrope":
        out.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
        for name in ["short", "long"]:
            out.add_tensor(f"rope_factors_{name}.weight", np.array(full[f"{name}_factor"], dtype=np.float32))
    if get("sliding_window"):
        out.add_sliding_window(c.sliding_window)
    if get("final_logit_softcapping"):
        out.add_final_logit_softcapping(c.final_logit_softcapping)
    if get("attn_logit_softcapping"):
        out.add_attn_logit_softcapping(c.attn_logit_softcapping)
    if c.model_type == "granite":
        out.add_attention_scale(c.attention_multiplier)
        out.add_embedding_scale(c.embedding_multiplier)
        out.add_residual_scale(c.residual_multiplier)
        out.add_logit_scale(c.logits_scaling)


def permuted(w, heads):
    """The order of rows that llama.cpp wants for q and k."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def back(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def add_tensors(out, model, architecture, kind):
    """Adds the weights, quantised, and puts what they were rounded to into the model."""
    c = model.config
    names = get_tensor_name_map(next(a for a, n in MODEL_ARCH_NAMES.items() if n == architecture), 99)
    llama = c.model_type in ["llama", "granite", "smollm3"]
    for name, p in model.named_parameters():
        module, suffix = name.rsplit(".", 1)
        w = p.detach().numpy().copy()
        conv = c.model_type == "gpt2" and any(part in name for part in ["c_attn.w", "c_proj.w", "c_fc.w"])
        heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads if "k_proj" in name else 0
        w = w.T if conv else permuted(w, heads) if llama and heads else w
        offset = 1.0 if "gemma" in c.model_type and "norm" in name else 0.0
        stored = np.ascontiguousarray(w + np.float32(offset))
        # The table in another type than the rest, as most files have it.
        of = Q.F32 if w.ndim == 1 else Q.Q8_0 if kind not in [Q.F32, Q.F16, Q.BF16] and "embed" in name else kind
        blocks = quantize(stored, of)
        out.add_tensor(f"{names.get_name(module)}.{suffix}", blocks, raw_dtype=of)
        w = dequantize(blocks, of).astype(np.float32).reshape(stored.shape) - np.float32(offset)
        w = w.T if conv else back(w, heads) if llama and heads else w
        with torch.no_grad():
            p.copy_(torch.from_numpy(np.ascontiguousarray(w)))


def produce(name):
    tokenizer, kind, settings, read_by_transformers = MODELS[name]
    architecture = ARCHITECTURES.get(settings["model_type"], settings["model_type"])
    path = os.path.join(out_dir, f"{name}.gguf")
    out = GGUFWriter(path, architecture)
    settings = dict(settings)
    if tokenizer:
        settings["vocab_size"] = add_tokenizer(out, tokenizer)
    config = AutoConfig.for_model(**settings)
    model = make(config)
    add_config(out, config)
    add_tensors(out, model, architecture, kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    n = config.vocab_size
    groups = [
        dict(prompt=tokens(9, 1, n), completions=[tokens(6, 2, n), tokens(11, 3, n)]),
        dict(prompt=tokens(26, 8, n), completions=[tokens(7, 9, n), tokens(1, 10, n)]),
    ]
    for group in groups:
        group["log_probs"] = [log_probs(model, group["prompt"], completion) for completion in group["completions"]]
    figures = dict(groups=groups)
    if tokenizer:
        theirs = AutoTokenizer.from_pretrained(out_dir, gguf_file=f"{name}.gguf")
        # The tokenizers of Qwen2 compose characters first; transformers' reader of GGUF files leaves that out.
        composed = lambda text: unicodedata.normalize("NFC", text) if tokenizer == "gpt2" else text
        figures["texts"] = [dict(text=text, ids=theirs(composed(text)).input_ids) for text in TEXTS]
    if read_by_transformers:
        theirs = AutoModelForCausalLM.from_pretrained(out_dir, gguf_file=f"{name}.gguf", dtype=torch.float32, attn_implementation="eager").eval()
        worst = max(abs(a - b) for g in groups for c, l in zip(g["completions"], g["log_probs"]) for a, b in zip(log_probs(theirs, g["prompt"], c), l))
        assert worst < 1e-4, (name, worst)
        print(name, "as transformers reads it:", worst)
    json.dump(figures, open(os.path.join(out_dir, f"{name}.json"), "w"))
    print(name, os.path.getsize(path))


for name in wanted or MODELS:
    produce(name)
