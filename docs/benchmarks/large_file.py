"""Writes preference pairs of random words: `large_file.py GIGABYTES rows.jsonl`."""

import json
import random
import sys


def main():
    size, path = int(float(sys.argv[1]) * 1e9), sys.argv[2]
    words = [f"word{i}" for i in range(5000)]
    draw = random.Random(0)
    text = lambda n: " ".join(draw.choices(words, k=n))
    with open(path, "w") as file:
        while file.tell() < size:
            block = [{"prompt": text(60), "chosen": text(120), "rejected": text(120)} for _ in range(100)]
            # Drawing words takes longer than writing them, so each block is written ten times, with another number.
            for row in block * 10:
                file.write(json.dumps({**row, "prompt": f"{file.tell()} {row['prompt']}"}) + "\n")


if __name__ == "__main__":
    main()
