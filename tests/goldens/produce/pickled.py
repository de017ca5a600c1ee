"""Models of `architectures` as torch.save writes them, whole and in shards, and an adapter of `adapters`.

    python pickled.py OUT_DIR      # with OUT_DIR/architectures and OUT_DIR/adapters

Writes OUT_DIR/pickled/{gpt2/pytorch_model.bin, llama/pytorch_model-0000N-of-00002.bin and their index, adapter/adapter_model.bin
with its configuration}.
"""
import collections
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file

out_dir = sys.argv[1]


def weights(name):
    return load_file(os.path.join(out_dir, "architectures", name, "model.safetensors"))


def place(name, file):
    folder = os.path.join(out_dir, "pickled", name)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, file)


# As `save_pretrained` did: an ordered dictionary with metadata, in which a tied head is the same storage.
whole = collections.OrderedDict(weights("gpt2"))
whole["lm_head.weight"] = whole["transformer.wte.weight"]
whole._metadata = collections.OrderedDict({"": {"version": 1}})
torch.save(whole, place("gpt2", "pytorch_model.bin"))

shards = [{}, {}]
for i, (key, tensor) in enumerate(sorted(weights("llama").items())):
    shards[i % 2][key] = torch.nn.Parameter(tensor, requires_grad=False)
index = dict(metadata={}, weight_map={})
for i, shard in enumerate(shards):
    file = f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin"
    torch.save(shard, place("llama", file))
    index["weight_map"].update({key: file for key in shard})
with open(place("llama", "pytorch_model.bin.index.json"), "w") as f:
    f.write(json.dumps(index, indent=1) + "\n")

# As PEFT's `save_pretrained(safe_serialization=False)`.
adapter = os.path.join(out_dir, "adapters", "patterns")
torch.save(load_file(os.path.join(adapter, "adapter_model.safetensors")), place("adapter", "adapter_model.bin"))
shutil.copy(os.path.join(adapter, "adapter_config.json"), place("adapter", "adapter_config.json"))
