"""Twenty updates of torch's optimizers, and of lion-pytorch, in f64.

The gradients do not depend on the parameters: all cases share them, and whoever checks needs no loss. They hold an
exact zero, a coordinate that is tiny and one that is large. The first four parameters are weights, the last two a bias.
"""
import json
import os
import sys

import torch
from lion_pytorch import Lion

STEPS, WEIGHTS = 20, 4
START = [0.5, -1.25, 2.0, 0.03125, -0.75, 0.1]
GRADIENTS = [
    [round(a, 6) for a in row]
    for row in (
        torch.sin(torch.outer(torch.arange(1, STEPS + 1), torch.tensor([0.7, 1.3, 0.2, 2.1, 0.9, 1.7])).double())
        * torch.tensor([1.0, 0.5, 1e4, 1e-5, 2.0, 0.25], dtype=torch.float64)
    ).tolist()
]
GRADIENTS[0][1] = GRADIENTS[7][0] = 0.0
RATES = [0.01 * (1 - step / STEPS) for step in range(STEPS)]
SCALES = [1.0 if step % 3 else 0.5 for step in range(STEPS)]


def run(make, **options):
    parameters = [torch.nn.Parameter(torch.tensor(part, dtype=torch.float64)) for part in (START[:WEIGHTS], START[WEIGHTS:])]
    exempt = options.pop("decay_bias_and_norm", True) is False
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], **({"weight_decay": 0.0} if exempt else {})}]
    optimizer = make(groups, lr=1.0, **options)
    after = []
    for gradient, rate, scale in zip(GRADIENTS, RATES, SCALES):
        whole = torch.tensor(gradient, dtype=torch.float64) * scale
        parameters[0].grad, parameters[1].grad = whole[:WEIGHTS].clone(), whole[WEIGHTS:].clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        after.append(torch.cat([p.detach() for p in parameters]).tolist())
    return after


def adamw(groups, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, **more):
    return torch.optim.AdamW(groups, betas=tuple(betas), eps=epsilon, weight_decay=weight_decay, foreach=False, **more)


def rmsprop(groups, alpha=0.99, epsilon=1e-8, **more):
    return torch.optim.RMSprop(groups, alpha=alpha, eps=epsilon, foreach=False, **more)


def sgd(groups, **more):
    return torch.optim.SGD(groups, foreach=False, **more)


def lion(groups, betas=(0.9, 0.99), **more):
    return Lion(groups, betas=tuple(betas), **more)


CASES = [
    ("adamw", adamw, {}),
    ("adamw", adamw, {"betas": [0.8, 0.95], "epsilon": 1e-3, "weight_decay": 0.3}),
    ("adamw", adamw, {"weight_decay": 0.3, "decay_bias_and_norm": False}),
    ("sgd", sgd, {}),
    ("sgd", sgd, {"weight_decay": 0.1}),
    ("sgd", sgd, {"momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", sgd, {"momentum": 0.9, "dampening": 0.5}),
    ("sgd", sgd, {"momentum": 0.8, "nesterov": True}),
    ("rmsprop", rmsprop, {}),
    ("rmsprop", rmsprop, {"alpha": 0.9, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("rmsprop", rmsprop, {"momentum": 0.9}),
    ("rmsprop", rmsprop, {"centered": True, "epsilon": 1e-4}),
    ("rmsprop", rmsprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.01, "epsilon": 1e-4}),
    ("lion", lion, {}),
    ("lion", lion, {"betas": [0.95, 0.98], "weight_decay": 0.3}),
]

out = {
    "start": START, "weights": WEIGHTS, "gradients": GRADIENTS, "rates": RATES, "scales": SCALES,
    "cases": [{"name": name, "config": config, "after": run(make, **config)} for name, make, config in CASES],
}
with open(os.path.join(sys.argv[1], "optimizers.json"), "w") as file:
    json.dump(out, file)
    file.write("\n")
