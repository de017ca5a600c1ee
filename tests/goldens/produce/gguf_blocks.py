"""What llama.cpp's Python package makes of blocks, and of numbers; and bitsandbytes of NF4.

    python gguf_blocks.py OUT_FILE

For every type T, OUT_FILE holds blocks of random bytes (T) and the numbers they stand for (T.values). For the types that
are written, it also holds numbers (given) and the numbers that their blocks stand for (T.rounded).
"""
import sys

import bitsandbytes.functional as B
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Q, GGUFWriter
from gguf.quants import dequantize, quantize

random = np.random.default_rng(5)
out = GGUFWriter(sys.argv[1], "blocks")
# Where blocks have numbers in half precision (or, in Q8_K, single): these must be finite.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "F16": [0], "BF16": [0]}
for kind in [Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]:
    length, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (512 // length, size), dtype=np.uint8)
    for at in HALVES[kind.name]:
        halves = random.normal(size=len(blocks)).astype(np.float16)
        blocks[:, at:at + 2] = halves.view(np.uint8).reshape(-1, 2)
    rows = blocks.reshape(2, -1)
    if kind == Q.F16:
        rows = rows.view(np.float16)
    out.add_tensor(kind.name, rows, raw_dtype=kind)
    values = dequantize(rows, kind) if kind != Q.F16 else rows.astype(np.float32)
    out.add_tensor(f"{kind.name}.values", np.ascontiguousarray(values, dtype=np.float32))
given = random.normal(size=(4, 256)).astype(np.float32)
given[1, :64] = 0
given[2] *= 1e-3
out.add_tensor("given", given)
for kind in [Q.F16, Q.BF16, Q.Q4_0, Q.Q5_0, Q.Q8_0]:
    out.add_tensor(f"{kind.name}.rounded", dequantize(quantize(given, kind), kind).astype(np.float32))
codes, state = B.quantize_4bit(torch.from_numpy(given), blocksize=64, quant_type="nf4")
out.add_tensor("NF4.rounded", B.dequantize_4bit(codes, state).numpy().reshape(given.shape))
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
