"""The loss with a margin in a few lines of torch, and its gradients by autograd, in double precision."""
import json
import sys

import torch
import torch.nn.functional as F


def case(generator, beta, rows):
    """Answers of one to six tokens."""
    draw = lambda low, high, n: torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low
    lengths = [[int(draw(1, 7, 1)) for _ in range(rows)] for _ in range(2)]
    answers = [[draw(-3.0, -0.01, n).requires_grad_() for n in side] for side in lengths]
    reference = [[draw(-3.0, -0.01, n) for n in side] for side in lengths]
    margins = draw(-1.0, 3.0, rows)
    log_ratios = [torch.stack([p.sum() - r.sum() for p, r in zip(*side)]) for side in zip(answers, reference)]
    losses = -F.logsigmoid(beta * (log_ratios[0] - log_ratios[1]) - margins)
    losses.mean().backward()
    lists = lambda side: [token.tolist() for token in side]
    return {
        "beta": beta,
        "margin": margins.tolist(),
        "policy_chosen": lists([a.detach() for a in answers[0]]),
        "policy_rejected": lists([a.detach() for a in answers[1]]),
        "reference_chosen": lists(reference[0]),
        "reference_rejected": lists(reference[1]),
        "losses": losses.tolist(),
        "grad_chosen": lists([a.grad for a in answers[0]]),
        "grad_rejected": lists([a.grad for a in answers[1]]),
    }


def main(folder):
    generator = torch.Generator().manual_seed(0)
    cases = [case(generator, beta, rows) for beta in (0.1, 1.0) for rows in (1, 5)]
    with open(f"{folder}/margin_dpo.json", "w") as file:
        json.dump(cases, file)
        file.write("\n")


main(sys.argv[1])
