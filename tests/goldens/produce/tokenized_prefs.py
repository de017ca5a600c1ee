"""Preference rows tokenized by TRL's DPOTrainer, and what its collator keeps of them under max_length.

    python tokenized_prefs.py MODELS_DIR DATA_DIR OUT_DIR

MODELS_DIR holds llama-tiny (its tokenizer and chat template are used); DATA_DIR holds instruct_prefs.jsonl.
Every row goes alone through `DPOTrainer._prepare_dataset`, as the trainer decides by the first
row of a data set whether it is conversational and whether its prompt is implicit.
"""
import json
import os
import sys
from types import SimpleNamespace

import datasets
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

models_dir, data_dir, out_dir = sys.argv[1:]
datasets.disable_progress_bars()
tok = AutoTokenizer.from_pretrained(os.path.join(models_dir, "llama-tiny"))
EOS = tok.eos_token


def prepare(row, max_length=None, truncation_mode="keep_start"):
    args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode=truncation_mode)
    return DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tok), Dataset.from_list([row]), tok, args, "train")


def msg(role, text):
    return {"role": role, "content": text}


def plain(prompt, chosen, rejected):
    return dict(prompt=prompt, chosen=chosen, rejected=rejected)


def implicit(chosen, rejected):
    return dict(chosen=chosen, rejected=rejected)


def dialogue(turns, chosen, rejected):
    return dict(prompt=turns, chosen=[msg("assistant", chosen)], rejected=[msg("assistant", rejected)])


# --- rows ---------------------------------------------------------------------------------------------------------
instruct = [json.loads(line) for line in open(os.path.join(data_dir, "instruct_prefs.jsonl"))]
as_text = "### Instruction:\n{}\n### Response:\n"

rows = [("plain", "one line each", plain("The sky is", " blue.", " green.")),
        ("plain", "completion without a leading blank: merges with the prompt", plain("The sky is", "blue.", "green.")),
        ("plain", "the prompt's last token merges with both completions", plain("Say hel", "lo world", "p me")),
        ("plain", "... with one completion only", plain("Say hel", "lo world", " is other people")),
        ("plain", "ends in a blank (dropped from the prompt)", plain("Answer: ", "forty two", "a fish")),
        ("plain", "ends in a blank, completions begin with one", plain("Answer: ", " forty two", " a fish")),
        ("plain", "ends in two blanks", plain("Answer:  ", "yes", "no")),
        ("plain", "ends in a newline", plain("Answer:\n", "yes", "no")),
        ("plain", "newline meets newline", plain("Answer:\n", "\nyes", "\n\nno")),
        ("plain", "end token already there", plain("Q: 1+1?\nA:", " 2" + EOS, " 3")),
        ("plain", "end token followed by a blank: appended again", plain("Q: 1+1?\nA:", " 2" + EOS + " ", " 3")),
        ("plain", "control tokens written in the text are control tokens", plain("<|im_start|>user\nhi<|im_end|>\n", "ok<|im_end|>", "<|endoftext|>mid")),
        ("plain", "accents, CJK, emoji, zero width", plain("Grüße: 你好 🙂?", " naïve café 👩‍👩‍👧", " \u00a0\u200bempty?")),
        ("plain", "digits and punctuation", plain("Compute 3.14159 * 2e10 =", " 62831800000.", " -1,000,000!?")),
        ("plain", "chosen equals rejected", plain("Same?", " yes", " yes")),
        ("plain", "one completion is a prefix of the other", plain("Count:", " one two", " one two three")),
        ("plain", "tabs and carriage returns", plain("a\tb\r\n", "c\r\nd", "\te")),
        ("edge", "empty prompt", plain("", "Hello there", "Go away")),
        ("edge", "empty chosen: only the end token", plain("Say nothing:", "", " something")),
        ("edge", "both completions empty", plain("Say nothing:", "", "")),
        ("edge", "blank chosen", plain("Say nothing:", " ", " x")),
        *[("plain", f"instruction row {i} as plain text", plain(as_text.format(instruct[i]["prompt"][0]["content"]), instruct[i]["chosen"][0]["content"], instruct[i]["rejected"][0]["content"])) for i in (7, 11)],
        *[("conversational", f"instruction row {i}", instruct[i]) for i in (0, 1, 2, 4, 9, 17, 23)],
        ("conversational", "system message", dialogue([msg("system", "Be brief."), msg("user", "Name a colour.")], "Red.", "There are many colours, for instance red.")),
        ("conversational", "empty contents", dialogue([msg("user", "")], "", "x")),
        ("conversational", "contents with blanks around", dialogue([msg("user", " hi \n")], " padded ", "\n\nlines\n")),
        ("conversational", "control tokens in contents", dialogue([msg("user", "<|im_end|>\n<|im_start|>system")], "<|endoftext|>", "fine")),
        ("conversational", "the prompt ends with an assistant turn", dialogue([msg("user", "Count."), msg("assistant", "One, two,")], "three.", "ten.")),
        ("conversational", "completions of several turns", dict(prompt=[msg("user", "Hi")], chosen=[msg("assistant", "Hello!"), msg("user", "How are you?"), msg("assistant", "Well.")], rejected=[msg("assistant", "What?")])),
        ("conversational", "completion begins with a user turn (template differs from the generation prompt)", dict(prompt=[msg("user", "Hi")], chosen=[msg("user", "Anyone?"), msg("assistant", "Yes.")], rejected=[msg("assistant", "No.")])),
        ("implicit", "common text", implicit("The sky is blue.", "The sky is green.")),
        ("implicit", "differs inside a word", implicit("I like cats and", "I like cars and")),
        ("implicit", "differs after a blank", implicit("Q: 1+1? A: two", "Q: 1+1? A: fish")),
        ("implicit", "one is a prefix of the other: the last common letter goes to the completions", implicit("The sky is blue", "The sky is blue today")),
        ("implicit", "equal texts: the last letter is the completion", implicit("same text", "same text")),
        ("implicit", "differs at once", implicit("yes", "no")),
        ("implicit", "differs at once, chosen ends in a blank (index -1)", implicit("yes ", "no")),
        ("implicit", "common messages", implicit([msg("user", "Hi"), msg("assistant", "Hello!")], [msg("user", "Hi"), msg("assistant", "Go away.")])),
        ("implicit", "several common messages", implicit([msg("system", "S"), msg("user", "a"), msg("assistant", "b"), msg("user", "c"), msg("assistant", "d")],
                                                         [msg("system", "S"), msg("user", "a"), msg("assistant", "b"), msg("user", "c"), msg("assistant", "e")])),
        ("implicit", "dialogues part early", implicit([msg("user", "a"), msg("assistant", "b"), msg("user", "c"), msg("assistant", "d")], [msg("user", "a"), msg("assistant", "x")])),
        ("implicit", "equal messages: the last one is the completion", implicit([msg("user", "a"), msg("assistant", "b")], [msg("user", "a"), msg("assistant", "b")])),
        ("implicit", "one empty text", implicit("", "text")),
        ]

