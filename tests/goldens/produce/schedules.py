"""The factor of the peak learning rate at every step, as transformers' schedulers give it."""
import json
import os
import sys

import torch
from transformers import get_scheduler

PEAK = 2.0  # a power of two: dividing by it loses nothing


def factors(name, warmup, total, options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=options)
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0] / PEAK)
        optimizer.step()
        scheduler.step()
    return found


# Name and keys here; name and options there.
SCHEDULES = [
    ("constant", {}, "constant_with_warmup", {}),
    ("linear", {}, "linear", {}),
    ("cosine", {}, "cosine", {}),
    ("cosine-with-restarts", {}, "cosine_with_restarts", {}),
    ("cosine-with-restarts", {"num_cycles": 3}, "cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {"power": 2.0, "end_factor": 0.1}, "polynomial", {"power": 2.0, "lr_end": 0.1 * PEAK}),
    ("polynomial", {"power": 0.5}, "polynomial", {"power": 0.5, "lr_end": 0.0}),
    ("inverse-sqrt", {}, "inverse_sqrt", {}),
    ("inverse-sqrt", {"timescale": 7}, "inverse_sqrt", {"timescale": 7}),
    ("warmup-stable-decay", {"decay": {"steps": 12}}, "warmup_stable_decay", {"num_decay_steps": 12}),
    ("warmup-stable-decay", {"decay": {"steps": 12}, "end_factor": 0.2, "shape": "linear"}, "warmup_stable_decay", {"num_decay_steps": 12, "min_lr_ratio": 0.2, "decay_type": "linear"}),
    ("warmup-stable-decay", {"decay": 0.25, "end_factor": 0.1, "shape": "1-sqrt"}, "warmup_stable_decay", {"num_decay_steps": 10, "min_lr_ratio": 0.1, "decay_type": "1-sqrt"}),
]

out = [
    {"name": name, "config": config, "warmup": warmup, "total": 40, "factors": factors(theirs, warmup, 40, options)}
    for name, config, theirs, options in SCHEDULES
    for warmup in (0, 5)
]
with open(os.path.join(sys.argv[1], "schedules.json"), "w") as file:
    json.dump(out, file)
    file.write("\n")
