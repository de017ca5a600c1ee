"""The loss of the routers of the tiny models with experts, as transformers computes it, and three steps of TRL's own trainer with it.

    python routers.py ARCHITECTURES_DIR OUT_FILE

Every sequence is read alone, without padding; the router's logits of all of them go into one call of `load_balancing_loss_func`.
TRL pads its batch, and masks the padding. Figures are in f32 with eager attention.
"""
import json
import logging
import os
import sys
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from tiny import norm
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl import DPOConfig, DPOTrainer

architectures, out_file = sys.argv[1:]
torch.set_num_threads(1)
NAMES = ["mixtral", "qwen3_moe", "olmoe"]
COEFFICIENT, LR, STEPS = 0.3, 2e-3, 3


def load(name):
    return AutoModelForCausalLM.from_pretrained(os.path.join(architectures, name), attn_implementation="eager", dtype=torch.float32)


def loss(model, sequences):
    of_sequences = [model(input_ids=torch.tensor([ids]), use_cache=False, output_router_logits=True).router_logits for ids in sequences]
    logits = tuple(torch.cat([layer.reshape(-1, layer.shape[-1]) for layer in layers]) for layers in zip(*of_sequences))
    return load_balancing_loss_func(logits, logits[0].shape[-1], model.config.num_experts_per_tok)


class Trainer(DPOTrainer):
    """One that is given tokens."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def train(name, groups):
    rows = [dict(prompt_ids=group["prompt"], chosen_ids=group["completions"][0], rejected_ids=group["completions"][1]) for group in groups]
    vocabulary = load(name).config.vocab_size
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1")
    with tempfile.TemporaryDirectory() as scratch:
        args = DPOConfig(output_dir=scratch, per_device_train_batch_size=len(rows), max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0,
                         max_grad_norm=1.0, beta=0.1, logging_steps=1, report_to=[], router_aux_loss_coef=COEFFICIENT, bf16=False, use_cpu=True, save_strategy="no",
                         gradient_checkpointing=False, remove_unused_columns=False, disable_tqdm=True)
        trainer = Trainer(model=load(name), ref_model=load(name), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
    steps = [{key: entry[key] for key in ["loss", "grad_norm", "aux_loss", "rewards/chosen", "rewards/rejected"]} for entry in trainer.state.log_history if "aux_loss" in entry]
    return dict(steps=steps, parameter_norm_after=norm(trainer.model.parameters()))


logging.disable(logging.WARNING)
figures = dict(produced_by=f"transformers {transformers.__version__}, trl {trl.__version__}, torch {torch.__version__.split('+')[0]}", coefficient=COEFFICIENT, lr=LR, models={})
for name in NAMES:
    with open(os.path.join(architectures, name, "figures.json")) as f:
        groups = json.load(f)["groups"]
    groups = [dict(prompt=group["prompt"], completions=group["completions"]) for group in groups]
    model = load(name).eval()
    value = loss(model, [group["prompt"] + completion for group in groups for completion in group["completions"]])
    value.backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    figures["models"][name] = dict(loss=value.item(), grad_norm=norm(gradients.values()), embedding_grad_norm=norm([gradients["model.embed_tokens.weight"]]), dpo=train(name, groups))
    print(name, figures["models"][name], file=sys.stderr)
with open(out_file, "w") as f:
    f.write(json.dumps(figures, indent=1) + "\n")