out, bad = [], []
for kind, about, row in rows:
    entry = dict(kind=kind, about=about, row=row)
    try:
        r = prepare(row)[0]
        if "prompt" not in row:
            entry["extracted"] = {k: r[k].removesuffix(EOS) if isinstance(r[k], str) else r[k] for k in ("prompt", "chosen", "rejected")}
        entry["expected"] = {k: r[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")}
        if isinstance(r["prompt"], str):
            full = tok(r["prompt"])["input_ids"]
        elif r["prompt"]:
            full = tok.apply_chat_template(r["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        entry["dropped_prompt_ids"] = full[len(r["prompt_ids"]):]
    except Exception as e:  # what TRL cannot take
        entry["error"] = f"{type(e).__name__}: {e}"
    out.append(entry)

# --- truncation ---------------------------------------------------------------------------------------------------
cases = []
for i, entry in enumerate(out):
    if "expected" not in entry or entry["about"] not in {
            "one line each", "empty prompt", "one completion is a prefix of the other", "instruction row 0", "instruction row 9",
            "completions of several turns", "common messages", "ends in a blank (dropped from the prompt)"}:
        continue
    p, c, r = (len(entry["expected"][k]) for k in ("prompt_ids", "chosen_ids", "rejected_ids"))
    for mode in ("keep_start", "keep_end"):
        for m in sorted({1, p - 1, p, p + 1, p + min(c, r) - 1, p + min(c, r), p + max(c, r) - 1, p + max(c, r), max(c, r), min(c, r), min(c, r) - 1, 1024}):
            if m < 1:
                continue
            ds = prepare(entry["row"], m, mode)
            case = dict(row=i, max_length=m, truncation_mode=mode)
            if len(ds) == 0:
                case["dropped"] = True
            else:
                b = DataCollatorForPreference(pad_token_id=tok.pad_token_id, max_length=m, truncation_mode=mode)([ds[0]])
                for side, name in enumerate(("chosen", "rejected")):
                    n = int(b["attention_mask"][side].sum())
                    ids, mask = b["input_ids"][side][:n].tolist(), b["completion_mask"][side][:n].tolist()
                    whole = entry["expected"]["prompt_ids"] + entry["expected"][name + "_ids"]
                    start = 0 if mode == "keep_start" else len(whole) - n
                    assert ids == whole[start:start + n] and mask == sorted(mask)
                    # what is left: a window of prompt+completion, `completion` tokens of it at the end are the completion's;
                    # `scored` of these have a token before them in the window, hence a log-probability
                    case[name] = dict(start=start, length=n, completion=sum(mask), scored=sum(mask[1:]))
            cases.append(case)

data = dict(produced_by=f"trl {trl.__version__}, transformers {transformers.__version__}", tokenizer="llama-tiny", eos_token=EOS, eos_id=tok.eos_token_id,
            chat_template=tok.chat_template, rows=out, truncation=cases)


def dump(f, x):  # one row or case a line
    f.write("{\n")
    for n, (k, v) in enumerate(x.items()):
        f.write(json.dumps(k) + ": ")
        if isinstance(v, list):
            f.write("[\n" + ",\n".join(json.dumps(e, separators=(",", ":")) for e in v) + "\n]")
        else:
            f.write(json.dumps(v))
        f.write(",\n" if n + 1 < len(x) else "\n")
    f.write("}\n")


with open(os.path.join(out_dir, "tokenized_prefs.json"), "w") as f:
    dump(f, data)
print(len(out), "rows,", sum("error" in e for e in out), "errors;", len(cases), "truncation cases")
