"""What the producing scripts of the model figures share."""
import json
import os

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = ["llama-tiny", "llama-tied-tiny", "qwen2-tiny", "qwen3-tiny", "gpt2-tiny"]
BATCH, LR, BETA, STEPS, CLIP = 4, 1e-3, 0.1, 8, 1.0
BETAS, EPS = (0.9, 0.999), 1e-8


def load(models_dir, name, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(os.path.join(models_dir, name), dtype=dtype, attn_implementation="eager" if dtype == torch.float64 else None)
    if dtype == torch.float64:
        pure_float64(model)
    return model.eval()


def tokenizer(models_dir, name):
    return AutoTokenizer.from_pretrained(os.path.join(models_dir, name))


def pure_float64(model):
    """transformers computes RMS norms, rotary angles and the softmax of attention in f32 whatever the dtype: undo that."""
    softmax = F.softmax

    def softmax_f64(x, dim=None, dtype=None, **kw):
        return softmax(x, dim=dim, **kw) if x.dtype == torch.float64 else softmax(x, dim=dim, dtype=dtype, **kw)

    torch.nn.functional.softmax = softmax_f64
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            def rms(x, m=module):
                return m.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon))
            module.forward = rms
        elif kind.endswith("RotaryEmbedding"):
            config = model.config
            dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            theta = config.rope_parameters["rope_theta"]
            freq = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)

            def rope(x, position_ids, *a, freq=freq, **k):
                angle = position_ids[:, :, None].double() * freq
                angle = torch.cat((angle, angle), dim=-1)
                return angle.cos(), angle.sin()
            module.forward = rope


def token_stats(model, prompt, completion):
    """Log-probability, entropy and log(sum p^2) at each completion token (a completion's first token needs one before it)."""
    ids = torch.tensor([prompt + completion])
    logp = F.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], dim=-1)
    start = max(len(prompt), 1)
    logp, labels = logp[start - 1:], ids[0, start:]
    own = logp.gather(-1, labels[:, None])[:, 0]
    return own, -(logp.exp() * logp).sum(-1), torch.logsumexp(2 * logp, -1)


def log_probs(model, prompt, completion):
    return token_stats(model, prompt, completion)[0]


def rows_of(runs_file):
    """The 32 rows of the reference runs, and one model's token ids of them."""
    with open(runs_file) as f:
        runs = json.load(f)
    return runs["rows"], {name: m["tokens"] for name, m in runs["models"].items()}


def trl_trainer(model, tok, rows, work_dir, loss_type, optimizers=(None, None), peft_config=None):
    """TRL's DPOTrainer as in the reference runs: f32, file order, no dropout, no checkpointing, one log entry a step."""
    from trl import DPOConfig, DPOTrainer
    args = DPOConfig(output_dir=work_dir, per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant",
                     weight_decay=0.0, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS, max_grad_norm=CLIP, beta=BETA, loss_type=[loss_type],
                     train_sampling_strategy="sequential", logging_steps=1, logging_strategy="steps", report_to=[], save_strategy="no", bf16=False, fp16=False,
                     use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, optim="adamw_torch")
    return DPOTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tok, optimizers=optimizers, peft_config=peft_config)


def dump(path, data):
    """JSON with one line for each entry of an innermost list of objects."""
    def write(x, indent):
        pad = " " * indent
        if isinstance(x, dict) and any(isinstance(v, (dict, list)) for v in x.values()):
            return "{\n" + ",\n".join(f"{pad} {json.dumps(k)}: {write(v, indent + 1)}" for k, v in x.items()) + f"\n{pad}}}"
        if isinstance(x, list) and x and isinstance(x[0], dict):
            return "[\n" + ",\n".join(f"{pad} {write(v, indent + 1)}" for v in x) + f"\n{pad}]"
        return json.dumps(x)
    with open(path, "w") as f:
        f.write(write(data, 0) + "\n")


def versions():
    import peft
    import transformers
    import trl
    return f"trl {trl.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__.split('+')[0]}"
