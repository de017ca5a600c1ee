"""Losses of papers that TRL does not have, in a few lines of PyTorch each, with gradients by autograd."""

import json
import pathlib

import torch
from torch.nn.functional import logsigmoid

torch.set_default_dtype(torch.float64)


def dpo_shift(batch, state, beta=0.1, shift=0.75):
    """Yang et al. 2025, as in the authors' trainer: the rejected answer counts `shift` times in both ratios."""
    return -logsigmoid(beta * (batch["w"] - shift * batch["l"] - batch["rw"] + shift * batch["rl"]))


def beta_dpo(batch, state, beta=0.1, alpha=0.6):
    """Wu et al. 2024, as in the authors' trainer without the filter, but from the first batch's mean on."""
    margin = batch["w"] - batch["rw"] - batch["l"] + batch["rl"]
    mean = margin.mean().detach()
    state["mean"] = 0.9 * state["mean"] + 0.1 * mean if state else mean
    used = (beta * (1 + alpha * (mean - state["mean"]))).clamp(min=1e-3)
    return -logsigmoid(used * margin)


def alpha_dpo(batch, state, beta=0.1, gamma=0.5, alpha=0.1):
    """Wu et al. 2024, as in the authors' trainer, but from the first batch's figures on and with an absolute alpha."""
    policy = batch["w"] / batch["nw"] - batch["l"] / batch["nl"]
    gap = (policy - batch["rw"] / batch["nw"] + batch["rl"] / batch["nl"]).detach()
    for name, now in [("mean", gap.mean()), ("std", gap.std())]:
        state[name] = 0.9 * state[name] + 0.1 * now if name in state else now
    z = (gap - state["mean"]) / state["std"]
    return -logsigmoid(beta * policy - gamma - alpha * z)


def figures(generator, lengths, low, high):
    return [((high - low) * torch.rand(n, generator=generator) + low).requires_grad_() for n in lengths]


def main():
    generator = torch.Generator().manual_seed(3)
    batches = []
    for chosen, rejected in [([3, 1, 6, 4], [2, 5, 1, 4]), ([2, 7, 3], [4, 1, 3])]:
        sides = {}
        for name, lengths in [("chosen", chosen), ("rejected", rejected)]:
            policy = figures(generator, lengths, -4.0, -0.1)
            reference = [p.detach() + 0.8 * torch.randn(p.shape, generator=generator) for p in policy]
            sides[name] = {"policy": policy, "reference": reference}
        batches.append(sides)

    cases = []
    for loss in [dpo_shift, beta_dpo, alpha_dpo]:
        state, evaluations = {}, []
        for sides in batches:
            total = lambda side, of: torch.stack([row.sum() for row in sides[side][of]])
            tokens = lambda side: torch.tensor([float(len(row)) for row in sides[side]["policy"]])
            batch = {
                "w": total("chosen", "policy"), "l": total("rejected", "policy"),
                "rw": total("chosen", "reference"), "rl": total("rejected", "reference"),
                "nw": tokens("chosen"), "nl": tokens("rejected"),
            }
            losses = loss(batch, state)
            inputs = sides["chosen"]["policy"] + sides["rejected"]["policy"]
            gradients = torch.autograd.grad(losses.mean(), inputs)
            half = len(inputs) // 2
            evaluations.append({
                "losses": losses.tolist(),
                "grad_chosen": [g.tolist() for g in gradients[:half]],
                "grad_rejected": [g.tolist() for g in gradients[half:]],
            })
        cases.append({"objective": loss.__name__.replace("_", "-"), "evaluations": evaluations})

    rows = [{side: {of: [row.tolist() for row in figures] for of, figures in values.items()}
             for side, values in sides.items()} for sides in batches]
    out = pathlib.Path(__file__).parent.parent / "literature_losses.json"
    out.write_text(json.dumps({"produced_by": f"torch {torch.__version__}", "batches": rows, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
