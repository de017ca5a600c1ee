"""What the scripts share that compute the figures of tiny models, one sequence at a time."""
import torch
import torch.nn.functional as F


def fresh(model):
    """Dynamic rotations depend on the sequences before: forget them."""
    for module in model.modules():
        if hasattr(module, "max_seq_len_cached") and hasattr(module, "original_inv_freq"):
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq.clone()


def log_probs(model, prompt, completion):
    fresh(model)
    ids = torch.tensor([prompt + completion])
    logp = F.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], dim=-1)
    return logp[len(prompt) - 1:].gather(-1, torch.tensor(completion)[:, None])[:, 0]


def sft(model, groups):
    """Mean over the tokens of the first completions."""
    return -torch.cat([log_probs(model, group["prompt"], group["completions"][0]) for group in groups]).mean()


def norm(tensors):
    return torch.sqrt(sum(t.detach().double().pow(2).sum() for t in tensors)).item()
