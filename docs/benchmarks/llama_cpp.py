"""python llama_cpp.py MODEL.gguf ROWS.json [--adapter ADAPTER.gguf]: log-probs of answers as llama.cpp computes them.

ROWS.json holds a list of rows, each with `prompt` and `answer`, both lists of token ids. Prints one JSON list: the sum of
the log-probs of each answer's tokens, in nats. llama.cpp is used through the package `xllamacpp` (PyPI). Its server gives
the most probable next tokens, so every token is a request of its own; the prompt before it stays in the cache. Keys and
values are kept in f32, since those of f16 cost three digits.
"""
import argparse
import json

import xllamacpp

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--adapter")
given = parser.parse_args()

params = xllamacpp.CommonParams()
params.model.path = given.model
params.n_ctx = 1024
params.n_parallel = 1
params.warmup = False
params.verbosity = 0
params.fit_params = False
params.cpuparams.n_threads = 2
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if given.adapter:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path = given.adapter
    adapter.scale = 1.0
    params.lora_adapters = [adapter]
server = xllamacpp.Server(params)


def log_prob(before, token):
    for most in (100, 5_000, 10_000_000):
        answer = server.handle_completions({"prompt": before, "max_tokens": 1, "logprobs": most, "cache_prompt": True})
        likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        for entry in likely:
            if entry["id"] == token:
                return entry["logprob"]
    raise SystemExit(f"llama.cpp does not know the token {token}")


sums = []
for row in json.load(open(given.rows)):
    prompt, answer = row["prompt"], row["answer"]
    sums.append(sum(log_prob(prompt + answer[:i], token) for i, token in enumerate(answer)))
print(json.dumps(sums))
