"""python compare.py MODEL ROWS [--batch 4] [--rounds 5] [--only NAME ...]: spo and TRL on the same steps, in turn.

Every round runs each program once, so that a drift of the machine falls on all alike. A step's time is taken from
outside: between the lines that a program writes when it has done a step (the first step, which also pays for memory
that is touched for the first time, is in the column of the whole process alone). Prints a Markdown table; LoRA is held
against TRL's LoRA where that was run. Tokens are those of prompts and answers as a trainer reads them that shares
nothing and pads nothing, the same for all. Run it with a Python that has torch, transformers, peft and trl, on a machine
that does nothing else.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# What TRL gains from an allocator that keeps its memory, as spo's does.
KEEP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}
LORA = ["model.adapter={ kind = 'lora', rank = 16, alpha = 32, targets = ['q_proj', 'v_proj'] }"]
PROGRAMS = {
    "TRL": (["--"], {}),
    "TRL, lean": (["--", "--lean"], KEEP),
    "TRL, bf16 weights": (["--", "--lean", "--bf16"], KEEP),
    "spo": ([], {}),
    "spo, penalty": (["stage.dpo.bilevel='penalty'"], {}),
    "spo, checkpoint": (["backend.options.checkpoint=true"], {}),
    "spo, tch": (["backend.name='tch'"], {}),
    "spo, tch, bf16": (["backend.name='tch'", "backend.dtype='bf16'"], {}),
    "TRL, LoRA": (["--", "--lora"], {}),
    "spo, LoRA": (LORA, {}),
    "spo, tch, LoRA": ([*LORA, "backend.name='tch'"], {}),
    **{f"spo, {step}": ([f"stage.dpo.bilevel='{step}'"], {}) for step in ["weighted", "alternating", "barrier", "projected"]},
    "spo, lookahead": (["stage.dpo.bilevel={ step = 'lookahead', inner_lr = 1e-3 }"], {}),
    "spo, lookahead, exact": (["stage.dpo.bilevel={ step = 'lookahead', inner_lr = 1e-3, gradient = 'exact' }"], {}),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
given = parser.parse_args()


def command(name):
    settings, environment = PROGRAMS[name]
    if settings[:1] == ["--"]:
        script = [sys.executable, HERE / "trl_dpo.py", given.model, given.rows, *settings[1:]]
        return [*script, "--steps", str(given.steps), "--batch", str(given.batch)], environment
    settings = [
        f"model.path='{given.model}'", f"data.train.path='{given.rows}'", f"stage.dpo.steps={given.steps}",
        f"data.train.take={given.steps * given.batch}", f"stage.dpo.batch_size={given.batch}", *settings,
    ]
    run = [ROOT / "target/release/spo-run", HERE / "dpo.toml", "--json"]
    return [*run, *(argument for setting in settings for argument in ("--set", setting))], environment


def measure(name):
    """Seconds of each step but the first, seconds and peak MiB of the process, losses; tokens, where it says."""
    line, environment = command(name)
    began = time.perf_counter()
    errors = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}, cwd=ROOT
    )
    ends, losses, tokens = [], [], []
    for line in process.stdout:
        now = time.perf_counter()
        step = json.loads(line) if line.startswith('{"') else {}
        if "step" in step:
            ends.append(now)
            losses.append(float(step["loss"] if "loss" in step else step["metrics"]["loss"]))
            tokens.append(step.get("metrics", {}).get("num_tokens"))
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - began
    if status or len(ends) != given.steps:
        errors.seek(0)
        sys.exit(f"{name}: {len(ends)} steps, status {status}\n{errors.read()}")
    return [b - a for a, b in zip(ends, ends[1:])], whole, usage.ru_maxrss / 1024, losses, tokens


def told(values, digits):
    spread = f"{min(values):.{digits}f} - {max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({spread})"


found = {name: [] for name in given.only}
for round in range(given.rounds):
    for name in given.only:
        found[name].append(measure(name))
        steps, whole, peak, *_ = found[name][-1]
        print(f"round {round + 1}, {name}: {sum(steps):.1f} s, whole {whole:.1f} s, {peak:.0f} MiB", file=sys.stderr)

counted = next((tokens for rounds in found.values() for *_, tokens in rounds if tokens[0] is not None), None)
print("| program | seconds per step | tokens/s | times as fast | whole process, s | peak, MiB | share of the peak | largest difference of a loss |")
print("|---|---|---|---|---|---|---|---|")
for name, rounds in found.items():
    lora = "LoRA" in name and "TRL, LoRA" in found
    yardstick = found["TRL, LoRA" if lora else given.only[0]]
    # A round's mean step, as the steps' rows differ in length.
    seconds = [statistics.mean(steps) for steps, *_ in rounds]
    ratios = [statistics.mean(theirs[0]) / mine for theirs, mine in zip(yardstick, seconds)]
    peaks = [peak for _, _, peak, *_ in rounds]
    share = statistics.median(peaks) / statistics.median(peak for _, _, peak, *_ in yardstick)
    off = max(abs(a - b) for mine, theirs in zip(rounds, yardstick) for a, b in zip(mine[3], theirs[3]))
    speed = (counted[-1] - counted[0]) / (given.steps - 1) / statistics.median(seconds) if counted else float("nan")
    print(
        f"| {name} | {told(seconds, 2)} | {speed:.0f} | {told(ratios, 2)} | {told([whole for _, whole, *_ in rounds], 1)} "
        f"| {told(peaks, 0)} | {share:.2f} | {off:.1e} |"
    )
