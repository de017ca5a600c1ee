"""Greedy continuations of the tiny models, and per-token statistics of completions.

    python generation.py MODELS_DIR REFERENCE_RUNS_JSON OUT_DIR
"""
import os
import sys

import torch
import torch.nn.functional as F
from common import MODELS, dump, load, rows_of, token_stats, tokenizer, versions

models_dir, runs_file, out_dir = sys.argv[1:]
torch.set_num_threads(1)
torch.set_grad_enabled(False)
NEW = 24
PROMPTS = ["The capital of France is", "A", "### Instruction:\nConvert 45 kilometers to meters.\n### Response:\n",
           "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n", "Grüße, 你好 🙂!",
           "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief, "
           "it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it was the spring of hope,"]
rows, tokens = rows_of(runs_file)
out = {}
for name in MODELS:
    model, exact, tok = load(models_dir, name), load(models_dir, name, torch.float64), tokenizer(models_dir, name)
    cases = []
    for prompt in PROMPTS:
        ids, new, logps, gap = tok(prompt)["input_ids"], [], [], []
        for _ in range(NEW):
            logp = F.log_softmax(exact(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1], dim=-1)
            best = logp.topk(2)
            new.append(best.indices[0].item())
            logps.append(best.values[0].item())
            gap.append((best.values[0] - best.values[1]).item())
        by_hf = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=NEW, min_new_tokens=NEW if tok.eos_token_id not in new else None,
                               do_sample=False, eos_token_id=-1, pad_token_id=tok.pad_token_id)[0, len(ids):].tolist()
        assert by_hf == new, (name, prompt, by_hf, new)
        cases.append(dict(prompt=prompt, prompt_ids=ids, new_ids=new, log_probs=[round(x, 9) for x in logps], smallest_gap=min(gap), text=tok.decode(new, skip_special_tokens=False)))
    # the same six as one left-padded batch: no continuation may change
    tok.padding_side = "left"
    b = tok(PROMPTS, return_tensors="pt", padding=True)
    whole = model.generate(**b, max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=tok.pad_token_id)[:, b["input_ids"].shape[1]:].tolist()
    assert whole == [c["new_ids"] for c in cases], name
    print(name, "smallest gap", min(c["smallest_gap"] for c in cases), "has end token", [tok.eos_token_id in c["new_ids"] for c in cases], file=sys.stderr)
    out[name] = cases

exact, stats = load(models_dir, "llama-tiny", torch.float64), []
for row in (0, 5):
    t = tokens["llama-tiny"][row]
    entry = dict(row=row, prompt_ids=t["prompt_ids"])
    for side in ("chosen", "rejected"):
        logp, entropy, collision = token_stats(exact, t["prompt_ids"], t[side + "_ids"])
        entry[side] = dict(ids=t[side + "_ids"], log_prob=logp.tolist(), entropy=entropy.tolist(), log_sum_sq_probs=collision.tolist())
    stats.append(entry)
dump(os.path.join(out_dir, "generation.json"), dict(produced_by=versions(), new_tokens=NEW, stop="none: the end token does not stop the continuation", greedy=out,
                                                  token_statistics=dict(model="llama-tiny", rows=stats)))
