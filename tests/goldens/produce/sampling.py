"""Probabilities after transformers' logits processors, in the order in which `generate` applies them."""
import json
import sys

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

MAKE = [
    ("repetition_penalty", lambda x: RepetitionPenaltyLogitsProcessor(penalty=x)),
    ("temperature", TemperatureLogitsWarper),
    ("top_k", TopKLogitsWarper),
    ("top_p", TopPLogitsWarper),
    ("min_p", MinPLogitsWarper),
]
CASES = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 3, "temperature": 2.5},
    {"top_p": 0.6},
    {"top_p": 0.9, "temperature": 1.8},
    {"min_p": 0.1},
    {"min_p": 0.05, "temperature": 0.5},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "top_k": 10},
    {"repetition_penalty": 1.2, "temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 3.0, "top_k": 12, "top_p": 0.95, "min_p": 0.3},
]


def main(folder):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(40, generator=generator, dtype=torch.float64) * 3
    logits[11] = logits[17]  # a tie
    logits[3] = logits.sort(descending=True).values[4]  # and one at the edge of the five greatest
    text = [2, 5, 17, 17, 39, 0]
    cases = []
    for settings in CASES:
        scores = logits[None].clone()
        for name, make in MAKE:
            if name in settings:
                scores = make(settings[name])(torch.tensor([text]), scores)
        cases.append({"settings": settings, "probabilities": scores.softmax(-1)[0].tolist()})
    with open(f"{folder}/sampling.json", "w") as file:
        json.dump({"logits": logits.tolist(), "text": text, "cases": cases}, file)
        file.write("\n")


main(sys.argv[1])
