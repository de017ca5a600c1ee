"""Held-out figures of TRL's DPOTrainer.evaluate and of lm-evaluation-harness, for two of the tiny models of `architectures/`.

    python produce/evaluation.py FOLDER     # FOLDER holds architectures/

The tokenizer has a token for each of the characters below.
"""
import json
import sys
import tempfile

import lm_eval
import torch
from datasets import Dataset
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

POLICY, REFERENCE, BETA = "llama", "mistral", 0.3
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:?'-QA"
PAIRS = [
    {"prompt": "one and two are ", "chosen": "three", "rejected": "four, i think"},
    {"prompt": "the sky is", "chosen": " blue by day", "rejected": " green"},
    {"prompt": "Q: 7 less 2?\nA:", "chosen": " 5", "rejected": " 9"},
    {"prompt": "it's late, so ", "chosen": "go home now.", "rejected": "stay"},
    {"prompt": "a cat has ", "chosen": "four legs", "rejected": "two wings"},
    {"prompt": "3, 2, 1: ", "chosen": "go", "rejected": "wait a bit"},
    {"prompt": "what is up", "chosen": "? not much", "rejected": ". no"},
    {"prompt": "all of it", "chosen": ", yes", "rejected": " is here"},
]
QUESTIONS = [
    {"question": "Q: what is 2 and 2?\nA:", "choices": ["4", "four or so", "5"], "answer": 0},
    {"question": "Q: who says moo?\nA: ", "choices": ["a cow", "dogs", "the old cat"], "answer": 0},
    {"question": "the day after 3 is", "choices": ["2", "day 4", "none"], "answer": 1},
    {"question": "water is", "choices": ["dry", "wet"], "answer": 1},
    {"question": "up, not", "choices": ["down", "up", "left or right"], "answer": 0},
    {"question": "Q: is it?\nA:\n", "choices": ["it is", "no"], "answer": 1},
    {"question": "a, b,", "choices": ["c", "d, e", "a"], "answer": 0},
]
TASK = """
task: local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def tokenizer():
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *ALPHABET])}
    own = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    own.decoder = decoders.Fuse()
    own.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def main(folder):
    torch.manual_seed(0)
    golden = {"policy": POLICY, "reference": REFERENCE, "beta": BETA, "alphabet": ALPHABET, "pairs": PAIRS, "questions": QUESTIONS}
    load = lambda name: AutoModelForCausalLM.from_pretrained(f"{folder}/architectures/{name}", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as place:
        rows = Dataset.from_list(PAIRS)
        how = DPOConfig(output_dir=place, beta=BETA, per_device_eval_batch_size=8, report_to=[], use_cpu=True, bf16=False, max_length=64)
        trainer = DPOTrainer(
            model=load(POLICY), ref_model=load(REFERENCE), args=how, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer()
        )
        measured = trainer.evaluate()
        timings = ("runtime", "per_second", "num_tokens", "epoch")
        golden["trl"] = {k: v for k, v in measured.items() if not any(t in k for t in timings)}
        load(POLICY).save_pretrained(f"{place}/model")
        tokenizer().save_pretrained(f"{place}/model")
        with open(f"{place}/rows.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in QUESTIONS)
        with open(f"{place}/local.yaml", "w") as file:
            file.write(TASK.format(file=f"{place}/rows.jsonl"))
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={place}/model,dtype=float32",
            tasks=["local"],
            task_manager=TaskManager(include_path=place),
            device="cpu",
            batch_size=1,
            log_samples=True,
        )
        results = found["results"]["local"]
        golden["lm_eval"] = {
            "acc": results["acc,none"],
            "acc_norm": results["acc_norm,none"],
            "log_probs": [[float(one[0]) for one in sample["filtered_resps"]] for sample in found["samples"]["local"]],
        }
    with open(f"{folder}/evaluation.json", "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


main(sys.argv[1])
