"""Twenty updates of bitsandbytes' AdamW8bit on the CPU, with codes rounded to the nearest.

Usage: python adamw_8bit.py OUT

bitsandbytes' own CPU kernel looks codes up in a table of equal steps, which near 0 are wider than the codes; on GPUs it
takes the nearest. So its generic path for other types, which takes the nearest too, stands in for that kernel here. All
else is bitsandbytes: maps, blocks, which tensors keep f32 states, the update itself.
"""
import json
import math
import os
import sys

import bitsandbytes
import torch
from bitsandbytes.backends.cpu import ops

STEPS, LR, BETAS, EPSILON, DECAY = 20, 1e-3, (0.9, 0.999), 1e-8, 0.1
# The first is long enough for 8 bits, and its last block is not whole; the second is not.
SIZES = [5000, 300]
# Of these elements the parameter and the codes of its moments are shown.
SHOWN = 50


def start(i):
    return 0.05 * math.sin(0.37 * i + 0.1)


def gradient(i, step):
    """Four decades within a block."""
    return 0.01 * math.sin(0.7 * i + 1.3 * step) * math.exp(-(7919 * i % 97) / 12)


def scale(step):
    return 0.5 if step % 3 == 0 else 1.0


def nearest(values, code, scales, codes, block):
    found, greatest = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, block)
    codes.copy_(found)
    scales.copy_(greatest)


ops._quant_blockwise_fp32_direct = nearest
parameters = [torch.nn.Parameter(torch.tensor([start(i) for i in range(n)])) for n in SIZES]
optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=LR, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
for step in range(1, STEPS + 1):
    for parameter, n in zip(parameters, SIZES):
        parameter.grad = torch.tensor([gradient(i, step) for i in range(n)]) * scale(step)
    optimizer.step()

tensors = []
for parameter in parameters:
    state = optimizer.state[parameter]
    tensor = {"size": parameter.numel(), "parameters": parameter.detach()[::SHOWN].tolist()}
    for moment in ("1", "2"):
        values = state["state" + moment]
        if values.dtype == torch.uint8:
            tensor["codes" + moment] = values[::SHOWN].tolist()
            tensor["scales" + moment] = state["absmax" + moment].tolist()
        else:
            tensor["moment" + moment] = values[::SHOWN].tolist()
    tensors.append(tensor)
large = optimizer.state[parameters[0]]
out = {
    "bitsandbytes": bitsandbytes.__version__,
    "torch": torch.__version__.split("+")[0],
    "signed_map": large["qmap1"].tolist(),
    "unsigned_map": large["qmap2"].tolist(),
    "tensors": tensors,
}
with open(os.path.join(sys.argv[1], "adamw_8bit.json"), "w") as file:
    json.dump(out, file, separators=(",", ":"))
    file.write("\n")
