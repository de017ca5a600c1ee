"""python quantised.py RECIPE NAME=SETTING[,SETTING...] ... [--rounds 3]: runs of one recipe with other settings, in turn.

Each NAME is a run of the recipe with these settings (as `--set` has them). Every round runs each once, so that a drift of
the machine falls on all alike. Prints a Markdown table: seconds of wall and of processor time per step, without the
first step, as medians; their ratios to the first NAME's, round by round; the peak memory of the process; and the
held-out loss after the last step. Times are taken from outside: when a line is added to the run's metrics.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe")
parser.add_argument("runs", nargs="+", metavar="NAME=SETTINGS")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--program", default=str(Path(__file__).parent.parent.parent / "target/release/spo-run"))
given = parser.parse_args()
TICKS = os.sysconf("SC_CLK_TCK")


def processor_time(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak(pid):
    line = next(l for l in Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run(settings):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [word for setting in [f"run.output='{out}'", "cache.enabled=false", *settings] for word in ["--set", setting]]
        process = subprocess.Popen([given.program, given.recipe, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        steps, most, seen = [], 0.0, 0
        while process.poll() is None:
            try:
                lines = sum(1 for line in (out / "metrics.jsonl").read_text().splitlines() if '"eval_' not in line)
                if lines > seen:
                    seen = lines
                    steps.append((time.monotonic(), processor_time(process.pid)))
                most = peak(process.pid)
            except (OSError, StopIteration):
                pass
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(process.stderr.read().decode())
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
        each = [(steps[-1][i] - steps[0][i]) / (len(steps) - 1) for i in range(2)]
        return each, most, losses[-1] if losses else None


names, found = [], {}
for text in given.runs:
    name, _, settings = text.partition("=")
    names.append((name, [s for s in settings.split(",") if s]))
for _ in range(given.rounds):
    for name, settings in names:
        found.setdefault(name, []).append(run(settings))
        print(name, found[name][-1], flush=True)
print("| base | s per step | CPU s per step | CPU, relative | peak, MiB | held-out loss |\n|---|---|---|---|---|---|")
for name, _ in names:
    runs = found[name]
    wall, processor = (statistics.median(r[0][i] for r in runs) for i in range(2))
    ratio = statistics.median(r[0][1] / first[0][1] for r, first in zip(runs, found[names[0][0]]))
    print(f"| {name} | {wall:.2f} | {processor:.2f} | {ratio:.2f} | {max(r[1] for r in runs):.0f} | {runs[-1][2]} |")
